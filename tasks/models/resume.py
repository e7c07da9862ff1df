"""The state of an interrupted training, as a safetensors file with its history in the header."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tasks.files import note_read, writing
from tasks.models.patch_bank import PatchBank


@dataclass(frozen=True)
class State:
    model: dict[str, Tensor]
    best: dict[str, Tensor]
    moments: dict[str, Tensor]  # "<index>.<name>" of the optimiser's tensors
    history: list[dict[str, Any]]
    bank: dict[str, Tensor]  # of patch-adversarial training; empty without


def save(
    path: Path,
    key: str,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    best: dict[str, Tensor],
    history: list[dict[str, Any]],
    bank: PatchBank | None = None,
) -> None:
    """Write the whole state; `key` says what run it belongs to."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    for index, entry in optimiser.state_dict()["state"].items():
        tensors |= {f"moments.{index}.{k}": torch.as_tensor(v) for k, v in entry.items()}
    tensors |= {f"bank.{k}": v for k, v in bank.tensors().items()} if bank else {}
    tensors = {k: v.detach().clone().contiguous() for k, v in tensors.items()}
    with writing(path) as temporary:
        save_file(tensors, temporary, metadata={"key": key, "history": json.dumps(history)})


def load(path: Path, key: str) -> State | None:
    """The saved state, or None where there is none for this key."""
    if not path.exists():
        return None
    note_read(path)
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            if metadata.get("key") != key:
                return None
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118  safe_open is no mapping
    except SafetensorError:
        return None  # not ours, or from another version: the training starts afresh

    def part(name: str) -> dict[str, Tensor]:
        return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}

    return State(part("model"), part("best"), part("moments"), json.loads(metadata["history"]), part("bank"))


def restore(state: State, model: nn.Module, optimiser: torch.optim.Optimizer, bank: PatchBank | None = None) -> None:
    """Put a state back into a model, an optimiser and a bank of patches built the same way."""
    model.load_state_dict(state.model)
    if bank:
        for name, tensor in state.bank.items():
            setattr(bank, name, tensor)
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.moments.items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
