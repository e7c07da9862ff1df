"""The Open Inference Protocol (KServe's V2, REST): from a request to images, and from answers to its tensors.

One input: `images`, FP32 or FP64 of shape (n, channels, side, side) in [0, 1], flat or nested; or `image`, BYTES of
shape (n,), base64 of PNG or JPEG files. Outputs: `label`, BYTES (n,); `refused`, BOOL (n,); and `scores`, FP32 (n,
classes), where the policy reveals them. A tensor holds no null: a refused image has the label "" and scores of zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.serving import protocol
from tasks.serving.champion import Answer, Champion
from tasks.serving.errors import BAD_REQUEST, RequestError, excerpt
from tasks.serving.protocol import Decode, Shape

TENSOR, FILES = "images", "image"
NUMBERS = ("FP32", "FP64")
KEYS, INPUT_KEYS = {"id", "parameters", "inputs", "outputs"}, {"name", "shape", "datatype", "parameters", "data"}
LONGEST_ID = 200


@dataclass(frozen=True)
class Asked:
    """What an answer repeats: the request's own id, and the outputs that it wants (none named: all)."""

    id: str | None
    outputs: tuple[str, ...]


def outputs_of(champion: Champion) -> list[dict[str, Any]]:
    """Names, types and shapes of what is answered; -1 is the number of images."""
    label = {"name": "label", "datatype": "BYTES", "shape": [-1]}
    refused = {"name": "refused", "datatype": "BOOL", "shape": [-1]}
    scores = {"name": "scores", "datatype": "FP32", "shape": [-1, len(champion.spec.classes)]}
    return [label, refused] if champion.output == "labels" else [label, scores, refused]


def metadata(champion: Champion, shape: Shape) -> dict[str, Any]:
    """The model as `GET /v2/models/NAME` describes it; `parameters` holds the order of the classes."""
    return {
        "name": champion.name,
        "versions": [champion.version],
        "platform": "gatehouse_torch",
        "inputs": [{"name": TENSOR, "datatype": "FP32", "shape": [-1, shape.channels, shape.side, shape.side]}],
        "outputs": outputs_of(champion),
        "parameters": {"classes": list(champion.spec.classes), "sha256": champion.sha256},
    }


def parse(body: bytes, shape: Shape, champion: Champion, decode: Decode) -> tuple[np.ndarray, Asked]:
    """Images of a request, float32 in [0, 1], and what its answer repeats; RequestError for everything else."""
    content = protocol.load(body)
    if not isinstance(content, dict) or "inputs" not in content or not content.keys() <= KEYS:
        raise RequestError("The body must be a JSON object with inputs, and id, parameters, outputs.", code=BAD_REQUEST)
    asked = Asked(_id(content.get("id")), _wanted(content.get("outputs"), champion))
    inputs = content["inputs"]
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise RequestError(f"inputs must hold one tensor, {TENSOR!r} or {FILES!r}.", code=BAD_REQUEST)
    given = inputs[0]
    if not {"name", "shape", "datatype", "data"} <= given.keys() <= INPUT_KEYS:
        raise RequestError("An input holds name, shape, datatype and data.", code=BAD_REQUEST)
    if given["name"] == FILES and given["datatype"] == "BYTES":
        return protocol.decode_files(_listed(given["data"]), shape, decode, declared=given["shape"]), asked
    if given["name"] == TENSOR and given["datatype"] in NUMBERS:
        return _numbers(given["data"], given["shape"], shape), asked
    raise RequestError(
        f"The input {excerpt(given['name'])} of type {excerpt(given['datatype'])} is not known; send {TENSOR!r} as "
        f"{' or '.join(NUMBERS)}, or {FILES!r} as BYTES."
    )


def respond(champion: Champion, answers: list[Answer], asked: Asked) -> dict[str, Any]:
    """The answer as tensors, in the order of the images."""
    scores = [a.revealed.get("scores", {}) for a in answers]
    tensors = {
        "label": [a.revealed["label"] or "" for a in answers],
        "refused": [bool(a.refused_by) for a in answers],
        "scores": [row.get(c, 0.0) for row in scores for c in champion.spec.classes],
    }
    outputs = [
        {**o, "shape": [len(answers), *o["shape"][1:]], "data": tensors[o["name"]]}
        for o in outputs_of(champion)
        if not asked.outputs or o["name"] in asked.outputs
    ]
    own = {} if asked.id is None else {"id": asked.id}
    return {"model_name": champion.name, "model_version": champion.version, **own, "outputs": outputs}


def _id(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or len(value) > LONGEST_ID or not value.isprintable()):
        raise RequestError(f"id must be a printable string of at most {LONGEST_ID} characters.", code=BAD_REQUEST)
    return value


def _wanted(value: Any, champion: Champion) -> tuple[str, ...]:
    known = [o["name"] for o in outputs_of(champion)]
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(o, dict) and o.get("name") in known for o in value):
        raise RequestError(f"outputs must be a list of objects whose name is one of {', '.join(known)}.")
    return tuple(o["name"] for o in value)


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise RequestError("data must be a list.", code=BAD_REQUEST)
    return value


def _numbers(value: Any, declared: Any, shape: Shape) -> np.ndarray:
    data = _listed(value)
    wanted = [shape.channels, shape.side, shape.side]
    if not isinstance(declared, list) or declared[1:] != wanted or type(declared[0]) is not int:
        raise RequestError(f"The shape {excerpt(declared)} is not served; it must be {shape}.")
    size = shape.channels * shape.side**2
    if data and not isinstance(data[0], list):
        if len(data) != declared[0] * size:
            raise RequestError(f"data holds {len(data)} numbers; the shape asks for {excerpt(declared[0] * size)}.")
        protocol.count(declared[0], shape)
        if not set(map(type, data)) <= {int, float}:
            raise RequestError("data holds values that are not numbers.")
        return protocol.bounded(data, shape).reshape(-1, *wanted)
    images = protocol.array(data, shape)
    if len(images) != declared[0]:
        raise RequestError(f"data holds {len(images)} images; the shape says {excerpt(declared[0])}.")
    return images
