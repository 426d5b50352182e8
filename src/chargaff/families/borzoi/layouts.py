"""Published tensor names -> ours."""

from chargaff.families.borzoi.config import BorzoiConfig
from chargaff.families.haiku import Module, read_haiku, segmentation_modules, transformer_modules
from chargaff.families.protocol import StateDict
from chargaff.families.renaming import rename
from chargaff.families.unet_names import UNET_RULES

_TRUNK = "conv_dna|res_tower|unet1|horizontal_conv[01]|transformer|upsampling_unet[01]|separable[01]|final_joined_convs"
_READ = [
    (rf"((?:{_TRUNK})\..*)", r"backbone.\1"),
    (r"((?:human|mouse)_head\..*)", r"head.\1"),
    *UNET_RULES,
]
_WRITE = [
    (r"backbone\.(.*)", r"\1"),
    (r"head\.((?:human|mouse)_head\..*)", r"\1"),
    (r"head\.((?:unet|fc)\..*)", r"unet_head.\1"),
]


def read_torch(state: StateDict, config: BorzoiConfig) -> StateDict:
    """Names of borzoi-pytorch, and of the published SegmentBorzoi built around it."""
    return rename(state, _READ)


def write_torch(state: StateDict, config: BorzoiConfig) -> StateDict:
    """The opposite."""
    return rename(state, _WRITE)


def read_jax(state: StateDict, config: BorzoiConfig) -> StateDict:
    """Names of the Haiku program, with the state of its batch norms (borzoi sheet 3.6)."""
    return read_haiku(state, _jax_modules(config))


def _jax_modules(config: BorzoiConfig) -> list[Module]:
    found = [Module("~_stem/conv1_d", "backbone.conv_dna.conv_layer", "conv")]
    last = len(config.conv_widths) - 1
    for i in range(last):
        found += _block(f"~_conv_tower/layer_{i}/conv_block", f"backbone.res_tower.{2 * i}")
    found += _block(f"~_conv_tower/layer_{last}/conv_block", "backbone.unet1.1")
    for there, here in ((0, 1), (1, 0)):
        found += _ascent(f"~_unet_conv/u_net_conv_block_{there}", here)
    found += _block("~_final_conv_block/conv_block", "backbone.final_joined_convs.0")
    found += [Module(f"~_heads/{name}_head", f"head.{name}_head", "pointwise") for name in ("human", "mouse")]
    found += transformer_modules(config.depth)
    return found + segmentation_modules(config.unet_levels, config.num_layers_head)


def _block(there: str, here: str) -> list[Module]:
    return [
        Module(f"{there}/batch_norm", f"{here}.norm", "batch_norm"),
        Module(f"{there}/conv1_d", f"{here}.conv_layer", "conv"),
    ]


def _ascent(there: str, number: int) -> list[Module]:
    rise, across = f"backbone.upsampling_unet{number}.0", f"backbone.horizontal_conv{number}"
    separable = f"{there}/separable_depthwise_conv1_d"
    return [
        Module(f"{there}/batch_norm", f"{rise}.norm", "batch_norm"),
        Module(f"{there}/linear", f"{rise}.conv_layer", "pointwise"),
        Module(f"{there}/batch_norm_unet_repr", f"{across}.norm", "batch_norm"),
        Module(f"{there}/linear_unet", f"{across}.conv_layer", "pointwise"),
        Module(f"{separable}/~/depthwise_conv1_d", f"backbone.separable{number}.conv_layer.0", "conv"),
        Module(f"{separable}/~/conv1_d", f"backbone.separable{number}.conv_layer.1", "conv"),
    ]
