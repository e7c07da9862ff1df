"""Decide, sign, register: the candidate that the policy names becomes champion, or is refused with reasons.

`python -m flows.promotion verify [MODEL_FOLDER]` says what is proven of a model (by default of the champion).
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version as package_version
from pathlib import Path
from platform import python_version
from tempfile import TemporaryDirectory

import numpy as np

from flows import registry
from flows.stage import Context, main
from tasks.data.dataset import Dataset, load_dataset
from tasks.errors import GatehouseError
from tasks.files import sha256_file, write_json
from tasks.gate import GATES_FOLDER, GateResult, tool_versions
from tasks.models.architectures import Classifier
from tasks.models.checkpoints import ModelRecord, load_model
from tasks.models.inference import logits, probabilities
from tasks.params import PARAMS_FILE, Params, load_params
from tasks.promotion import ledger
from tasks.promotion.comparison import compare
from tasks.promotion.decision import Comparison, Decision, decide, result_names
from tasks.promotion.dossier import write_dossier
from tasks.promotion.evidence import ENVELOPE, EVIDENCE_FOLDER, Predicate, attest, load_proven, verify
from tasks.promotion.keys import PublicKey, key_id, public_key_path, read_public_key, signing_key
from tasks.risk import POLICY_FILE, Policy, load_policy
from tasks.serving.statistics import STATISTICS, image_statistics

EVIDENCE = Path("reports/evidence")
REPORT = Path("reports/promotion.json")
DOSSIER = Path("reports/dossier.html")


def promotion(context: Context) -> None:
    """Promote the candidate that the policy names if every required gate passed on its digest; otherwise refuse."""
    params, policy = context.params, load_policy()
    folder = Path("models") / policy.candidate
    model, record = load_model(folder)
    data = load_dataset(Path("data/student_task"))
    key = signing_key(Path(params.promotion.signing_key))
    results = _results(policy)
    comparison = _beside_champion(params, model, record, data, key.public_key())
    decision = decide(policy, results, record, comparison)
    with TemporaryDirectory() as temporary:
        reference = Path(temporary) / "reference.npz"
        _write_reference(reference, model, data, params)
        predicate = attest(
            EVIDENCE,
            model_folder=folder,
            gates_folder=GATES_FOLDER,
            policy_path=POLICY_FILE,
            decision=decision,
            key=key,
            extra={"params.yaml": PARAMS_FILE, reference.name: reference},
            code=_revision(),
            tools=_tools(),
        )
    version = _promote(context, policy, folder, record, key.public_key()) if decision.decision == "promoted" else None
    head = ledger.append(
        ledger.LEDGER,
        {
            "at": predicate.decided_at,
            "decision": decision.decision,
            "candidate": decision.candidate,
            "sha256": decision.sha256,
            "version": version,
            "policy": policy.sha256,
            "evidence": sha256_file(EVIDENCE / ENVELOPE),
            "reasons": [f"{r.gate}.{r.check}: {r.status}" for r in decision.reasons],
        },
    )
    _report(context, decision, predicate, version, head, key_id(key.public_key()))


def _results(policy: Policy) -> tuple[GateResult, ...]:
    """The candidate's gate results, required or not, each asked for by its name; one that is not there is left out."""
    names = result_names(tuple(rule.gate for rule in policy.gates), policy.candidate)
    return tuple(GateResult.read(GATES_FOLDER / name) for name in names if (GATES_FOLDER / name).exists())


def _write_reference(path: Path, model: Classifier, data: Dataset, params: Params) -> None:
    """Figures of validation images and of the answers to them: what requests look like when all is well. No images."""
    images, _ = data.part("val", limit=params.monitoring.reference_images, seed=params.run.seed)
    figures = image_statistics(images.astype(np.float32) / 255)
    scores = probabilities(model, images).numpy()
    columns = {name: figures[:, i] for i, name in enumerate(STATISTICS)}
    label = np.asarray(data.classes)[scores.argmax(1)]
    np.savez(path, allow_pickle=False, **columns, score=scores.max(1), label=label)


def _beside_champion(
    params: Params, model: Classifier, record: ModelRecord, data: Dataset, key: PublicKey
) -> Comparison:
    """Candidate and champion on the same test images; a champion that nothing proves does not count."""
    name = params.promotion.model_name
    if not registry.has_champion(name):
        return Comparison(counts=False, why="There is no reigning champion to compare with.")
    try:
        folder, version = registry.champion_folder(name)
        champion, proven = load_proven(folder, public_key=key)
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


def _promote(context: Context, policy: Policy, folder: Path, record: ModelRecord, key: PublicKey) -> str:
    """Register the candidate, unless these weights are registered with proof under this policy; set the aliases."""
    verify(folder, EVIDENCE, public_key=key)
    name = context.params.promotion.model_name
    version = _proven_version(name, record.sha256, policy, key)
    if version is None:
        tags = {"gatehouse.candidate": policy.candidate, "gatehouse.policy": policy.sha256}
        version = registry.register(name, folder, EVIDENCE, sha256=record.sha256, tags=tags)
    else:
        context.say(f"these weights are registered already, as version {version}: no new version")
    registry.crown(name, version)
    return version


def _proven_version(name: str, sha256: str, policy: Policy, key: PublicKey) -> str | None:
    """A registered version of these weights whose own evidence verifies under the policy in force."""
    for version in registry.versions_of(name, sha256):
        try:
            proven = verify(registry.version_folder(name, version), public_key=key, policy_sha256=policy.sha256)
        except GatehouseError:
            continue  # it claims these weights but does not prove them: it is not the one
        if proven.sha256 == sha256:
            return version
    return None


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
        "decided_at": predicate.decided_at,
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
    """The code's revision and whether the working tree is clean, where this is a git checkout."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"revision": head.stdout.strip(), "state": "with local changes" if changes.stdout.strip() else "clean"}


def _tools() -> dict[str, str]:
    names = ("gatehouse", "mlflow", "dvc", "prefect", "cryptography")
    return {"python": python_version(), **{n: package_version(n) for n in names}, **tool_versions()}


def tell(arguments: list[str]) -> int:
    """Print what is proven of a model folder, or of the champion where none is given; 1 where nothing is."""
    try:
        params = load_params()
        key = read_public_key(public_key_path(params.promotion.signing_key))
        if arguments:
            folder = Path(arguments[0])
            beside = folder / EVIDENCE_FOLDER
            proven = verify(folder, beside if beside.exists() else EVIDENCE, public_key=key)
            print(f"{folder}: proven.")
        else:
            folder, version = registry.champion_folder(params.promotion.model_name)
            proven = verify(folder, public_key=key)
            print(f"{params.promotion.model_name}, champion, version {version}: proven.")
    except GatehouseError as error:
        print(f"Not proven: {str(error).removeprefix('Not proven: ')}")
        return 1
    for line in proven.lines():
        print(f"  {line}")
    if ledger.LEDGER.exists():
        print(f"  The chain of decisions is whole; its head is {ledger.head_of(ledger.LEDGER)[:12]}.")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["verify"]:
        raise SystemExit(tell(sys.argv[2:]))
    main("promotion", promotion)
