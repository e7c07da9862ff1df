"""What the privacy policy lets the log keep: accounts by name, under a pseudonym or not at all; sketches or none."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from tasks.serving.log.records import Entry

Accounts = Literal["name", "hash", "none"]


def mask_for(accounts: Accounts, *, sketches: bool, key: bytes) -> Callable[[Entry], Entry]:
    """Turn an entry into what may be kept of it.

    Args:
        accounts: `name`; `hash`, a keyed digest that is the same for the same account, so that monitoring still tells
            accounts apart; `none`, and then it cannot.
        key: of the digest. Without it a digest of an address is an address: there are too few of them.
    """

    def account(name: str) -> str:
        if accounts == "name" or not name:
            return name
        return hmac.new(key, name.encode(), hashlib.sha256).hexdigest()[:16] if accounts == "hash" else ""

    def mask(entry: Entry) -> Entry:
        images = entry.images if sketches else tuple(replace(i, sketch=b"") for i in entry.images)
        return replace(entry, account=account(entry.account), images=images)

    return mask
