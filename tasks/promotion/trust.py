"""Whose signatures count: the operator's keys, each with its validity, in `trusted.json` beside the signing key.

A signature counts while its key is not revoked and both now and the time that was signed lie in the key's validity.
The signed time alone decides nothing: whoever holds an old key can write any time he likes. So what an expired or
revoked key has signed counts no more, and the champion has to be promoted again under the new key.
"""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from pydantic import AwareDatetime, ValidationError, model_validator

from tasks.errors import GatehouseError
from tasks.files import read_json, write_json
from tasks.gate import Frozen
from tasks.promotion.keys import (
    PrivateKey,
    PublicKey,
    key_id,
    parse_public_key,
    public_key_path,
    public_pem,
    read_public_key,
    signing_key,
)

STORE = "trusted.json"
RETIRED = "retired"  # folder beside the signing key, for private keys that were put out of use
SHORTEST = 8  # digits of a key's identifier that may stand for it
ROTATE = "run `.venv/bin/python -m flows.promotion rotate`"


class TrustedKey(Frozen):
    """A public key and when its signatures count; None is no limit."""

    key_id: str
    public_key: str  # PEM
    not_before: AwareDatetime | None = None
    not_after: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None
    reason: str = ""  # of the revocation

    @model_validator(mode="after")
    def _is_what_it_says(self) -> Self:
        try:
            found = key_id(self.key)
        except GatehouseError as error:
            raise ValueError(str(error)) from error
        if found != self.key_id:
            raise ValueError(f"key_id is {self.key_id[:12]}, but the key beside it is {found[:12]}")
        return self

    @property
    def key(self) -> PublicKey:
        return parse_public_key(self.public_key.encode(), source=f"key {self.key_id[:12]}")

    def objection(self, signed_at: datetime | None = None, *, now: datetime | None = None) -> str:
        """Why a signature of this key does not count at `now` (default: this moment); empty where it does."""
        name, now = f"the key {self.key_id[:12]}", now or datetime.now(UTC)
        if self.revoked_at is not None:
            return f"{name} was revoked on {self.revoked_at:%Y-%m-%d} ({self.reason or 'no reason given'})"
        if self.not_after is not None and now > self.not_after:
            return f"{name} expired on {self.not_after:%Y-%m-%d}"
        if self.not_before is not None and now < self.not_before:
            return f"{name} is valid from {self.not_before:%Y-%m-%d %H:%M} UTC only, which is not yet"
        if signed_at is not None and (
            (self.not_before is not None and signed_at < self.not_before)
            or (self.not_after is not None and signed_at > self.not_after)
        ):
            return f"{name} was not valid at {signed_at.isoformat()}, the time that was signed"
        return ""


class Trust(Frozen):
    """The keys of the operator, in the order in which they came into use."""

    keys: tuple[TrustedKey, ...]

    def named(self, identifier: object) -> TrustedKey | None:
        return next((k for k in self.keys if k.key_id == identifier), None)

    def names(self) -> str:
        return ", ".join(k.key_id[:12] for k in self.keys)


def only(key: PublicKey) -> Trust:
    """Trust in one key, without a limit in time."""
    return Trust(keys=(TrustedKey(key_id=key_id(key), public_key=public_pem(key).decode()),))


def load_trust(signing: str | Path) -> Trust:
    """`trusted.json` beside the signing key; where there is none, the public key beside it alone.

    Raises:
        GatehouseError: neither is there, or the store is malformed or can be written by others than its owner.
    """
    path = _store(signing)
    if not path.exists():
        return only(read_public_key(public_key_path(signing)))
    if stat.S_IMODE(path.stat().st_mode) & 0o022:
        raise GatehouseError(f"{path} can be changed by others than its owner; run `chmod 600 {path}` and check it.")
    try:
        return Trust.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise GatehouseError(f"{path} is malformed ({where}: {first['msg']}); restore it from a copy.") from error


def operator_key(signing: Path, *, days: int) -> tuple[PrivateKey, Trust]:
    """The private key to sign with, made and entered in the store where it is not there yet.

    Args:
        days: validity of a key that is entered now.

    Raises:
        GatehouseError: the key is expired or revoked, or one of the files is not what it should be.
    """
    private = signing_key(signing)
    public = private.public_key()
    known = _store(signing).exists()
    trust = load_trust(signing) if known else Trust(keys=())
    own = trust.named(key_id(public))
    if own is None:
        now = _now()
        own = TrustedKey(
            key_id=key_id(public),
            public_key=public_pem(public).decode(),
            not_before=now if known else None,  # a key older than the store has signed before
            not_after=now + timedelta(days=days),
        )
        trust = Trust(keys=(*trust.keys, own))
        _write(signing, trust)
    if problem := own.objection():
        raise GatehouseError(f"Nothing can be signed: {problem}; {ROTATE}.")
    return private, trust


def rotate(signing: Path, *, days: int) -> TrustedKey:
    """Put a new pair in the place of the present one, which is moved to `retired/`; returns the new key.

    What the old key has signed counts until that key expires or is revoked.
    """
    if signing.exists():
        old = key_id(signing_key(signing).public_key())
        if not _store(signing).exists():
            operator_key(signing, days=days)
        aside = signing.parent / RETIRED / f"{old[:12]}.key"
        aside.parent.mkdir(mode=0o700, exist_ok=True)
        os.replace(signing, aside)
    private, trust = operator_key(signing, days=days)
    new = trust.named(key_id(private.public_key()))
    assert new is not None  # entered a line above
    return new


def revoke(signing: Path, identifier: str, reason: str, *, days: int) -> TrustedKey:
    """Let a key's signatures count no more. The key in use is replaced by a new one first; returns the revoked one.

    Args:
        identifier: the key's identifier, or its first 8 digits or more.
        days: validity of the new key, where one is made.

    Raises:
        GatehouseError: the store names no such key, or several, or it is revoked already.
    """
    if not _store(signing).exists():
        operator_key(signing, days=days)
    trust = load_trust(signing)
    found = [k for k in trust.keys if len(identifier) >= SHORTEST and k.key_id.startswith(identifier)]
    if len(found) != 1:
        raise GatehouseError(
            f"{_store(signing)} has {len(found)} keys {identifier!r}; give at least {SHORTEST} digits of one of: "
            f"{trust.names()}."
        )
    if found[0].revoked_at is not None:
        raise GatehouseError(f"Nothing to do: {found[0].objection()}.")
    if signing.exists() and key_id(signing_key(signing).public_key()) == found[0].key_id:
        rotate(signing, days=days)
        trust = load_trust(signing)
    revoked = found[0].model_copy(update={"revoked_at": _now(), "reason": reason})
    _write(signing, Trust(keys=tuple(revoked if k.key_id == revoked.key_id else k for k in trust.keys)))
    return revoked


def _store(signing: str | Path) -> Path:
    return Path(signing).parent / STORE


def _write(signing: Path, trust: Trust) -> None:
    path = _store(signing)
    write_json(path, trust.model_dump(mode="json"))
    path.chmod(0o600)


def _now() -> datetime:
    """Whole seconds, as signed times are: a key counts from the second in which it is made."""
    return datetime.now(UTC).replace(microsecond=0)
