"""Guards keep images images, travel with the weights, and hide no gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from task_of_squares import SIDE, SPEC, squares

from tasks.errors import GatehouseError
from tasks.files import read_json, write_json
from tasks.models.architectures import Classifier, build
from tasks.models.checkpoints import digest, load_model, save_model
from tasks.models.guards import VOTES, new_guard
from tasks.models.inference import as_float, features, logits

NAMES = ("low_pass", "jpeg", "dropout")


def guarded(name: str) -> Classifier:
    return build(SPEC.model_copy(update={"guard": name}), seed=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_stay_images(name: str, channels: int) -> None:
    x = torch.rand(5, channels, 20, 20, generator=torch.Generator().manual_seed(0))
    guard = new_guard(name, 20)  # type: ignore[arg-type]
    assert guard is not None
    out = guard(x)
    assert out.shape == (5 * guard.copies, channels, 20, 20)
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    assert torch.equal(out, guard(x))
    assert guard(x[:0]).shape[0] == 0


def test_each_guard_does_what_its_name_says() -> None:
    signs = torch.randint(0, 2, (4, 1, 32, 32), generator=torch.Generator().manual_seed(0)) * 2 - 1
    faint = 0.5 + 2 / 255 * signs  # what an attack within 2 of 255 may add
    for name in ("low_pass", "jpeg"):
        out = new_guard(name, 32)(faint)  # type: ignore[arg-type, misc]
        assert float(out.std()) < 0.7 * float(faint.std())
    flat = torch.full((2, 1, 32, 32), 0.25)
    torch.testing.assert_close(new_guard("low_pass", 32)(flat), flat)  # type: ignore[misc]
    voted = new_guard("dropout", 32)(flat)  # type: ignore[misc]
    assert float((voted == 0.5).float().mean()) == pytest.approx(0.2, abs=0.02)


def test_a_vote_averages_over_its_masks() -> None:
    model, images = guarded("dropout"), squares(6, seed=0)[0]
    masks = model.guard(as_float(images))  # type: ignore[misc]
    plain = build(SPEC, seed=0)
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("guard")}
    plain.load_state_dict(own)
    by_hand = plain.features(masks).view(6, VOTES, -1).mean(1)
    torch.testing.assert_close(features(model, images), by_hand)
    assert logits(model, images).shape == (6, 3)
    with pytest.raises(ValueError, match="after the last block"):
        model.run_blocks(as_float(images), 0, 2)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_pixels(name: str) -> None:
    x = as_float(squares(3, seed=0)[0]).requires_grad_(True)
    (gradient,) = torch.autograd.grad(guarded(name)(x).square().sum(), x)
    assert bool((gradient.flatten(1).norm(dim=1) > 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_a_guard_is_saved_with_the_weights_and_cannot_be_taken_off_unseen(name: str, tmp_path: Path) -> None:
    spec, images = SPEC.model_copy(update={"guard": name}), squares(4, seed=0)[0]
    model = guarded(name)
    save_model(tmp_path, model, spec)
    loaded, record = load_model(tmp_path)
    assert record.spec.guard == name
    assert torch.equal(logits(loaded, images), logits(model, images))
    assert digest(model) != digest(build(SPEC, seed=0))
    stripped = read_json(tmp_path / "model.json")
    stripped["spec"]["guard"] = "none"
    write_json(tmp_path / "model.json", stripped)
    with pytest.raises(GatehouseError, match=r"holds .* the architecture lacks, first 'guard"):
        load_model(tmp_path)


def test_images_of_64_pixels_lose_little(tmp_path: Path) -> None:
    x = as_float(squares(8, seed=1)[0])
    for name in ("low_pass", "jpeg"):
        assert float((new_guard(name, SIDE)(x) - x).abs().mean()) < 0.25  # type: ignore[arg-type, misc]
