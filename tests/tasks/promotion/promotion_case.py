"""A small candidate with everything that promotion looks at, made by hand in a folder: no stage has to run."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tasks.files import write_json
from tasks.gate import Check, Drill, GateResult, Subject
from tasks.models.architectures import Classifier, ModelSpec, build
from tasks.models.checkpoints import ModelRecord, save_model
from tasks.params import Risk
from tasks.promotion.decision import ONLY_FOR, Comparison, Decision, decide, result_candidate
from tasks.promotion.evidence import attest
from tasks.promotion.keys import PrivateKey, signing_key
from tasks.risk import Policy
from tasks.risk import decide as policy_for

TEACHER, STUDENT_TASK = "a" * 64, "b" * 64
NO_CHAMPION = Comparison(counts=False, why="There is no champion yet.")
CLASSES = ("normal", "pneumonia", "covid")


def risk(**changes: object) -> Risk:
    answers = {
        "a1_impact_normal": "moderate",
        "a2_impact_adversarial": "moderate",
        "b1_training_data_trusted": True,
        "b2_training_images": "some",
        "b3_teacher_trusted": False,
        "b4_teachers_available": "few",
        "b5_compute": "cpu",
        "b6_known_benign_samples": True,
        "b7_tools_trusted": True,
        "c1_input": "digital",
        "c2_cheap_queries": True,
        "c3_frequent_queries": False,
        "c4_internals_exposed": False,
        "data_about_people": True,
        "thresholds": {},
    }
    return Risk.model_validate({**answers, **changes})


def passing_check(key: str, threshold: float) -> Check:
    name = key.split(".", 1)[1]
    least = name.endswith("_minimum")
    observed = threshold + 0.01 if least else max(0.0, threshold - 0.05)
    ends = (observed - 0.005, min(1.0, observed + 0.04)) if least else (max(0.0, observed - 0.04), observed)
    return Check(
        name=name,
        metric=name.replace("_", " "),
        observed=observed,
        ci=ends,
        op=">=" if least else "<=",
        threshold=threshold,
        n=200,
        unit="share",
    )


def result(policy: Policy, gate: str, subject: str, **changes: object) -> GateResult:
    checks = [
        passing_check(key, value)
        for key, value in policy.thresholds.items()
        if key.startswith(f"{gate}.") and ONLY_FOR.get(key, policy.candidate) == policy.candidate
    ]
    content: dict[str, object] = {
        "gate": gate,
        "candidate": result_candidate(gate, policy.candidate),
        "subject": Subject(path="somewhere", sha256=subject),
        "policy_sha256": policy.sha256,
        "checks": tuple(checks),
        "drill": Drill(planted=2, caught=2, clean=2, accused=0) if gate == "backdoor" else None,
        "assumptions": ("The trigger is a small patch.",),
        "limits": ("A trigger that depends on the image is not seen.",),
    }
    return GateResult.model_validate({**content, **changes})


@dataclass
class Case:
    """Files as the stages leave them below `root`, and the operator's key."""

    root: Path
    policy: Policy
    record: ModelRecord
    key: PrivateKey
    results: dict[str, GateResult] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        return self.root / "models" / self.policy.candidate

    @property
    def gates(self) -> Path:
        return self.root / "reports" / "gates"

    @property
    def evidence(self) -> Path:
        return self.model / "evidence"

    def put(self, changed: GateResult) -> None:
        self.results[changed.gate] = changed
        changed.write(self.gates)

    def decide(self, comparison: Comparison = NO_CHAMPION) -> Decision:
        return decide(self.policy, tuple(self.results.values()), self.record, comparison)

    def attest(
        self, decision: Decision | None = None, key: PrivateKey | None = None, decided_at: datetime | None = None
    ) -> None:
        params = self.root / "params.yaml"
        params.write_text("run: {seed: 7}\n", encoding="utf-8")
        attest(
            self.evidence,
            model_folder=self.model,
            gates_folder=self.gates,
            policy_path=self.root / "reports" / "policy.json",
            decision=decision or self.decide(),
            key=key or self.key,
            extra={"params.yaml": params},
            code={"revision": "c" * 40, "state": "clean"},
            tools={"python": "3.11"},
            decided_at=decided_at,
        )


def make_case(
    root: Path, *, seed: int = 0, model: tuple[Classifier, ModelSpec] | None = None, **answers: object
) -> Case:
    policy = policy_for(risk(**answers))
    write_json(root / "reports" / "policy.json", policy.model_dump(mode="json"))
    spec = model[1] if model else ModelSpec(architecture="simple_cnn", classes=CLASSES, image_size=16)
    folder = root / "models" / policy.candidate
    parents = {"teacher": TEACHER, "student_task": STUDENT_TASK}
    record = save_model(folder, model[0] if model else build(spec, seed=seed), spec, parents=parents)
    case = Case(root, policy, record, signing_key(root / "keys" / "promotion.key"))
    for rule in policy.gates:
        subject = {"data": STUDENT_TASK, "provenance": TEACHER}.get(rule.gate, record.sha256)
        case.put(result(policy, rule.gate, subject))
    return case
