"""The security dossier: one offline page on which a reviewer finds the verdict, the evidence, and what to do next."""

from __future__ import annotations

from pathlib import Path

from tasks.files import write_text
from tasks.promotion.decision import Decision
from tasks.promotion.dossier.page import page
from tasks.promotion.dossier.reports import Reports
from tasks.promotion.dossier.templates import fill_template
from tasks.promotion.statement import Predicate


def write_dossier(
    path: Path,
    *,
    root: Path,
    decision: Decision,
    predicate: Predicate,
    version: str | None,
    model_name: str,
    signed_by: str,
) -> None:
    """Write the page; what a stage has not reported is said to be missing.

    Args:
        root: folder that holds `reports/`.
        decision, predicate: what was decided and signed.
        version: of the registered model, None for a refusal.
        signed_by: identifier of the key.
    """
    write_text(path, render(Reports(root / "reports"), decision, predicate, version, model_name, signed_by))


def render(
    reports: Reports, decision: Decision, predicate: Predicate, version: str | None, model_name: str, signed_by: str
) -> str:
    """The page as HTML that loads nothing: styles inline, figures as data URIs, no scripts."""
    return fill_template("dossier.html.j2", page(reports, decision, predicate, version, model_name, signed_by))
