"""Who attacks: what the attacker knows, wants and may change (study, sections 3.2.1 and 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ThreatModel:
    """An attacker who may change every pixel by at most eps (L-infinity, units of [0, 1]) and wants a wrong answer.

    All attacks of a threat model are tried, and the one that succeeds most often at a budget counts there.
    """

    name: str
    title: str
    knowledge: Literal["weights", "teacher", "answers", "nothing"]
    attack: str
    knows: str
    goal: Literal["untargeted", "targeted"] = "untargeted"
    norm: str = "L-infinity"


WHITE_BOX = ThreatModel(
    "white_box",
    "White box: APGD on the candidate",
    "weights",
    "Auto-PGD on the cross-entropy, then on the targeted logit ratio (Croce and Hein 2020)",
    "the candidate's weights, as where internals are exposed (C.4)",
)
GRAY_BOX = ThreatModel(
    "gray_box",
    "Gray box: through the teacher",
    "teacher",
    "mimicry of the penultimate and of an inner block and repulsion (Wang 2018), activation (Rezaei and Liu 2020), "
    "Auto-PGD on a head and on a whole student of the attacker's own",
    "the teacher's weights, the candidate's recipe, pictures of every class, and what the candidate answers to them",
)
BLACK_BOX = ThreatModel(
    "black_box",
    "Black box: queries alone",
    "answers",
    "Square on the scores (Andriushchenko 2020), HopSkipJump where only labels are answered (Chen 2020), Auto-PGD on a "
    "substitute trained on the answers",
    "what the candidate answers, within a budget of queries, and its architecture",
)
NOISE = ThreatModel(
    "noise",
    "Random noise",
    "nothing",
    "every pixel moved by the whole budget, the sign drawn at random",
    "nothing: the yardstick of the others",
)
THREAT_MODELS = (WHITE_BOX, GRAY_BOX, BLACK_BOX, NOISE)
