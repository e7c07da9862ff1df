"""The chapters of the dossier, one file each: a stage's report in, sentences, tables and figures out."""

from __future__ import annotations

from typing import Any

from tasks.promotion.dossier.chapters.candidates import candidates
from tasks.promotion.dossier.chapters.data import data
from tasks.promotion.dossier.chapters.freeze import freeze
from tasks.promotion.dossier.chapters.teacher import teacher
from tasks.promotion.dossier.chapters.threats import threats
from tasks.promotion.dossier.reports import Reports


def chapters(reports: Reports, candidate: str) -> list[dict[str, Any]]:
    """In the order of the pipeline; one whose report is missing says so."""
    return [
        {"id": "data", "title": "Data", "blocks": data(reports)},
        {"id": "teacher", "title": "Teacher", "blocks": teacher(reports)},
        {"id": "freeze", "title": "Freeze policy", "blocks": freeze(reports)},
        {"id": "candidates", "title": "Candidates", "blocks": candidates(reports, candidate)},
        {"id": "threats", "title": "Threats", "blocks": threats(reports, candidate)},
    ]
