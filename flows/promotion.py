"""Decide, sign, register: the candidate that the policy names becomes champion, or is refused with reasons.

`python -m flows.promotion` alone is the stage; `python -m flows.promotion --help` names the commands beside it.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import distributions
from importlib.metadata import version as package_version
from pathlib import Path
from platform import python_version
from tempfile import TemporaryDirectory

import numpy as np

from flows import registry, rulings
from flows.stage import Context, main
from tasks.data.dataset import Dataset, load_dataset
from tasks.errors import GatehouseError
from tasks.files import sha256_file, write_json
from tasks.gate import GATES_FOLDER, GateResult, tool_versions
from tasks.models.architectures import Classifier
from tasks.models.checkpoints import RECORD, ModelRecord, load_model
from tasks.models.inference import logits, probabilities
from tasks.params import PARAMS_FILE, Params
from tasks.promotion.bom import BOM_FILE, bill_of_materials
from tasks.promotion.comparison import compare
from tasks.promotion.decision import Comparison, Decision, decide, result_names
from tasks.promotion.dossier import write_dossier
from tasks.promotion.evidence import ENVELOPE, Proven, attest, load_proven, verify
from tasks.promotion.keys import key_id
from tasks.promotion.ledger import LEDGER, digest_of, read
from tasks.promotion.statement import Predicate
from tasks.promotion.threats import THREATS_FILE, threat_table
from tasks.promotion.trust import Trust, operator_key
from tasks.risk import POLICY_FILE, Policy, load_policy
from tasks.risk import decide as policy_for
from tasks.serving.guards.calibration import calibrate
from tasks.serving.sketch import sketches
from tasks.serving.statistics import STATISTICS, image_statistics

EVIDENCE = Path("reports/evidence")
REPORT = Path("reports/promotion.json")
DOSSIER = Path("reports/dossier.html")


def promotion(context: Context) -> None:
    """Promote the candidate that the policy names if every required gate passed on its digest; otherwise refuse."""
    params, policy = context.params, _policy(context.params)
    folder = Path("models") / policy.candidate
    model, record = load_model(folder)
    data = load_dataset(Path("data/student_task"))
    key, trust = operator_key(Path(params.promotion.signing_key), days=params.promotion.key_days)
    read(LEDGER, trust)  # a broken chain is told before anything is registered
    signed_by = key_id(key.public_key())
    results = _results(policy)
    comparison = _beside_champion(params, model, record, data, trust)
    decision = decide(policy, results, record, comparison)
    decided_at = datetime.now(UTC).replace(microsecond=0)
    with TemporaryDirectory() as temporary:
        extra = _bound_files(Path(temporary), params, policy, model, record, data, results, decided_at)
        predicate = attest(
            EVIDENCE,
            model_folder=folder,
            gates_folder=GATES_FOLDER,
            policy_path=POLICY_FILE,
            decision=decision,
            key=key,
            extra=extra,
            code=_revision(),
            tools=_tools(),
            decided_at=decided_at,
        )
    version, evidence = None, sha256_file(EVIDENCE / ENVELOPE)
    if decision.decision == "promoted":
        version, proven = _register(context, policy, folder, record, trust, signed_by)
        evidence = proven.evidence
    line = rulings.record(
        params.promotion,
        {
            "decision": decision.decision,
            "candidate": decision.candidate,
            "sha256": decision.sha256,
            "version": version,
            "policy": policy.sha256,
            "evidence": evidence,
            "reasons": [f"{r.gate}.{r.check}: {r.status}" for r in decision.reasons],
        },
    )
    if version is not None:
        registry.crown(params.promotion.model_name, version)
    _report(context, decision, predicate, version, digest_of(line), signed_by)


def _policy(params: Params) -> Policy:
    """The policy that the risk stage wrote, if it is the one that params.yaml asks for."""
    policy = load_policy()
    if policy.sha256 != policy_for(params.risk).sha256:
        raise GatehouseError(
            f"{POLICY_FILE} is not what the answers in {PARAMS_FILE} (section risk) give; run the risk stage again."
        )
    return policy


def _bound_files(
    folder: Path,
    params: Params,
    policy: Policy,
    model: Classifier,
    record: ModelRecord,
    data: Dataset,
    results: tuple[GateResult, ...],
    decided_at: datetime,
) -> dict[str, Path]:
    """What goes with the version beside its gate results: made in `folder`, or taken from where it lies; by name."""
    reference, guards, bom, threats = (folder / n for n in ("reference.npz", "guards.json", BOM_FILE, THREATS_FILE))
    _write_reference(reference, model, data, params)
    _write_guards(guards, model, data, params, policy)
    name = params.promotion.model_name
    write_json(bom, bill_of_materials(name, record, policy, results, _packages(), decided_at=decided_at))
    write_json(threats, threat_table(policy, results))
    return {"params.yaml": PARAMS_FILE, **{path.name: path for path in (reference, guards, bom, threats)}, **_teacher()}


def _teacher() -> dict[str, Path]:
    """The teacher's record, which names the file, the card and the provider it came from."""
    record = Path("models/teacher") / RECORD
    return {"teacher.json": record} if record.exists() else {}


def _results(policy: Policy) -> tuple[GateResult, ...]:
    """The candidate's gate results, required or not, each asked for by its name; one that is not there is left out."""
    names = result_names(tuple(rule.gate for rule in policy.gates), policy.candidate)
    return tuple(GateResult.read(GATES_FOLDER / name) for name in names if (GATES_FOLDER / name).exists())


def _write_reference(path: Path, model: Classifier, data: Dataset, params: Params) -> None:
    """Figures of validation images and of the answers to them: what requests look like when all is well. No images."""
    images, _ = data.part("val", limit=params.monitoring.reference_images, seed=params.run.seed)
    pixels = images.astype(np.float32) / 255
    figures = image_statistics(pixels)
    scores = probabilities(model, images).numpy()
    columns = {name: figures[:, i] for i, name in enumerate(STATISTICS)}
    label = np.asarray(data.classes)[scores.argmax(1)]
    np.savez(path, allow_pickle=False, **columns, score=scores.max(1), label=label, sketch=sketches(pixels))


def _write_guards(path: Path, model: Classifier, data: Dataset, params: Params, policy: Policy) -> None:
    """The service's guards, calibrated for this model on validation images, and which of them are on."""
    serving = params.serving
    images, _ = data.part("val")
    on = policy.guarded() if serving.guards == "policy" else serving.guards
    shares = serving.false_refusals.model_dump()
    write_json(path, calibrate(model, images, on=on, false_refusals=shares, seed=params.run.seed))


def _beside_champion(params: Params, model: Classifier, record: ModelRecord, data: Dataset, trust: Trust) -> Comparison:
    """Candidate and champion on the same test images; a champion that nothing proves does not count."""
    name = params.promotion.model_name
    if not registry.has_champion(name):
        return Comparison(counts=False, why="There is no reigning champion to compare with.")
    try:
        folder, version = registry.champion_folder(name)
        champion, proven = load_proven(folder, trust=trust)
    except GatehouseError as error:
        why = f"The alias champion stands on a version that nothing proves, so it does not count: {error}"
        return Comparison(counts=False, why=why)
    if proven.record.spec.classes != record.spec.classes or proven.record.spec.channels != record.spec.channels:
        why = f"The champion (version {version}) answers another question (other classes or inputs): not comparable."
        return Comparison(counts=False, why=why, version=version, sha256=proven.sha256)
    if proven.record.spec.image_size != record.spec.image_size:
        why = f"The champion (version {version}) was made for another image size: not comparable on these images."
        return Comparison(counts=False, why=why, version=version, sha256=proven.sha256)
    images, labels = data.part("test")
    comparison = compare(
        logits(model, images).argmax(1).numpy(),
        logits(champion, images).argmax(1).numpy(),
        labels,
        margin=params.promotion.accuracy_margin,
        seed=params.run.seed,
        version=version,
        sha256=proven.sha256,
    )
    if proven.record.parents.get("student_task") == data.sha256:
        return comparison
    flattered = " The champion was trained on other data, which may hold some of these test images and flatter it."
    return comparison.model_copy(update={"why": comparison.why + flattered})


def _register(
    context: Context, policy: Policy, folder: Path, record: ModelRecord, trust: Trust, signed_by: str
) -> tuple[str, Proven]:
    """Version of the candidate and what proves it; no new one where this key has proven it under this policy before."""
    proven = verify(folder, EVIDENCE, trust=trust)
    name = context.params.promotion.model_name
    for version in registry.versions_of(name, record.sha256):
        try:
            before = verify(registry.version_folder(name, version), trust=trust, policy_sha256=policy.sha256)
        except GatehouseError:
            continue  # it claims these weights but does not prove them: it is not the one
        if (before.sha256, before.signed_by) == (record.sha256, signed_by):
            context.say(f"these weights are registered already, as version {version}: no new version")
            return version, before
    tags = {"gatehouse.candidate": policy.candidate, "gatehouse.policy": policy.sha256}
    return registry.register(name, folder, EVIDENCE, sha256=record.sha256, tags=tags), proven


def _report(
    context: Context, decision: Decision, predicate: Predicate, version: str | None, head: str, signed_by: str
) -> None:
    promoted = decision.decision == "promoted"
    content = {
        "decision": decision.decision,
        "candidate": decision.candidate,
        "sha256": decision.sha256,
        "version": version,
        "alias": registry.CHAMPION if promoted else None,
        "reasons": [r.model_dump(mode="json") for r in decision.reasons],
        "notes": list(decision.notes),
        "comparison": decision.comparison.model_dump(mode="json"),
        "decided_at": predicate.decided_at.isoformat(),
        "ledger_head": head,
    }
    write_json(REPORT, content)
    name = context.params.promotion.model_name
    write_dossier(
        DOSSIER,
        root=Path("."),
        decision=decision,
        predicate=predicate,
        version=version,
        model_name=name,
        signed_by=signed_by,
    )
    context.artifact(str(DOSSIER))
    context.metrics({"promoted": float(promoted), "reasons_against": float(len(decision.reasons))})
    if promoted:
        context.say(f"{decision.candidate} {decision.sha256[:12]} is champion, version {version}")
    for reason in decision.reasons:
        context.say(f"refused: {reason.sentence} Next: {reason.next_step}")


def _revision() -> dict[str, str]:
    """The code's revision and whether the working tree is clean, where this is a git checkout.

    dvc.lock does not count: the run itself writes it.
    """
    others = ["--", ":/", ":(top,exclude)dvc.lock"]
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(["git", "status", "--porcelain", *others], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"revision": head.stdout.strip(), "state": "with local changes" if changes.stdout.strip() else "clean"}


def _packages() -> dict[str, str]:
    """Every Python package of this environment, with its version."""
    return {str(d.name): d.version for d in distributions() if d.name}


def _tools() -> dict[str, str]:
    names = ("gatehouse", "mlflow", "dvc", "prefect", "cryptography")
    return {"python": python_version(), **{n: package_version(n) for n in names}, **tool_versions()}


if __name__ == "__main__":
    if sys.argv[1:]:
        from flows.promotion_commands import run

        raise SystemExit(run(sys.argv[1:]))
    main("promotion", promotion)
