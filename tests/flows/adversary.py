"""What an adversary does who wants an unproven model served: each a function that changes what he can reach.

`Spoils` is what he has kept: the state when version 1 reigned, and evidence of version 2's weights that was signed
before the one in force.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from proven_project import NAME, Case, attest_case, make_case, promote, risk

from flows import registry, rulings
from flows.champion import load_champion, withdraw
from tasks.files import read_json, write_json
from tasks.params import load_params
from tasks.promotion.keys import signing_key
from tasks.promotion.ledger import LEDGER, START, digest_of, text_of
from tasks.promotion.trust import revoke
from tasks.risk import decide

KEYS = Path(".gatehouse/keys")
STORE = KEYS / "trusted.json"


@dataclass
class Spoils:
    root: Path
    cases: dict[str, Case] = field(default_factory=dict)
    old_ledger: bytes = b""
    old_ruling: str = ""
    old_evidence: Path = Path()

    def files(self, version: str) -> Path:
        """Where the registry keeps this version."""
        return registry.version_folder(NAME, version)


def second(root: Path, name: str, key_of: Case, **answers: object) -> Case:
    """Another candidate, with other weights, that is signed with the key of `key_of`."""
    case = make_case(root / name, seed=1, **answers)
    case.key = key_of.key
    copy(root / "params.yaml", case.root / "params.yaml")
    return case


def copy(source: Path, target: Path) -> None:
    if source.is_file():
        shutil.copy2(source, target)
        return
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def load() -> str:
    return load_champion(load_params().promotion).version


# What an adversary does to the version's files


def edit_a_gate(s: Spoils) -> None:
    gate = s.files("2") / "evidence" / "gates" / "backdoor@student.json"
    gate.write_text(gate.read_text().replace('"n": 200', '"n": 2000'))


def swap_the_weights(s: Spoils) -> None:
    shutil.copy(s.files("1") / "model.safetensors", s.files("2") / "model.safetensors")


def swap_weights_and_record(s: Spoils) -> None:
    for name in ("model.safetensors", "model.json"):
        shutil.copy(s.files("1") / name, s.files("2") / name)


def bring_evidence_of_another_model(s: Spoils) -> None:
    copy(s.files("1") / "evidence", s.files("2") / "evidence")


def replay_older_evidence(s: Spoils) -> None:
    """It is signed, and it is of these very weights."""
    copy(s.old_evidence, s.files("2") / "evidence")


def replace_the_whole_version(s: Spoils) -> None:
    """With version 1, which is proven."""
    copy(s.files("1"), s.files("2"))


def loosen_the_evidence_policy(s: Spoils) -> None:
    loose = decide(risk(thresholds={"backdoor.patch_control": 1.0}))
    write_json(s.files("2") / "evidence" / "policy.json", loose.model_dump(mode="json"))


# To the registry


def move_the_alias(s: Spoils) -> None:
    registry.crown(NAME, "1")


def move_the_alias_to_a_version_without_proof(s: Spoils) -> None:
    folder = s.root / "forged"
    copy(s.cases["2"].model, folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    registry.crown(NAME, registry.register(NAME, folder, folder / "evidence", sha256="f" * 64, tags={}))


def sql(statement: str, *values: object) -> None:
    with closing(sqlite3.connect("mlflow.db")) as database, database:
        assert database.execute(statement, values).rowcount > 0


def edit_the_alias_in_the_database(s: Spoils) -> None:
    sql("UPDATE registered_model_aliases SET version = 1 WHERE alias = 'champion'")


def edit_the_source_in_the_database(s: Spoils) -> None:
    sql(
        "UPDATE model_versions SET (source, storage_location) = "
        "(SELECT source, storage_location FROM model_versions WHERE version = 1) WHERE version = 2"
    )


def edit_the_ruling_in_the_database(s: Spoils) -> None:
    LEDGER.unlink()  # on a host without the chain
    forged = {**json.loads(str(registry.published_ruling(NAME))), "version": "1"}
    sql("UPDATE registered_model_tags SET value = ? WHERE key = 'gatehouse.ruling'", text_of(forged))
    registry.crown(NAME, "1")


def move_the_alias_where_there_is_no_chain(s: Spoils) -> None:
    LEDGER.unlink()
    registry.crown(NAME, "1")


def put_everything_but_the_memory_back(s: Spoils) -> None:
    """Chain, alias and ruling as they were when version 1 reigned: all signed, but this host has seen version 2."""
    load()
    LEDGER.write_bytes(s.old_ledger)
    registry.publish_ruling(NAME, s.old_ruling)
    registry.crown(NAME, "1")


def put_the_registry_back_where_there_is_no_chain(s: Spoils) -> None:
    put_everything_but_the_memory_back(s)
    LEDGER.unlink()


def remove_every_decision(s: Spoils) -> None:
    """On a host that has seen none before."""
    LEDGER.unlink()
    rulings.MEMORY.unlink(missing_ok=True)
    sql("DELETE FROM registered_model_tags WHERE key = 'gatehouse.ruling'")


def remove_every_decision_where_one_was_seen(s: Spoils) -> None:
    load()
    LEDGER.unlink()
    sql("DELETE FROM registered_model_tags WHERE key = 'gatehouse.ruling'")


# To the decisions


def edit_decisions_and_recompute(s: Spoils) -> None:
    """Version 2's promotion becomes version 1's, and every digest after it is right again."""
    entries, previous = [json.loads(line) for line in LEDGER.read_text().splitlines()], START
    entries[-1] |= {k: entries[0][k] for k in ("version", "sha256", "evidence")}
    for entry in entries:
        entry["previous"] = previous
        previous = digest_of(entry)
    LEDGER.write_text("".join(text_of(e) + "\n" for e in entries))
    registry.crown(NAME, "1")


def cut_the_decisions(s: Spoils) -> None:
    LEDGER.write_bytes(s.old_ledger)
    registry.crown(NAME, "1")


def cut_a_withdrawal(s: Spoils) -> None:
    before = LEDGER.read_bytes()
    withdraw("2", s.cases["2"].record.sha256, "An advisory names its teacher.")
    LEDGER.write_bytes(before)


def withdraw_it(s: Spoils) -> None:
    withdraw("2", s.cases["2"].record.sha256, "An advisory names its teacher.")


# With keys


def edit_store(**changes: object) -> None:
    keys = read_json(STORE)["keys"]
    write_json(STORE, {"keys": [{**keys[0], **changes}, *keys[1:]]})
    STORE.chmod(0o600)


def let_the_key_expire(s: Spoils) -> None:
    edit_store(not_after="2020-01-01T00:00:00Z")


def revoke_the_key(s: Spoils) -> None:
    revoke(KEYS / "promotion.key", read_json(STORE)["keys"][0]["key_id"], "stolen", days=10)


def sign_with_the_revoked_key_and_an_earlier_time(s: Spoils) -> None:
    """Who has stolen the key can still write, but not what counts."""
    revoke_the_key(s)
    attest_case(s.cases["2"], decided_at=datetime.now(UTC) - timedelta(days=1))
    copy(s.cases["2"].evidence, s.files("2") / "evidence")


def decide_with_the_revoked_key(s: Spoils) -> None:
    """The evidence is signed again with the new key, the newest decision with the revoked one."""
    revoke_the_key(s)
    case = second(s.root, "resigned", s.cases["1"])
    case.key = signing_key(KEYS / "promotion.key")
    attest_case(case)
    copy(case.evidence, s.files("2") / "evidence")


def sign_with_a_key_of_his_own(s: Spoils) -> None:
    forged = second(s.root, "forged_key", s.cases["2"])
    forged.key = signing_key(s.root / "intruder" / "promotion.key")
    attest_case(forged)
    copy(forged.evidence, s.files("2") / "evidence")


# With the policy


def have_it_promoted_under_a_loosened_policy(s: Spoils) -> None:
    """Loosen, have it promoted with the operator's own key, and put the answers back."""
    loose = second(s.root, "loose", s.cases["1"], thresholds={"backdoor.patch_control": 1.0})
    promote(loose, s.root)


def answer_the_questions_more_strictly(s: Spoils) -> None:
    """No attack: what was proven under the policy of that day is not proven under today's."""
    answers(a2_impact_adversarial="high")


def answers(**changes: object) -> None:
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["risk"] |= changes
    Path("params.yaml").write_text(yaml.safe_dump(content))
