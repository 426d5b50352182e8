"""Published tensor names -> ours."""

from chargaff.families.enformer.config import EnformerConfig
from chargaff.families.haiku import Module, read_haiku, segmentation_modules, transformer_modules
from chargaff.families.protocol import StateDict
from chargaff.families.renaming import rename
from chargaff.families.unet_names import UNET_RULES

_READ = [
    (r"_trunk\..*", None),  # aliases of the other tensors
    (r"((?:stem|conv_tower|transformer)\..*)", r"backbone.\1"),
    (r"((?:final_pointwise|_heads)\..*)", r"head.\1"),
    *UNET_RULES,
]
_WRITE = [
    (r"backbone\.(.*)", r"\1"),
    (r"head\.((?:final_pointwise|_heads)\..*)", r"\1"),
    (r"head\.((?:unet|fc)\..*)", r"unet_head.\1"),
]


def read_torch(state: StateDict, config: EnformerConfig) -> StateDict:
    """Names of enformer-pytorch, and of the published SegmentEnformer built around it."""
    return rename(state, _READ)


def write_torch(state: StateDict, config: EnformerConfig) -> StateDict:
    """The opposite; `_trunk` aliases are not written."""
    return rename(state, _WRITE)


def read_jax(state: StateDict, config: EnformerConfig) -> StateDict:
    """Names of the Haiku program, with the state of its batch norms (enformer sheet 3.8)."""
    return read_haiku(state, _jax_modules(config))


def _jax_modules(config: EnformerConfig) -> list[Module]:
    found = [Module("~_stem/conv1_d", "backbone.stem.0", "conv")]
    found += _tail("~_stem", "backbone.stem")
    for i in range(config.num_downsamples - 1):
        there, here = f"~_conv_tower/layer_{i}", f"backbone.conv_tower.{i}"
        found += [*_block(there, f"{here}.0"), *_tail(there, here)]
    found += _block("~_final_pointwise", "head.final_pointwise.1")
    found += [Module(f"~_heads/{name}_head", f"head._heads.{name}.0", "linear") for name in config.output_heads]
    found += transformer_modules(config.depth)
    return found + segmentation_modules(config.unet_levels, config.num_layers_head)


def _block(there: str, here: str) -> list[Module]:
    return [
        Module(f"{there}/conv_block/batch_norm", f"{here}.0", "batch_norm"),
        Module(f"{there}/conv_block/conv1_d", f"{here}.2", "conv"),
    ]


def _tail(there: str, here: str) -> list[Module]:
    """The residual convolution and the pooling of a stage."""
    pool = Module(f"{there}/attention_pool/~/conv2_d", f"{here}.2.to_attn_logits", "conv2d")
    return [*_block(f"{there}/residual_conv_block", f"{here}.1.fn"), pool]
