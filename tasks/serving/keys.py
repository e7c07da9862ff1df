"""API keys: who asks. The file keeps the SHA-256 of each key, never a key; a key is 256 random bits and shown once."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import re
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.errors import GatehouseError
from tasks.files import read_json, writing
from tasks.gate import utc_now
from tasks.serving.errors import RequestError

KEYS_FILE = Path(".gatehouse/api_keys.json")
PREFIX = "gh_"  # so that a key that leaked into a file is recognised
LONGEST = 200  # characters of a presented key that are looked at
ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class Key(BaseModel):
    """One key of an account; an account may have several, so that a new one can be handed out before the old goes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    account: str
    sha256: str
    created_at: str


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[Key, ...]


def read_keys(path: Path = KEYS_FILE) -> tuple[Key, ...]:
    """All keys of the file, none where there is no file; raises GatehouseError where it cannot be understood."""
    if not path.exists():
        return ()
    try:
        return _File.model_validate(read_json(path)).keys
    except (ValidationError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise GatehouseError(
            f"{path} cannot be read as API keys ({why}); move it away and make the keys anew."
        ) from error


def add_key(account: str, path: Path = KEYS_FILE) -> str:
    """A new key of `account`, which is returned and kept nowhere; the file gets its hash.

    Raises:
        GatehouseError: the account's name is none, or one that could be taken for a client's address.
    """
    if not ACCOUNT.fullmatch(account) or _is_address(account):
        raise GatehouseError(
            f"{account!r} is no account name; take up to 64 letters, digits, '.', '_', '@' or '-', and no IP address."
        )
    key = PREFIX + secrets.token_urlsafe(32)
    made = Key(account=account, sha256=_digest(key), created_at=utc_now())
    _write((*read_keys(path), made), path)
    return key


def remove_keys(account: str, path: Path = KEYS_FILE) -> int:
    """Forget all keys of `account`; how many there were. Raises GatehouseError where there were none."""
    keys = read_keys(path)
    kept = tuple(k for k in keys if k.account != account)
    if len(kept) == len(keys):
        raise GatehouseError(f"{account!r} has no API key; `python -m flows.serving key --list` names who has.")
    _write(kept, path)
    return len(keys) - len(kept)


def _write(keys: tuple[Key, ...], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with writing(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps({"keys": [k.model_dump() for k in keys]}, indent=2) + "\n")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class KeyRing:
    """The keys of a file as they are now: read again whenever the file has changed.

    Args:
        required: whether a request without a key is refused. A wrong key is refused either way.
    """

    def __init__(self, path: Path = KEYS_FILE, *, required: bool) -> None:
        self.required = required
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._keys: tuple[Key, ...] = ()

    def account(self, headers: Mapping[str, str], address: str) -> str:
        """The account of a request: its key's, or without a key its client's address.

        Raises:
            RequestError: 401, with the same words for a wrong key and for none where one is required.
        """
        presented = _presented(headers)
        if presented is None and not self.required:
            return address
        owner = self._owner(presented) if presented else None
        if owner is None:
            raise RequestError(
                "A valid API key is needed, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
                code="UNAUTHENTICATED",
                status=401,
                headers={"WWW-Authenticate": "Bearer"},
            )
        return owner

    def _owner(self, presented: str) -> str | None:
        """Compared with every key in constant time, so that the time taken tells nothing of any of them."""
        digest, owner = _digest(presented), None
        for key in self._current():
            if hmac.compare_digest(key.sha256, digest):
                owner = key.account
        return owner

    def _current(self) -> tuple[Key, ...]:
        """The file's keys. While it cannot be read nobody has one: a file that somebody broke must open no door."""
        with self._lock:
            state = _state(self._path)
            if state != self._seen:
                try:
                    self._keys = read_keys(self._path)
                except GatehouseError:
                    self._keys = ()
                self._seen = state
            return self._keys


def _presented(headers: Mapping[str, str]) -> str | None:
    """The key of a request's headers; None where there is none. Other schemes of Authorization are not for us."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()[:LONGEST]
    return headers["x-api-key"].strip()[:LONGEST] if "x-api-key" in headers else None


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return (found.st_mtime_ns, found.st_ino, found.st_size)
