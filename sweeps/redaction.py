"""Keep secrets out of all that a sweep writes and says: those in URIs and those of the environment.

A secret is known by where it stands: before the host of a URI, in a parameter of its query such as
``token=``, or in a variable of the environment whose name says so, such as ``HF_TOKEN``.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import unquote

MASK = "***"
# Shorter ones would mask ordinary words, as the value of a variable that only switches tokens on.
MIN_VALUE_LENGTH, MIN_PASSWORD_LENGTH = 6, 4

_SECRET_WORDS = r"secret|passw(?:or)?d|token|signature|credential|api_?key|access_?key|account_?key"
_SECRET_NAME = re.compile(rf"{_SECRET_WORDS}|private_?key", re.IGNORECASE)
# Such a variable tells where a secret is, not the secret.
_PLACE_NAME = re.compile(r"_(?:FILE|PATH|DIR|URL|URI|ENDPOINT|PROVIDER)$", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^/?#\s'\"<>]+(?=@)")
_PARAMETER = re.compile(rf"([?&;][\w.-]*(?:{_SECRET_WORDS}|\bsig)[\w.-]*=)[^&;#\s'\"<>]+", re.I)


def redacted(text: str, *quoted: str) -> str:
    """Return the text with each secret in it replaced by ``***``.

    Args:
        quoted: URIs that the text may quote, whole or in parts, beside those that this process was
            started with.
    """
    for secrets in (_known_secrets(), _any_of(secrets_of({}, quoted))):
        if secrets is not None:
            text = secrets.sub(MASK, text)
    return _PARAMETER.sub(rf"\1{MASK}", _USER.sub(MASK, text))


def redacted_values(value: Any) -> Any:
    """Return a JSON value with the secrets of all its strings replaced; keys stay."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {name: redacted_values(v) for name, v in value.items()}
    return [redacted_values(v) for v in value] if isinstance(value, list | tuple) else value


def without_credentials(uri: str) -> str:
    """Return a URI without user, password and query."""
    scheme, separator, rest = uri.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


@cache
def _known_secrets() -> re.Pattern[str] | None:
    """Match any secret that this process was started with; None: there is none."""
    return _any_of(secrets_of(os.environ, sys.argv))


def _any_of(secrets: set[str]) -> re.Pattern[str] | None:
    if not secrets:
        return None
    return re.compile("|".join(map(re.escape, sorted(secrets, key=len, reverse=True))))


def secrets_of(environment: Mapping[str, str], words: Iterable[str]) -> set[str]:
    """Find the secrets in an environment and a command line.

    Args:
        words: of the command line.
    """
    values = {value for name, value in environment.items() if _names_secret(name)}
    passwords = {p for text in (*environment.values(), *words) for p in _passwords(text)}
    return {value for value in values if len(value) >= MIN_VALUE_LENGTH} | {
        password for password in passwords if len(password) >= MIN_PASSWORD_LENGTH
    }


def _names_secret(name: str) -> bool:
    return bool(_SECRET_NAME.search(name)) and not _PLACE_NAME.search(name)


def _passwords(text: str) -> Iterator[str]:
    """Find the passwords of URIs, as they are written and as they are sent."""
    for user in _USER.findall(text):
        _, colon, password = user.partition(":")
        secret = password if colon else user
        yield from {secret, unquote(secret)}
    for match in _PARAMETER.finditer(text):
        value = match[0].partition("=")[2]
        yield from {value, unquote(value)}
