"""States in the layout of the published code (caduceus sheet 2.5, 2.6)."""

import torch
from torch import Tensor

from chargaff.families.caduceus.config import CaduceusConfig
from chargaff.nn.encoded import Encoded


def hidden_states(config: CaduceusConfig, encoded: Encoded) -> tuple[Tensor, ...]:
    """The embedding, what each block but the last added, and with `fused_add_norm` the final states: [B, T, C] each.

    Args:
        encoded: with the taps "layer.0" and "layer.k.branch" of every block.
    """
    # reference quirk: these are the inputs of the blocks without the residual stream
    branches = [encoded.taps[f"layer.{k}.branch"] for k in range(1, config.n_layer)]
    found = [encoded.taps["layer.0"], *branches]
    if config.fused_add_norm:
        last = encoded.hidden
        if encoded.hidden_rc is not None:
            last = torch.cat([last, encoded.hidden_rc.flip(-1)], -1)
        found.append(last)
    return tuple(found)
