"""The phantom as a source, with a few deliberately bad records, so that the demonstration shows quarantine at work."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
from PIL import Image

from tasks.data.phantom import Drawing, draw
from tasks.data.sources import Record, row_of
from tasks.params import Data, Task


def phantom(data: Data, task: Task, *, seed: int) -> list[Record]:
    """The task's drawings as records; the student's task also gets `flaws`."""
    drawing = draw(task.path, task.images, data.image_size, seed)
    records = [
        Record(f"phantom/{task.path}/{i:05d}", label, "", patient, partial(row_of, drawing.images, i))
        for i, (label, patient) in enumerate(zip(drawing.labels, drawing.patients, strict=True))
    ]
    if task == data.student_task:
        teachers = draw(data.teacher_task.path, data.teacher_task.images, data.image_size, seed)
        records += flaws(drawing, teachers, task.path)
    return records


def flaws(drawing: Drawing, teachers: Drawing, task: str) -> list[Record]:
    """What real collections hold: a cut file, a blank exposure, copies, the teacher's own images."""
    first, other = 0, next(i for i, label in enumerate(drawing.labels) if label != drawing.labels[0])
    label, patient = drawing.labels[first], drawing.patients[first]
    copied = next(i for i, p in enumerate(drawing.patients) if p not in (patient, drawing.patients[other]))
    whole = io.BytesIO()
    Image.fromarray(drawing.images[first]).save(whole, "PNG")
    shared = [i for i, name in enumerate(teachers.labels) if name in drawing.labels][:2]

    def record(name: str, label: str, content: bytes | np.ndarray, patient: str = "") -> Record:
        return Record(f"phantom/{task}/flaw_{name}", label, "", patient, lambda: content)

    return [
        record("cut_file", label, whole.getvalue()[: len(whole.getvalue()) // 2], patient),
        record("blank", label, np.full_like(drawing.images[first], 3), patient),
        record("copy", drawing.labels[copied], drawing.images[copied], drawing.patients[copied]),
        record("near_copy", drawing.labels[copied], _brighter(drawing.images[copied])),
        record("copy_under_another_label", drawing.labels[first], drawing.images[other]),
        *(
            record(f"teachers_image_{k}", teachers.labels[i], teachers.images[i], teachers.patients[i])
            for k, i in enumerate(shared)
        ),
    ]


def _brighter(image: np.ndarray) -> np.ndarray:
    return np.clip(image * 0.95 + 12, 0, 255).astype(np.uint8)
