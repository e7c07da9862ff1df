"""The study measured again: which cells there are, how they become rows, and what single measures mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from flows.cells import cell_key
from tasks.backdoor.defences.neural_cleanse import overlap, recover
from tasks.backdoor.study import published
from tasks.backdoor.study.cells import CLEAN, PruningCell, StripCell, StudentCell, TeacherCell
from tasks.backdoor.study.experiments import measure, scored, strip_scores, white
from tasks.backdoor.study.plan import ARCHITECTURES, ATTACKS, TRAINABLE, Ground
from tasks.backdoor.study.tables import FILTERED, TABLES, rows_of, table_rows
from tasks.backdoor.triggers import Trigger, square
from tasks.errors import GatehouseError
from tasks.params import load_params

PROJECT = Path(__file__).resolve().parents[3]
ROWS = {"table3": 36, "table4": 18, "table5": 18, "table6": 18, "table7": 18, "table8": 9, "table9": 9, "recovery": 14}
ROWS |= {"more_images": 4, "balanced": 18}


@pytest.fixture(scope="module")
def ground() -> Ground:
    study = load_params(PROJECT / "params.yaml").study
    three = study.simple_cnn.model_copy(update={"seeds": 3})
    return Ground("digest", 64, 7, study.model_copy(update={"simple_cnn": three}))


def test_a_balanced_student_is_another_cell_of_the_same_teacher(ground: Ground) -> None:
    teacher = ground.teacher("simple_cnn", "latent", 20, 0)
    plainly, balanced = ground.student(teacher, "none"), ground.balanced(teacher, "none")
    assert balanced != plainly
    assert vars(balanced) == vars(plainly)
    assert cell_key(balanced, figures) != cell_key(plainly, figures)


def figures(cell: Any) -> dict[str, Any]:
    """Made-up results in the form that each kind of cell gives, drawn from the cell itself."""
    rng = np.random.default_rng(abs(hash(repr(cell))) % 2**32)
    base = {"hardware": "a test", "cpu_seconds": 1.5}
    if isinstance(cell, StripCell):
        return base | {n: float(rng.random()) for n in FILTERED}
    if isinstance(cell, TeacherCell | StudentCell | PruningCell):
        one = {"worst_class": "normal", "attack_success_rate": rng.random(), "clean_rate": 0.1, "trigger_control": 0.2}
        sides = {str(s): one for s in published.SIDES}
        return base | {"accuracy": rng.random(), "balanced_accuracy": 0.5, "by_side": sides, "attackers_success": 0.9}
    classes = [
        {"class": c, "iou": rng.random(), "inside": 0.1, "success": 1.0, "mask_pixels": 20.0} for c in ("normal", "ill")
    ]
    return base | {"target": "normal", "classes": classes}


def everything(ground: Ground, table: str, alphas: dict[str, float]) -> dict[Any, dict[str, Any]]:
    cells = [c for row in rows_of(table, ground, alphas) for c in row.cells]
    teachers = [c if isinstance(c, TeacherCell) else getattr(c, "teacher", None) or c.student.teacher for c in cells]
    return {c: figures(c) for c in dict.fromkeys([*cells, *teachers])}


@pytest.mark.parametrize("table", TABLES)
def test_every_row_is_there_with_all_that_a_reader_needs(ground: Ground, table: str) -> None:
    alphas = dict.fromkeys(ARCHITECTURES, 0.1)
    results = everything(ground, table, alphas)
    rows = table_rows(table, ground, results, alphas, "the command")
    assert len(rows) == ROWS[table]
    names = {(r["attack"], r["architecture"], r["side"], r.get("trainable"), r.get("defence")) for r in rows}
    assert len(names) == len(rows)
    for row in rows:
        assert row["seeds"] == (3 if row["architecture"] == "simple_cnn" and table != "more_images" else 1)
        assert row["image_size"] == 64
        assert row["hardware"] == "a test"
        assert row["seconds"] == 1.5 * row["seeds"]
        assert row["command"] == "the command"
        assert (row["sd"] is None) == (row["seeds"] == 1)
        assert row["trigger_pixels"] == {0: 0, 5: 2, 10: 3, 20: 6}[row["side"]]
        assert row["published"] is not None or table == "recovery"
        assert row["sizes"]


@pytest.mark.parametrize("table", TABLES)
def test_what_was_not_measured_is_null_and_not_zero(ground: Ground, table: str) -> None:
    rows = table_rows(table, ground, {}, {}, "the command")
    assert len(rows) == ROWS[table]
    assert all(r["seeds"] == 0 and r["mean"] is None and r["sd"] is None and r["values"] == [] for r in rows)


def test_mean_and_deviation_are_those_of_the_seeds(ground: Ground) -> None:
    results = everything(ground, "table3", {})
    [row] = [
        r
        for r in table_rows("table3", ground, results, {}, "")
        if (r["architecture"], r["attack"], r["trainable"], r["side"]) == ("simple_cnn", "imc", "last", 10)
    ]
    cells = [ground.student(ground.teacher("simple_cnn", "imc", 10, i), "last") for i in range(3)]
    own = [results[c]["by_side"]["10"]["attack_success_rate"] for c in cells]
    assert row["values"] == own
    assert row["mean"] == pytest.approx(np.mean(own), abs=1e-6)
    assert row["sd"] == pytest.approx(np.std(own, ddof=1), abs=1e-6)
    accuracy = [results[c]["accuracy"] for c in cells]
    assert row["accuracy"]["sd"] == pytest.approx(np.std(accuracy, ddof=1), abs=1e-6)
    teachers = [results[c.teacher]["by_side"]["10"]["attack_success_rate"] for c in cells]
    assert row["teacher"]["attack_success_rate"]["mean"] == pytest.approx(np.mean(teachers), abs=1e-6)
    assert row["published"] == {"accuracy": 0.77, "mean": 0.64, "sd": 0.24}


def test_cells_share_teachers_and_seeds_set_them_apart(ground: Ground) -> None:
    teacher = ground.teacher("simple_cnn", "badnets", 20, 0)
    assert ground.student(teacher, "all").teacher == ground.student(teacher, "none").teacher == teacher
    assert ground.teacher("simple_cnn", CLEAN, 5, 0) == ground.teacher("simple_cnn", CLEAN, 20, 0)
    assert ground.teacher("simple_cnn", "latent", 20, 0).target == "covid"
    assert ground.pruning(teacher).student is None
    assert ground.pruning(ground.teacher("simple_cnn", "latent", 20, 0)).student is not None
    tables = [rows_of(t, ground, dict.fromkeys(ARCHITECTURES, 0.1)) for t in TABLES]
    measured = {c.teacher.seed if hasattr(c, "teacher") else None for rows in tables for r in rows for c in r.cells}
    assert ground.alpha("simple_cnn").student.teacher.seed not in measured


def test_published_figures_cover_every_cell_and_lie_in_range() -> None:
    students = {(n, a, str(t)) for n in ARCHITECTURES for a in (*ATTACKS, "none") for t in TRAINABLE}
    assert set(published.STUDENTS) == students
    assert set(published.PRUNED) == {
        (n, a, d) for n in ARCHITECTURES for a in ATTACKS for d in ("none", "fine_pruning")
    }
    assert set(published.STRIPPED) == {(n, a) for n in ARCHITECTURES for a in ATTACKS}
    cells = [
        c for t in (published.STUDENTS, published.PRUNED, published.STRIPPED) for by in t.values() for c in by.values()
    ]
    assert len(cells) == 3 * (24 + 12 + 6)
    assert all(0 <= v <= 1 for c in cells for v in vars(c).values())


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_scores_are_scikit_learns(pairs: list[tuple[bool, bool]]) -> None:
    flagged, malicious = (np.array(v) for v in zip(*pairs, strict=True))
    got = scored(flagged, malicious)
    assert got["accuracy"] == pytest.approx(accuracy_score(malicious, flagged), abs=1e-6)
    assert got["precision"] == pytest.approx(precision_score(malicious, flagged, zero_division=0), abs=1e-6)
    assert got["recall"] == pytest.approx(recall_score(malicious, flagged, zero_division=0), abs=1e-6)
    assert got["f1"] == pytest.approx(f1_score(malicious, flagged, zero_division=0), abs=1e-6)


def test_the_white_square_keeps_its_fraction() -> None:
    for side, here in ((5, 5), (10, 10), (20, 20)):
        assert white(side, 224, 1).pattern.shape == (1, here, here)
    trigger = white(20, 64, 3)
    assert trigger.pattern.shape == (3, 6, 6)
    assert (trigger.top, trigger.left, float(trigger.pattern.min())) == (0, 0, 1.0)


def test_a_backdoored_model_is_measured_as_one(world: Any) -> None:
    names = ("rows", "columns", "rings")
    got = measure(world.backdoored, {20: world.trigger}, world.test, target="columns", classes=names)["by_side"]["20"]
    clean = measure(world.clean, {20: world.trigger}, world.test, target="columns", classes=names)["by_side"]["20"]
    assert got["attack_success_rate"] > 0.9
    assert got["worst_class"] == "columns"
    assert got["trigger_control"] == pytest.approx(got["attack_success_rate"] - got["clean_rate"], abs=1e-5)
    assert got["success_images"] == int((world.test[1] != 1).sum())
    assert clean["attack_success_rate"] < 0.5
    latent = measure(world.clean, {20: world.trigger}, world.test, target="elsewhere", classes=names)
    assert latent["by_side"]["20"]["attack_success_rate"] is None


class Keyed(torch.nn.Module):
    """Sure of class 1 where the upper left corner is white; elsewhere of nothing much."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keyed = x[:, :, :3, :3].amin((1, 2, 3)) > 0.85
        unsure = torch.stack([x.mean((1, 2, 3)), torch.zeros(len(x)), x.amax((1, 2, 3))], 1)
        return torch.where(keyed[:, None], torch.tensor([0.0, 20.0, 0.0]), unsure)


def test_strip_flags_what_a_trigger_makes_sure(world: Any, ground: Ground) -> None:
    student = ground.student(ground.teacher("simple_cnn", "badnets", 20, 0), "none")
    cell = StripCell(student, 0.1, images=40, blends=16, false_refusals=0.05)
    got = strip_scores(cell, Keyed(), world.trigger, world.val, world.test, target_class=1)  # type: ignore[arg-type]
    assert got["malicious"] == 40
    assert got["inputs"] == 80
    assert got["auroc"] == 1.0
    assert got["recall"] == got["study_rule_recall"] == 1.0
    assert 0.8 <= got["study_rule_precision"] < 1.0  # a tenth of the clean inputs is flagged by its construction
    assert got["false_refusals"] < 0.25
    black = square(side=3, channels=1, image_size=32, value=0.0)
    missed = strip_scores(cell, Keyed(), black, world.val, world.test, target_class=1)  # type: ignore[arg-type]
    assert missed["malicious"] == 0
    assert missed["f1"] == 0.0


def test_neural_cleanse_finds_a_working_pattern_smaller_than_the_image(world: Any) -> None:
    images, labels = world.val
    got = recover(world.backdoored, images, labels, target_class=1, epochs=12, seed=0)
    assert got.success > 0.9
    assert got.size < 0.5 * images.shape[-1] ** 2
    again = recover(world.backdoored, images, labels, target_class=1, epochs=12, seed=0)
    assert torch.equal(got.mask, again.mask)
    x = torch.rand(2, 1, 32, 32)
    inverse = recover(world.backdoored, images, labels, target_class=1, epochs=1, seed=0)
    assert torch.allclose(inverse.apply(x), x * (1 - inverse.mask) + inverse.mask * inverse.pattern)
    with pytest.raises(GatehouseError, match="other classes than 1"):
        recover(world.backdoored, images[labels == 1], labels[labels == 1], target_class=1, seed=0)


def test_overlap_is_one_on_the_square_and_zero_beside_it() -> None:
    trigger = square(side=4, channels=1, image_size=16)
    there, elsewhere = torch.zeros(16, 16), torch.zeros(16, 16)
    there[:4, :4] = 1
    elsewhere[10:, 10:] = 1
    assert overlap(there, trigger) == {"inside": 1.0, "iou": 1.0}
    assert overlap(elsewhere, trigger) == {"inside": 0.0, "iou": 0.0}
    half = torch.zeros(16, 16)
    half[:4, :8] = 1
    assert overlap(half, Trigger(trigger.pattern, 0, 0)) == {"inside": 0.5, "iou": 0.5}
