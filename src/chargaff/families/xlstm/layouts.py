"""Tensor names and layouts of released, training and fine-tuning files (xlstm sheet 3.6, 5, 6)."""

import json
from collections.abc import Sequence

from torch import Tensor

from chargaff.errors import ConfigError
from chargaff.families.protocol import Layout, StateDict
from chargaff.families.renaming import rename
from chargaff.families.xlstm.config import XLstmConfig

# The training framework puts model. in front; fine-tuning wraps the whole language model in another backbone.; the
# general xlstm package leaves backbone. out.
_PREFIX = r"(?:model\.)?(?:backbone\.){0,2}"
_READ = [
    (_PREFIX + r"lm_head\.(.*)", r"head.\1"),
    (_PREFIX + r"((?:token_embedding|xlstm_block_stack)\..*)", r"backbone.\1"),
    (r"decoder\.0\.output_transform\.(weight|bias)", r"head.linear.\1"),
    (r".*torchmetrics.*", None),  # metric counters of the training framework
]
_WRITE = [
    (r"backbone\.(.*)", r"backbone.\1"),
    (r"head\.linear\.(.*)", r"decoder.0.output_transform.\1"),
    (r"head\.(.*)", r"backbone.lm_head.\1"),
]
_KERNEL, _BIAS = "_recurrent_kernel_", "_bias_"


def read(state: StateDict, config: XLstmConfig) -> StateDict:
    """Every published layout -> ours. A file with a classifier loses the language-model head it may still carry."""
    ours = rename(state, _READ)
    if "head.linear.weight" in ours:
        ours = {name: tensor for name, tensor in ours.items() if not name.startswith("head.") or ".linear." in name}
    for name in [name for name in ours if name.endswith(_KERNEL)]:
        kernel, bias = ours[name], name.removesuffix(_KERNEL) + _BIAS
        if kernel.dim() == 3 and kernel.shape[1] == 4 * kernel.shape[2]:  # the vanilla layout
            ours[name] = kernel_from_vanilla(kernel)
            if bias in ours:
                ours[bias] = bias_from_vanilla(ours[bias], kernel.shape[0])
    return ours


def kernel_from_vanilla(kernel: Tensor) -> Tensor:
    """[H, 4 P (gate-major), P] -> [H, P, 4 P]."""
    return kernel.transpose(1, 2).contiguous()


def bias_from_vanilla(bias: Tensor, heads: int) -> Tensor:
    """[4 H P] ordered (gate, head, channel) -> (head, gate, channel)."""
    return bias.view(4, heads, -1).transpose(0, 1).reshape(-1)


def write_hub(state: StateDict, config: XLstmConfig) -> StateDict:
    """Ours -> the names of a released model, or with a classifier those of a fine-tuned one."""
    names = rename(state, _WRITE)
    if "head.linear.weight" not in state:
        return names
    return {f"model.backbone.{name}" if name.startswith("backbone.") else name: x for name, x in names.items()}


def write_training(state: StateDict, config: XLstmConfig) -> StateDict:
    """Ours -> the names inside a training checkpoint."""
    names = write_hub(state, config)
    if "head.linear.weight" in state:
        return names
    return {f"model.{name}": tensor for name, tensor in names.items()}


LAYOUTS = {"hub": Layout(read, write_hub), "lightning": Layout(read, write_training)}

_OURS = ("rcps_convention", "m_proj_down_init")


def published_files(
    config: XLstmConfig, head: str, context_bp: int | None, labels: Sequence[str] = ()
) -> dict[str, str]:
    """model_config.json as released models have it.

    Raises:
        ConfigError: a head, or a way of sharing strands, that the published code does not have.
    """
    if head not in ("lm", "sequence", "none"):
        raise ConfigError(f"head: the published layout has lm, sequence, none, got {head!r}")
    if config.rcps and (config.rcps_convention != "reference" or len(config.slstm_blocks) < config.n_layer):
        raise ConfigError("config.rcps_convention: the published layout has only 'reference', with sLSTM blocks alone")
    values = {name: value for name, value in config.to_json().items() if name not in _OURS}
    target = {"_target_": "models.dna_xlstm.modelling_xlstm.xLSTMConfig"}
    return {"model_config.json": json.dumps({"config": {**target, **values}}, indent=4) + "\n"}
