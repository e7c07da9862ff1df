"""Where the noise of private training comes from: a secret of the project, never a seed that anybody can read.

Whoever knows the seed can subtract the noise, and ε with it; params.yaml is published, so its seed cannot be used. And
noise used twice, on two data sets that differ by one patient, cancels in the difference of the two models. So the seed
is a keyed hash of everything that decides the model: the same inputs give the same bytes on the machine that holds the
secret, other inputs give other noise, and without the secret nobody can draw it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from tasks.errors import GatehouseError

SECRET_FILE = Path(".gatehouse/keys/noise.seed")
SECRET_BYTES = 32


def project_secret(path: Path = SECRET_FILE) -> bytes:
    """The project's 32 random bytes, made on the first call and readable by their owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(SECRET_BYTES))
            with contextlib.suppress(FileExistsError):  # another process was faster: its secret is the project's
                os.link(beside, path)
        finally:
            beside.unlink()
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES or path.stat().st_mode & 0o077:
        raise GatehouseError(
            f"{path} must hold {SECRET_BYTES} bytes that only its owner can read; delete it, and a new one is made."
        )
    return secret


def noise_seed(secret: bytes, *inputs: str) -> int:
    """A seed in [0, 2⁶³) that depends on the secret and on each of `inputs` (HMAC-SHA-256)."""
    text = "".join(f"{len(i)}:{i}" for i in inputs)  # lengths first: ("ab", "c") is not ("a", "bc")
    return int.from_bytes(hmac.new(secret, text.encode(), hashlib.sha256).digest()[:8], "big") >> 1
