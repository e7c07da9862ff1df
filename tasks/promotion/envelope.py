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

PAYLOAD_TYPE = "application/vnd.in-toto+json"


def seal(payload: bytes, key: PrivateKey) -> dict[str, Any]:
    """An envelope with one signature over the payload's pre-authentication encoding."""
    signature = key.sign(_encoding(payload), ec.ECDSA(hashes.SHA256()))
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": key_id(key.public_key()), "sig": base64.b64encode(signature).decode()}],
    }


def unseal(envelope: Any, key: PublicKey, *, source: str) -> bytes:
    """The payload, if one of the signatures is `key`'s.

    Raises:
        GatehouseError: malformed, signed with another key, or changed after it was signed.
    """
    try:
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise GatehouseError(f"{source} holds {envelope['payloadType']!r}, not an in-toto statement.")
        payload = base64.b64decode(envelope["payload"], validate=True)
        signatures = {s["keyid"]: base64.b64decode(s["sig"], validate=True) for s in envelope["signatures"]}
    except (KeyError, TypeError, binascii.Error) as error:
        raise GatehouseError(f"{source} is no signed envelope ({type(error).__name__}: {error}).") from error
    own = key_id(key)
    if own not in signatures:
        names = ", ".join(str(k)[:12] for k in signatures) or "nobody"
        raise GatehouseError(f"{source} is signed by another key ({names}), not by the configured one ({own[:12]}).")
    try:
        key.verify(signatures[own], _encoding(payload), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise GatehouseError(f"{source}: the signature does not match, so it was changed after signing.") from None
    return payload


def _encoding(payload: bytes) -> bytes:
    """PAE: type and body with their lengths, so that no byte can move from one to the other."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
