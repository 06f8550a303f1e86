"""Secrets are masked wherever they stand, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps import redaction
from sweeps.redaction import redacted, redacted_values, secrets_of, without_credentials


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://me:hunter2@host:5000/x", "http://***@host:5000/x"),
        ("--tracking-uri=https://me:p@ss@host/x", "--tracking-uri=https://***@host/x"),
        ("https://dapi123@host", "https://***@host"),
        (
            "postgresql+psycopg://u:p%40w@db/m?sslmode=require",
            "postgresql+psycopg://***@db/m?sslmode=require",
        ),
        (
            "s3://b/x?region=eu&secret_key=abc&scheme=http",
            "s3://b/x?region=eu&secret_key=***&scheme=http",
        ),
        ("https://h/a?X-Amz-Signature=0f&sig=1%2B", "https://h/a?X-Amz-Signature=***&sig=***"),
        ("a 'http://u:p@h/x' and \"ftp://v:q@i\"", "a 'http://***@h/x' and \"ftp://***@i\""),
        ("s3://bucket/cats@2x/a.png", "s3://bucket/cats@2x/a.png"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("mail me@example.org: sigma=1, tokens: 3", "mail me@example.org: sigma=1, tokens: 3"),
    ],
)
def test_a_secret_in_a_uri_is_masked(text: str, masked: str) -> None:
    assert redacted(text) == masked


def test_secrets_are_found_in_the_environment_and_on_the_command_line() -> None:
    environment = {
        "AWS_SECRET_ACCESS_KEY": "aws-secret",
        "MLFLOW_TRACKING_PASSWORD": "open sesame",
        "HF_TOKEN": "hf_abcdef",
        "DATABASE": "postgresql://me:p%40ssword@db/x",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token",
        "TOKENIZERS_PARALLELISM": "false",
        "HOME": "/home/me-and-you",
    }
    words = ["--tracking-uri", "https://someone:hunter22@host"]
    assert secrets_of(environment, words) == {
        *("aws-secret", "open sesame", "hf_abcdef"),
        *("p%40ssword", "p@ssword", "hunter22"),
    }


def test_a_known_secret_is_masked_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef")
    redaction._known_secrets.cache_clear()
    try:
        value = {"spec": {"data": "x"}, "lines": ("Bearer hf_abcdef refused", 3, None)}
        assert redacted_values(value) == {
            "spec": {"data": "x"},
            "lines": ["Bearer *** refused", 3, None],
        }
    finally:
        redaction._known_secrets.cache_clear()


@pytest.mark.parametrize(
    ("uri", "text", "masked"),
    [
        ("http://me:s3cret@h:1/", "from http://me:s3cret@h:1/a", "from http://***@h:1/a"),
        ("postgresql://me:p%40ss@h/x", 'for "me" with p@ss or p%40ss', 'for "me" with *** or ***'),
        ("http://h:1", "no answer from http://h:1/a", "no answer from http://h:1/a"),
    ],
)
def test_parts_of_a_quoted_uri_are_masked(uri: str, text: str, masked: str) -> None:
    assert redacted(text, uri) == masked


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://me:pass@host:443/path", "https://host:443/path"),
        ("https://me:p@ss@host/path", "https://host/path"),
        ("https://token@host", "https://host"),
        ("postgresql://me:pass@db/mlflow", "postgresql://db/mlflow"),
        ("postgresql+psycopg://me:pass@db/mlflow?x=1", "postgresql+psycopg://db/mlflow"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("https://host/path@version", "https://host/path@version"),
        ("databricks", "databricks"),
    ],
)
def test_no_password_is_shown(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


word = st.text(
    st.characters(exclude_characters="/?#@\\'\"<>", exclude_categories=["Z", "C"]), min_size=4
)


@given(user=word, password=word)
def test_no_password_survives_in_a_uri(user: str, password: str) -> None:
    secret = f"~{password}~"
    assert secret not in redacted(f"see http://{user}:{secret}@host/path?x=1 for more")
