"""Evidence of a promotion: an in-toto statement over the candidate's files, signed, and its verification.

The statement's subjects are the candidate's files (name, sha256). Its predicate holds the decision, the policy, every
gate result, the parents, and what made them. The files that it names lie in one folder, `evidence/`, beside it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from tasks.errors import GatehouseError
from tasks.files import sha256_bytes, sha256_file, write_json, writing
from tasks.gate import GateResult
from tasks.models.architectures import Classifier, build
from tasks.models.checkpoints import RECORD, WEIGHTS, ModelRecord, load_tensors, read_record
from tasks.promotion.decision import Decision, gate_reasons, result_names
from tasks.promotion.envelope import seal, unseal
from tasks.promotion.keys import PrivateKey, public_pem
from tasks.promotion.statement import GateEntry, Named, Predicate, Statement
from tasks.promotion.trust import ROTATE, Trust, TrustedKey
from tasks.risk import Policy, load_policy

EVIDENCE_FOLDER = "evidence"  # beside the model's files, in the registry
ENVELOPE = "evidence.dsse.json"
PUBLIC_KEY = "public_key.pem"  # for readers; whoever verifies uses keys of their own
POLICY = "policy.json"
GATES = "gates"


@dataclass(frozen=True)
class Proven:
    """What a verification has shown."""

    candidate: str
    sha256: str  # of the weights file
    record: ModelRecord
    policy: Policy
    predicate: Predicate
    signed_by: str  # identifier of the key
    valid_until: datetime | None  # the signature counts no longer than its key; None: no limit is set
    evidence: str  # sha256 of the signed envelope, by which a decision names it

    def lines(self) -> list[str]:
        """The same in sentences."""
        p = self.predicate
        gates = ", ".join(f"{g.gate}@{g.candidate} {g.verdict}" for g in p.gates if g.required)
        until = f" until {self.valid_until:%Y-%m-%d}" if self.valid_until else ""
        code = f"; code {p.code['revision'][:12]} ({p.code['state']})" if p.code else ""
        day = f"{p.decided_at:%Y-%m-%d %H:%M} UTC"
        return [
            f"The weights {self.sha256} are the candidate {self.candidate!r} that was promoted on {day}.",
            f"Signed by the key {self.signed_by[:12]}, which is trusted here{until}.",
            f"Policy {self.policy.sha256[:12]} required: {gates}; each passed on exactly these files.",
            f"Parents: {', '.join(f'{k} {v[:12]}' for k, v in p.parents.items()) or 'none recorded'}{code}.",
            p.comparison.why,
        ]


def attest(
    folder: Path,
    *,
    model_folder: Path,
    gates_folder: Path,
    policy_path: Path,
    decision: Decision,
    key: PrivateKey,
    extra: dict[str, Path],
    code: dict[str, str],
    tools: dict[str, str],
    decided_at: datetime | None = None,
) -> Predicate:
    """Write the evidence of a decision, also of a refusal, into `folder` (replaced whole), and return what was signed.

    Args:
        folder: gets the envelope, the public key, the policy, the gate results of the candidate, and `extra`.
        model_folder: the candidate's `model.safetensors` and `model.json`; their digests are the statement's subjects.
        extra: further files to bind, by the name that they get in the folder.
        code, tools: revision of the code, versions of the packages.
        decided_at: time zone included; by default now.
    """
    policy = load_policy(policy_path)
    record = read_record(model_folder)
    names = result_names(tuple(rule.gate for rule in policy.gates), decision.candidate)
    with writing(folder) as temporary:
        (temporary / GATES).mkdir(parents=True)
        shutil.copyfile(policy_path, temporary / POLICY)
        for name, source in extra.items():
            shutil.copyfile(source, temporary / name)
        present = [name for name in names if (gates_folder / name).exists()]
        for name in present:
            shutil.copyfile(gates_folder / name, temporary / GATES / name)
        predicate = Predicate(
            decision=decision.decision,
            candidate=decision.candidate,
            decided_at=decided_at or datetime.now(UTC).replace(microsecond=0),
            policy={"sha256": sha256_file(temporary / POLICY), "content": policy.sha256},
            gates=tuple(_entry(temporary, name, policy) for name in present),
            comparison=decision.comparison,
            parents=record.parents,
            code=code,
            tools=tools,
            files={name: sha256_file(temporary / name) for name in extra},
        )
        subjects = tuple(
            Named(name=name, digest={"sha256": sha256_file(model_folder / name)}) for name in (WEIGHTS, RECORD)
        )
        statement = Statement(
            _type="https://in-toto.io/Statement/v1",
            subject=subjects,
            predicateType="urn:gatehouse:promotion:v1",
            predicate=predicate,
        )
        payload = json.dumps(statement.model_dump(mode="json", by_alias=True), sort_keys=True, ensure_ascii=False)
        write_json(temporary / ENVELOPE, seal(payload.encode(), key))
        (temporary / PUBLIC_KEY).write_bytes(public_pem(key.public_key()))
    return predicate


def _entry(folder: Path, name: str, policy: Policy) -> GateEntry:
    result = GateResult.read(folder / GATES / name)
    return GateEntry(
        file=name,
        sha256=sha256_file(folder / GATES / name),
        gate=result.gate,
        candidate=result.candidate,
        verdict=result.verdict,
        required=result.gate in policy.required(),
        subject=result.subject.sha256,
    )


def verify(
    model_folder: Path, evidence: Path | None = None, *, trust: Trust, policy_sha256: str | None = None
) -> Proven:
    """Prove that the model in `model_folder` is one that was promoted under the signed policy.

    Args:
        model_folder: `model.safetensors` and `model.json`.
        evidence: folder with the evidence; by default `evidence/` inside `model_folder`.
        trust: the verifier's own keys, never the one that lies beside the evidence.
        policy_sha256: content digest of the policy in force; the signed policy must be that one. None: any signed one.

    Raises:
        GatehouseError: the reason why nothing is proven.
    """
    return load_proven(model_folder, evidence, trust=trust, policy_sha256=policy_sha256)[1]


def load_proven(
    model_folder: Path, evidence: Path | None = None, *, trust: Trust, policy_sha256: str | None = None
) -> tuple[Classifier, Proven]:
    """The model, built from the very bytes that were verified, and what is proven of it; raises as `verify` does."""
    evidence = evidence or model_folder / EVIDENCE_FOLDER
    if not (evidence / ENVELOPE).is_file():
        raise GatehouseError(f"{model_folder} has no evidence: {evidence / ENVELOPE} does not exist; promote it.")
    sealed = _read(evidence / ENVELOPE)
    statement, signer = _statement(sealed, trust, source=evidence / ENVELOPE)
    predicate = statement.predicate
    if predicate.decision != "promoted":
        raise GatehouseError(f"{evidence / ENVELOPE} is signed, but it is the record of a refusal, not of a promotion.")
    files = {name: _bound(model_folder / name, _subject(statement, name)) for name in (WEIGHTS, RECORD)}
    model, record = _build(model_folder, files)
    policy = _policy(evidence, predicate, policy_sha256)
    for name, sha256 in predicate.files.items():
        _bound(evidence / name, sha256)
    results = tuple(_result(evidence, entry) for entry in predicate.gates)
    for gate in policy.required():
        if reasons := gate_reasons(gate, policy, results, record):
            raise GatehouseError(f"Not proven: {reasons[0].sentence}")
    if predicate.parents != record.parents or predicate.candidate != policy.candidate:
        raise GatehouseError(f"{evidence / ENVELOPE} speaks of another candidate or other parents than {RECORD} does.")
    proven = Proven(
        candidate=policy.candidate,
        sha256=record.sha256,
        record=record,
        policy=policy,
        predicate=predicate,
        signed_by=signer.key_id,
        valid_until=signer.not_after,
        evidence=sha256_bytes(sealed),
    )
    return model, proven


def _statement(sealed: bytes, trust: Trust, *, source: Path) -> tuple[Statement, TrustedKey]:
    """What was signed and by which key, if that key's signatures still count."""
    try:
        envelope = json.loads(sealed)
    except ValueError as error:
        raise GatehouseError(f"{source} is not valid JSON ({error}); promote again.") from error
    payload, signer = unseal(envelope, trust, source=str(source))
    try:
        statement = Statement.model_validate_json(payload)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise GatehouseError(
            f"{source} is signed but holds no promotion statement ({where}: {first['msg']})."
        ) from error
    if problem := signer.objection(statement.predicate.decided_at):
        raise GatehouseError(
            f"The signature of {source} does not count: {problem}; promote again with a key that is valid ({ROTATE} "
            "for a new one)."
        )
    return statement, signer


def signed_statement(evidence: Path, trust: Trust) -> Statement:
    """What a version's evidence says of it, signed; the files that it names are not looked at (`verify` does)."""
    if not (evidence / ENVELOPE).is_file():
        raise GatehouseError(f"{evidence / ENVELOPE} does not exist; promote the model again.")
    return _statement(_read(evidence / ENVELOPE), trust, source=evidence / ENVELOPE)[0]


def _subject(statement: Statement, name: str) -> str:
    digests = [s.digest.get("sha256", "") for s in statement.subject if s.name == name]
    if len(digests) != 1:
        raise GatehouseError(f"The signed statement names {name} {len(digests)} times; it must name it once.")
    return digests[0]


def _bound(path: Path, sha256: str) -> bytes:
    """The file's bytes, if they are the ones that were signed."""
    data = _read(path)
    if (found := sha256_bytes(data)) != sha256:
        raise GatehouseError(f"{path} is not the file that was signed: its sha256 is {found[:12]}, not {sha256[:12]}.")
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise GatehouseError(f"{path} is missing, but the signed statement names it.") from None


def _build(folder: Path, files: dict[str, bytes]) -> tuple[Classifier, ModelRecord]:
    try:
        record = ModelRecord.model_validate_json(files[RECORD])
    except ValidationError as error:
        raise GatehouseError(f"{folder / RECORD} is malformed: {error.errors()[0]['msg']}.") from error
    if record.sha256 != sha256_bytes(files[WEIGHTS]):
        raise GatehouseError(f"{folder / WEIGHTS} is not the file that {folder / RECORD} describes: digests differ.")
    model = build(record.spec, seed=0)
    load_tensors(model, files[WEIGHTS], source=str(folder / WEIGHTS))
    return model, record


def _policy(evidence: Path, predicate: Predicate, policy_sha256: str | None) -> Policy:
    _bound(evidence / POLICY, predicate.policy["sha256"])
    policy = load_policy(evidence / POLICY)
    if policy.sha256 != predicate.policy["content"]:
        raise GatehouseError(f"{evidence / POLICY} is not the policy whose digest was signed.")
    if policy_sha256 is not None and policy.sha256 != policy_sha256:
        raise GatehouseError(
            f"The evidence was signed under policy {policy.sha256[:12]}, but {policy_sha256[:12]} is in force."
        )
    return policy


def _result(evidence: Path, entry: GateEntry) -> GateResult:
    path = evidence / GATES / Path(entry.file).name
    _bound(path, entry.sha256)
    result = GateResult.read(path)
    named = (entry.gate, entry.candidate, entry.verdict, entry.subject)
    if named != (result.gate, result.candidate, result.verdict, result.subject.sha256):
        raise GatehouseError(f"{path} says something else than the signed statement says of it.")
    return result
