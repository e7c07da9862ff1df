"""Which feature blocks a student may change. Frozen means frozen: parameters and BatchNorm statistics."""

from __future__ import annotations

from tasks.errors import GatehouseError
from tasks.models.architectures import Classifier
from tasks.params import FreezePolicy


def trainable_blocks(model: Classifier, policy: FreezePolicy) -> int:
    """How many blocks, counted from the head, the policy leaves trainable (the study's all, last, none)."""
    count = len(model.block_names)
    if isinstance(policy, int):
        if not 0 <= policy <= count:
            raise GatehouseError(
                f"freeze policy {policy} is out of range: the model has {count} blocks (0 to {count})."
            )
        return policy
    return {"all": count, "last": 1, "none": 0}[policy]


def freeze(model: Classifier, policy: FreezePolicy) -> int:
    """Set requires_grad by policy (the head always trains); returns the number of frozen blocks."""
    frozen = len(model.block_names) - trainable_blocks(model, policy)
    for i, block in enumerate(model.blocks.values()):
        for parameter in block.parameters():
            parameter.requires_grad_(i >= frozen)
    for parameter in model.head.parameters():
        parameter.requires_grad_(True)
    return frozen


def train_mode(model: Classifier, frozen: int) -> None:
    """Training mode for what trains; frozen blocks stay in evaluation mode, so their moving statistics stand still."""
    model.train()
    for block in list(model.blocks.values())[:frozen]:
        block.eval()
