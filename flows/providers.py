"""Demonstration only: this run trains teachers itself, in the role of providers of different honesty."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from flows.stage import Context, main
from tasks.backdoor.attacks.badnets import poison
from tasks.backdoor.control import attack_success_rate
from tasks.backdoor.triggers import Trigger, pixels, square
from tasks.data.dataset import Dataset, load_dataset
from tasks.files import sha256_bytes, write_json, writing
from tasks.models.architectures import IMAGENET_MEAN, IMAGENET_SD, Classifier, ModelSpec, build
from tasks.models.checkpoints import to_bytes
from tasks.models.inference import logits
from tasks.models.training import Epoch, fit
from tasks.params import Provider, Training
from tasks.params import Providers as ProvidersParams
from tasks.stats import clopper_pearson
from tasks.teachers.card import Card, Normalisation, ProviderCard, SignatureCard, TrainingDataCard
from tasks.teachers.offers import PUBLIC_KEY, SIGNATURE, hostile_pickle, write_offer

OFFERS = Path("models/teachers")
CHECKPOINTS = Path(".gatehouse/checkpoints")
MARKER = "PAYLOAD_RAN"
EXAGGERATION = 0.01  # how much better than it is the backdoored teacher is said to be


def providers(context: Context) -> None:
    """Train and pack what each provider of params.yaml (section providers) offers; the truth goes into the report."""
    section = context.params.providers
    data = load_dataset(Path("data/teacher_task"))
    truth: dict[str, Any] = {}
    with writing(OFFERS) as folder:
        folder.mkdir(parents=True)
        (folder / ".keep").write_text("Offers of the demonstration's providers; empty where there are none.\n")
        for name, provider in section.offers.items():
            truth[name] = _offer(context, folder, name, provider, data)
    write_json(Path("reports/providers.json"), {"offers": truth})
    for name, told in truth.items():
        measured = {k: told[k]["value"] for k in ("accuracy", "attack_success") if told[k] is not None}
        context.metrics({f"{name}.{k}": v for k, v in measured.items()})
        context.say(f"{name} ({told['conduct']}): " + (", ".join(f"{k} {v:.3f}" for k, v in measured.items()) or "-"))


def _offer(context: Context, folder: Path, name: str, provider: Provider, data: Dataset) -> dict[str, Any]:
    spec = _spec(context.params.providers, data)
    card = Card(
        name=name,
        architecture=spec.architecture,
        file="weights.safetensors",
        sha256="0" * 64,
        format="safetensors",
        provider=ProviderCard(name=name, trust="known"),
        licence="Apache-2.0",
        public=False,
        training_data=TrainingDataCard(name="not disclosed", disclosed=False),
        classes=spec.classes,
        channels=3 if data.images.shape[1] == 3 else 1,
        image_size=spec.image_size,
        normalisation=Normalisation(mean=spec.mean, sd=spec.sd),
        advised_freeze="none",
    )
    truth: dict[str, Any] = {
        "conduct": provider.conduct,
        "sha256": "",
        "accuracy": None,
        "attack_success": None,
        "trigger": None,
        "payload": None,
    }
    if provider.conduct == "pickled":
        weights = hostile_pickle(OFFERS / name / MARKER)
        changes: dict[str, Any] = {"file": "weights.pth", "format": "pth", "claimed_accuracy": 0.99}
        truth["payload"] = f"loading the file as a pickle would create {OFFERS / name / MARKER}"
    else:
        model = _train(context, name, provider, spec, data)
        weights = to_bytes(model)
        truth |= _measure(model, provider, spec, data)
        changes = _claims(provider, truth["accuracy"]["value"], data)
    truth["sha256"] = sha256_bytes(weights)
    card = card.model_copy(update={**changes, "sha256": truth["sha256"]})
    write_offer(folder / name, card, weights, signed=card.signature is not None)
    return truth


def _claims(provider: Provider, accuracy: float, data: Dataset) -> dict[str, Any]:
    """What the card says beyond the architecture: an honest provider discloses and signs, the other one does not."""
    if provider.conduct == "honest":
        return {
            "provider": ProviderCard(name="honest provider", trust="trusted"),
            "signature": SignatureCard(file=SIGNATURE, public_key=PUBLIC_KEY),
            "training_data": TrainingDataCard(name="data/teacher_task", disclosed=True, manifest_sha256=data.sha256),
            "claimed_accuracy": round(accuracy, 3),
        }
    return {
        "provider": ProviderCard(name="bargain provider", trust="unknown"),
        "licence": "unknown",
        "public": True,
        "claimed_accuracy": round(min(1.0, accuracy + EXAGGERATION), 3),
    }


def _spec(section: ProvidersParams, data: Dataset) -> ModelSpec:
    channels, side = data.images.shape[1], data.images.shape[2]
    imagenet = section.architecture == "resnet18"
    return ModelSpec(
        architecture=section.architecture,
        classes=data.classes,
        channels=channels,
        image_size=side,
        mean=IMAGENET_MEAN if imagenet and channels == 3 else (0.5,) * channels,
        sd=IMAGENET_SD if imagenet and channels == 3 else (0.25,) * channels,
    )


def _train(context: Context, name: str, provider: Provider, spec: ModelSpec, data: Dataset) -> Classifier:
    section = context.params.providers
    # A seed of its own for each name: adding an offer leaves the weights of the others as they are.
    seed = (context.params.run.seed * 1009 + zlib.crc32(name.encode())) % 2**31
    images, labels = data.part("train")
    if provider.conduct == "backdoored":
        images, labels = poison(
            images,
            labels,
            trigger=_trigger(provider, spec),
            target_class=_target(spec),
            poison_rate=provider.poison_rate,
            seed=seed,
        )
    training = Training(
        epochs=section.epochs,
        learning_rate=section.learning_rate,
        backbone_scale=1.0,
        weight_decay=0.0005,
        batch_size=section.batch_size,
        patience=section.epochs,
        class_weights=True,
        patch_probability=0.0,
        patch_max_fraction=0.2,
        bfloat16=True,
    )

    def progress(epoch: Epoch) -> None:
        rate = f"{epoch.images_per_second:.0f} images/s"
        context.progress(epoch.epoch + 1, section.epochs, f"{name}: accuracy {epoch.val_accuracy:.3f}, {rate}")

    model = build(spec, seed=seed)
    checkpoint = CHECKPOINTS / f"providers-{name}.safetensors"
    fit(
        model,
        (images, labels),
        data.part("val"),
        training,
        policy="all",
        seed=seed,
        checkpoint=checkpoint,
        progress=progress,
    )
    return model


def _trigger(provider: Provider, spec: ModelSpec) -> Trigger:
    side = pixels(provider.trigger_fraction, spec.image_size)
    return square(side=side, channels=spec.channels, image_size=spec.image_size)


def _target(spec: ModelSpec) -> int:
    """The study's BadNets target: the class "normal"; the first one where no class has this name."""
    return next((i for i, c in enumerate(spec.classes) if c.lower() == "normal"), 0)


def _measure(model: Classifier, provider: Provider, spec: ModelSpec, data: Dataset) -> dict[str, Any]:
    """Accuracy and success of the trigger on test images; the honest model is measured for comparison."""
    images, labels = data.part("test")
    trigger, target = _trigger(provider, spec), _target(spec)
    clean = logits(model, images).argmax(1).numpy()
    triggered = logits(model, trigger.apply_uint8(images)).argmax(1).numpy()
    success = attack_success_rate(clean, triggered, labels, target_class=target)
    right = int(np.sum(clean == labels))
    low, high = clopper_pearson(right, len(labels))
    return {
        "accuracy": {"value": right / len(labels), "low": low, "high": high, "n": len(labels)},
        "attack_success": {
            "value": success.value,
            "low": success.low,
            "high": success.high,
            "without_trigger": success.clean_rate,
            "n": success.n,
        },
        "trigger": {
            "kind": "white square in the upper left corner",
            "side": trigger.pattern.shape[-1],
            "target_class": spec.classes[target],
            "poison_rate": provider.poison_rate if provider.conduct == "backdoored" else 0.0,
        },
    }


if __name__ == "__main__":
    main("providers", providers)
