from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from teacher_files import card_content, hostile_files

from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier, build
from tasks.models.checkpoints import to_bytes
from tasks.teachers.advisories import Advisories
from tasks.teachers.card import Card, Offer
from tasks.teachers.case import OwnTask, Rules, open_case
from tasks.teachers.checks import BINDING, CHECKS, Finding, run_checks

MakeOffer = Callable[..., Offer]
MakeRules = Callable[..., Rules]


def findings(offer: Offer, rules: Rules, task: OwnTask, waive: tuple[str, ...] = ()) -> dict[str, Finding]:
    return {f.name: f for f in run_checks(open_case(offer, rules, task), waive)}


def failed(found: dict[str, Finding]) -> set[str]:
    return {n for n, f in found.items() if f.status == "fail"}


def changed(model: Classifier, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> bytes:
    tensors = load(to_bytes(model))
    return save({k: change(v.clone()) if k == name else v for k, v in tensors.items()})


def test_good_offer_passes_everything_that_can_be_measured(offer: MakeOffer, rules: MakeRules, task: OwnTask) -> None:
    good = offer(signed=True)
    found = findings(good, rules(good), task)
    assert list(found) == list(CHECKS)
    assert failed(found) == set()
    assert [n for n, f in found.items() if f.status == "unknown"] == ["advisories"]
    assert "the weights and the card" in found["signature"].evidence
    assert "1.000 [0.955, 1.000] on 80" in found["accuracy"].evidence
    assert all(f.evidence.endswith(".") and "\n" not in f.evidence for f in found.values())


def test_same_weights_as_pth_pass(offer: MakeOffer, rules: MakeRules, task: OwnTask, model: Classifier) -> None:
    out = io.BytesIO()
    torch.save(model.state_dict(), out)
    good = offer(out.getvalue(), signed=True, file="w.pth", format="pth")
    assert failed(findings(good, rules(good), task)) == set()


def test_tampered_file_is_not_loaded(offer: MakeOffer, rules: MakeRules, task: OwnTask, model: Classifier) -> None:
    good = offer(signed=True)
    good.weights.write_bytes(changed(model, "head.bias", lambda t: t + 1))
    found = findings(good, rules(good), task)
    assert failed(found) == {"digest", "signature"}
    assert found["safe_load"].status == found["tensors"].status == found["accuracy"].status == "unknown"
    assert open_case(good, rules(good), task).tensors is None


def test_missing_file_is_said(offer: MakeOffer, rules: MakeRules, task: OwnTask) -> None:
    good = offer(signed=True)
    good.weights.unlink()
    found = findings(good, rules(good), task)
    assert failed(found) == {"digest"}
    assert "does not exist" in found["digest"].evidence


def test_unsigned_unknown_key_and_broken_signature(offer: MakeOffer, rules: MakeRules, task: OwnTask) -> None:
    unsigned, signed, other = offer(name="unsigned"), offer(name="one", signed=True), offer(name="two", signed=True)
    assert "names no signature" in findings(unsigned, rules(), task)["signature"].evidence
    stranger = findings(signed, rules(other), task)["signature"]
    assert stranger.status == "fail"
    assert "not among teacher.trusted_keys" in stranger.evidence
    signed.beside("signature.json").write_text("{}")
    assert findings(signed, rules(signed), task)["signature"].status == "fail"


def test_key_swapped_in_the_offer_gains_nothing(offer: MakeOffer, rules: MakeRules, task: OwnTask) -> None:
    """A stranger signs and puts the trusted public key beside it."""
    ours, theirs = offer(name="ours", signed=True), offer(name="theirs", signed=True)
    theirs.beside("provider.pub").write_bytes(ours.beside("provider.pub").read_bytes())
    assert findings(theirs, rules(ours), task)["signature"].status == "fail"


def test_card_changed_after_signing_fails(offer: MakeOffer, rules: MakeRules, task: OwnTask) -> None:
    signed = offer(signed=True)
    signed.path.write_text(signed.path.read_text().replace("trust: known", "trust: trusted"))
    assert failed(findings(signed, rules(signed), task)) == {"signature"}


def test_wrong_declared_format(offer: MakeOffer, rules: MakeRules, task: OwnTask) -> None:
    found = findings(offer(format="pth"), rules(), task)
    assert {"format", "safe_load"} <= failed(found)
    assert "a safetensors file" in found["format"].evidence


@pytest.mark.parametrize("declared", ["safetensors", "pth", "pickle"])
def test_payloads_never_run(offer: MakeOffer, rules: MakeRules, task: OwnTask, tmp_path: Path, declared: str) -> None:
    marker = tmp_path / "PAYLOAD_RAN"
    for i, data in enumerate(hostile_files(marker).values()):
        bad = offer(data, name=f"bad{i}", file="weights.pth", format=declared, signed=True)
        found = findings(bad, rules(bad), task, waive=("signature", "licence", "disclosed_data"))
        assert "safe_load" in failed(found)
        assert found["tensors"].status == "unknown"
        assert not marker.exists()


def test_tensors_of_another_architecture(offer: MakeOffer, rules: MakeRules, task: OwnTask) -> None:
    other = build(Card.model_validate(card_content(classes=["a", "b", "c"])).spec(), seed=0)
    found = findings(offer(to_bytes(other)), rules(), task)
    assert "tensors" in failed(found)
    assert "head." in found["tensors"].evidence
    assert found["accuracy"].status == "unknown"
    assert "tensors" in failed(findings(offer(save({"w": torch.ones(2)}), name="odd"), rules(), task))
    assert "tensors" in failed(findings(offer(name="resnet", architecture="resnet18"), rules(), task))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(
    offer: MakeOffer, rules: MakeRules, task: OwnTask, model: Classifier, value: float
) -> None:
    def spoil(t: torch.Tensor) -> torch.Tensor:
        t.view(-1)[0] = value
        return t

    found = findings(offer(changed(model, "head.weight", spoil)), rules(), task)
    assert found["finite"].status == "fail"
    assert "'head.weight'" in found["finite"].evidence
    assert found["tensors"].status == "pass"
    assert found["accuracy"].status == "unknown"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("blocks.block2.0.weight", lambda t: torch.full_like(t, 0.3), "are equal"),
        ("blocks.block2.1.running_var", lambda t: t - 2, "variance below 0"),
        ("blocks.block2.0.weight", lambda t: t * (torch.arange(len(t)) % 2).view(-1, 1, 1, 1), "50% of the outputs"),
    ],
)
def test_implausible_weights(
    offer: MakeOffer,
    rules: MakeRules,
    task: OwnTask,
    model: Classifier,
    name: str,
    change: Callable[[torch.Tensor], torch.Tensor],
    words: str,
) -> None:
    found = findings(offer(changed(model, name, change)), rules(), task)["plausible"]
    assert found.status == "fail"
    assert words in found.evidence


def test_depth_of_images(offer: MakeOffer, rules: MakeRules, task: OwnTask) -> None:
    colour = replace(task, channels=3, images=np.repeat(task.images, 3, axis=1))
    found = findings(offer(), rules(), colour)
    assert {"inputs"} <= failed(found)
    assert "set data.channels to 1" in found["inputs"].evidence
    assert found["accuracy"].status == "unknown"
    three = build(Card.model_validate(card_content(channels=3)).spec(), seed=0)
    gray = findings(offer(to_bytes(three), name="three", channels=3), rules(), task)
    assert gray["inputs"].status == gray["tensors"].status == "pass"
    assert "repeated" in gray["inputs"].evidence


def test_licence_and_disclosure(offer: MakeOffer, rules: MakeRules, task: OwnTask) -> None:
    bad = offer(licence="unknown", training_data={"name": "secret", "disclosed": False})
    assert {"licence", "disclosed_data"} <= failed(findings(bad, rules(), task))
    for i, (digest, words) in enumerate(
        [("a" * 64, "is the one of"), ("b" * 64, "other than"), (None, "by name only")]
    ):
        data: dict[str, Any] = {"name": "set", "disclosed": True} | ({"manifest_sha256": digest} if digest else {})
        found = findings(offer(name=f"good{i}", training_data=data), rules(), task)["disclosed_data"]
        assert found.status == "pass"
        assert words in found.evidence


def test_advisories(offer: MakeOffer, rules: MakeRules, task: OwnTask) -> None:
    good = offer()

    def warn(*digests: str) -> Advisories:
        return Advisories.model_validate({"advisories": [{"id": "A-1", "text": "Stolen.", "sha256": list(digests)}]})

    hit = findings(good, rules(advisories=warn("f" * 64, good.card.sha256)), task)["advisories"]
    assert (hit.status, hit.evidence) == ("fail", "Advisory A-1 names this file: Stolen.")
    assert findings(good, rules(advisories=warn("f" * 64)), task)["advisories"].status == "pass"
    assert findings(good, rules(advisories=Advisories(advisories=())), task)["advisories"].status == "unknown"


def test_accuracy_reads_class_names_and_its_low_end(offer: MakeOffer, rules: MakeRules, task: OwnTask) -> None:
    swapped = findings(offer(classes=["bright", "dark"]), rules(), task)["accuracy"]
    assert swapped.status == "fail"
    assert "0.000" in swapped.evidence
    # All 80 images are right, yet the interval's low end, .955, is what must reach the threshold.
    good = offer(name="good")
    assert findings(good, rules(min_accuracy=0.95), task)["accuracy"].status == "pass"
    assert findings(good, rules(min_accuracy=0.96), task)["accuracy"].status == "fail"
    other = findings(offer(name="other", classes=["cat", "dog"]), rules(), task)["accuracy"]
    assert other.status == "unknown"
    assert "not those of our own task" in other.evidence


def test_class_order_of_the_card_is_respected(
    offer: MakeOffer, rules: MakeRules, task: OwnTask, model: Classifier
) -> None:
    flipped = load(to_bytes(model))
    flipped |= {k: flipped[k].flip(0).contiguous() for k in ("head.weight", "head.bias")}
    found = findings(offer(save(flipped), classes=["bright", "dark"]), rules(), task)["accuracy"]
    assert found.status == "pass"


def test_waiving(offer: MakeOffer, rules: MakeRules, task: OwnTask) -> None:
    bad = offer(licence="unknown")
    found = findings(bad, rules(), task, waive=("signature", "licence", "disclosed_data"))
    assert {n for n, f in found.items() if f.waived} == {"signature", "licence"}
    with pytest.raises(GatehouseError, match=r"'licens', which is no check; known are signature, plausible, licence"):
        findings(bad, rules(), task, waive=("licens",))
    for name in BINDING:
        with pytest.raises(GatehouseError, match="cannot be waived"):
            findings(bad, rules(), task, waive=(name,))
