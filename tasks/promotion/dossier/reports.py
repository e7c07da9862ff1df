"""What the stages reported, as far as it is there: JSON by name, gate results by name, figures by folder."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import GatehouseError
from tasks.files import read_json
from tasks.gate import GateResult
from tasks.promotion.decision import result_names
from tasks.risk import Policy, load_policy

CANDIDATES = ("student", "private_student")


@dataclass(frozen=True)
class Figure:
    """A picture as a data URI, with the words that stand for it."""

    source: str
    caption: str


@dataclass(frozen=True)
class Reports:
    """Access to a `reports` folder. Everything is asked for by name, so that dependencies can be listed."""

    folder: Path

    def json(self, name: str) -> dict[str, Any]:
        """`reports/<name>.json`, or an empty record where the stage has not written it."""
        path = self.folder / f"{name}.json"
        content = read_json(path) if path.exists() else {}
        return content if isinstance(content, dict) else {}

    def policy(self) -> Policy:
        return load_policy(self.folder / "policy.json")

    def gates(self, candidate: str) -> dict[str, GateResult | str]:
        """Gate → its result for a candidate, or a sentence that says why there is none."""
        names = tuple(rule.gate for rule in self.policy().gates)
        found: dict[str, GateResult | str] = {}
        for gate, name in zip(names, result_names(names, candidate), strict=True):
            try:
                found[gate] = GateResult.read(self.folder / "gates" / name)
            except GatehouseError as error:
                found[gate] = str(error)
        return found

    def figures(self, name: str) -> list[Figure]:
        """PNG figures of `reports/figures/<name>/`, in the order of their names."""
        return [
            Figure(
                source="data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(),
                caption=CAPTIONS.get(path.stem, path.stem.replace("_", " ").replace("-", " ").capitalize()),
            )
            for path in sorted((self.folder / "figures" / name).glob("*.png"))
        ]


CAPTIONS: dict[str, str] = {}
