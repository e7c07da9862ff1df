"""Every way in which evidence can fail to prove a model, and the one way in which it proves it.

Past 300 lines on purpose: one list of forgeries, side by side, shows better than two files which one is missing.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from promotion_case import NO_CHAMPION, STUDENT_TASK, Case, make_case, result

from tasks.errors import GatehouseError
from tasks.files import write_json
from tasks.gate import Drill, GateResult
from tasks.models.checkpoints import load_model, save_model
from tasks.promotion import keys
from tasks.promotion.envelope import PAYLOAD_TYPE, seal, unseal
from tasks.promotion.evidence import ENVELOPE, load_proven, verify
from tasks.promotion.trust import only
from tasks.risk import decide as policy_for


def promoted(case: Case) -> Case:
    """Evidence that says "promoted", whatever the gates say: what an adversary with a stage's rights could sign."""
    case.attest(case.decide().model_copy(update={"decision": "promoted"}))
    return case


def prove(case: Case, **options: object) -> None:
    verify(case.model, trust=only(case.key.public_key()), **options)


def test_evidence_of_passed_gates_proves_the_candidate(case: Case) -> None:
    case.attest()
    model, proven = load_proven(case.model, trust=only(case.key.public_key()), policy_sha256=case.policy.sha256)
    assert proven.sha256 == case.record.sha256
    assert proven.candidate == "student"
    assert proven.record.parents["student_task"] == STUDENT_TASK
    assert proven.policy == case.policy
    assert proven.signed_by == keys.key_id(case.key.public_key())
    assert {g.gate for g in proven.predicate.gates if g.required} == set(case.policy.required())
    text = " ".join(proven.lines())
    assert case.record.sha256 in text
    assert "backdoor@student passed" in text
    expected = load_model(case.model)[0].state_dict()
    assert all((model.state_dict()[k] == v).all() for k, v in expected.items())


def test_statement_is_in_toto_over_the_files_digests(case: Case) -> None:
    case.attest()
    envelope = json.loads((case.evidence / ENVELOPE).read_text())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert {s["name"] for s in statement["subject"]} == {"model.safetensors", "model.json"}
    assert statement["subject"][0]["digest"]["sha256"] == case.record.sha256


def test_envelope_signs_the_encoding_that_dsse_defines(case: Case) -> None:
    """An independent statement of PAE, checked with the library's own verification."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    body = '{"é": 1}'.encode()
    signature = base64.b64decode(seal(body, case.key)["signatures"][0]["sig"])
    encoding = b"DSSEv1 " + str(len(PAYLOAD_TYPE)).encode() + b" " + PAYLOAD_TYPE.encode() + b" 9 " + body
    case.key.public_key().verify(signature, encoding, ec.ECDSA(hashes.SHA256()))
    assert unseal(seal(body, case.key), only(case.key.public_key()), source="it")[0] == body


def edit_gate(case: Case) -> None:
    path = case.evidence / "gates" / "backdoor@student.json"
    path.write_text(path.read_text().replace('"n": 200', '"n": 2000'))


def remove_gate(case: Case) -> None:
    (case.evidence / "gates" / "backdoor@student.json").unlink()


def swap_weights(case: Case) -> None:
    other = make_case(case.root / "other", seed=1)
    shutil.copy(other.model / "model.safetensors", case.model / "model.safetensors")


def swap_model(case: Case) -> None:
    other = make_case(case.root / "other", seed=1)
    for name in ("model.safetensors", "model.json"):
        shutil.copy(other.model / name, case.model / name)


def edit_record(case: Case) -> None:
    path = case.model / "model.json"
    path.write_text(path.read_text().replace('"covid"', '"normal2"'))


def remove_weights(case: Case) -> None:
    (case.model / "model.safetensors").unlink()


def evidence_of_another(case: Case) -> None:
    other = make_case(case.root / "other", seed=1)
    other.key = case.key
    other.attest()
    shutil.rmtree(case.evidence)
    shutil.copytree(other.evidence, case.evidence)


def loosen_policy(case: Case) -> None:
    loose = policy_for(_risk(thresholds={"backdoor.patch_control": 1.0}))
    write_json(case.evidence / "policy.json", loose.model_dump(mode="json"))


def _risk(**changes: object):  # type: ignore[no-untyped-def]
    from promotion_case import risk

    return risk(**changes)


def edit_statement(case: Case) -> None:
    path = case.evidence / ENVELOPE
    envelope = json.loads(path.read_text())
    statement = base64.b64decode(envelope["payload"]).replace(b"student", b"teacher", 1)
    envelope["payload"] = base64.b64encode(statement).decode()
    path.write_text(json.dumps(envelope))


def other_key(case: Case) -> None:
    case.attest(key=keys.signing_key(case.root / "intruder" / "promotion.key"))


def other_key_under_our_name(case: Case) -> None:
    other_key(case)
    path = case.evidence / ENVELOPE
    envelope = json.loads(path.read_text())
    envelope["signatures"][0]["keyid"] = keys.key_id(case.key.public_key())
    path.write_text(json.dumps(envelope))


def no_signature(case: Case) -> None:
    path = case.evidence / ENVELOPE
    path.write_text(json.dumps({**json.loads(path.read_text()), "signatures": []}))


def no_envelope(case: Case) -> None:
    (case.evidence / ENVELOPE).unlink()


def broken_envelope(case: Case) -> None:
    (case.evidence / ENVELOPE).write_text('{"payload": 3}')


def another_payload(case: Case) -> None:
    path = case.evidence / ENVELOPE
    path.write_text(json.dumps({**json.loads(path.read_text()), "payloadType": "text/plain"}))


def signed_nonsense(case: Case) -> None:
    write_json(case.evidence / ENVELOPE, seal(b'{"_type": "https://in-toto.io/Statement/v1"}', case.key))


def edit_params(case: Case) -> None:
    (case.evidence / "params.yaml").write_text("run: {seed: 8}\n")


TAMPERINGS: list[tuple[Callable[[Case], None], str]] = [
    (edit_gate, "not the file that was signed"),
    (remove_gate, "is missing"),
    (swap_weights, "not the file that was signed"),
    (swap_model, "not the file that was signed"),
    (edit_record, "not the file that was signed"),
    (remove_weights, "is missing"),
    (evidence_of_another, "not the file that was signed"),
    (loosen_policy, "not the file that was signed"),
    (edit_statement, "signature does not match"),
    (other_key, "signed by another key"),
    (other_key_under_our_name, "signature does not match"),
    (no_signature, "by another key (nobody)"),
    (no_envelope, "does not exist"),
    (broken_envelope, "no signed envelope"),
    (another_payload, "not an in-toto statement"),
    (signed_nonsense, "no promotion statement"),
    (edit_params, "not the file that was signed"),
]


@pytest.mark.parametrize(("tamper", "reason"), TAMPERINGS, ids=lambda v: getattr(v, "__name__", None))
def test_tampering_after_signing_is_named(case: Case, tamper: Callable[[Case], None], reason: str) -> None:
    case.attest()
    prove(case)
    tamper(case)
    with pytest.raises(GatehouseError) as caught:
        prove(case)
    assert reason in str(caught.value)


def test_a_refusal_is_signed_and_proves_no_promotion(case: Case) -> None:
    case.attest(case.decide().model_copy(update={"decision": "refused"}))
    with pytest.raises(GatehouseError, match="record of a refusal"):
        prove(case)


def failed(case: Case, gate: str) -> GateResult:
    own = case.results[gate]
    bad = own.checks[0].model_copy(update={"observed": 0.99, "ci": (0.98, 1.0), "op": "<=", "threshold": 0.1})
    return own.model_copy(update={"checks": (bad, *own.checks[1:])})


@pytest.mark.parametrize("gate", ["data", "provenance", "backdoor", "adversarial", "privacy"])
def test_a_signature_over_a_failed_gate_proves_nothing(case: Case, gate: str) -> None:
    case.put(failed(case, gate))
    with pytest.raises(GatehouseError, match="Not proven"):
        prove(promoted(case))


def test_a_signature_over_a_missing_gate_proves_nothing(case: Case) -> None:
    (case.gates / "privacy@student.json").unlink()
    with pytest.raises(GatehouseError, match=r"requires privacy@student\.json"):
        prove(promoted(case))


def test_a_signature_over_an_inconclusive_drill_proves_nothing(case: Case) -> None:
    missed = Drill(planted=2, caught=0, clean=2, accused=0)
    case.put(case.results["backdoor"].model_copy(update={"drill": missed}))
    with pytest.raises(GatehouseError, match="caught 0 of 2 canaries"):
        prove(promoted(case))


@pytest.mark.parametrize("gate", ["data", "provenance", "backdoor", "adversarial", "privacy"])
def test_a_result_about_another_digest_proves_nothing(case: Case, gate: str) -> None:
    case.put(result(case.policy, gate, "d" * 64))
    with pytest.raises(GatehouseError, match="judged dddddddddddd"):
        prove(promoted(case))


def test_a_result_under_another_policy_proves_nothing(case: Case) -> None:
    loose = policy_for(_risk(thresholds={"backdoor.patch_control": 1.0}))
    case.put(result(loose, "backdoor", case.record.sha256))
    with pytest.raises(GatehouseError, match="judged under policy"):
        prove(promoted(case))


def test_a_policy_that_is_no_longer_in_force_is_named(case: Case) -> None:
    case.attest()
    with pytest.raises(GatehouseError, match="is in force"):
        prove(case, policy_sha256="e" * 64)


def test_a_verdict_typed_in_by_hand_is_not_signed(case: Case) -> None:
    case.put(failed(case, "backdoor"))
    path = case.gates / "backdoor@student.json"
    path.write_text(path.read_text().replace('"verdict": "failed"', '"verdict": "passed"'))
    with pytest.raises(GatehouseError, match="was edited"):
        promoted(case)


def test_a_mitigated_candidate_keeps_what_it_was(case: Case) -> None:
    model, record = load_model(case.model)
    parents = {**record.parents, "unmitigated": "f" * 64}
    case.record = save_model(case.model, model, record.spec, parents=parents)
    case.attest()
    proven = verify(case.model, trust=only(case.key.public_key()))
    assert proven.predicate.parents["unmitigated"] == "f" * 64
    assert any("mitigated" in note for note in case.decide().notes)


def test_private_candidate_needs_its_epsilon(tmp_path: Path) -> None:
    case = make_case(tmp_path, c4_internals_exposed=True)
    assert case.policy.candidate == "private_student"
    case.attest()
    prove(case)
    own = case.results["privacy"]
    case.put(own.model_copy(update={"checks": tuple(c for c in own.checks if c.name != "epsilon")}))
    assert [r.check for r in case.decide(NO_CHAMPION).reasons] == ["epsilon"]
    with pytest.raises(GatehouseError, match="lacks the check epsilon"):
        prove(promoted(case))


def test_keys_are_made_once_and_kept_from_others(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "promotion.key"
    first = keys.signing_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    again = keys.signing_key(path)
    public = keys.read_public_key(keys.public_key_path(path))
    assert keys.key_id(first.public_key()) == keys.key_id(again.public_key()) == keys.key_id(public)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "promotion.key"
    keys.signing_key(path)
    path.chmod(0o644)
    with pytest.raises(GatehouseError, match="chmod 600"):
        keys.signing_key(path)


def test_what_is_no_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "promotion.key"
    path.write_text("no key")
    path.chmod(0o600)
    with pytest.raises(GatehouseError, match="no unencrypted private key"):
        keys.signing_key(path)
    with pytest.raises(GatehouseError, match="no public key in PEM"):
        keys.read_public_key(path)
    with pytest.raises(GatehouseError, match="does not exist"):
        keys.read_public_key(tmp_path / "absent.pub")


def test_a_key_on_another_curve_is_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP384R1())
    path = tmp_path / "promotion.key"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    path.chmod(0o600)
    with pytest.raises(GatehouseError, match="P-256"):
        keys.signing_key(path)
    path.write_bytes(keys.public_pem(key.public_key()))
    with pytest.raises(GatehouseError, match="P-256"):
        keys.read_public_key(path)
