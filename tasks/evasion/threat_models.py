"""Who attacks: what the attacker knows, what he does, and where the study describes him (sections 3.2.1, 4.2)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ThreatModel:
    """An attacker who may change every pixel by at most eps (L-infinity, units of [0, 1]) and wants a wrong answer."""

    name: str
    title: str
    attack: str
    knows: str


WHITE_BOX = ThreatModel(
    "white_box",
    "White box: PGD on the candidate",
    "projected gradient descent (Madry 2018)",
    "the candidate's weights, as where internals are exposed (C.4)",
)
GRAY_BOX = ThreatModel(
    "gray_box",
    "Gray box: mimicry on the teacher",
    "feature mimicry (Wang 2018)",
    "the teacher's weights, pictures of every class, and what the candidate answers to those pictures",
)
NOISE = ThreatModel(
    "noise",
    "Random noise",
    "every pixel moved by the whole budget, the sign drawn at random",
    "nothing: the yardstick of the other two",
)
THREAT_MODELS = (WHITE_BOX, GRAY_BOX, NOISE)
