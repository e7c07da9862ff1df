"""What the dossier says, without a browser: verdict, reasons, missing reports, and that nothing gets out or in."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from dossier_case import predicate, spoil, write_page
from markupsafe import Markup
from promotion_case import Case

from tasks.gate import Check
from tasks.promotion.decision import Comparison
from tasks.promotion.dossier.blocks import heat
from tasks.promotion.dossier.intervals import picture
from tasks.promotion.dossier.reports import Reports
from tasks.promotion.dossier.words import figure, humane, measured, number, pick, prose


def words(path: Path) -> str:
    """The page's text without markup, runs of white space as one blank."""
    text = re.sub(r"<(style|svg)\b.*?</\1>", " ", path.read_text(encoding="utf-8"), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_a_promotion_says_so_first_with_digest_and_gates(tmp_path: Path) -> None:
    page = words(write_page(tmp_path, "promoted"))
    assert page.index("Promoted") < page.index("All 5 gates") < page.index("Gates and their verdicts")
    sha256 = json.loads((tmp_path / "models/student/model.json").read_text())["sha256"]
    assert sha256 in page
    assert "3, alias champion" in page
    assert "Why it was refused" not in page
    assert "Asked 24 pictures made for 3 networks, the candidate's answers point at another network (clean0)." in page


def test_a_refusal_names_each_reason_with_figures_and_next_step(tmp_path: Path) -> None:
    page = words(write_page(tmp_path, "refused"))
    assert "Backdoor, adversarial and privacy did not pass: 3 reasons speak against promotion" in page
    assert "Measured 0.310 Interval 0.250 to 0.380 Must be at most 0.100 Missed by 0.280" in page
    assert "In the order of Figure 37: replace the teacher" in page
    assert "judged 999999999999" in page
    assert "does not count" in page
    assert "not decidable" in page
    assert "No alias was given" in page


def test_a_worse_candidate_is_explained_by_the_champion(case: Case, tmp_path: Path) -> None:
    from tasks.promotion.dossier import render

    figures = {"observed": -0.1, "ci": (-0.14, -0.06), "op": ">=", "threshold": -0.02, "n": 400}
    check = Check.model_validate({"name": "balanced_accuracy", "metric": "difference", **figures})
    worse = Comparison(counts=True, why="It is worse than version 4.", version="4", sha256="2" * 64, check=check)
    decision = case.decide(worse)
    case.attest(decision)
    page = render(Reports(tmp_path / "reports"), decision, predicate(case), None, "name", "5" * 64)
    assert "Champion failed: 1 reason speaks against promotion" in page
    assert "It is worse than version 4." in page
    assert "−0.100" in page
    assert "Keep the champion" in page


def test_what_no_stage_reported_is_said_to_be_missing(tmp_path: Path) -> None:
    page = words(write_page(tmp_path, "bare"))
    for name in ("data", "teacher", "drill", "student", "private_student"):
        assert f"reports/{name}.json" in page
    assert "Gate result" in page


def test_every_report_finds_its_chapter(tmp_path: Path) -> None:
    page = words(write_page(tmp_path, "promoted"))
    assert "has not reported" not in page
    for text in (
        "Shortcut probe",
        "Quarantine",
        "Teachers on offer",
        "Was it tampered with?",
        "2 of 2",
        "Canaries: backdoors planted",
        "The choice",
        "Confusion on the test split",
        "Inspection of the training data for poison",
        "What each attacker achieves",
        "Membership attacks",
        "The worst patch found for each class",
        "How well STRIP tells triggered images",
    ):
        assert text in page, text


def test_the_candidates_chapter_says_what_was_trained_against_and_tried(tmp_path: Path) -> None:
    page = words(write_page(tmp_path, "promoted"))
    assert "adversarial examples of up to 4/255 on 50 %" in page
    assert "Defences tried in order; Adversarial 4 was kept" in page
    assert "Through the teacher, the strongest attack at 8/255 is" in page


def test_the_page_is_one_file_that_asks_nobody_for_anything(tmp_path: Path) -> None:
    text = write_page(tmp_path, "promoted").read_text(encoding="utf-8")
    sources = re.findall(r"(?:src|href|srcset|action|data)=[\"']([^\"']*)", text)
    assert sources
    assert all(s.startswith(("#", "data:image/png;base64,")) for s in sources)
    assert "<script" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert text.count("<img") == 4


def test_names_from_outside_cannot_write_markup(tmp_path: Path) -> None:
    """A card, a file name and a gate's sentence are written by others."""
    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    write_page(tmp_path, "promoted")
    reports = tmp_path / "reports"
    for name in ("teacher", "data"):
        text = (reports / f"{name}.json").read_text()
        content = json.loads(text)
        if name == "teacher":
            content["candidates"][0] |= {"name": hostile, "provider": hostile}
            content["why"] = f"`{hostile}`"
        else:
            content["quarantined"].append(
                {"task": hostile, "path": hostile, "label": hostile, "reason": hostile, "detail": hostile}
            )
        (reports / f"{name}.json").write_text(json.dumps(content))
    from promotion_case import make_case

    from tasks.promotion.dossier import render

    case = make_case(tmp_path)
    own = case.results["backdoor"]
    case.put(own.model_copy(update={"limits": (hostile,)}))
    spoil(case)
    decision = case.decide()
    case.attest(decision)
    page = render(Reports(reports), decision, predicate(case), None, hostile, "5" * 64)
    assert "<script" not in page
    assert "onerror=alert(1)>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (True, "yes"),
        (0, "0"),
        (1345, "1\u202f345"),
        (0.91234, "0.912"),
        (-0.25, "−0.250"),
        (1e-5, "1e−05"),
        (8.0, "8"),
        (123.456, "123.5"),
        ("last", "last"),
    ],
)
def test_numbers_read_as_a_person_writes_them(value: object, text: str) -> None:
    assert number(value) == text


def test_figures_carry_their_intervals() -> None:
    entry = {"value": 0.5, "low": 0.4, "high": 0.6}
    assert figure(entry) == "0.500 (0.400 to 0.600)"
    assert measured(entry) == {"figure": "0.500", "interval": "0.400 to 0.600"}
    assert figure({"value": 0.5, "low": None, "high": None}) == measured({"value": 0.5}) == "0.500"
    assert figure(0.5) == measured(0.5) == "0.500"


def test_words_and_lookups() -> None:
    assert humane("patch_control") == "Patch control"
    assert humane("tpr_at_1_fpr").startswith("Members found")
    assert pick({"a": {"b": 1}}, "a", "b") == 1
    assert pick({"a": 1}, "a", "b") is None
    assert pick([], "a") is None
    assert prose("run `make <x>`") == Markup("run <code>make &lt;x&gt;</code>")
    assert heat(None) == "–"
    assert heat(0.0) == {"heat": "rgb(255, 255, 255)", "text": "0.00"}
    assert heat(2.0) == {"heat": "rgb(216, 148, 142)", "text": "2.00"}


def check(observed: float | None, low: float, high: float, op: str, threshold: float) -> Check:
    ci = None if observed is None else (low, high)
    return Check.model_validate(
        {
            "name": "c",
            "metric": 'm "quoted" <b>',
            "observed": observed,
            "ci": ci,
            "op": op,
            "threshold": threshold,
            "n": 9,
        }
    )


def test_a_picture_tints_the_side_on_which_the_check_fails() -> None:
    most = picture(check(0.25, 0.2, 0.3, "<=", 0.5))
    least = picture(check(0.75, 0.7, 0.8, ">=", 0.5))
    assert '<rect x="90.0" y="3" width="82.0"' in most
    assert '<rect x="8" y="3" width="82.0"' in least
    assert 'cx="49.0"' in most
    assert 'cx="131.0"' in least
    assert "<b>" not in most
    assert picture(check(None, 0, 0, "<=", 0.5)) == ""
    assert 'cx="8.0"' in picture(check(0.0, 0.0, 0.0, "<=", 0.0))
    assert "svg" in picture(check(7.5, 6.0, 9.0, "<=", 8.0))
