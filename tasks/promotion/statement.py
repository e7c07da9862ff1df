"""The in-toto statement of a promotion: its subjects are the candidate's files, its predicate is what was decided."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field

from tasks.gate import Frozen, Verdict
from tasks.promotion.decision import Comparison


class GateEntry(Frozen):
    """One gate result as the statement binds it."""

    file: str
    sha256: str
    gate: str
    candidate: str
    verdict: Verdict
    required: bool
    subject: str  # sha256 of what the gate judged


class Predicate(Frozen):
    decision: Literal["promoted", "refused"]
    candidate: str
    decided_at: AwareDatetime
    policy: dict[str, str]  # sha256 of the file, digest of the content
    gates: tuple[GateEntry, ...]
    comparison: Comparison
    parents: dict[str, str]  # name → sha256, from model.json
    code: dict[str, str]  # revision and state of the code, where git knows them
    tools: dict[str, str]
    files: dict[str, str]  # further files of the folder: name → sha256


class Named(Frozen):
    """An in-toto resource descriptor: a name and its digests."""

    name: str
    digest: dict[str, str]


class Statement(Frozen):
    """An in-toto statement, v1."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: tuple[Named, ...] = Field(min_length=1)
    predicate_type: Literal["urn:gatehouse:promotion:v1"] = Field(alias="predicateType")
    predicate: Predicate
