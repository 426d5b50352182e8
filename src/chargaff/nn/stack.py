"""Running a list of blocks."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def run_block(block: Callable[..., Any], *args: Any, recompute: bool) -> Any:
    """block(*args); with `recompute` its activations are computed again in the backward pass instead of kept."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *args, use_reentrant=False)
    return block(*args)
