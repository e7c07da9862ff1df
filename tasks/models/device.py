"""Where models compute: on the processor, or their feature blocks on a CUDA device.

Only the blocks move. They take images and activations from the processor and give theirs back to it, and the head, a
small linear layer, stays there: training, attacks and defences are the same code on either device.
"""

from __future__ import annotations

import torch

from tasks.errors import GatehouseError

NAMES = ("cpu", "cuda")
_current = torch.device("cpu")


def use_device(name: str) -> None:
    """Models built or loaded in this process from now on compute there.

    Raises:
        GatehouseError: CUDA is asked for where there is none.
    """
    global _current
    if name == "cuda" and not torch.cuda.is_available():
        raise GatehouseError(
            f"Device cuda was asked for, but torch {torch.__version__} finds none; install torch for CUDA, or use cpu."
        )
    if name == "cuda":
        # Max pooling has no deterministic gradient there: repeats on CUDA agree closely, not to the last bit.
        torch.use_deterministic_algorithms(True, warn_only=True)
    _current = torch.device(name)


def current_device() -> torch.device:
    return _current
