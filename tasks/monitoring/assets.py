"""The asset register: what every registered version is made of, by digest, as its signed evidence says.

An advisory names digests; the register says in which versions, and in which of them that still matter, they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from tasks.gate import Frozen
from tasks.models.checkpoints import RECORD, ModelRecord
from tasks.promotion.statement import Statement

Kind = Literal["model", "teacher", "teacher file", "data", "parameters", "policy", "code", "evidence", "parent"]
Status = Literal["champion", "withdrawn", "former champion", "registered", "unproven"]
STATUS_IN_WORDS: dict[Status, str] = {
    "champion": "in service",
    "withdrawn": "taken out of service",
    "former champion": "promoted once, and followed by another",
    "registered": "never promoted",
    "unproven": "no signed evidence",
}
# What a parent in model.json is; other names are kept as `parent`.
PARENT_KINDS: dict[str, Kind] = {
    "teacher": "teacher",
    "student_task": "data",
    "teacher_task": "data",
    "unmitigated": "model",
}


class Version(Frozen):
    """A registered version. `sha256` is of its weights; "" where no signed evidence names them."""

    version: str
    sha256: str = Field(pattern=r"^([0-9a-f]{64})?$")
    status: Status
    decided_at: str
    problem: str  # why it has no assets here; "" otherwise


class Asset(Frozen):
    """One thing that versions are made of. `signed` is False where only this project's own files name it."""

    kind: Kind
    name: str
    algorithm: Literal["sha256", "gitCommit"]
    digest: str = Field(pattern=r"^[0-9a-f]{40,64}$")
    about: dict[str, str]
    signed: bool
    versions: tuple[str, ...] = Field(min_length=1)


class Register(Frozen):
    """`reports/assets.json`; its JSON Schema is assets.schema.json beside this module."""

    schema_version: Literal[1] = 1
    created_at: str
    model_name: str
    versions: tuple[Version, ...]
    assets: tuple[Asset, ...]

    def holding(self, sha256: str) -> tuple[Asset, ...]:
        """The assets with this digest (the same bytes may play several parts)."""
        return tuple(a for a in self.assets if a.algorithm == "sha256" and a.digest == sha256)


@dataclass(frozen=True)
class Described:
    """A version as the registry and its evidence describe it; `statement` is None where nothing signed does."""

    version: str
    status: Status
    statement: Statement | None
    problem: str = ""
    teacher: ModelRecord | None = None  # record of the teacher that the statement names
    teacher_signed: bool = False


def register(model_name: str, versions: Iterable[Described], *, created_at: str) -> Register:
    """The register of these versions; equal assets of several versions become one."""
    listed = tuple(versions)
    merged: dict[tuple[str, str], Asset] = {}
    for described in listed:
        for asset in _assets(described):
            known = merged.get((asset.kind, asset.digest))
            if known:
                both = tuple(dict.fromkeys((*known.versions, *asset.versions)))
                asset = known.model_copy(update={"versions": both, "signed": known.signed or asset.signed})
            merged[asset.kind, asset.digest] = asset
    return Register(
        created_at=created_at,
        model_name=model_name,
        versions=tuple(
            Version(
                version=d.version,
                sha256=_weights(d.statement),
                status=d.status if d.statement else "unproven",
                decided_at=d.statement.predicate.decided_at.isoformat() if d.statement else "",
                problem=d.problem,
            )
            for d in listed
        ),
        assets=tuple(sorted(merged.values(), key=lambda a: (a.kind, a.name, a.digest))),
    )


def _weights(statement: Statement | None) -> str:
    """The digest of the subject that is no record."""
    subjects = statement.subject if statement else ()
    return next((s.digest.get("sha256", "") for s in subjects if s.name != RECORD), "")


def _assets(described: Described) -> list[Asset]:
    if described.statement is None:
        return []
    predicate, found = described.statement.predicate, []

    def add(kind: Kind, name: str, digest: str, *, signed: bool = True, **about: str) -> None:
        algorithm: Any = "sha256" if len(digest) == 64 else "gitCommit"
        given = {k: v for k, v in about.items() if v}
        found.append(
            Asset(kind=kind, name=name, algorithm=algorithm, digest=digest, about=given, signed=signed,
                  versions=(described.version,))
        )  # fmt: skip

    for subject in described.statement.subject:
        if subject.name == RECORD:
            add("evidence", subject.name, subject.digest["sha256"])
        else:
            add("model", predicate.candidate, subject.digest["sha256"], file=subject.name)
    teacher = described.teacher
    for name, digest in predicate.parents.items():
        kind = PARENT_KINDS.get(name, "parent")
        if kind == "teacher" and teacher:
            card: dict[str, Any] = {k: teacher.notes.get(k, "") for k in ("card", "provider", "licence")}
            add(kind, card["card"] or name, digest, **card)
            if "file" in teacher.parents:
                own = described.teacher_signed
                add("teacher file", card["card"] or name, teacher.parents["file"], signed=own, **card)
        else:
            add(kind, name.replace("_", " "), digest)
    add("policy", "policy.json", predicate.policy["sha256"])
    for name, digest in predicate.files.items():
        add("parameters" if name == "params.yaml" else "evidence", name, digest)
    if "revision" in predicate.code:
        add("code", "git revision", predicate.code["revision"], state=predicate.code.get("state", ""))
    return found
