"""What an operator does beside the stage: verify, history, rollback, withdraw, and the keys."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from flows import registry, rulings
from flows.champion import load_champion, withdraw
from flows.promotion import EVIDENCE
from flows.terminal import mendable, terminal
from tasks.errors import GatehouseError
from tasks.params import Promotion, load_params
from tasks.promotion.evidence import EVIDENCE_FOLDER, Proven, verify
from tasks.promotion.ledger import LEDGER, REIGNS, Entry, digest_of, read, ruling
from tasks.promotion.strictness import weaker
from tasks.promotion.trust import load_trust, revoke, rotate
from tasks.risk import decide

Command = Callable[[argparse.Namespace, Promotion, Console], int]


def run(arguments: list[str]) -> int:
    """Parse and run one command; the exit code is 1 where it did not do what was asked, with one sentence why."""
    chosen = _parser().parse_args(arguments)
    command: Command = chosen.run
    console = terminal()
    with mendable("promotion", console):
        return command(chosen, load_params().promotion, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.promotion",
        description="Without a command: the stage, which promotes the candidate or refuses it.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, words: str) -> argparse.ArgumentParser:
        own = commands.add_parser(name, help=words, description=words)
        own.set_defaults(run=command)
        return own

    own = add("verify", _verify, "say what is proven of a model, by default of the champion, and by whom")
    own.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="folder with model.safetensors")
    add("history", _history, "print the chain of decisions")
    own = add("rollback", _rollback, "put the last proven champion before the present one back")
    own.add_argument("version", nargs="?", metavar="VERSION", help="a version that was champion before")
    own.add_argument("--reason", default="The operator went back to it.", help="for the chain of decisions")
    own = add("withdraw", _withdraw, "take the champion out of service until the next promotion or rollback")
    own.add_argument("version", nargs="?", metavar="VERSION", help="refuse unless this version is the champion")
    own.add_argument("--reason", required=True, help="for the chain of decisions")
    add("keys", _keys, "list the keys whose signatures are known, and until when they count")
    add("rotate", _rotate, "put a new key pair in the place of the present one")
    own = add("revoke", _revoke, "let a key's signatures count no more; the key in use is rotated first")
    own.add_argument("key", metavar="KEYID", help="its identifier, or the first 8 digits or more")
    own.add_argument("--reason", required=True, help="for the store of keys and the chain of decisions")
    return parser


def _verify(chosen: argparse.Namespace, promotion: Promotion, console: Console) -> int:
    try:
        if chosen.model is None:
            champion = load_champion(promotion)
            what, proven = f"{promotion.model_name}, champion, version {champion.version}", champion.proven
        else:
            what, proven = str(chosen.model), _prove_folder(chosen.model, promotion)
        chain = read(LEDGER, load_trust(promotion.signing_key))
    except GatehouseError as error:
        _say(console, f"Not proven: {str(error).removeprefix('Not proven: ')}")
        return 1
    _say(console, f"{what}: proven.", *(f"  {line}" for line in proven.lines()))
    if chain:
        head = digest_of(chain[-1])[:12]
        _say(console, f"  The chain of {len(chain)} decisions is whole and signed; its head is {head}.")
    return 0


def _prove_folder(folder: Path, promotion: Promotion) -> Proven:
    beside = folder / EVIDENCE_FOLDER
    return verify(folder, beside if beside.exists() else EVIDENCE, trust=load_trust(promotion.signing_key))


def _history(_chosen: argparse.Namespace, promotion: Promotion, console: Console) -> int:
    chain = read(LEDGER, load_trust(promotion.signing_key))
    table = Table("number", "at", "decision", "version", "weights", "reason", "signed by", title=f"{LEDGER}")
    for entry in chain:
        reason = entry.get("reason") or "; ".join(entry.get("reasons", ()))
        cells = (entry.get("at"), entry["decision"], entry.get("version"), str(entry.get("sha256", ""))[:12], reason)
        table.add_row(str(entry["number"]), *(str(c or "–") for c in cells), entry["key"][:12])
    console.print(table if chain else "No decision has been taken here yet.")
    return 0


def _rollback(chosen: argparse.Namespace, promotion: Promotion, console: Console) -> int:
    name, trust = promotion.model_name, load_trust(promotion.signing_key)
    chain = read(LEDGER, trust)
    now = ruling(chain, name)
    if now is None:
        raise GatehouseError(f"{LEDGER} says of no version of {name!r} that it was champion; promote one first.")
    target, proven = _target(chain, chosen.version or "", promotion)
    entry = {
        "decision": "rolled_back",
        "candidate": proven.candidate,
        "version": target["version"],
        "sha256": proven.sha256,
        "policy": proven.policy.sha256,
        "evidence": proven.evidence,
        "reason": chosen.reason,
    }
    rulings.record(promotion, entry)
    registry.crown(name, target["version"])
    _say(console, f"Version {target['version']} of {name} is champion again, instead of version {now['version']}.")
    return 0


def _target(chain: list[Entry], version: str, promotion: Promotion) -> tuple[Entry, Proven]:
    """The newest decision whose version can be put back, and what is proven of it; a GatehouseError says why none."""
    name = promotion.model_name
    own = [e for e in chain if e.get("model") == name]
    present = ruling(chain, name)
    withdrawn = {e["version"]: e for e in own if e["decision"] == "withdrawn"}
    reigned = {e["version"]: e for e in own if e["decision"] in REIGNS}  # the newest decision for each version
    promoted = [e["version"] for e in own if e["decision"] == "promoted"]
    if present is not None and present["version"] in promoted:
        # What reigned after the present one was promoted is what a rollback has left: never back to that by itself.
        promoted = promoted[: len(promoted) - 1 - promoted[::-1].index(present["version"])]
    wanted = [version] if version else list(dict.fromkeys(reversed(promoted)))
    problems = []
    for entry in (reigned[v] for v in wanted if v in reigned):
        out = withdrawn.get(entry["version"])
        if out is not None and out["number"] > entry["number"]:
            problems.append(f"version {entry['version']} was taken out of service ({out['reason']})")
            continue
        try:
            return entry, _proven_as_decided(entry, promotion)
        except GatehouseError as error:
            problems.append(f"version {entry['version']}: {error}")
    what = f"version {version}" if version else "a version before the present one"
    why = "; ".join(problems) or "no decision made such a version champion"
    raise GatehouseError(f"Cannot put {what} of {name!r} back: {why}.")


def _proven_as_decided(entry: Entry, promotion: Promotion) -> Proven:
    """What is proven of the version that a decision named, with the very evidence that it named."""
    folder = registry.version_folder(promotion.model_name, entry["version"])
    proven = verify(folder, trust=load_trust(promotion.signing_key))
    if (proven.sha256, proven.evidence) != (entry["sha256"], entry["evidence"]):
        raise GatehouseError("its files are not the ones that were promoted")
    if points := weaker(proven.policy, decide(load_params().risk)):
        raise GatehouseError(f"it was promoted under a weaker policy than is in force ({points[0]})")
    return proven


def _withdraw(chosen: argparse.Namespace, promotion: Promotion, console: Console) -> int:
    now = rulings.in_force(promotion)
    if now is None or now["decision"] == "withdrawn":
        raise GatehouseError(f"{promotion.model_name!r} has no champion in service; there is nothing to withdraw.")
    if chosen.version not in (None, now["version"]):
        raise GatehouseError(f"Version {chosen.version} is not the champion, version {now['version']} is.")
    withdraw(now["version"], now["sha256"], chosen.reason)
    _say(console, f"Version {now['version']} of {promotion.model_name} is out of service; the alias is left as it was.")
    return 0


def _keys(_chosen: argparse.Namespace, promotion: Promotion, console: Console) -> int:
    table = Table("key", "counts from", "until", "standing", title="Keys")
    for key in load_trust(promotion.signing_key).keys:
        ends = [f"{end:%Y-%m-%d}" if end else "no limit" for end in (key.not_before, key.not_after)]
        table.add_row(key.key_id[:16], *ends, key.objection() or "its signatures count")
    console.print(table)
    return 0


def _rotate(_chosen: argparse.Namespace, promotion: Promotion, console: Console) -> int:
    new = rotate(Path(promotion.signing_key), days=promotion.key_days)
    rulings.record(promotion, {"decision": "key_rotated", "reason": f"New key {new.key_id}."})
    _say(console, f"New key {new.key_id[:16]}, until {new.not_after:%Y-%m-%d}. What the old one signed still counts.")
    return 0


def _revoke(chosen: argparse.Namespace, promotion: Promotion, console: Console) -> int:
    gone = revoke(Path(promotion.signing_key), chosen.key, chosen.reason, days=promotion.key_days)
    rulings.record(promotion, {"decision": "key_revoked", "reason": f"Key {gone.key_id}: {chosen.reason}"})
    _say(
        console,
        f"Key {gone.key_id[:16]} is revoked: what it signed counts no more. If that was the champion, run "
        "`.venv/bin/python -m flows.promotion` to have it decided and signed again.",
    )
    return 0


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
