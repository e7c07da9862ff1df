"""Models on disk: `model.safetensors` and `model.json`. No pickle, anywhere."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from tasks.errors import GatehouseError
from tasks.files import read_json, sha256_bytes, write_json, writing
from tasks.models.architectures import Classifier, ModelSpec, build

WEIGHTS = "model.safetensors"
RECORD = "model.json"


class ModelRecord(BaseModel):
    """`model.json`: what the weights are, their digest, and what they came from (name → sha256)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: ModelSpec
    sha256: str
    parents: dict[str, str] = {}
    notes: dict[str, str] = {}


def to_bytes(model: Classifier) -> bytes:
    """The weights as a safetensors file; equal weights give equal bytes."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in sorted(model.state_dict().items())}
    return save(tensors)


def digest(model: Classifier) -> str:
    """Hex SHA-256 of the weights file that `save_model` would write."""
    return sha256_bytes(to_bytes(model))


def save_model(
    folder: Path,
    model: Classifier,
    spec: ModelSpec,
    *,
    parents: dict[str, str] | None = None,
    notes: dict[str, str] | None = None,
) -> ModelRecord:
    """Write both files into `folder`, weights first; returns the record with the digest."""
    data = to_bytes(model)
    record = ModelRecord(spec=spec, sha256=sha256_bytes(data), parents=parents or {}, notes=notes or {})
    with writing(folder / WEIGHTS) as temporary:
        temporary.write_bytes(data)
    write_json(folder / RECORD, record.model_dump(mode="json"))
    return record


def read_record(folder: Path) -> ModelRecord:
    try:
        return ModelRecord.model_validate(read_json(folder / RECORD))
    except ValidationError as error:
        raise GatehouseError(f"{folder / RECORD} is malformed: {error.errors()[0]['msg']}.") from error


def load_model(folder: Path) -> tuple[Classifier, ModelRecord]:
    """Load and verify: the digest, every tensor's name, shape and dtype, and that all weights are finite."""
    record = read_record(folder)
    try:
        data = (folder / WEIGHTS).read_bytes()
    except FileNotFoundError:
        raise GatehouseError(f"{folder / WEIGHTS} does not exist; run `make run`, which makes it.") from None
    if sha256_bytes(data) != record.sha256:
        raise GatehouseError(f"{folder / WEIGHTS} is not the file that {folder / RECORD} describes: digests differ.")
    model = build(record.spec, seed=0)
    load_tensors(model, data, source=str(folder / WEIGHTS))
    return model, record


def load_tensors(model: Classifier, data: bytes, *, source: str) -> None:
    """Fill `model` from the bytes of a safetensors file; one clear sentence where the file does not fit."""
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise GatehouseError(f"{source} is not a safetensors file ({error}).") from error
    check_tensors(model, tensors, source=source)
    model.load_state_dict(tensors)


def check_tensors(model: Classifier, tensors: dict[str, torch.Tensor], *, source: str) -> None:
    """Names, shapes, dtypes and finiteness against the architecture that was declared."""
    wanted = model.state_dict()
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise GatehouseError(f"{source} lacks {len(missing)} tensor(s) of the architecture, first {missing[0]!r}.")
    if extra := sorted(tensors.keys() - wanted.keys()):
        raise GatehouseError(f"{source} holds {len(extra)} tensor(s) that the architecture lacks, first {extra[0]!r}.")
    for name, tensor in tensors.items():
        want = wanted[name]
        if tensor.shape != want.shape or tensor.dtype != want.dtype:
            raise GatehouseError(
                f"{source}: tensor {name!r} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"the architecture wants {want.dtype} {tuple(want.shape)}."
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise GatehouseError(f"{source}: tensor {name!r} holds values that are not finite.")
