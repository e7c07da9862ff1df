"""A tiny task and offers for it: bright images are class `bright`, dark ones `dark`, and one linear map tells them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from teacher_files import CLASSES, SIDE, card_content, hostile_files

from tasks.files import sha256_bytes
from tasks.models.architectures import Classifier, build
from tasks.models.checkpoints import to_bytes
from tasks.teachers.card import Card, Offer, load_card
from tasks.teachers.case import OwnTask, Rules
from tasks.teachers.offers import write_offer
from tasks.teachers.signatures import fingerprint


@pytest.fixture(scope="session")
def model() -> Classifier:
    """A network made to tell bright from dark: its head reads the mean features of the two kinds."""
    network = build(Card.model_validate(card_content()).spec(), seed=3)
    with torch.no_grad():
        dark = network.features(torch.full((1, 1, SIDE, SIDE), 0.1))[0]
        bright = network.features(torch.full((1, 1, SIDE, SIDE), 0.9))[0]
        way, middle = bright - dark, (bright + dark) / 2
        network.head.weight.copy_(torch.stack([-way, way]))
        network.head.bias.copy_(torch.stack([way @ middle, -(way @ middle)]))
    return network


@pytest.fixture(scope="session")
def task() -> OwnTask:
    labels = np.arange(80) % 2
    noise = np.random.default_rng(0).integers(0, 30, (80, 1, SIDE, SIDE))
    images = (np.where(labels, 200, 20)[:, None, None, None] + noise).astype(np.uint8)
    return OwnTask(CLASSES, 1, SIDE, "a" * 64, images, labels)


@pytest.fixture
def offer(tmp_path: Path, model: Classifier) -> Callable[..., Offer]:
    """Write an offer and read its card back; `weights` defaults to the good network's, the digest to the right one."""

    def make(weights: bytes | None = None, *, signed: bool = False, **changes: Any) -> Offer:
        data = to_bytes(model) if weights is None else weights
        content = card_content(**{"sha256": sha256_bytes(data)} | changes)
        if signed:
            content["signature"] = {"file": "signature.json", "public_key": "provider.pub"}
        folder = tmp_path / "offers" / content["name"]
        write_offer(folder, Card.model_validate(content), data, signed=signed)
        return load_card(folder / "card.yaml")

    return make


@pytest.fixture
def rules() -> Callable[..., Rules]:
    def make(*trusted: Offer, **changes: Any) -> Rules:
        keys = frozenset(fingerprint(o.beside("provider.pub")) for o in trusted)
        return Rules(**{"trusted_keys": keys, "licences_accepted": ("MIT",), "min_accuracy": 0.8} | changes)

    return make


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    marker = tmp_path / "PAYLOAD_RAN"
    return marker, hostile_files(marker)
