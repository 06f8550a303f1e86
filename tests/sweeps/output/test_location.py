"""A sweep kept in a folder or an object store: what is sent there, and what comes back."""

from __future__ import annotations

import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sweeps.output import s3_bucket
from sweeps.output.location import LEASE, check_same, location_of, recorded_store
from tests.factories import a_record
from tests.storing import S3Server
from trainables.errors import UserError
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_json
from trainables.storage.object_store import remote_path


def ignored(_: str) -> None:
    """Takes lines that play no part."""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A finished sweep's results."""
    folder = tmp_path / "out"
    texts = {
        "spec.json": '{"sweep": "x"}',
        "choice.json": "{}",
        "leaderboard.parquet": "rows",
        "report.html": "<html>",
        "figures/heatmap.png": "picture",
        "model/README.md": "# Card\n",
        "model/model.safetensors": "weights",
        "store/journal.jsonl": "{}\n",
        ".lock": "",
        "mlflow.db": "runs",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_results_come_back_on_another_machine(s3: S3Server, out: Path, tmp_path: Path) -> None:
    uri = s3.uri(f"tests/{tmp_path.name}")
    location_of(out, uri).publish_results()
    other = tmp_path / "other"
    with location_of(other, uri).opened(ignored):
        pass
    came = {p.relative_to(other).as_posix() for p in other.rglob("*") if p.is_file()}
    sent = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert came == sent - {".lock", "mlflow.db", "store/journal.jsonl"}
    for name in came - {"model/README.md"}:
        assert (other / name).read_bytes() == (out / name).read_bytes()


def test_the_card_in_the_store_has_links_that_open(s3: S3Server, out: Path, tmp_path: Path) -> None:
    """If they are asked for: a link is open to whoever reads the card."""
    uri = s3.uri(f"tests/{tmp_path.name}")
    location_of(out, uri).publish_results()
    card_path = remote_path(uri) / "model" / "README.md"
    assert card_path.read_text() == "# Card\n"
    location_of(out, uri, link_days=0.5).publish_results()
    card = card_path.read_text()
    assert "X-Amz-Expires=43200" in card
    assert card.startswith("# Card\n\n## Download\n")
    (link,) = [line for line in card.splitlines() if line.startswith("* [model.safetensors]")]
    with urllib.request.urlopen(link.partition("(")[2].rstrip(")")) as answer:  # no credentials
        assert answer.read() == b"weights"
    assert "secret" not in card
    assert (out / "model" / "README.md").read_text() == "# Card\n"


def test_the_card_says_when_links_end_with_the_credentials(
    s3: S3Server, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    monkeypatch.setattr(s3_bucket, "credentials_end", lambda: end)
    uri = s3.uri(f"tests/{tmp_path.name}")
    location_of(out, uri, link_days=7).publish_results()
    card = (remote_path(uri) / "model" / "README.md").read_text()
    assert "until 2026-01-02 03:04 UTC." in card


def test_results_that_are_there_are_not_downloaded(s3: S3Server, out: Path, tmp_path: Path) -> None:
    uri = s3.uri(f"tests/{tmp_path.name}")
    location_of(out, uri).publish_results()
    (out / "report.html").write_text("mine")
    with location_of(out, uri).opened(ignored):
        assert (out / "report.html").read_text() == "mine"


def test_a_folder_needs_no_store(out: Path) -> None:
    storage = location_of(out, None)
    with storage.opened(ignored):
        storage.publish("spec.json")
        storage.publish_results()
    assert storage.store == Store(out / "store") and storage.boards == (
        out / "leaderboard.parquet",
    )


def test_a_sweep_stays_with_its_storage(out: Path, tmp_path: Path, s3: S3Server) -> None:
    here, there = location_of(out, None), location_of(out, s3.uri("x"))
    check_same(a_record(), here)
    check_same(a_record(s3.uri("x")), there)
    check_same(a_record(s3.uri("50%off")), location_of(out, s3.uri("50%25off")))
    with pytest.raises(UserError, match="begun with no --storage"):
        check_same(a_record(), there)
    with pytest.raises(UserError, match="begun with --storage s3://sweeps/x"):
        check_same(a_record(s3.uri("x")), here)
    assert recorded_store(out, a_record(s3.uri("x"))) == Store(out / "store")
    moved = recorded_store(tmp_path / "nothing", a_record(s3.uri("x")))
    assert moved == Store(remote_path(s3.uri("x/store")))


def test_a_store_that_cannot_be_used_is_refused_before_the_block_runs(
    s3: S3Server, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with (
        pytest.raises(UserError, match=r"^--storage s3://sweeps/x: these credentials may not"),
        location_of(out, s3.uri("x")).opened(ignored),
    ):
        pytest.fail("The block ran.")


def test_the_block_holds_the_lease_of_the_store(s3: S3Server, out: Path, tmp_path: Path) -> None:
    location = location_of(out, s3.uri(f"tests/{tmp_path.name}"))
    assert location.remote is not None
    with location.opened(ignored) as held:
        assert "ended" not in (read_json(location.remote / LEASE) or {})
        assert held == location
        held.publish()
    assert (read_json(location.remote / LEASE) or {})["ended"]
