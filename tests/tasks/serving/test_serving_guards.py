"""Guards: calibrated on clean images, they refuse what is none, and the client learns nothing but that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from serving_tools import CLASSES, SIDE, make_champion, make_client

from tasks.errors import GatehouseError
from tasks.models.architectures import ModelSpec, build
from tasks.models.inference import as_float
from tasks.models.training import fit
from tasks.params import Training
from tasks.serving.champion import answer
from tasks.serving.guards.calibration import KINDS, calibrate, load_guards
from tasks.serving.guards.pipeline import Guard, Seen, packed, refusals, see, unpacked
from tasks.serving.log import read_history

SHARES = {"backdoor": 0.05, "distribution": 0.02, "disagreement": 0.02}
RECIPE = Training(
    epochs=8, learning_rate=0.01, backbone_scale=1, weight_decay=0, batch_size=32, patience=8, class_weights=False,
    patch_probability=0, patch_max_fraction=0.2, bfloat16=False,
)  # fmt: skip


def blobs(n: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A dark ground with a bright blob left, in the middle or right: uint8 images and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    centre = np.stack([0.2 + 0.3 * labels + rng.normal(0, 0.03, n), rng.uniform(0.4, 0.6, n)])[:, :, None, None]
    blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 0.03)
    pixels = np.clip(40 + 150 * blob + rng.normal(0, 5, (n, SIDE, SIDE)), 0, 255)
    return pixels.astype(np.uint8)[:, None], labels


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    made = build(ModelSpec(architecture="simple_cnn", classes=CLASSES, image_size=SIDE), seed=0)
    fit(made, blobs(400, seed=1), blobs(100, seed=2), RECIPE, policy="all", seed=0)
    return made


@pytest.fixture(scope="module")
def guards(model):
    made = calibrate(model, blobs(400, seed=3)[0], on=tuple(KINDS), false_refusals=SHARES, seed=0)
    return load_guards(json.dumps(made).encode(), model, source="guards.json")


def shares(guards: tuple[Guard, ...], model, images: np.ndarray) -> dict[str, float]:
    seen = see(model, images.astype(np.float32))
    return {g.name: float(g.refuses(seen).mean()) for g in guards} | {
        "any": float(np.mean([bool(names) for names in refusals(guards, seen)]))
    }


def test_few_clean_images_are_refused_and_most_others_are(model, guards):
    clean = as_float(blobs(600, seed=4)[0]).numpy()
    found = shares(guards, model, clean)
    for name, wanted in SHARES.items():
        assert found[name] <= wanted + 0.02, found
    rng = np.random.default_rng(0)
    assert shares(guards, model, rng.random((100, 1, SIDE, SIDE)))["any"] > 0.9
    assert shares(guards, model, 1 - clean[:100])["any"] > 0.9
    stamped = clean[:100].copy()
    stamped[:, :, :4, :4] = np.indices((4, 4)).sum(0) % 2
    assert shares(guards, model, stamped)["backdoor"] > 0.5


def test_changes_that_a_blur_takes_away_are_a_disagreement(model, guards):
    """Images on the edge between two answers, found by gradient: the guard refuses more of them than of clean ones."""
    x = torch.from_numpy(as_float(blobs(200, seed=5)[0]).numpy())
    labels, moved = model(x).argmax(1), x.clone()
    for _ in range(10):
        moved.requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(model(moved), labels)
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = (moved.detach() + 0.02 * gradient.sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
    fooled = (model(moved).argmax(1) != labels).numpy()
    assert fooled.mean() > 0.3
    [guard] = [g for g in guards if g.name == "disagreement"]
    seen = see(model, moved.numpy()[fooled])
    clean = see(model, x.numpy())
    assert guard.suspicion(seen).mean() > 2 * guard.suspicion(clean).mean()
    assert shares(guards, model, moved.numpy()[fooled])["any"] > 0.5


def test_what_is_not_finite_is_refused(model):
    guard = Guard("broken", lambda seen: np.full(len(seen.images), np.nan), 1.0)
    seen = see(model, as_float(blobs(2, seed=0)[0]).numpy())
    assert refusals((guard,), seen) == [("broken",), ("broken",)]
    assert refusals((), seen) == [(), ()]


def test_scores_are_the_model_s_own(model):
    x = as_float(blobs(5, seed=6)[0])
    np.testing.assert_allclose(see(model, x.numpy()).scores, model(x).softmax(1).detach(), rtol=1e-5)


def test_arrays_survive_json():
    array = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    again = unpacked(json.loads(json.dumps(packed(array))))
    np.testing.assert_array_equal(again, array)


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"on": ["backdoor"], "guards": {}}', b'{"on": [], "guards": {"backdoor": 1}}']
)
def test_a_file_that_holds_no_guards_is_refused(model, content):
    with pytest.raises(GatehouseError, match="holds no guards"):
        load_guards(content, model, source="guards.json")


def test_state_that_does_not_fit_is_refused(model):
    made = calibrate(model, blobs(40, seed=3)[0], on=("backdoor",), false_refusals=SHARES, seed=0)
    made["guards"]["backdoor"]["state"]["mean"]["shape"] = [7]
    with pytest.raises(GatehouseError, match="holds no guards"):
        load_guards(json.dumps(made).encode(), model, source="guards.json")


def test_too_few_images_are_said(model):
    with pytest.raises(GatehouseError, match="at least 20 validation images"):
        calibrate(model, blobs(5, seed=0)[0], on=(), false_refusals=SHARES, seed=0)


def picky(name: str, bright: float) -> Guard:
    def suspicion(seen: Seen) -> np.ndarray:
        return seen.images.mean((1, 2, 3))

    return Guard(name, suspicion, bright)


@pytest.mark.parametrize("output", ["scores", "labels"])
def test_a_refused_image_says_so_and_nothing_else_in_both_protocols(tmp_path: Path, output: str) -> None:
    guards = (picky("one", 0.8), picky("other", 0.6))
    x = np.full((3, 1, SIDE, SIDE), 0.5, np.float32)
    x[1], x[2] = 0.7, 0.9
    with make_client(tmp_path, output, guards=guards) as client:
        answers = client.post("/invocations", json={"inputs": x.tolist()}).json()["predictions"]
        tensor = {"name": "images", "shape": list(x.shape), "datatype": "FP32", "data": x.tolist()}
        outputs = client.post("/v2/models/tiny/infer", json={"inputs": [tensor]}).json()["outputs"]
        counted = client.get("/metrics").text
        client.app.state.deployment.log.close()
    refused = {"label": None, "refused": True}  # whichever guard it was, and however far off
    assert answers[1:] == [refused, refused]
    assert "refused" not in answers[0]
    named = {o["name"]: o["data"] for o in outputs}
    assert named["refused"] == [False, True, True]
    assert named["label"] == [answers[0]["label"], "", ""]
    if output == "scores":
        assert named["scores"][3:] == [0.0] * 6
    assert 'gatehouse_guard_refusals_total{guard="one"} 2.0' in counted
    images = read_history(tmp_path / "requests.db", since=0).images
    assert len(images) == 6
    assert set(images["label"]) <= set(CLASSES)  # the log keeps what the model said


def test_guards_leave_other_answers_as_they_are():
    x = np.random.default_rng(1).random((4, 1, SIDE, SIDE)).astype(np.float32)
    bare, guarded = answer(make_champion(), x), answer(make_champion(guards=(picky("never", 2.0),)), x)
    assert bare == guarded
