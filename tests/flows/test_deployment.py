"""What is served follows what is proven: a promotion, a moved alias, a withdrawal, lost evidence, and back again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml
from proven_project import NAME, enthrone, inside, make_project

from flows import registry, rulings
from flows.champion import load_champion, withdraw
from flows.deployment import Watch, make_service, spent_before, watching
from tasks.params import load_params
from tasks.promotion.evidence import load_proven
from tasks.risk import Budget
from tasks.serving.errors import RequestError
from tasks.serving.log import Entry, ImageEntry, RequestLog
from tasks.serving.service import Deployment


@dataclass
class Scene:
    """A project, what is deployed of it, who watches, and what was said."""

    case: object
    deployment: Deployment
    watch: Watch
    said: list[str] = field(default_factory=list)

    def looked(self) -> str | None:
        """The version in service after one more look."""
        self.watch.look()
        champion = self.deployment.champion
        return champion.version if champion else None


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> object:
    torch.set_num_threads(1)
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def scene(project: object, tmp_path: Path) -> Iterator[Scene]:
    """Version 1 is champion, by alias and by decision."""
    case = project
    with inside(case.root):
        enthrone("1", case.record.sha256, case.evidence)
        params = load_params()
        champion = load_champion(params.promotion)
        log = RequestLog(tmp_path / "log.db", max_rows=100, max_days=1)
        deployment = Deployment(make_service(params, champion, log))
        said: list[str] = []
        try:
            yield Scene(case, deployment, Watch(params, deployment, champion, said.append), said)
        finally:
            log.close()


def test_the_service_follows_what_is_proven(scene: Scene) -> None:
    case = scene.case
    assert scene.looked() == "1"
    first = scene.deployment.current()

    again = registry.register(NAME, case.model, case.evidence, sha256=case.record.sha256, tags={})
    registry.crown(NAME, again)  # an alias that no decision set
    assert scene.looked() == "1"
    assert scene.deployment.current() is first
    assert scene.said == []

    enthrone(again, case.record.sha256, case.evidence)
    assert scene.looked() == again
    assert f"version {again}" in scene.said[0]
    assert "answers from now on" in scene.said[0]

    withdraw(again, case.record.sha256, "An advisory names its teacher.")
    assert scene.looked() is None
    with pytest.raises(RequestError) as refusal:
        scene.deployment.current()
    assert refusal.value.status == 503
    assert "advisory" not in refusal.value.message  # the reason is for the operator
    assert scene.said[1].startswith("out of service:")
    assert "An advisory names its teacher." in scene.said[1]
    assert scene.looked() is None
    assert len(scene.said) == 2

    enthrone(again, case.record.sha256, case.evidence)
    assert scene.looked() == again
    assert "answers from now on" in scene.said[2]


def test_a_rollback_is_followed_wherever_the_alias_stands(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    case = scene.case
    again = registry.register(NAME, case.model, case.evidence, sha256=case.record.sha256, tags={})
    enthrone(again, case.record.sha256, case.evidence)
    assert scene.looked() == again
    chosen = rulings.in_force(load_params().promotion)
    assert chosen is not None
    back = {k: chosen[k] for k in ("sha256", "evidence")} | {"decision": "rolled_back", "version": "1"}
    rulings.record(load_params().promotion, back)
    assert scene.looked() == "1"

    def away(_: object) -> None:
        raise registry.RegistryAwayError("MLflow does not answer.")

    monkeypatch.setattr("flows.deployment.ruled_champion", away)
    assert scene.looked() == "1"
    registry.crown(NAME, "1")


def test_a_decision_that_is_taken_during_a_look_takes_nothing_out_of_service(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = scene.case
    again = registry.register(NAME, case.model, case.evidence, sha256=case.record.sha256, tags={})
    real, decided = load_proven, []

    def slow(*given: object, **more: object) -> object:
        if not decided:
            decided.append(again)
            enthrone(again, case.record.sha256, case.evidence)
        return real(*given, **more)

    monkeypatch.setattr("flows.champion.load_proven", slow)
    assert scene.looked() == "1"
    assert scene.said == []
    assert scene.looked() == again


def test_a_decision_for_what_is_unproven_serves_nothing(scene: Scene, tmp_path: Path) -> None:
    case = scene.case
    shutil.copytree(case.model, tmp_path / "model")
    weights = bytearray((tmp_path / "model" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model" / "model.safetensors").write_bytes(weights)
    version = registry.register(NAME, tmp_path / "model", case.evidence, sha256="0" * 64, tags={})
    enthrone(version, case.record.sha256, case.evidence)
    assert scene.looked() is None
    assert "model.safetensors is not the file that was signed" in scene.said[0]


def test_evidence_that_is_lost_ends_the_service_until_it_is_back(scene: Scene) -> None:
    folder, _ = registry.champion_folder(NAME)
    shutil.move(folder / "evidence" / "policy.json", scene.case.root / "kept.json")
    assert scene.looked() is None
    assert "policy.json" in scene.said[0]
    shutil.move(scene.case.root / "kept.json", folder / "evidence" / "policy.json")
    assert scene.looked() == "1"


def test_a_registry_that_is_away_takes_nothing_out_of_service(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: object) -> None:
        raise registry.RegistryAwayError("MLflow does not answer (connection refused); check MLFLOW_TRACKING_URI.")

    monkeypatch.setattr("flows.deployment.ruled_champion", away)
    assert scene.looked() == scene.looked() == "1"
    assert len(scene.said) == 1
    assert "MLflow does not answer" in scene.said[0]
    withdraw("1", scene.case.record.sha256, "Because.")  # which the chain at hand says
    assert scene.looked() is None
    assert "no longer what was decided" in scene.said[1]


def test_a_watcher_that_fails_leaves_nothing_in_service(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Watch) -> None:
        raise ZeroDivisionError

    params = load_params()
    quick = params.model_copy(update={"serving": params.serving.model_copy(update={"poll_seconds": 0.01})})
    monkeypatch.setattr(Watch, "look", broken)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    champion = load_champion(params.promotion)
    with watching(quick, scene.deployment, champion, scene.said.append) as thread:
        thread.join(10)
    assert scene.deployment.champion is None


def test_a_watcher_looks_until_it_is_stopped(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    looked = threading.Event()
    monkeypatch.setattr(Watch, "look", lambda _: looked.set())
    params = load_params()
    quick = params.model_copy(update={"serving": params.serving.model_copy(update={"poll_seconds": 0.01})})
    with watching(quick, scene.deployment, load_champion(params.promotion), scene.said.append) as thread:
        assert looked.wait(10)
    assert not thread.is_alive()
    assert scene.deployment.champion is not None


def test_guards_come_from_the_evidence_and_budgets_from_policy_or_params(scene: Scene) -> None:
    service = scene.deployment.current()
    policy = scene.case.policy
    assert tuple(g.name for g in service.champion.guards) == policy.guarded() == (
        "backdoor", "distribution", "disagreement"
    )  # fmt: skip
    assert service.budget == policy.budget
    path = Path("params.yaml")
    kept = path.read_text()
    content = yaml.safe_load(kept)
    content["serving"].update(images_per_day=5, rate_per_minute_all=0, guards=[])
    path.write_text(yaml.safe_dump(content))
    params = load_params()
    path.write_text(kept)
    changed = make_service(params, load_champion(params.promotion), scene.deployment.log)
    assert changed.budget == policy.budget.model_copy(update={"images_per_day": 5, "rate_per_minute_all": 0})
    assert len(changed.champion.guards) == 3  # unsigned params switch no guard off


def test_a_restart_gives_no_new_budget(scene: Scene) -> None:
    import time

    params = load_params()
    log = RequestLog(params.serving.log, max_rows=100, max_days=1)
    image = ImageEntry("a" * 64, "covid", 0.5, (0.0,) * 5)
    log.put(Entry(time.time(), "ward", 200, "", "m", 1.0, (image,) * 4))
    log.put(Entry(time.time() - 90_000, "ward", 200, "", "m", 1.0, (image,) * 4))
    log.close()
    budgets = spent_before(params)
    budgets.take("ward", Budget(images_per_day=6), 2)
    with pytest.raises(RequestError):
        budgets.take("ward", Budget(images_per_day=6), 1)
