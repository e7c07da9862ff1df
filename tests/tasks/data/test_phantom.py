from __future__ import annotations

import numpy as np
import pytest

from tasks.data.phantom import TASKS, draw
from tasks.errors import GatehouseError


def test_the_same_seed_draws_the_same_bytes_and_another_draws_others() -> None:
    a, b, c = draw("covid", 30, 32, 7), draw("covid", 30, 32, 7), draw("covid", 30, 32, 8)
    assert a.images.tobytes() == b.images.tobytes()
    assert a.labels == b.labels
    assert a.images.tobytes() != c.images.tobytes()


@pytest.mark.parametrize("side", [16, 32, 65])
def test_images_have_the_side_asked_for_and_use_the_range_of_gray(side: int) -> None:
    images = draw("pneumonia", 24, side, 1).images
    assert images.shape == (24, side, side)
    assert images.dtype == np.uint8
    assert images.std(axis=(1, 2)).min() > 10


@pytest.mark.parametrize("task", sorted(TASKS))
def test_classes_come_in_their_shares_and_patients_keep_to_one_class(task: str) -> None:
    drawing = draw(task, 400, 16, 3)
    labels, patients = np.array(drawing.labels), np.array(drawing.patients)
    for name, share in TASKS[task].items():
        assert abs((labels == name).mean() - share) < 0.01
    sizes = []
    for patient in set(drawing.patients):
        own = labels[patients == patient]
        assert len(set(own)) == 1
        sizes.append(len(own))
    assert set(sizes) == {1, 2, 3}


def test_teacher_and_student_share_no_patient_and_no_picture() -> None:
    teacher, student = draw("pneumonia", 60, 16, 7), draw("covid", 60, 16, 7)
    assert not set(teacher.patients) & set(student.patients)
    assert not {i.tobytes() for i in teacher.images} & {i.tobytes() for i in student.images}


def test_opacities_brighten_the_lungs_where_the_class_says() -> None:
    drawing = draw("covid", 900, 32, 5)
    labels, images = np.array(drawing.labels), drawing.images.astype(float)
    mean = {name: images[labels == name].mean(axis=0) for name in TASKS["covid"]}
    added = mean["covid"] - mean["normal"]
    outer = added[10:20, [4, 5, 6, 25, 26, 27]].mean()
    assert outer > 3  # gray levels, at the outer edges of both lungs
    assert outer > 2 * abs(added[10:20, 14:18]).mean()  # and little at the spine
    streaks = mean["viral_pneumonia"] - mean["normal"]
    assert streaks[8:20, 6:26].mean() > 3


def test_an_unknown_task_and_too_few_images_are_one_sentence() -> None:
    with pytest.raises(GatehouseError, match=r"draws no task 'tumour'; set data.*covid, pneumonia"):
        draw("tumour", 50, 32, 0)
    with pytest.raises(GatehouseError, match="3 classes with 5 images"):
        draw("covid", 5, 32, 0)
