"""The operator's key pair: EC P-256, private key readable by its owner alone, public key beside it."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tasks.errors import GatehouseError
from tasks.files import writing

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


def public_key_path(signing_key: str | Path) -> Path:
    """Where the public half of `promotion.signing_key` lies: beside it, ending in `.pub`."""
    return Path(signing_key).with_suffix(".pub")


def signing_key(path: Path) -> PrivateKey:
    """Read the private key; where there is none, make a pair once (folder 0700, private key 0600).

    Raises:
        GatehouseError: the file is no P-256 private key in PEM, or others than its owner may read it.
    """
    if not path.exists():
        _make_pair(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise GatehouseError(f"Signing key {path} can be read by others than its owner; run `chmod 600 {path}`.")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise GatehouseError(f"Signing key {path} is no unencrypted private key in PEM ({error}).") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise GatehouseError(f"Signing key {path} is no EC key on the curve P-256; delete it and a new one is made.")
    return key


def read_public_key(path: Path) -> PublicKey:
    """Read a public key in PEM.

    Raises:
        GatehouseError: it is missing, or no P-256 public key.
    """
    try:
        return parse_public_key(path.read_bytes(), source=f"Public key {path}")
    except FileNotFoundError:
        raise GatehouseError(
            f"Public key {path} does not exist; promote a model first, or set promotion.signing_key to your key."
        ) from None


def parse_public_key(pem: bytes, *, source: str) -> PublicKey:
    """A P-256 public key in PEM; raises GatehouseError, in which `source` names it."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise GatehouseError(f"{source} is no public key in PEM ({error}).") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise GatehouseError(f"{source} is no EC key on the curve P-256.")
    return key


def public_pem(key: PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_id(key: PublicKey) -> str:
    """Hex SHA-256 of the key's SubjectPublicKeyInfo in DER."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _make_pair(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with writing(path) as temporary:
        # The rights are given when the file is made: at no moment can others read it.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, pem)
        os.close(descriptor)
    with writing(public_key_path(path)) as temporary:
        temporary.write_bytes(public_pem(key.public_key()))
