"""Published warnings about models, kept by the user in one YAML file and matched by digest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from tasks.errors import GatehouseError
from tasks.files import read_yaml
from tasks.params import Section
from tasks.teachers.card import SHA256

FEED_FILE = Path("cards/feed.yaml")  # what monitoring last believed of a signed feed


class Advisory(Section):
    """One warning: which files it is about, and what is wrong with them."""

    id: str
    text: str
    sha256: tuple[Annotated[str, Field(pattern=SHA256)], ...] = Field(min_length=1)


class Advisories(Section):
    advisories: tuple[Advisory, ...]

    def about(self, sha256: str) -> list[Advisory]:
        return [a for a in self.advisories if sha256 in a.sha256]


def load_advisories(path: Path) -> Advisories:
    """Read the file; a malformed one is an error, for a warning that cannot be read must not be taken for none."""
    missing = f"Advisories {path} do not exist; correct `teacher.advisories` in params.yaml, or set it to ''."
    content = read_yaml(path, name=f"The list of advisories {path}", missing=missing)
    try:
        return Advisories.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p) for p in first["loc"]) or "the file"
        raise GatehouseError(f"Advisories {path}: {key} is not as it should be ({first['msg']}).") from None
