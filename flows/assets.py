"""Read the asset register from the registry's versions and their signed evidence; `reports/assets.json` holds it."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from flows import registry
from flows.rulings import in_force
from tasks.errors import GatehouseError
from tasks.files import sha256_bytes, write_json
from tasks.gate import utc_now
from tasks.models.checkpoints import RECORD, ModelRecord, read_record
from tasks.monitoring.assets import Described, Register, Status, register
from tasks.params import Promotion
from tasks.promotion.evidence import EVIDENCE_FOLDER, signed_statement
from tasks.promotion.ledger import LEDGER, REIGNS, read
from tasks.promotion.statement import Statement
from tasks.promotion.trust import Trust, load_trust

ASSETS = Path("reports/assets.json")
TEACHER = Path("models/teacher")  # whose record says which file, card and provider it came from
TEACHER_FILE = "teacher.json"  # the same record, where it was bound into the evidence


def read_register(promotion: Promotion) -> Register:
    """The register of every registered version, read anew; a version that nothing signed describes is listed as such.

    Raises:
        GatehouseError: the decisions cannot be believed, or the registry does not answer.
    """
    described: list[Described] = []
    if versions := registry.all_versions(promotion.model_name):
        trust = load_trust(promotion.signing_key)
        statuses = _statuses(list(versions), promotion, trust)
        described = [_describe(promotion.model_name, version, status, trust) for version, status in statuses.items()]
    return register(promotion.model_name, described, created_at=utc_now())


def write_register(found: Register) -> None:
    write_json(ASSETS, found.model_dump(mode="json"))


def _statuses(versions: list[str], promotion: Promotion, trust: Trust) -> dict[str, Status]:
    """What became of each version by the signed decisions; where the chain is elsewhere, by the newest ruling."""
    statuses: dict[str, Status] = dict.fromkeys(versions, "registered")
    newest = in_force(promotion)
    for entry in read(LEDGER, trust) or ([newest] if newest else []):
        if entry.get("model") != promotion.model_name:
            continue
        version = str(entry.get("version"))
        if entry["decision"] == "withdrawn" and version in statuses:
            statuses[version] = "withdrawn"
        elif entry["decision"] in REIGNS:
            statuses.update({v: "former champion" for v, s in statuses.items() if s == "champion"})
            statuses.update({version: "champion"} if version in statuses else {})
    return statuses


def _describe(name: str, version: str, status: Status, trust: Trust) -> Described:
    try:
        evidence = registry.version_folder(name, version) / EVIDENCE_FOLDER
        statement = signed_statement(evidence, trust)
    except GatehouseError as error:
        return Described(version, status, None, str(error))
    teacher, signed = _teacher(evidence, statement)
    return Described(version, status, statement, teacher=teacher, teacher_signed=signed)


def _teacher(evidence: Path, statement: Statement) -> tuple[ModelRecord | None, bool]:
    """The record of the version's teacher, and whether the evidence binds it; None where nothing here describes it."""
    wanted, signed = statement.predicate.parents.get("teacher"), statement.predicate.files.get(TEACHER_FILE)
    bound = evidence / TEACHER_FILE
    try:
        if signed and bound.is_file() and sha256_bytes(data := bound.read_bytes()) == signed:
            record = ModelRecord.model_validate_json(data)
            return (record, True) if record.sha256 == wanted else (None, False)
        if (TEACHER / RECORD).is_file() and (record := read_record(TEACHER)).sha256 == wanted:
            return record, False
    except (ValidationError, GatehouseError):
        return None, False  # no record: the teacher is then listed by its digest alone
    return None, False
