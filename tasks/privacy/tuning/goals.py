"""What a user may ask for, and which point of the front answers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tasks.errors import GatehouseError
from tasks.privacy.scoring import Figure
from tasks.privacy.tuning.bench import Setting

GoalName = Literal["epsilon", "advantage", "utility_loss", "trade_off"]
RANGES: dict[GoalName, tuple[float, float]] = {
    "epsilon": (0.0, 100.0),
    "advantage": (0.0, 1.0),
    "utility_loss": (0.0, 1.0),
    "trade_off": (0.0, 1.0),
}


@dataclass(frozen=True)
class Goal:
    """A largest ε, a largest membership advantage that any attack may have, a largest loss of AUC, or the study's t.

    t weighs utility against privacy (study, 6.2.4): o = t · (u − u₀) + (1 − t) · (p₀ − p).
    """

    name: GoalName
    value: float

    def __post_init__(self) -> None:
        low, high = RANGES[self.name]
        if not low < self.value < high:
            raise GatehouseError(f"{self.name} must lie between {low:g} and {high:g}, not {self.value:g}.")


@dataclass(frozen=True)
class Point:
    """A setting of the front: what it proves, what it leaks by measurement, and what it costs."""

    setting: Setting
    epsilon: float  # proven, at the δ of the suggestion
    advantage_ceiling: float  # proven, of any attack on one record
    utility: float  # mean AUC on the records for selection
    advantage: Figure  # measured, of the strongest attack

    def as_json(self) -> dict[str, Any]:
        own = {k: round(getattr(self, k), 6) for k in ("epsilon", "advantage_ceiling", "utility")}
        return {"setting": self.setting.as_json(), **own, "advantage": self.advantage.model_dump()}


def pareto(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in utility at no larger ε, by rising ε."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.epsilon, -p.utility)):
        if not front or point.utility > front[-1].utility:
            front.append(point)
    return front


def choose(goal: Goal, points: Sequence[Point], *, utility: float, accuracy: float) -> tuple[Point, str]:
    """The point that answers the goal, and "" or, where none does, what is nearest to it and why.

    Args:
        points: of several ε, at least one.
        utility, accuracy: AUC without privacy, and the right guesses of the strongest attack on that, in [0.5, 1].
    """
    if goal.name == "trade_off":
        return max(points, key=lambda p: objective(goal.value, p, utility=utility, accuracy=accuracy)), ""
    if goal.name == "utility_loss":
        enough = [p for p in points if utility - p.utility <= goal.value]
        if enough:
            return min(enough, key=lambda p: p.epsilon), ""
        best = max(points, key=lambda p: p.utility)
        loss = utility - best.utility
        found = f"the least loss found is {loss:.3f}, at ε = {best.epsilon:.3g}"
        return best, f"no setting loses {goal.value:g} AUC or less: {found}"
    bound = (lambda p: p.epsilon) if goal.name == "epsilon" else (lambda p: p.advantage_ceiling)
    within = [p for p in points if bound(p) <= goal.value]
    if within:
        return max(within, key=lambda p: p.utility), ""
    nearest = min(points, key=bound)
    return nearest, f"no setting proves {goal.name} ≤ {goal.value:g}: the least found is {bound(nearest):.3g}"


def objective(t: float, point: Point, *, utility: float, accuracy: float) -> float:
    """The study's o of a point: p is the share of right guesses of the strongest attack."""
    right = 0.5 + point.advantage.value / 2
    return t * (point.utility - utility) + (1 - t) * (accuracy - right)
