"""Offline pages from templates: nothing is loaded, nothing from outside can write markup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tasks.promotion.dossier.words import prose


def fill_template(name: str, content: Mapping[str, Any]) -> str:
    """The template of that name with its variables; a variable that is missing is an error of ours."""
    environment = Environment(
        loader=PackageLoader("tasks.promotion.dossier", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = prose
    return environment.get_template(name).render(content)
