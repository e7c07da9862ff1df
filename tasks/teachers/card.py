"""The card of a candidate teacher: what it is said to be. Checks compare the saying with the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from tasks.errors import GatehouseError
from tasks.files import read_yaml
from tasks.models.architectures import ARCHITECTURES, ModelSpec
from tasks.params import FreezePolicy, Section
from tasks.teachers.formats import FORMATS

Trust = Literal["unknown", "known", "trusted"]
TRUST: tuple[Trust, ...] = ("unknown", "known", "trusted")
SHA256 = r"^[0-9a-f]{64}$"


class ProviderCard(Section):
    """Who offers the teacher. `trust` counts only where a signature with a trusted key stands behind it."""

    name: str
    trust: Trust = "unknown"


class SignatureCard(Section):
    """A Sigstore bundle made by `model-signing` with an EC key, and the public key that verifies it."""

    file: str
    public_key: str


class TrainingDataCard(Section):
    """What the teacher was trained on; `manifest_sha256` is of a data manifest as this project writes it."""

    name: str
    disclosed: bool
    manifest_sha256: str | None = Field(default=None, pattern=SHA256)


class Normalisation(Section):
    """Mean and standard deviation of each channel, for pixel values in [0, 1]."""

    mean: tuple[float, ...]
    sd: tuple[float, ...]

    @model_validator(mode="after")
    def _fit_together(self) -> Normalisation:
        if len(self.mean) != len(self.sd) or len(self.mean) not in (1, 3):
            raise ValueError("mean and sd must each hold one value, or one a channel (three)")
        if any(s <= 0 for s in self.sd):
            raise ValueError("sd must be above 0")
        return self


class Card(Section):
    """One candidate teacher. Relative paths resolve beside the card; `classes` is the names, or only their number."""

    name: str = Field(pattern=r"^[a-z0-9_\-]+$")
    architecture: str
    file: str
    sha256: str = Field(pattern=SHA256)
    format: str
    provider: ProviderCard
    signature: SignatureCard | None = None
    licence: str
    public: bool  # can anybody get this teacher? Then an attacker can craft inputs on it (study, 4.3.1)
    training_data: TrainingDataCard
    classes: tuple[str, ...] | int
    channels: Literal[1, 3]
    image_size: int = Field(ge=16, le=512)
    normalisation: Normalisation
    advised_freeze: FreezePolicy
    claimed_accuracy: float | None = Field(default=None, ge=0, le=1)

    @field_validator("architecture")
    @classmethod
    def _known_architecture(cls, value: str) -> str:
        if value not in ARCHITECTURES:
            raise ValueError(f"known are {', '.join(ARCHITECTURES)}")
        return value

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        if value not in FORMATS:
            raise ValueError(f"known are {', '.join(FORMATS)}")
        return value

    @field_validator("classes")
    @classmethod
    def _two_or_more(cls, value: tuple[str, ...] | int) -> tuple[str, ...] | int:
        if (value if isinstance(value, int) else len(set(value))) < 2:
            raise ValueError("a classifier needs two or more different classes")
        return value

    @model_validator(mode="after")
    def _channels_agree(self) -> Card:
        if len(self.normalisation.mean) == 3 and self.channels == 1:
            raise ValueError("channels is 1, but normalisation holds three values")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        if isinstance(self.classes, int):
            return tuple(f"class_{i:04d}" for i in range(self.classes))
        return self.classes

    def spec(self, *, channels: int | None = None, image_size: int | None = None) -> ModelSpec:
        """The architecture as the card describes it, for images of another depth or size where these are given."""
        mean, sd = self.normalisation.mean, self.normalisation.sd
        if len(mean) < self.channels:
            mean, sd = mean * self.channels, sd * self.channels
        return ModelSpec(
            architecture=self.architecture,
            classes=self.class_names,
            channels=channels or self.channels,
            image_size=image_size or self.image_size,
            mean=mean,
            sd=sd,
        )


@dataclass(frozen=True)
class Offer:
    """A card and the place it was read from."""

    card: Card
    path: Path

    def beside(self, file: str) -> Path:
        return self.path.parent / file

    @property
    def weights(self) -> Path:
        return self.beside(self.card.file)


def load_card(path: Path) -> Offer:
    """Read a card; raises GatehouseError naming file, key, value and what is allowed."""
    missing = f"Card {path} does not exist; correct `teacher.cards` in params.yaml, or run the stage that writes it."
    content = read_yaml(path, name=f"Card {path}", missing=missing)
    if not isinstance(content, dict):
        raise GatehouseError(f"Card {path} must hold keys ({', '.join(Card.model_fields)}); see cards/ for examples.")
    try:
        return Offer(Card.model_validate(content), path)
    except ValidationError as error:
        raise GatehouseError(f"Card {path}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(
        str(part) for part in first["loc"] if not str(part).startswith(("tuple[", "literal[", "constrained"))
    )
    if first["type"] == "missing":
        return f"key {key} is missing; see cards/ for examples."
    if first["type"] == "extra_forbidden":
        return f"key {key} is unknown; keys of a card are {', '.join(Card.model_fields)}."
    reason = first["msg"].removeprefix("Value error, ")
    return f"key {key} = {first['input']!r} is not allowed: {reason}." if key else f"{reason}."


def load_offers(paths: tuple[str, ...]) -> list[Offer]:
    """Every card, in order; two cards of one name are an error, since reports would not tell them apart."""
    if not paths:
        raise GatehouseError("params.yaml: teacher.cards is empty; list at least one card, cards/ holds examples.")
    offers = [load_card(Path(p)) for p in paths]
    names = [o.card.name for o in offers]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise GatehouseError(f"params.yaml: teacher.cards lists two cards named {twice!r}; rename one in its card.")
    return offers
