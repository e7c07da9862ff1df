"""Ways to get an unproven model served, each refused with its reason.

A project with two versions, each of which was champion in its turn and is proven; version 2 reigns. What is done to it
stands in `adversary.py`.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import adversary as by
import numpy as np
import pytest
from adversary import Spoils, answers, copy, load, second
from proven_project import NAME, SIDE, attest_case, inside, make_project, promote, risk

from flows import promotion, registry, rulings
from flows.champion import UnprovenError, load_champion
from tasks.errors import GatehouseError
from tasks.files import write_json
from tasks.params import load_params
from tasks.promotion.ledger import LEDGER
from tasks.risk import decide


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spoils]:
    root = tmp_path_factory.mktemp("house")
    first = make_project(root)
    other = second(root, "second", first)
    spoils = Spoils(root, {"1": first, "2": other})
    with inside(root):
        load_champion(load_params().promotion)
        spoils.old_ledger, spoils.old_ruling = LEDGER.read_bytes(), str(registry.published_ruling(NAME))
        attest_case(other, decided_at=datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1))
        spoils.old_evidence = root / "old_evidence"
        shutil.copytree(other.evidence, spoils.old_evidence)
        assert promote(other, root) == "2"
        yield spoils


@pytest.fixture
def project(house: Spoils) -> Iterator[Spoils]:
    """The project as it was built; what a test has changed is put back afterwards."""
    kept = house.root / "kept"
    names = (".gatehouse", "mlartifacts", "params.yaml", "reports")
    for name in names:
        copy(house.root / name, kept / name)
    with closing(sqlite3.connect(":memory:")) as memory:
        with closing(sqlite3.connect("mlflow.db")) as database:
            database.backup(memory)
        yield house
        with closing(sqlite3.connect("mlflow.db")) as database:
            memory.backup(database)
    for name in names:
        copy(kept / name, house.root / name)


ATTACKS: list[tuple[Callable[[Spoils], None], str]] = [
    (by.edit_a_gate, "backdoor@student.json is not the file that was signed"),
    (by.swap_the_weights, "model.safetensors is not the file that was signed"),
    (by.swap_weights_and_record, "model.safetensors is not the file that was signed"),
    (by.bring_evidence_of_another_model, "model.safetensors is not the file that was signed"),
    (by.replay_older_evidence, "is not the one that the newest decision names"),
    (by.replace_the_whole_version, "are not the ones that the newest decision promoted"),
    (by.loosen_the_evidence_policy, "policy.json is not the file that was signed"),
    (by.move_the_alias, "stands on version 1, but the newest decision promoted version 2: somebody moved the alias"),
    (by.move_the_alias_to_a_version_without_proof, "model.safetensors is not the file that was signed"),
    (by.edit_the_alias_in_the_database, "the newest decision promoted version 2: somebody moved the alias"),
    (by.edit_the_source_in_the_database, "are not the ones that the newest decision promoted"),
    (by.edit_the_ruling_in_the_database, "the registry keeps with 'gatehouse-student'; the signature does not match"),
    (by.move_the_alias_where_there_is_no_chain, "the newest decision promoted version 2: somebody moved the alias"),
    (by.put_everything_but_the_memory_back, "has followed decision number 2, and the newest now is number 1"),
    (
        by.put_the_registry_back_where_there_is_no_chain,
        "has followed decision number 2, and the newest now is number 1",
    ),
    (by.remove_every_decision, "no signed decision made it champion"),
    (by.remove_every_decision_where_one_was_seen, "has followed decision number 2, and there is none now"),
    (by.edit_decisions_and_recompute, "the chain of decisions breaks at line 2; the signature does not match"),
    (by.cut_the_decisions, "was cut or replaced: its newest line is number 1 and it lacks number 2"),
    (by.cut_a_withdrawal, "was cut or replaced: its newest line is number 2 and it lacks number 3"),
    (by.withdraw_it, "was taken out of service"),
    (by.let_the_key_expire, "expired on 2020-01-01"),
    (by.revoke_the_key, "(stolen); promote again"),
    (by.sign_with_the_revoked_key_and_an_earlier_time, "(stolen); promote again"),
    (by.decide_with_the_revoked_key, "The newest decision (number 2) counts no more: the key"),
    (by.sign_with_a_key_of_his_own, "is signed by another key"),
    (by.have_it_promoted_under_a_loosened_policy, "it allows backdoor.patch_control 1, and 0.2 is in force"),
    (by.answer_the_questions_more_strictly, "promoted under a weaker policy than params.yaml asks for"),
]


@pytest.mark.parametrize(("attack", "reason"), ATTACKS, ids=lambda v: getattr(v, "__name__", ""))
def test_it_is_refused_with_the_reason(project: Spoils, attack: Callable[[Spoils], None], reason: str) -> None:
    assert load() == "2"
    attack(project)
    with pytest.raises(UnprovenError) as caught:
        load()
    assert reason in str(caught.value)
    assert caught.value.version


def test_a_serving_host_without_the_chain_serves_what_the_signed_ruling_names(project: Spoils) -> None:
    LEDGER.unlink()
    rulings.MEMORY.unlink(missing_ok=True)
    assert load() == "2"
    registry.crown(NAME, "1")
    with pytest.raises(UnprovenError, match="somebody moved the alias"):
        load()


def test_a_stricter_proof_than_is_asked_for_stands(project: Spoils) -> None:
    answers(thresholds={"backdoor.patch_control": 0.9})
    assert load() == "2"


def test_a_policy_that_the_answers_do_not_give_promotes_nothing(project: Spoils) -> None:
    """A whole policy.json with a digest of its own, looser than params.yaml asks for, in the place of the stage's."""
    loose = decide(risk(thresholds={"backdoor.patch_control": 1.0}))
    write_json(project.root / "reports" / "policy.json", loose.model_dump(mode="json"))
    with pytest.raises(GatehouseError, match=r"policy\.json is not what the answers in params\.yaml"):
        promotion._policy(load_params())


@pytest.mark.parametrize("attack", [by.swap_the_weights, by.edit_a_gate, by.let_the_key_expire, by.revoke_the_key])
def test_mlflow_itself_does_not_load_it(project: Spoils, attack: Callable[[Spoils], None]) -> None:
    import mlflow

    uri = f"models:/{NAME}@champion"
    assert mlflow.pyfunc.load_model(uri).predict(np.zeros((1, 1, SIDE, SIDE), np.float32)).shape == (1, 3)
    attack(project)
    with pytest.raises(GatehouseError):
        mlflow.pyfunc.load_model(uri)
