"""All attacks together, the drill of the gate, the proof of a private candidate, and the figure."""

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.errors import GatehouseError
from tasks.models.architectures import ModelSpec
from tasks.models.checkpoints import ModelRecord
from tasks.privacy.accounting import epsilon
from tasks.privacy.attack import attack_candidate, choose_records, in_words
from tasks.privacy.claim import epsilon_check, prove, read_claim
from tasks.privacy.drill import HEADS, run_drill
from tasks.privacy.gate_attacks import ATTACKS, membership_scores
from tasks.privacy.heads import train_heads
from tasks.privacy.plots import roc_figure
from tasks.privacy.scoring import auc

torch.set_num_threads(1)
CLASSES = ("covid", "normal", "viral")


def task(n=1000, width=24, seed=0):
    """Features of three classes that overlap, labels and splits (.6, .15, .25)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    centres = np.random.default_rng(50).normal(size=(3, width)) * 0.25
    features = torch.tensor(centres[labels] + rng.normal(size=(n, width)), dtype=torch.float32)
    split = rng.choice(["train", "val", "test"], n, p=[0.6, 0.15, 0.25])
    return features, labels, split


def figures_of(hidden, steps, learnt_from):
    """Attacks on a head that learnt from the rows that `learnt_from(split)` names."""
    features, labels, split = task()
    sample = choose_records(split, labels, limit=500, seed=1)
    decay = 0.0 if hidden else 1e-3
    head = train_heads(
        features,
        torch.from_numpy(labels),
        learnt_from(split)[None],
        classes=3,
        hidden=hidden,
        steps=steps,
        learning_rate=0.02 if hidden else 0.1,
        weight_decay=decay,
    )
    rows = sample.rows
    asked = len(sample.is_member) + len(sample.known)
    return sample, attack_candidate(
        sample,
        head(features[rows[:asked]])[0].numpy(),
        features[rows],
        labels[rows],
        classes=CLASSES,
        references=8,
        seed=2,
    )


def test_records_of_each_role_come_from_their_split_and_are_disjoint():
    _, labels, split = task()
    sample = choose_records(split, labels, limit=90, seed=1)
    assert set(split[sample.members]) == {"train"}
    assert set(split[sample.non_members]) == {"test"}
    assert set(split[sample.known]) == {"val"}
    assert len(np.unique(sample.rows)) == len(sample.rows)
    assert (len(sample.members), len(sample.non_members), len(sample.spare)) == (90, 90, 180)
    assert sample.is_member.sum() == 90
    again = choose_records(split, labels, limit=90, seed=1)
    assert np.array_equal(sample.rows, again.rows)
    with pytest.raises(GatehouseError, match="needs 20 validation images"):
        choose_records(np.where(split == "val", "train", split), labels, limit=90, seed=1)


def test_a_head_that_memorised_is_told_from_one_that_did_not():
    _, leaky = figures_of(64, 150, lambda split: split == "train")
    _, tame = figures_of(0, 100, lambda split: split == "train")
    _, unaware = figures_of(64, 150, lambda split: split == "val")
    assert leaky.strongest.membership_advantage.low > 0.25
    assert leaky.train_accuracy - leaky.test_accuracy > 0.15
    assert tame.strongest.membership_advantage.high < 0.25
    assert unaware.strongest.membership_advantage.low < 0.05
    assert all(f.baseline.auc.low < 0.55 for f in (leaky, tame))  # the splits themselves do not differ
    assert 0.5 < leaky.reference_accuracy < 1
    assert [s.membership_advantage.value for s in leaky.subgroups] == sorted(
        (s.membership_advantage.value for s in leaky.subgroups), reverse=True
    )
    assert {s.name for s in leaky.subgroups} == set(CLASSES)


def test_classes_with_too_few_records_get_no_figures_of_their_own():
    features, labels, split = task()
    keep = np.flatnonzero((labels != 2) | (np.arange(len(labels)) < 60))
    features, labels, split = features[keep], labels[keep], split[keep]
    split[labels == 2] = np.where(np.arange((labels == 2).sum()) % 4 == 0, "test", "train")
    sample = choose_records(split, labels, limit=500, seed=0)
    rows = sample.rows
    asked = len(sample.is_member) + len(sample.known)
    figures = attack_candidate(
        sample, np.eye(3)[labels[rows[:asked]]], features[rows], labels[rows], classes=CLASSES, references=4, seed=0
    )
    assert {s.name for s in figures.subgroups} == {"covid", "normal"}


def test_the_sentence_counts_right_answers_in_a_hundred():
    _, figures = figures_of(64, 150, lambda split: split == "train")
    advantage = figures.strongest.membership_advantage
    assert f"{round(50 + 50 * advantage.value)} times with the strongest attack" in in_words(figures, None)
    assert "may do better" in in_words(figures, None)
    assert "no attack at all can be right more than 80 times, which is proven" in in_words(figures, 0.6)


def test_the_figure_is_a_small_picture(tmp_path):
    _, figures = figures_of(0, 30, lambda split: split == "train")
    path = tmp_path / "privacy" / "roc.png"
    roc_figure(path, (*figures.attacks, figures.baseline))
    with Image.open(path) as picture:
        assert picture.width > 400
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    assert path.stat().st_size < 150_000


def drill(advantage_threshold, tpr_threshold, elsewhere=400):
    features, labels, _ = task(600 + elsewhere)
    return run_drill(
        (features[:600], labels[:600]),
        (features[600:], labels[600:]),
        classes=3,
        references=8,
        advantage_threshold=advantage_threshold,
        tpr_threshold=tpr_threshold,
        seed=3,
    )


def test_the_drill_catches_planted_memory_and_accuses_no_clean_head():
    result, heads = drill(0.25, 0.1)
    assert (result.planted, result.clean) == (HEADS, HEADS)
    assert result.caught == HEADS
    assert result.accused <= 1
    assert result.trustworthy
    assert len(heads) == 2 * HEADS
    assert min(h.membership_advantage for h in heads if h.planted) > max(
        h.membership_advantage for h in heads if not h.planted
    )


def test_a_gate_that_cannot_tell_is_not_trusted():
    blind, _ = drill(1.0, 1.0)  # thresholds that nothing exceeds
    assert blind.caught == 0
    assert not blind.trustworthy
    jumpy, _ = drill(0.0, 0.0)  # thresholds that everything exceeds
    assert jumpy.accused == HEADS
    assert not jumpy.trustworthy
    with pytest.raises(GatehouseError, match="needs 20 records beside those attacked and has 8"):
        drill(0.25, 0.1, elsewhere=8)


REPORT = {
    "sha256": "a" * 64,
    "noise_multiplier": 1.5,
    "sample_rate": 0.25,
    "steps": 40,
    "delta": 1e-4,
    "records": 1000,
    "images_of_one_person": 4,
    "sampler": "Poisson",
    "trainable": "head",
    "accuracy": {"value": 0.8},
}


def model(sha256="a" * 64, data="d" * 64):
    spec = ModelSpec(architecture="simple_cnn", classes=CLASSES)
    return ModelRecord(spec=spec, sha256=sha256, parents={"student_task": data})


def test_epsilon_is_recomputed_and_exact():
    proof = prove(read_claim({**REPORT, "epsilon": 0.001}, "report"), model(), "d" * 64)  # its own word does not count
    expected = epsilon(noise_multiplier=1.5, sample_rate=0.25, steps=40, delta=1e-4)
    assert proof.epsilon == pytest.approx(expected, abs=1e-5)
    assert 0 < proof.advantage_ceiling < 1
    check = epsilon_check(proof, expected + 0.1)
    assert check.status == "passed"
    assert check.ci == (check.observed, check.observed)
    assert epsilon_check(proof, expected - 0.1).status == "failed"


@pytest.mark.parametrize(
    ("record", "data", "change", "why"),
    [
        (model(sha256="b" * 64), "d" * 64, {}, "not the file that private training wrote"),
        (model(), "e" * 64, {}, "another version of the student's data"),
        (model(), "d" * 64, {"delta": 0.01}, "not below one over the number"),
        (model(), "d" * 64, {"noise_multiplier": 0.0}, "without noise"),
        (model(), "d" * 64, {"sampler": "shuffled"}, "not where records are weighted, shuffled or cut"),
        (model(), "d" * 64, {"trainable": "all"}, "the batch statistics of the layers below mix records"),
    ],
)
def test_a_claim_that_does_not_cover_the_model_proves_nothing(record, data, change, why):
    proof = prove(read_claim({**REPORT, **change}, "report"), record, data)
    assert proof.epsilon is None
    assert why in proof.why
    assert epsilon_check(proof, 8.0).status == "inconclusive"


def test_a_report_without_figures_is_one_clear_error():
    with pytest.raises(
        GatehouseError, match=r"private_student\.json is malformed at steps; run the private_student stage"
    ):
        read_claim({**REPORT, "steps": None}, "reports/private_student.json")


def test_every_attack_of_the_gate_survives_references_on_another_scale():
    """References half as sure as the candidate: the line through known records translates, and members stand out."""
    rng = np.random.default_rng(0)
    rows, target, known = 400, np.arange(200), np.arange(200, 400)
    hard = rng.normal(0, 2, rows)
    included = rng.random((16, rows)) < 0.5
    references = 0.5 * (hard + 2 * included + rng.normal(0, 0.5, (16, rows)))
    member = np.arange(rows) < 100
    candidate = hard + 2 * member + rng.normal(0, 0.5, rows)
    scores = membership_scores(candidate, references, included, target=target, known=known)
    assert set(scores) == set(ATTACKS)
    found = {name: auc(values, member[target]) for name, values in scores.items()}
    assert min(found["likelihood_ratio"], found["online_likelihood_ratio"], found["rmia"]) > 0.9
    assert found["loss_threshold"] < 0.85  # it does not know which records are hard
