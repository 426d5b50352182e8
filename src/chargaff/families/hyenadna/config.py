"""Hyper-parameters under their published names, from both published forms (hyenadna sheet 1.1, 1.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chargaff.errors import ConfigError
from chargaff.families.configs import config_to_json, parse_config

Variant = Literal["training", "standalone", "hf"]

# `-hf` key -> key of `layer`
_HF_LAYER = {
    "max_seq_len": "l_max",
    "emb_dim": "emb_dim",
    "filter_order": "filter_order",
    "short_filter_order": "short_filter_order",
    "hyena_order": "order",
    "num_inner_mlps": "num_inner_mlps",
    "activation_freq": "w",
}
# what an `-hf` file means by an absent key; its features are constants
_HF_DEFAULTS: Mapping[str, Any] = {
    "max_seq_len": 1024,
    "emb_dim": 3,
    "filter_order": 64,
    "short_filter_order": 3,
    "hyena_order": 2,
    "num_inner_mlps": 2,
    "activation_freq": 1,
    "n_layer": 12,
    "d_model": 256,
}
_HF_OTHER = ("hyena_dropout", "hyena_filter_dropout", "train_freq", "use_bias", "num_labels", "problem_type")

ACTIVATIONS = ("id", "tanh", "relu", "gelu", "elu", "silu", "sigmoid", "softplus")
_NO_ACTIVATION = (None, "id", "identity", "linear")
# options of the published operator that cannot be given: they crash there, or nobody trained with them
_UNSUPPORTED: Mapping[str, Any] = {
    "num_heads": 1,
    "inner_factor": 1,
    "num_blocks": 1,
    "post_order_ffn": False,
    "outer_mixing": False,
}


@dataclass(frozen=True)
class HyenaLayerConfig:
    """`layer` of the training configs; keys that change nothing are accepted and dropped."""

    l_max: int
    """Positions for which the filter's features are built; the longest input."""
    order: int = 2
    """Gates; order - 1 long convolutions."""
    emb_dim: int = 3
    """Width of the positional features; odd."""
    filter_order: int = 64
    """Width of the filter MLP."""
    num_inner_mlps: int = 2
    """Inner layers of the filter MLP."""
    short_filter_order: int = 3
    """Taps of the short causal convolution; fixed to 3 in the standalone variant."""
    w: float = 1
    """Initial frequency of the sine activations."""
    modulate: bool = True
    """Multiply the kernel by a decaying window."""
    normalized: bool = False
    """Divide the kernel by its L1 norm over channels."""
    bias: bool = True
    """Use the skip term."""
    linear_mixer: bool = False
    """One linear layer instead of the filter MLP."""
    bidirectional: bool = False
    """The published circular variant (sheet 2.5), not a plain two-sided convolution."""
    activation: str = "id"
    """Applied between the last gate and the output projection."""
    lr_pos_emb: float = 1e-5
    """Learning rate of the positional features; 0 makes them a constant."""
    modulation_lr: float = 0.0
    """Learning rate of the window's decay rates; 0 makes them a constant."""
    lr: float | None = None
    """Learning rate of the filter; None: the optimizer's."""
    wd: float = 0.0
    """Weight decay of the filter."""

    def __post_init__(self) -> None:
        if self.order < 2:
            raise ConfigError(f"config.layer.order: expected at least 2, got {self.order}")
        if self.emb_dim < 3 or self.emb_dim % 2 == 0:
            raise ConfigError(f"config.layer.emb_dim: expected an odd number from 3 on, got {self.emb_dim}")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(
                f"config.layer.activation: expected one of {', '.join(ACTIVATIONS)}, got {self.activation!r}"
            )


@dataclass(frozen=True)
class AttentionConfig:
    """`attn_cfg`."""

    num_heads: int
    """H."""
    dropout: float = 0.0
    """Of the attention weights; unused at inference."""
    dwconv: bool = False
    """A causal depth-wise convolution of width 3 on the packed queries, keys and values."""
    causal: bool = True
    """Attend to earlier positions only."""
    rotary_emb_dim: int = 0
    """Not built: no published model has rotary positions."""

    def __post_init__(self) -> None:
        if self.rotary_emb_dim:
            raise ConfigError(f"config.attn_cfg.rotary_emb_dim: expected 0, got {self.rotary_emb_dim}")


@dataclass(frozen=True)
class HyenaConfig:
    """Defaults are those of the training code."""

    d_model: int
    """D."""
    n_layer: int
    """Blocks."""
    vocab_size: int = 12
    """Rows of the embedding before padding."""
    layer: HyenaLayerConfig | None = None
    """Hyena layers; None if every layer is attention."""
    d_inner: int | None = None
    """Width of the MLP; None is 4 D."""
    variant: Variant = "training"
    """Whose small differences to reproduce (table at the top of the sheet)."""
    modulation_shift: float | None = None
    """Added to the kernel's window; None is 0 for "training" and 0.05 for the others."""
    pad_vocab_size_multiple: int = 1
    """The embedding is padded to a multiple of this."""
    embed_dropout: float = 0.1
    """Dropout of the embedding while training."""
    resid_dropout: float = 0.0
    """Dropout of every branch while training."""
    layer_norm_epsilon: float = 1e-5
    """eps of every norm."""
    residual_in_fp32: bool = False
    """Keep the residual stream in float32."""
    tie_word_embeddings: bool = True
    """The head's weight is the embedding's."""
    max_position_embeddings: int = 0
    """Rows of learned positions; 0: none."""
    attn_layer_idx: tuple[int, ...] = ()
    """Layers with causal attention instead of Hyena."""
    attn_cfg: AttentionConfig | None = None
    """Attention options."""
    initializer_range: float = 0.02
    """Standard deviation of fresh linear weights."""
    pad_token_id: int | None = None
    """Padding id of the sequence classifier."""

    def __post_init__(self) -> None:
        if self.layer is None and set(self.attn_layer_idx) != set(range(self.n_layer)):
            raise ConfigError("config.layer: missing, and attn_layer_idx does not list every layer")
        if self.attn_layer_idx and self.attn_cfg is None:
            raise ConfigError("config.attn_cfg: missing, but attn_layer_idx lists layers")

    @property
    def shift(self) -> float:
        if self.modulation_shift is not None:
            return self.modulation_shift
        return 0.0 if self.variant == "training" else 0.05

    @property
    def is_causal(self) -> bool:
        """Whether no layer looks ahead."""
        if self.layer is not None and self.layer.bidirectional:
            return False
        return not self.attn_layer_idx or self.attn_cfg is None or self.attn_cfg.causal

    @property
    def inner_width(self) -> int:
        return self.d_inner or 4 * self.d_model

    @property
    def padded_vocab_size(self) -> int:
        """V, rows of the embedding."""
        multiple = self.pad_vocab_size_multiple
        return -(-self.vocab_size // multiple) * multiple

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, strict: bool = False) -> "HyenaConfig":
        """From a published config.json of either form, a checkpoint row or a run file."""
        values = dict(values)
        if "layer" not in values and "attn_layer_idx" not in values:
            values = _from_hf(values)
        if "return_hidden_state" in values:  # written by the released originals alone, which are read with shift 0.05
            del values["return_hidden_state"]
            values.setdefault("variant", "standalone")
        if isinstance(values.get("layer"), Mapping):
            values["layer"] = _published_layer(values["layer"], strict=strict)
            if values.get("variant", "training") != "training":
                values["layer"].pop("lr", None)  # of the pre-training; fine-tuning has its own
        values["attn_layer_idx"] = tuple(values.get("attn_layer_idx") or ())
        return parse_config(cls, values, strict=strict)

    def to_json(self) -> dict[str, Any]:
        """One form for all variants, which `from_json` reads back."""
        return config_to_json(self)


def _published_layer(layer: Mapping[str, Any], *, strict: bool) -> dict[str, Any]:
    """The keys that mean something; the others of published files are tolerated, except those not built here."""
    for key, value in _UNSUPPORTED.items():
        if layer.get(key, value) != value:
            raise ConfigError(f"config.layer.{key}: {layer[key]!r} is not supported, only {value!r}")
    # reference quirk: "local_order" is an old name of short_filter_order that the published operator ignores
    dropped = {"local_order", "_name_", *_UNSUPPORTED}
    known = HyenaLayerConfig.__dataclass_fields__
    kept = {key: value for key, value in layer.items() if key in known or (strict and key not in dropped)}
    if "activation" in kept:
        names = {"swish": "silu", **dict.fromkeys(_NO_ACTIVATION, "id")}
        kept["activation"] = names.get(kept["activation"], kept["activation"])
    return kept


def _from_hf(values: dict[str, Any]) -> dict[str, Any]:
    """The `-hf` form's flat keys in the nested form."""
    given = {**_HF_DEFAULTS, **values}
    layer = {ours: given.pop(theirs) for theirs, ours in _HF_LAYER.items()} | {"lr_pos_emb": 0.0}
    for name in _HF_OTHER:
        given.pop(name, None)
    defaults = {"variant": "hf", "pad_vocab_size_multiple": 8, "tie_word_embeddings": False, "embed_dropout": 0.0}
    given.pop("embed_dropout", None)  # reference quirk: the hub code never applies it
    return {**defaults, **given, "layer": layer}
