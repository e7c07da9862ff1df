"""The DSSE envelope (Dead Simple Signing Envelope, protocol v1) around an in-toto statement, signed with EC P-256."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tasks.errors import GatehouseError
from tasks.promotion.keys import PrivateKey, PublicKey, key_id
from tasks.promotion.trust import Trust, TrustedKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"


def seal(payload: bytes, key: PrivateKey, payload_type: str = PAYLOAD_TYPE) -> dict[str, Any]:
    """An envelope with one signature over the payload's pre-authentication encoding."""
    return {
        "payloadType": payload_type,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": key_id(key.public_key()), "sig": sign(payload, key, kind=payload_type)}],
    }


def unseal(envelope: Any, trust: Trust, *, source: str, payload_type: str = PAYLOAD_TYPE) -> tuple[bytes, TrustedKey]:
    """The payload and the trusted key that signed it. Whether that key still counts is for the caller to ask.

    Raises:
        GatehouseError: malformed, signed with another key, or changed after it was signed.
    """
    try:
        if envelope["payloadType"] != payload_type:
            wanted = "an in-toto statement" if payload_type == PAYLOAD_TYPE else payload_type
            raise GatehouseError(f"{source} holds {envelope['payloadType']!r}, not {wanted}.")
        payload = base64.b64decode(envelope["payload"], validate=True)
        signatures = {str(s["keyid"]): s["sig"] for s in envelope["signatures"]}
    except (KeyError, TypeError, binascii.Error) as error:
        raise GatehouseError(f"{source} is no signed envelope ({type(error).__name__}: {error}).") from error
    signer = next((k for k in trust.keys if k.key_id in signatures), None)
    if signer is None:
        names = ", ".join(k[:12] for k in signatures) or "nobody"
        raise GatehouseError(f"{source} is signed by another key ({names}), not by a trusted one ({trust.names()}).")
    if not is_signed(payload, signatures[signer.key_id], signer.key, kind=payload_type):
        raise GatehouseError(f"{source}: the signature does not match, so it was changed after signing.")
    return payload, signer


def sign(payload: bytes, key: PrivateKey, *, kind: str) -> str:
    """Signature over the pre-authentication encoding of kind and payload, in base64."""
    return base64.b64encode(key.sign(_encoding(payload, kind), ec.ECDSA(hashes.SHA256()))).decode()


def is_signed(payload: bytes, signature: Any, key: PublicKey, *, kind: str) -> bool:
    """Whether `signature` (base64) is this key's over exactly this payload of this kind."""
    try:
        key.verify(base64.b64decode(signature, validate=True), _encoding(payload, kind), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, binascii.Error, TypeError, ValueError):
        return False
    return True


def _encoding(payload: bytes, kind: str) -> bytes:
    """PAE: type and body with their lengths, so that no byte can move from one to the other."""
    name = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)
