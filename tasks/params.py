"""`params.yaml`, one frozen strict model a section. An unknown or ill-typed key is one clear line.

One file for all sections, long as it is: whoever looks for a key of params.yaml finds what it may hold in one place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from tasks.errors import GatehouseError
from tasks.files import read_yaml

PARAMS_FILE = Path("params.yaml")
Level = Literal["low", "moderate", "high"]
DefenceName = Literal[
    "none", "low_pass", "jpeg", "dropout", "neuron_distance", "distilled",
    "adversarial_2", "adversarial_4", "adversarial_4_whole",
]  # fmt: skip
FreezePolicy = Literal["all", "last", "none"] | int
GuardName = Literal["none", "low_pass", "jpeg", "dropout"]  # what they do: tasks/models/guards.py
Mitigation = Literal["anp", "fine_pruning", "ft_sam", "i_bau", "patch_adversarial", "unlearning"]
Fraction = float
Cause = Literal["advisory", "unproven", "feed", "extraction", "drift"]  # of an incident
Action = Literal["withdraw", "lifecycle"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: Any) -> Any:
        """YAML knows lists only; the frozen records hold tuples."""
        return tuple(value) if isinstance(value, list) else value


class Run(Section):
    seed: int = Field(ge=0)
    threads: int = Field(ge=1, le=256)


class Risk(Section):
    """The study's questions, section 4.2. `thresholds` overrides single thresholds, as `gate.check: value`."""

    a1_impact_normal: Level
    a2_impact_adversarial: Level
    b1_training_data_trusted: bool
    b2_training_images: Literal["few", "some", "many"]
    b3_teacher_trusted: bool
    b4_teachers_available: Literal["one", "few", "many"]
    b5_compute: Literal["cpu", "gpu", "cluster"]
    b6_known_benign_samples: bool
    b7_tools_trusted: bool
    c1_input: Literal["digital", "physical"]
    c2_cheap_queries: bool
    c3_frequent_queries: bool
    c4_internals_exposed: bool
    data_about_people: bool
    thresholds: dict[str, float]


class Task(Section):
    """One task's images: a folder of class folders below `data.root`, or a MedMNIST flag."""

    path: str
    images: int = Field(ge=0)  # phantom: how many to draw; otherwise: at most so many, 0 for all


class Data(Section):
    source: Literal["phantom", "folder", "medmnist"]
    root: str
    image_size: int = Field(ge=16, le=512)
    channels: Literal[1, 3]
    teacher_task: Task
    student_task: Task
    val_fraction: float = Field(gt=0, lt=0.5)
    test_fraction: float = Field(gt=0, lt=0.5)
    near_duplicate_bits: int = Field(ge=0, le=16)
    border_fraction: float = Field(gt=0, lt=0.25)
    corner_fraction: float = Field(gt=0, lt=0.5)
    remedy: Literal["none", "crop", "mask_corners"]
    declared_source: str


class Provider(Section):
    """A party that offers a teacher. `conduct` is what this one does; a real provider does not tell."""

    conduct: Literal["honest", "backdoored", "pickled"]
    trigger_fraction: float = Field(default=0.09, gt=0, lt=0.5)
    poison_rate: float = Field(default=0.1, gt=0, lt=1)


class Providers(Section):
    """Demonstration only: teachers that we train ourselves in the role of outside providers."""

    architecture: Literal["simple_cnn", "resnet18"]
    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(ge=2)
    offers: dict[str, Provider]


class Teacher(Section):
    cards: tuple[str, ...]
    trusted_keys: tuple[str, ...]
    advisories: str  # a YAML file of affected digests; '' for none
    waive: tuple[str, ...]  # names of provenance checks whose failure the user accepts
    licences_accepted: tuple[str, ...]
    min_accuracy: float = Field(ge=0, le=1)
    vet_images: int = Field(ge=0)  # that references learn from; a quarter as many to score on; 0: no vetting
    vet_references: int = Field(ge=3)  # clean models that candidates are judged beside
    vet_canaries: int = Field(ge=1)  # backdoored models that tell vetting's power


class Drill(Section):
    canaries: int = Field(ge=1)
    clean_references: int = Field(ge=1)
    trigger_fraction: float = Field(gt=0, lt=0.5)
    poison_rate: float = Field(gt=0, lt=1)
    teacher_epochs: int = Field(ge=1)  # of planting, in a copy of the teacher
    reference_epochs: int = Field(ge=1)
    reference_start: Literal["fresh", "teacher"]  # `teacher` shares whatever the chosen teacher hides
    student_epochs: int = Field(ge=1)
    student_images: int = Field(ge=0)  # at most so many student images per canary, 0 for all
    policies: tuple[FreezePolicy, ...]
    accuracy_tolerance: float = Field(ge=0, le=1)  # how much accuracy a safer freeze policy may cost


class Training(Section):
    """How a network is trained. `backbone_scale` multiplies the rate of features that were pretrained."""

    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    backbone_scale: float = Field(gt=0, le=1)
    weight_decay: float = Field(ge=0)
    batch_size: int = Field(ge=2)
    patience: int = Field(ge=1)
    class_weights: bool
    patch_probability: float = Field(ge=0, le=1)  # patch-randomised training; 0 is off
    patch_max_fraction: float = Field(gt=0, le=0.5)
    patch_adversarial: float = Field(default=0.0, ge=0, le=1)  # share of images that may carry a patch of the bank
    patch_adversarial_fraction: float = Field(default=0.125, gt=0, le=0.5)  # side of such a patch, of the image's
    frame_probability: float = Field(default=0.0, ge=0, le=1)  # share of images with a random frame; 0 is off
    frame_stripes: float = Field(default=0.0, ge=0, le=1)  # share of those frames that are striped or chequered
    overlay_probability: float = Field(default=0.0, ge=0, le=1)  # overlay-randomised training; 0 is off
    overlay_max_opacity: float = Field(default=0.3, gt=0, lt=1)
    adversarial_budget: float = Field(default=0.0, ge=0, lt=1)  # adversarial training, L-infinity in [0, 1]; 0 is off
    adversarial_share: float = Field(default=1.0, gt=0, le=1)  # share of images that are moved by it
    neuron_distance: float = Field(default=0.0, ge=0)  # weight of a penalty on features close to the teacher's
    fresh: bool = False  # start from fresh weights; `distillation` then learns what the teacher knows
    distillation: float = Field(default=0.0, ge=0)  # weight of a penalty on features far from the teacher's
    bfloat16: bool

    @property
    def changes_images(self) -> bool:
        """Are training images different from epoch to epoch?"""
        changes = (self.patch_probability, self.patch_adversarial, self.frame_probability, self.overlay_probability)
        return any((*changes, self.adversarial_budget))

    def against_backdoors(self) -> Training:
        """The recipe with patches and overlays alone: without adversarial training and terms of the teacher."""
        off = ("adversarial_budget", "neuron_distance", "distillation")
        return self.model_copy(update=dict.fromkeys(off, 0.0) | {"fresh": False})

    def undefended(self) -> Training:
        """The recipe without patches, frames and overlays too."""
        off = ("patch_probability", "patch_adversarial", "frame_probability", "frame_stripes", "overlay_probability")
        return self.against_backdoors().model_copy(update=dict.fromkeys(off, 0.0))


class Student(Training):
    freeze: Literal["drill"] | FreezePolicy  # `drill`: as the drill measured; otherwise fixed by hand
    guard: GuardName = "none"  # before the first layer, in tests and in serving
    defences: tuple[DefenceName, ...] = ()  # tried in this order in the place of the keys; none: as the keys say
    defence_enough: float = Field(default=0.4, ge=0, le=1)  # share fooled through the teacher that ends the search

    def identity(self) -> str:
        """What decides a student, as JSON for a cell's key: what is switched off decides nothing."""
        off = set() if self.adversarial_budget else {"adversarial_budget", "adversarial_share"}
        optional = ("neuron_distance", "distillation", "fresh", "frame_probability", "frame_stripes")
        off |= {name for name in optional if not getattr(self, name)}
        off |= {"guard"} if self.guard == "none" else set()
        off |= {"defences", "defence_enough"}  # of the lifecycle alone
        return self.model_dump_json(exclude=off)

    def unprotected(self) -> Student:
        """The section with the recipe without defence."""
        return self.model_copy(update=self.recipe().undefended().model_dump())

    def recipe(self) -> Training:
        """How the student trains, whatever is frozen."""
        return Training(**{k: getattr(self, k) for k in Training.model_fields})


class Backdoor(Section):
    patch_fraction: float = Field(gt=0, lt=0.5)  # side of the largest patch searched, as a fraction of the image's
    search_images: int = Field(ge=8)
    search_steps: int = Field(ge=1)
    restarts: int = Field(ge=1)
    strip_blends: int = Field(ge=2)
    strip_false_refusals: float = Field(gt=0, lt=0.5)
    mitigation: tuple[Mitigation, ...]  # tried in this order until one passes; none at all if empty
    mitigation_epochs: int = Field(ge=1)
    mitigation_learning_rate: float = Field(gt=0)
    pruning_ratio: float = Field(ge=0, lt=1)

    @field_validator("mitigation")
    @classmethod
    def _each_once(cls, value: tuple[Mitigation, ...]) -> tuple[Mitigation, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each mitigation is tried once, so its name may stand here once")
        return value


class Adversarial(Section):
    budgets: tuple[float, ...]  # L-infinity, in pixel units of [0, 1]
    steps: int = Field(ge=1)  # of gradient attacks
    queries: int = Field(ge=1)  # that the black box may ask, an image
    images: int = Field(ge=8)
    own_images: int = Field(ge=10)  # pictures of the validation split that the attacker holds as his own
    bfloat16: bool

    @field_validator("budgets")
    @classmethod
    def _in_range(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not 0 < b <= 1 for b in value) or list(value) != sorted(set(value)):
            raise ValueError("budgets must be rising numbers in (0, 1], in pixel units of [0, 1]")
        return value


class Privacy(Section):
    target_epsilon: float = Field(gt=0)
    target_delta: float = Field(ge=0, lt=1)  # 0: one over the number of training records, divided by ten
    max_grad_norm: float = Field(gt=0)
    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(ge=2)
    references: int = Field(ge=2)  # reference heads of the likelihood-ratio attack
    attack_images: int = Field(ge=20)


class Promotion(Section):
    model_name: str
    signing_key: str  # a private EC key in PEM; made once when it is missing
    key_days: int = Field(ge=1, le=3650)  # validity of a key that is made
    accuracy_margin: float = Field(ge=0, le=1)  # how much worse than the champion is still "no worse"


ServingGuard = Literal["backdoor", "distribution", "disagreement"]  # what they refuse: tasks/serving/guards
Limit = Annotated[int, Field(ge=0)] | Literal["policy"]


class FalseRefusals(Section):
    """Share of clean images that each guard may refuse; its threshold is set at promotion."""

    backdoor: float = Field(gt=0, lt=0.5)
    distribution: float = Field(gt=0, lt=0.5)
    disagreement: float = Field(gt=0, lt=0.5)


class Serving(Section):
    host: str
    port: int = Field(ge=1, le=65535)
    require_keys: bool  # off loopback they are required whatever stands here
    rate_per_minute: Limit  # images; `policy`: as the signed policy says, 0: no limit
    images_per_day: Limit
    rate_per_minute_all: Limit  # of all accounts together
    images_per_day_all: Limit
    guards: tuple[ServingGuard, ...] | Literal["policy"]  # takes effect at the next promotion, as false_refusals do
    false_refusals: FalseRefusals
    poll_seconds: float = Field(gt=0)  # how often the champion is looked for and verified anew
    max_request_bytes: int = Field(ge=1024)
    max_images: int = Field(ge=1, le=4096)  # in one request
    log: str  # a path of a SQLite file, or a URL of PostgreSQL without a password
    log_rows: int = Field(ge=1)  # requests, and images, that the log keeps at most; the oldest go first
    log_days: float = Field(gt=0)  # older entries of the log go too
    log_accounts: Literal["name", "hash", "none"]  # hash: a keyed pseudonym
    log_sketches: bool  # see tasks.serving.sketch; without them no extraction is seen


class Monitoring(Section):
    reference_images: int = Field(ge=20)
    drift_share: float = Field(gt=0, le=1)
    window_hours: float = Field(gt=0)  # how far back requests are looked at
    frequent_images_per_hour: int = Field(ge=1)  # of one account; what question C.3 calls frequent
    substitute_queries: int = Field(ge=1)  # so many different images of one account are enough for a copy
    cron: str
    advisories: str = ""  # a signed feed: a file, an https URL, or http on loopback; '' for none
    advisories_key: str = Field(default="", validate_default=True)  # public key of who signs the feed
    advisories_days: float = Field(default=30, gt=0)  # a feed older than this is told
    on_incident: dict[Cause, tuple[Action, ...]] = {}  # what is done beside telling, by cause
    page_port: int = Field(default=8090, ge=1, le=65535)
    page_seconds: float = Field(default=5, ge=1)  # the page that is served is renewed so often

    @field_validator("on_incident", mode="before")
    @classmethod
    def _lists_of_actions(cls, value: Any) -> Any:
        return (
            {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()} if isinstance(value, dict) else value
        )

    @field_validator("advisories_key")
    @classmethod
    def _feeds_have_a_key(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("advisories") and not value:
            raise ValueError("name the public key of who signs monitoring.advisories; an unsigned feed is not believed")
        return value


class Lifecycle(Section):
    cron: str


class StudyNetwork(Section):
    """How much of the study is measured on one architecture; 0 images: all of them."""

    seeds: int = Field(ge=1)
    teacher_images: int = Field(ge=0)
    teacher_epochs: int = Field(ge=1)
    imc_epochs: int = Field(ge=1)  # with 1 % of the images poisoned, a trigger needs more passes to be learned
    student_images: int = Field(ge=0)
    student_epochs: int = Field(ge=1)
    val_images: int = Field(ge=0)
    test_images: int = Field(ge=0)
    pruning_images: int = Field(ge=0)
    pruning_epochs: int = Field(ge=1)
    recovery_images: int = Field(ge=8)


class Study(Section):
    """The study's Experiments 1 to 3, measured again by `python -m flows.study`; no stage reads this."""

    sides: tuple[int, ...]  # of triggers, in pixels of 224
    target: str  # class of BadNets and IMC
    latent_target: str  # class of the student that the teacher does not have
    learning_rate: float = Field(gt=0)
    pruning_ratio: float = Field(ge=0, lt=1)
    strip_images: int = Field(ge=8)
    strip_blends: int = Field(ge=2)
    strip_alphas: tuple[float, ...]  # blend weights to choose from
    strip_false_refusals: float = Field(gt=0, lt=0.5)
    recovery_epochs: int = Field(ge=1)
    device: Literal["cpu", "cuda"]
    ray: bool  # cells on a Ray cluster; needs the extra `ray`
    simple_cnn: StudyNetwork
    resnet18: StudyNetwork


class Params(Section):
    run: Run
    lifecycle: Lifecycle
    risk: Risk
    data: Data
    providers: Providers
    teacher: Teacher
    drill: Drill
    student: Student
    backdoor: Backdoor
    adversarial: Adversarial
    privacy: Privacy
    promotion: Promotion
    serving: Serving
    monitoring: Monitoring
    study: Study


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check params.yaml; raises GatehouseError naming file, key, value and what is allowed."""
    missing = f"{path} does not exist here; run from the project's root folder."
    content = read_yaml(path, name=str(path), missing=missing)
    if not isinstance(content, dict):
        raise GatehouseError(f"{path} must hold sections (risk, data, …), but holds {type(content).__name__}.")
    return parse_params(content, source=str(path))


def parse_params(content: dict[str, Any], source: str) -> Params:
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise GatehouseError(f"{source}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    errors = error.errors()
    key = _key(errors[0])
    # A union (a freeze policy) reports one problem for each member that the value is not: one key, one sentence.
    same = [e for e in errors if _key(e) == key]
    rest = len({_key(e) for e in errors}) - 1
    more = f" ({rest} more key(s) are wrong too)" if rest else ""
    first = same[0]
    if first["type"] == "extra_forbidden":
        owner = _section_at(first["loc"][:-1])
        allowed = f"; allowed here: {', '.join(owner)}" if owner else ""
        return f"key {key} = {first['input']!r} is unknown{allowed}{more}."
    if first["type"] == "missing":
        return f"key {key} is missing{more}."
    reasons = " or ".join(e["msg"].removeprefix("Value error, ") for e in same)
    return f"key {key} = {first['input']!r} is not allowed: {reasons}{more}."


def _key(error: Any) -> str:
    """The key as the file shows it; members of a union add their own name to the location."""
    return ".".join(str(p) for p in error["loc"] if not re.match(r"(literal|constrained)\[|int$|str$|float$", str(p)))


def _section_at(loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """Names of the keys that a section at this location knows; empty where the location is no section."""
    model: Any = Params
    for part in loc:
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        if field is None:
            return ()
        model = field.annotation
    return tuple(model.model_fields) if hasattr(model, "model_fields") else ()
