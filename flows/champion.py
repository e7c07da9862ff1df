"""The champion as serving and monitoring meet it: found by its alias, believed only as far as its evidence goes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from flows.registry import champion_folder
from tasks.data.decode import Remedy
from tasks.errors import GatehouseError
from tasks.files import sha256_bytes
from tasks.models.architectures import Classifier
from tasks.params import Promotion
from tasks.promotion.evidence import EVIDENCE_FOLDER, Proven, load_proven
from tasks.promotion.keys import public_key_path, read_public_key
from tasks.promotion.ledger import LEDGER, append, ruling


class Preparation(BaseModel):
    """Of the signed params.yaml, section data: what decides how a file becomes an image (see tasks.data.decode)."""

    model_config = ConfigDict(frozen=True)

    remedy: Remedy
    border_fraction: float
    corner_fraction: float


class UnprovenError(GatehouseError):
    """Something has the alias, but its evidence does not verify. `version` says what."""

    def __init__(self, message: str, version: str) -> None:
        super().__init__(message)
        self.version = version


@dataclass(frozen=True)
class ProvenChampion:
    """A champion built from the very bytes that its evidence proves."""

    folder: Path
    version: str
    model: Classifier
    proven: Proven

    def signed_file(self, name: str) -> bytes:
        """A further file of the evidence; raises GatehouseError where it is not the one that was signed."""
        path = self.folder / EVIDENCE_FOLDER / name
        signed = self.proven.predicate.files.get(name)
        if signed is None:
            raise GatehouseError(f"The evidence of version {self.version} does not hold {name}; promote again.")
        if not path.is_file() or sha256_bytes(data := path.read_bytes()) != signed:
            raise GatehouseError(f"{path} is not the file that was signed; restore it or promote again.")
        return data

    def preparation(self) -> Preparation:
        """How the data stage prepared the images that this champion learnt from."""
        try:
            return Preparation.model_validate(yaml.safe_load(self.signed_file("params.yaml"))["data"])
        except (ValidationError, KeyError) as error:
            raise GatehouseError(
                f"The signed params.yaml of version {self.version} does not say how images are prepared; promote again."
            ) from error

    def reference(self) -> dict[str, np.ndarray]:
        """Figures of validation images and of this champion's answers to them, by column, kept since promotion."""
        with np.load(io.BytesIO(self.signed_file("reference.npz")), allow_pickle=False) as columns:
            return {name: columns[name] for name in columns.files}


def load_champion(promotion: Promotion) -> ProvenChampion:
    """The proven champion, verified with the operator's own public key.

    Raises:
        UnprovenError: nothing proves what has the alias, or it is not what the newest decision promoted.
        GatehouseError: nothing has the alias.
    """
    name = promotion.model_name
    folder, version = champion_folder(name)
    try:
        key = read_public_key(public_key_path(promotion.signing_key))
        model, proven = load_proven(folder, public_key=key)
    except GatehouseError as error:
        raise UnprovenError(
            f"The alias champion of {name!r} stands on version {version}, and its evidence does not verify: {error}",
            version,
        ) from error
    _refuse_what_no_decision_chose(name, version, proven.sha256)
    return ProvenChampion(folder, version, model, proven)


def _refuse_what_no_decision_chose(name: str, version: str, sha256: str) -> None:
    """An older version may have evidence of its own; champion it is only by the newest decision of this project.

    A server without the project's record of decisions knows the evidence alone.
    """
    if not LEDGER.exists():
        return
    chosen = ruling(LEDGER)
    if chosen is not None and chosen["decision"] == "withdrawn":
        raise UnprovenError(
            f"Version {chosen['version']} of {name!r} was taken out of service on {chosen['at']}: {chosen['reason']} "
            "Run `make run` to have a new candidate decided.",
            version,
        )
    if chosen is None or str(chosen["version"]) != version or chosen["sha256"] != sha256:
        what = "promoted nothing" if chosen is None else f"promoted version {chosen['version']}"
        raise UnprovenError(
            f"The alias champion of {name!r} stands on version {version}, but the decisions in {LEDGER} {what}: "
            "somebody moved the alias; run `.venv/bin/python -m flows.promotion` to have it decided again.",
            version,
        )


def withdraw(version: str, sha256: str, reason: str) -> None:
    """Take the champion out of service: nothing is served until the next promotion, whatever the alias says.

    Args:
        reason: a whole sentence, for the operator and for whoever reads the chain of decisions.
    """
    append(
        LEDGER,
        {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "decision": "withdrawn",
            "version": version,
            "sha256": sha256,
            "reason": reason,
        },
    )
