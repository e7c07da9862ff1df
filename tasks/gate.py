"""What a gate says: checks, a drill of the gate itself, and a verdict that nobody can type in by hand.

The verdict is derived. It is written into the file for readers, and re-derived and compared when the file is read.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tasks.errors import GatehouseError
from tasks.files import write_text
from tasks.stats import clopper_pearson

Verdict = Literal["passed", "failed", "inconclusive"]
GATES_FOLDER = Path("reports/gates")


def utc_now() -> str:
    """This moment in UTC as records hold it: ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Check(Frozen):
    """One measured figure against one threshold.

    `ci` is the interval of `observed`; the comparison uses its bad end: the high end for `<=`, the low end for `>=`,
    or `observed` itself where that is worse still (a percentile interval need not hold its own figure).
    A figure that was computed exactly (a count, an equality) has an interval of width zero.
    """

    name: str
    metric: str
    observed: float | None
    ci: tuple[float, float] | None
    op: Literal["<=", ">="]
    threshold: float
    n: int = Field(ge=0)
    unit: str = ""

    @field_validator("observed", mode="before")
    @classmethod
    def _nan_is_nothing(cls, value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else value

    @field_validator("ci", mode="before")
    @classmethod
    def _nan_interval_is_nothing(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if value is None or not all(math.isfinite(v) for v in value) else value

    @property
    def bad_end(self) -> float | None:
        if self.ci is None or self.observed is None:
            return None
        return max(*self.ci, self.observed) if self.op == "<=" else min(*self.ci, self.observed)

    @property
    def status(self) -> Verdict:
        if self.bad_end is None or self.n == 0 or not math.isfinite(self.threshold):
            return "inconclusive"
        holds = self.bad_end <= self.threshold if self.op == "<=" else self.bad_end >= self.threshold
        return "passed" if holds else "failed"

    def sentence(self) -> str:
        """`patch_control: share of images moved .42 [.38, .47], must be <= .35 (n = 400): failed`."""
        figure = "not measured" if self.observed is None else f"{self.observed:.3g}"
        ends = "no interval" if self.ci is None else f"[{self.ci[0]:.3g}, {self.ci[1]:.3g}]"
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"{self.name}: {self.metric} {figure} {ends}{unit}, must be {self.op} {self.threshold:.3g} "
            f"(n = {self.n}): {self.status}"
        )


class Drill(Frozen):
    """The gate put to the test on models whose truth is known: canaries planted by us, and clean references.

    `power_needed` is the share of canaries that must be caught, `alarms_allowed` the share of clean models that may
    be accused, before the gate's word counts.
    """

    planted: int = Field(ge=0)
    caught: int = Field(ge=0)
    clean: int = Field(ge=0)
    accused: int = Field(ge=0)
    power_needed: float = Field(default=0.75, ge=0, le=1)
    alarms_allowed: float = Field(default=0.5, ge=0, le=1)

    @property
    def power(self) -> tuple[float, float]:
        """Clopper–Pearson interval of the share of canaries caught."""
        return clopper_pearson(self.caught, self.planted)

    @property
    def false_alarms(self) -> tuple[float, float]:
        """Clopper–Pearson interval of the share of clean models accused."""
        return clopper_pearson(self.accused, self.clean)

    @property
    def trustworthy(self) -> bool:
        if self.planted == 0 or self.clean == 0:
            return False
        enough = self.caught / self.planted >= self.power_needed
        return enough and self.accused / self.clean <= self.alarms_allowed


class Subject(Frozen):
    """What was judged. `sha256` is of the weights file for a model, of the manifest for a data set."""

    path: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


def tool_versions() -> dict[str, str]:
    """Versions of the packages whose behaviour a gate's figures rest on."""
    found = {}
    for name in ("torch", "numpy", "scikit-learn", "adversarial-robustness-toolbox", "opacus", "dp-accounting"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class GateResult(Frozen):
    gate: str = Field(pattern=r"^[a-z_]+$")
    candidate: str = Field(pattern=r"^[a-z0-9_\-]+$")
    subject: Subject
    policy_sha256: str
    checks: tuple[Check, ...]
    drill: Drill | None = None
    assumptions: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    created_at: str = Field(default_factory=utc_now)
    tool_versions: dict[str, str] = Field(default_factory=tool_versions)
    run_id: str = ""

    @property
    def verdict(self) -> Verdict:
        """A check that fails decides; otherwise anything unmeasured, or a drill that fell short, is inconclusive."""
        statuses = {c.status for c in self.checks}
        if "failed" in statuses:
            return "failed"
        if not self.checks or "inconclusive" in statuses or (self.drill is not None and not self.drill.trustworthy):
            return "inconclusive"
        return "passed"

    @property
    def file_name(self) -> str:
        return f"{self.gate}@{self.candidate}.json"

    def write(self, folder: Path = GATES_FOLDER) -> Path:
        """Write `<gate>@<candidate>.json`, with the derived verdict and statuses beside the evidence."""
        content = self.model_dump(mode="json")
        content["checks"] = [{**c.model_dump(mode="json"), "status": c.status} for c in self.checks]
        path = folder / self.file_name
        text = json.dumps({"verdict": self.verdict, **content}, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(path, text + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> GateResult:
        """Read a result and refuse one whose written verdict is not the one that its evidence gives."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            written = (content.pop("verdict", None), [c.pop("status", None) for c in content.get("checks", [])])
            result = cls.model_validate(content)
        except FileNotFoundError:
            raise GatehouseError(f"Gate result {path} is missing; run `make run`, which writes it.") from None
        except (ValueError, AttributeError, TypeError) as error:
            first = str(error).splitlines()[0]
            raise GatehouseError(f"Gate result {path} is malformed ({first}); run the gate again.") from error
        derived = (result.verdict, [c.status for c in result.checks])
        if written != derived or path.name != result.file_name:
            raise GatehouseError(f"Gate result {path} was edited: its verdict does not follow from its evidence.")
        return result
