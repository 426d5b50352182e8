"""Tensors of JAX programs written with Haiku -> ours.

Names there are `<module path>/<name>`, matrices [in, out]; the averages of a batch norm lie under
`STATE/<module path>/~/{mean_ema,var_ema}/{average,counter,hidden}`, and inference uses `average`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from chargaff.errors import CheckpointError
from chargaff.families.protocol import StateDict

SEGMENTATION_HEAD = "unet1_d_segmentation_head"
"""Name of the U-Net inside the head."""

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Module:
    """One module of a Haiku program and where its tensors go."""

    path: str
    """Below the model's own name."""
    ours: str
    """Name without the last part."""
    kind: str
    """Key of the table below."""


def _same(x: Tensor) -> Tensor:
    return x


def _flat(x: Tensor) -> Tensor:
    return x.flatten()


def _reversed_axes(x: Tensor) -> Tensor:
    return x.permute(*reversed(range(x.dim())))


_AVERAGES: Mapping[str, tuple[str, Change]] = {
    "~/mean_ema/average": ("running_mean", _flat),
    "~/var_ema/average": ("running_var", _flat),
    "~/mean_ema/counter": ("num_batches_tracked", _same),
}
_UNUSED_STATE = ("~/mean_ema/hidden", "~/var_ema/hidden", "~/var_ema/counter")

# kind -> name there -> (name here, change)
_KINDS: Mapping[str, Mapping[str, tuple[str, Change]]] = {
    "linear": {"w": ("weight", _reversed_axes), "b": ("bias", _same)},
    "pointwise": {"w": ("weight", lambda x: x.t().unsqueeze(-1)), "b": ("bias", _same)},
    "conv": {"w": ("weight", _reversed_axes), "b": ("bias", _flat)},
    "conv_transpose": {"w": ("weight", lambda x: _reversed_axes(x.flip(0))), "b": ("bias", _flat)},
    "conv2d": {"w": ("weight", lambda x: x.permute(3, 2, 0, 1))},
    "layer_norm": {"scale": ("weight", _same), "offset": ("bias", _same)},
    "batch_norm": {"scale": ("weight", _flat), "offset": ("bias", _flat)},
    "attention": {"rel_content_bias": ("rel_content_bias", _same), "rel_pos_bias": ("rel_pos_bias", _same)},
}


def read_haiku(state: StateDict, modules: Iterable[Module]) -> StateDict:
    """The tensors under our names, in our orientation; modules that the file lacks are left out.

    Args:
        state: `<model name>/<module path>/<name>`, and `STATE/` before it for averages.

    Raises:
        CheckpointError: names that belong to none of `modules`.
    """
    known = {module.path: module for module in modules}
    result: StateDict = {}
    unknown: list[str] = []
    for name, tensor in state.items():
        is_average = name.startswith("STATE/")
        path = name.removeprefix("STATE/").partition("/")[2]  # without the model's name
        module, rest = _owner(path, known)
        if module is not None and is_average and module.kind == "batch_norm" and rest in _UNUSED_STATE:
            continue
        table = {} if module is None else _AVERAGES if is_average else _KINDS[module.kind]
        if module is None or rest not in table:
            unknown.append(name)
            continue
        ours, change = table[rest]
        result[f"{module.ours}.{ours}"] = change(tensor)
    if unknown:
        raise CheckpointError(f"{len(unknown)} tensor names are not of this layout: {', '.join(sorted(unknown)[:5])}")
    return result


def _owner(path: str, known: Mapping[str, Module]) -> tuple[Module | None, str]:
    """The module with the longest path that `path` begins with, and what follows."""
    head = path
    while head:
        head, _, _ = head.rpartition("/")
        if head in known:
            return known[head], path[len(head) + 1 :]
    return None, path


def segmentation_modules(levels: int, num_layers: int) -> list[Module]:
    """The U-Net head (segment sheet 2.1)."""
    root, layers = f"~/{SEGMENTATION_HEAD}/~", range(num_layers)
    blocks = [("down", "_downsample_blocks", "conv", i) for i in range(levels)]
    blocks += [("up", "_upsample_blocks", "conv_transpose", i) for i in range(levels)]
    found = [
        Module(f"{root}/{way}sample_block_{i}/~/{kind}{j}", f"head.unet.{ours}.{i}.conv_layers.{j}", kind)
        for way, ours, kind, i in blocks
        for j in layers
    ]
    found += [
        Module(f"{root}/final_conv1_d/~/conv{j}", f"head.unet.final_block.conv_layers.{j}", "conv") for j in layers
    ]
    return [*found, Module("~/fc", "head.fc", "linear")]


def transformer_modules(depth: int) -> list[Module]:
    """The transformer of Enformer and Borzoi (enformer sheet 3.8)."""
    found = []
    for i in range(depth):
        there, here = f"~_transformer_attention/layer_{i}", f"backbone.transformer.{i}"
        found += [
            Module(f"{there}/attn_layer_norm", f"{here}.0.fn.0", "layer_norm"),
            Module(f"{there}/attention", f"{here}.0.fn.1", "attention"),
        ]
        names = {"attn_q": "to_q", "attn_k": "to_k", "attn_v": "to_v", "attn_to_rel_k": "to_rel_k", "attn_o": "to_out"}
        found += [Module(f"{there}/attention/~/{a}", f"{here}.0.fn.1.{b}", "linear") for a, b in names.items()]
        there = f"~_transformer_ffn_block/layer_{i}"
        found += [
            Module(f"{there}/ffn_layer_norm", f"{here}.1.fn.0", "layer_norm"),
            Module(f"{there}/ffn_1", f"{here}.1.fn.1", "linear"),
            Module(f"{there}/ffn_2", f"{here}.1.fn.4", "linear"),
        ]
    return found
