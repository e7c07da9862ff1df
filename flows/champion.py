"""The champion as serving and monitoring meet it: found by its alias, believed only as far as its evidence goes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from flows.registry import champion_folder, forget, version_folder
from flows.rulings import in_force, record
from tasks.data.decode import Remedy
from tasks.errors import GatehouseError
from tasks.files import sha256_bytes
from tasks.models.architectures import Classifier
from tasks.params import Promotion, load_params
from tasks.promotion.evidence import EVIDENCE_FOLDER, Proven, load_proven
from tasks.promotion.ledger import LEDGER, REIGNS, Entry, read, ruling
from tasks.promotion.strictness import weaker
from tasks.promotion.trust import load_trust
from tasks.risk import decide

AGAIN = "run `.venv/bin/python -m flows.promotion` to have it decided again"


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
    """The champion: evidence verified with the operator's own keys, and put there by the newest signed decision.

    Raises:
        UnprovenError: nothing proves what has the alias, or it is not what the newest decision promoted.
        GatehouseError: nothing has the alias.
    """
    folder, version = champion_folder(promotion.model_name)
    try:
        return _proven(promotion, folder, version)
    except UnprovenError:
        forget(folder)
        raise


def ruled_champion(promotion: Promotion) -> ProvenChampion:
    """What the newest signed decision promoted, proven as by `load_champion`, wherever the alias stands by now.

    For who serves already: an alias that somebody moves then changes nothing.
    """
    chosen = in_force(promotion)
    if chosen is None or chosen["decision"] not in REIGNS:
        return load_champion(promotion)  # which says why there is none
    folder = version_folder(promotion.model_name, chosen["version"])
    try:
        # By this very decision: one that is taken meanwhile is followed at the next look, and is no fault of this one.
        return _proven(promotion, folder, chosen["version"], chosen)
    except UnprovenError:
        forget(folder)
        raise


def still_proven(champion: ProvenChampion, promotion: Promotion) -> None:
    """As far as can be told without the registry: the evidence verifies anew, and the chain at hand chose no other.

    Raises:
        GatehouseError: the reason why it is proven no longer.
    """
    trust = load_trust(promotion.signing_key)
    _, proven = load_proven(champion.folder, trust=trust)
    chosen = ruling(read(LEDGER, trust), promotion.model_name)
    reigns = chosen is None or (chosen["decision"] in REIGNS and chosen["version"] == champion.version)
    if proven.evidence != champion.proven.evidence or not reigns:
        raise UnprovenError(
            f"Version {champion.version} of {promotion.model_name!r} is no longer what was decided.", champion.version
        )


def _proven(promotion: Promotion, folder: Path, version: str, chosen: Entry | None = None) -> ProvenChampion:
    """The version in the folder, if its evidence verifies and `chosen` (default: the newest decision) put it there."""
    name = promotion.model_name
    stands = f"The alias champion of {name!r} stands on version {version}"
    try:
        model, proven = load_proven(folder, trust=load_trust(promotion.signing_key))
    except GatehouseError as error:
        raise UnprovenError(f"{stands}, and its evidence does not verify: {error}", version) from error
    if points := weaker(proven.policy, decide(load_params().risk)):
        raise UnprovenError(
            f"{stands}, promoted under a weaker policy than params.yaml asks for: {points[0]}. Run `make run` to "
            "have a candidate decided under the policy in force.",
            version,
        )
    try:
        chosen = chosen or in_force(promotion)
    except GatehouseError as error:
        raise UnprovenError(f"{stands}, and no decision can be believed: {error}", version) from error
    if chosen is None:
        raise UnprovenError(f"{stands}, but no signed decision made it champion; {AGAIN}.", version)
    if chosen["decision"] == "withdrawn":
        raise UnprovenError(
            f"Version {chosen['version']} of {name!r} was taken out of service on {chosen['at']}: {chosen['reason']} "
            "Run `make run` to have a new candidate decided.",
            version,
        )
    if chosen["version"] != version:
        raise UnprovenError(
            f"{stands}, but the newest decision promoted version {chosen['version']}: somebody moved the alias; "
            f"{AGAIN}.",
            version,
        )
    if chosen["sha256"] != proven.sha256:
        raise UnprovenError(
            f"{stands}, whose weights {proven.sha256[:12]} are not the ones that the newest decision promoted "
            f"({chosen['sha256'][:12]}): somebody put other files there; {AGAIN}.",
            version,
        )
    if chosen["evidence"] != proven.evidence:
        raise UnprovenError(
            f"{stands}, whose evidence {proven.evidence[:12]} is not the one that the newest decision names "
            f"({chosen['evidence'][:12]}): somebody put other evidence there; {AGAIN}.",
            version,
        )
    return ProvenChampion(folder, version, model, proven)


def champion_standing(promotion: Promotion, sha256: str) -> str:
    """Empty if the weights that were promoted last are the proven champion; else why not."""
    try:
        champion = load_champion(promotion)
    except GatehouseError as error:
        return f"The promoted model is no longer champion: {error}"
    if champion.proven.sha256 != sha256:
        return (
            f"A later decision made version {champion.version} with weights {champion.proven.sha256[:12]} champion, "
            f"not the promoted {sha256[:12]}: see `.venv/bin/python -m flows.promotion history`; {AGAIN}."
        )
    return ""


def withdraw(version: str, sha256: str, reason: str) -> None:
    """Take the champion out of service: nothing is served until the next promotion, whatever the alias says.

    Args:
        reason: a whole sentence, for the operator and for whoever reads the chain of decisions.
    """
    entry = {"decision": "withdrawn", "version": version, "sha256": sha256, "reason": reason}
    record(load_params().promotion, entry)
