"""Making an offer: a folder with weights, card, signature and public key, as a provider would hand it over."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml

from tasks.teachers import signatures
from tasks.teachers.card import Card

CARD = "card.yaml"
SIGNATURE = "signature.json"
PUBLIC_KEY = "provider.pub"


def write_offer(folder: Path, card: Card, weights: bytes, *, signed: bool) -> None:
    """Write the offer into a new folder; with `signed`, a fresh key signs weights and card and is then thrown away."""
    folder.mkdir(parents=True)
    (folder / card.file).write_bytes(weights)
    content: dict[str, Any] = card.model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / CARD).write_text(f"# What the provider says of this teacher.\n{text}", encoding="utf-8")
    if signed:
        with tempfile.TemporaryDirectory() as secret:
            private, signature = Path(secret) / "provider.key", Path(secret) / SIGNATURE
            signatures.make_keys(private, folder.parent / f".{folder.name}.pub")
            signatures.sign(folder, signature, private_key=private)
            (folder / SIGNATURE).write_bytes(signature.read_bytes())
        (folder.parent / f".{folder.name}.pub").rename(folder / PUBLIC_KEY)


def hostile_pickle(marker: Path) -> bytes:
    """A pickle that, when loaded, would create the file `marker`; assembled byte by byte, no pickle module involved.

    The marker is harmless; that it never appears is how a run shows that no pickle was loaded.
    """
    path = str(marker).encode("raw_unicode_escape")
    return b"\x80\x02cio\nopen\n(V" + path + b"\nVw\ntR."
