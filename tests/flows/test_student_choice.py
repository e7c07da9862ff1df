"""Which features the student may train, and on which images: as params.yaml or the drill says, or one clear error."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from flows.student import check_input, freeze_policy
from tasks.data.dataset import Dataset
from tasks.errors import GatehouseError
from tasks.models.architectures import ModelSpec, build
from tasks.params import Student, load_params

SPEC = ModelSpec(architecture="simple_cnn", classes=("a", "b"), channels=1, image_size=32)
MODEL = build(SPEC, seed=0)


def section(freeze: str | int) -> Student:
    return load_params().student.model_copy(update={"freeze": freeze})


@pytest.mark.parametrize("policy", ["all", "last", "none", 3])
def test_the_drill_decides_unless_params_do(policy: str | int) -> None:
    drill = {"freeze": {"policy": policy, "reason": "measured"}}
    assert freeze_policy(section("drill"), drill, MODEL) == (policy, "measured")
    chosen, reason = freeze_policy(section(2), drill, MODEL)
    assert chosen == 2
    assert "student.freeze" in reason


@pytest.mark.parametrize("drill", [{}, {"freeze": {}}, {"freeze": None}, {"freeze": {"policy": "last"}}])
def test_a_drill_that_names_no_policy_is_one_clear_error(drill: dict[str, object]) -> None:
    with pytest.raises(GatehouseError, match="names no freeze policy; run the drill stage again"):
        freeze_policy(section("drill"), drill, MODEL)


@pytest.mark.parametrize("policy", ["some", 2.5, None])
def test_a_policy_that_is_none_is_refused(policy: object) -> None:
    with pytest.raises(GatehouseError, match="which is none; run the drill stage again"):
        freeze_policy(section("drill"), {"freeze": {"policy": policy, "reason": "x"}}, MODEL)


def test_more_blocks_than_the_model_has_are_refused() -> None:
    with pytest.raises(GatehouseError, match="out of range"):
        freeze_policy(section(6), {}, MODEL)


@pytest.mark.parametrize("shape", [(3, 32), (1, 64)])
def test_images_that_the_teacher_does_not_take_are_one_clear_error(shape: tuple[int, int]) -> None:
    channels, side = shape
    images = np.zeros((2, channels, side, side), np.uint8)
    data = Dataset(("a", "b"), images, np.zeros(2, np.int64), np.array(["train", "test"]), pd.DataFrame(), "0" * 64)
    with pytest.raises(GatehouseError, match=r"1 channel.s. and 32 pixels, but data/student_task holds"):
        check_input(SPEC, data)
    check_input(SPEC.model_copy(update={"channels": channels, "image_size": side}), data)
