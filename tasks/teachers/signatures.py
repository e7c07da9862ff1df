"""Signing and verifying files with EC keys, offline, through `model-signing`: the only module that knows it.

A signature is a Sigstore bundle; inside is an in-toto statement with a SHA-256 a file.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from tasks.errors import GatehouseError
from tasks.files import sha256_bytes


class SignatureRefusedError(GatehouseError):
    """The signature does not stand behind the file; the message says why."""


@dataclass(frozen=True)
class Signed:
    """What a verified signature covers: file name to hex SHA-256; the name is "." where one file alone was signed."""

    files: dict[str, str]
    key: str  # fingerprint of the public key


def make_keys(private: Path, public: Path) -> None:
    """A new EC key pair on the curve P-256, in PEM; the private file is readable by its owner alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    handle = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as f:
        f.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def sign(path: Path, signature: Path, *, private_key: Path) -> None:
    """Sign a file, or every file of a folder, and write the bundle to `signature` (outside of the folder)."""
    import model_signing

    model_signing.signing.Config().use_elliptic_key_signer(private_key=private_key).sign(path, signature)


def fingerprint(public_key: Path) -> str:
    """Hex SHA-256 of a PEM public key's content, whatever the file's line ends; one clear error if it is none."""
    try:
        key = load_pem_public_key(public_key.read_bytes())
    except FileNotFoundError:
        raise GatehouseError(f"Public key {public_key} does not exist; correct its path or remove it.") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise GatehouseError(f"{public_key} is not a public key in PEM ({error}).") from error
    return sha256_bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def verify(weights: Path, sha256: str, *, signature: Path, public_key: Path) -> Signed:
    """Verify that `signature`, made by the owner of `public_key`, covers `weights` with this digest.

    Files that the signature covers must all stand unchanged beside the weights; files it does not name are ignored.

    Raises:
        SignatureRefusedError: the signature is missing, malformed, made by another key, or over other content.
    """
    import model_signing

    key = fingerprint(public_key)
    files = _covered(signature)
    name = "." if set(files) == {"."} else weights.name
    if files.get(name) != sha256:
        raise SignatureRefusedError(f"Signature {signature} is over other content than {weights.name}.")
    try:
        model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public_key).set_ignore_unsigned_files(
            True
        ).verify(weights if name == "." else weights.parent, signature)
    except InvalidSignature:
        raise SignatureRefusedError(f"Signature {signature} was not made with the key {public_key}.") from None
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SignatureRefusedError(f"Signature {signature} does not verify ({reason.strip()}).") from error
    return Signed(files, key)


def _covered(signature: Path) -> dict[str, str]:
    """File digests that the bundle claims, not verified yet."""
    try:
        bundle: Any = json.loads(signature.read_text(encoding="utf-8"))
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        return {r["name"]: r["digest"] for r in statement["predicate"]["resources"] if r["algorithm"] == "sha256"}
    except FileNotFoundError:
        raise SignatureRefusedError(f"Signature {signature} does not exist.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise SignatureRefusedError(f"Signature {signature} is not a Sigstore bundle ({error}).") from error
