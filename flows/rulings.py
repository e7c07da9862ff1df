"""Who is champion, by the operator's signed word, and not by MLflow's alias.

Each ruling is a signed line of the chain of decisions. The newest is kept a second time with the registered model, for
hosts that serve without the chain, and every host remembers the number of the newest that it has followed: a state of
affairs that was put back is noticed.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from flows import registry
from tasks.errors import GatehouseError
from tasks.files import read_json, write_json
from tasks.gate import utc_now
from tasks.params import Promotion
from tasks.promotion.ledger import LEDGER, Entry, append, digest_of, parse, read, ruling, text_of
from tasks.promotion.trust import Trust, load_trust, operator_key

MEMORY = Path(".gatehouse/rulings.json")  # model name → number and digest of the newest ruling that was followed here


def record(promotion: Promotion, entry: Entry) -> Entry:
    """Sign a decision, add it to the chain, and keep the newest ruling with the registered model; returns the line.

    Raises:
        GatehouseError: the chain is broken, or the registry knows decisions that it lacks; nothing can be signed.
    """
    name = promotion.model_name
    key, trust = operator_key(Path(promotion.signing_key), days=promotion.key_days)
    published = _published(name, trust)
    chain = read(LEDGER, trust)
    if chain:
        _refuse_a_cut_chain(chain, published)
    now = utc_now()
    line = append(LEDGER, {"at": now, "model": name, **entry}, key=key, trust=trust, after=published)
    if (newest := ruling(read(LEDGER, trust), name)) is not None:
        registry.publish_ruling(name, text_of(newest))
    return line


def in_force(promotion: Promotion) -> Entry | None:
    """The newest ruling on this model, from the chain where it is at hand, else from the registry; None: there is none.

    Raises:
        GatehouseError: it is not signed by a key that counts, the chain is broken, or an older state was put back.
    """
    name, trust = promotion.model_name, load_trust(promotion.signing_key)
    published, chain = _published(name, trust), read(LEDGER, trust)
    if chain:
        _refuse_a_cut_chain(chain, published)
    chosen = ruling(chain, name) or published
    if chosen is not None:
        key = trust.named(chosen["key"])
        if problem := key.objection(datetime.fromisoformat(chosen["at"])) if key else "its key is not trusted":
            raise GatehouseError(
                f"The newest decision (number {chosen['number']}) counts no more: {problem}; promote again."
            )
    _follow(name, chosen)
    return chosen


def _published(name: str, trust: Trust) -> Entry | None:
    text = registry.published_ruling(name)
    return None if text is None else parse(text, trust, source=f"The ruling that the registry keeps with {name!r}")


def _refuse_a_cut_chain(chain: list[Entry], published: Entry | None) -> None:
    begun_after = chain[0]["previous"]  # of a chain that goes on from the registry's copy
    if published is not None and published not in chain and digest_of(published) != begun_after:
        raise GatehouseError(
            f"{LEDGER} was cut or replaced: its newest line is number {chain[-1]['number']} and it lacks number "
            f"{published['number']}, which the registry keeps. Restore it from a copy, or move it aside to go on from "
            "the registry's."
        )


def _follow(name: str, chosen: Entry | None) -> None:
    """Refuse a ruling older than one that this host has followed, else remember it."""
    memory = read_json(MEMORY) if MEMORY.exists() else {}
    seen = memory.get(name, {"number": 0, "digest": ""})
    number, digest = (0, "") if chosen is None else (chosen["number"], digest_of(chosen))
    if number < seen["number"] or (number == seen["number"] and digest != seen["digest"]):
        what = "there is none now" if chosen is None else f"the newest now is number {number} of {chosen['at']}"
        raise GatehouseError(
            f"This host has followed decision number {seen['number']}, and {what}: an older state was put back, or the "
            f"chain was cut. Restore what is missing; delete {MEMORY} only if you did this yourself."
        )
    if number > seen["number"]:
        write_json(MEMORY, {**memory, name: {"number": number, "digest": digest}})
