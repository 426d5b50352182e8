"""Hyper-parameters under the names of the hub's config.json, read from there or from hyperparams.json (nt sheet 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from chargaff.errors import ConfigError
from chargaff.families.configs import config_to_json, parse_config

Activation = Literal["gelu", "gelu-no-approx", "relu", "swish", "silu", "sin"]
Positions = Literal["absolute", "rotary", "absolute+rotary", "none"]

JAX_EPS = 1e-5
"""LayerNorm eps built into the JAX code; the hub's files say 1e-12."""

_FROM_JAX = {
    "alphabet_size": "vocab_size",
    "embed_dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "attention_heads": "num_attention_heads",
    "ffn_embed_dim": "intermediate_size",
    "add_bias_ffn": "add_bias_fnn",
    "ffn_activation_name": "ffn_activation",
}
"""Names of hyperparams.json and of the JAX code's config -> ours, where they differ."""
_TRAINED_TOKENS = 2048
"""Longest input of pre-training, from which the rescaling of longer ones is reckoned."""
_SEGMENT_TOKENS = 5001
"""Longest input of the training of SegmentNT: 30 kb and <cls>."""
_MAY_BE_NULL = ("key_size", "rescale_beyond_tokens")
"""Keys of which null says something; elsewhere it stands for the default."""
_UNSUPPORTED = {"is_decoder": False, "is_folding_model": False}
"""Published keys, and the only value built here."""


@dataclass(frozen=True)
class NucleotideTransformerConfig:
    """Defaults are those of the published v2 models; the other keys of a published file mean nothing here."""

    vocab_size: int = 4107
    """V, rows of the embedding; decides the vocabulary (4105: v1 6-mers, 4107: v2; 73 and 75: 3-mers)."""
    hidden_size: int = 512
    """D."""
    num_hidden_layers: int = 12
    """Blocks."""
    num_attention_heads: int = 16
    """H."""
    intermediate_size: int = 2048
    """Width of the feed-forward part; a gated one has a first layer of twice that."""
    max_position_embeddings: int = 2050
    """Rows of the published position table: the longest input in tokens + pad_token_id + 1."""
    position_embedding_type: Positions = "rotary"
    """Learned positions added to the embedding, or rotary angles in every attention, or both."""
    token_dropout: bool = False
    """Zero the embedding of <mask> and rescale the sequence, at inference too (sheet 3.1)."""
    emb_layer_norm_before: bool = False
    """LayerNorm after the embedding."""
    layer_norm_eps: float = 1e-12
    """eps of every LayerNorm; a fact of the checkpoint: 1e-12 in hub files, 1e-5 in the JAX archives."""
    add_bias_fnn: bool = False
    """Biases in the feed-forward part."""
    use_glu_in_ffn: bool = True
    """Gated feed-forward part. Not in hub files: theirs is gated if they say anything about `add_bias_fnn`."""
    ffn_activation: Activation = "swish"
    """Of the feed-forward part; "gelu" is the tanh approximation, "gelu-no-approx" the exact one."""
    pad_token_id: int = 1
    """<pad>; positions of the learned table begin behind it."""
    mask_token_id: int = 2
    """<mask>, for token dropout."""
    key_size: int | None = None
    """K, width of a head; None: D / H."""
    embed_scale: float = 1.0
    """Factor on the token embedding."""
    mask_ratio_train: float = 0.12
    """Share of masked tokens in pre-training, for token dropout: 0.15 x 0.8."""
    add_bias_kv: bool = False
    """A learned key and value that every query sees beside those of the tokens."""
    rescaling_factor: float | None = None
    """Rotary base 10000 f^(K / (K - 2)), for inputs longer than those of training."""
    rescale_beyond_tokens: int | None = None
    """Inputs of more tokens, <cls> included, get the factor tokens / 2048 in place of `rescaling_factor`. Not in
    published files: 5001 for those of segmentation models (segment sheet 3)."""
    features: tuple[str, ...] = ()
    """Elements that a segmentation head tells apart."""
    num_layers_head: int = 2
    """Convolutions of each block of a segmentation head."""
    unet_levels: int = 2
    """Halvings inside a segmentation head; not part of published files, where it is always 2."""
    pre_layer_norm: bool = True
    """LayerNorm before each branch; else after its sum with the stream."""
    hidden_dropout_prob: float = 0.0
    """While training: of both branches and of the classification head."""
    attention_probs_dropout_prob: float = 0.0
    """While training: of the attention weights."""
    pads: Literal["packed", "hub", "jax"] = "packed"
    """Padding: "packed" spends no work on it and gives zeros there. The others compute what the originals happen to
    give at pad positions: "hub" zeroes their embedding, "jax" lets them look at everything; real positions agree."""

    def __post_init__(self) -> None:
        if self.key_size is None and self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"config.num_attention_heads: hidden_size {self.hidden_size} does not divide by "
                f"{self.num_attention_heads}; give key_size"
            )
        if self.is_rotary and self.head_width % 2:
            raise ConfigError(f"config.key_size: rotary positions need an even head width, got {self.head_width}")
        if self.is_rotary and self.add_bias_kv:
            raise ConfigError("config.add_bias_kv: not together with rotary positions, as in the original")
        if self.rescaling_factor is not None and (not self.is_rotary or self.head_width < 4):
            raise ConfigError("config.rescaling_factor: needs rotary positions and a head width of at least 4")
        if self.max_tokens < 1:
            raise ConfigError(
                f"config.max_position_embeddings: expected more than {self.pad_token_id + 1}, got "
                f"{self.max_position_embeddings}"
            )

    @property
    def head_width(self) -> int:
        """K."""
        return self.key_size or self.hidden_size // self.num_attention_heads

    @property
    def is_rotary(self) -> bool:
        return "rotary" in self.position_embedding_type

    @property
    def is_learned(self) -> bool:
        """Whether a table of positions is added to the embedding."""
        return "absolute" in self.position_embedding_type

    @property
    def max_tokens(self) -> int:
        """Longest input of pre-training, <cls> included."""
        return self.max_position_embeddings - self.pad_token_id - 1

    @property
    def rotary_base(self) -> float:
        if self.rescaling_factor is None:
            return 10_000.0
        return self._base(self.rescaling_factor)

    def rotary_base_for(self, tokens: int) -> float:
        """The base for an input of this many tokens, <cls> included."""
        limit = self.rescale_beyond_tokens
        if limit is None or tokens <= limit or not self.is_rotary:
            return self.rotary_base
        return self._base(tokens / _TRAINED_TOKENS)

    def _base(self, factor: float) -> float:
        width = self.head_width
        return float(10_000.0 * factor ** (width / (width - 2)))

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, strict: bool = False) -> "NucleotideTransformerConfig":
        """From a published config.json, hyperparams.json or JAX config, a checkpoint row, or a run file."""
        is_jax = "attention_heads" in values or "embed_dim" in values
        values = _from_jax(values) if is_jax else _from_hub(values)
        for key, supported in _UNSUPPORTED.items():
            if values.get(key, supported) not in (supported, None):
                raise ConfigError(f"config.{key}: {values[key]!r} is not supported, only {supported!r}")
        known = cls.__dataclass_fields__
        kept = {key: value for key, value in values.items() if key in known or (strict and key not in _UNSUPPORTED)}
        kept["features"] = tuple(kept.get("features") or ())
        if kept["features"] and kept.get("rescaling_factor") is not None:
            kept.setdefault("rescale_beyond_tokens", _SEGMENT_TOKENS)
        return parse_config(cls, kept, strict=strict)

    def to_json(self) -> dict[str, Any]:
        """All keys, which `from_json` reads back."""
        return {**config_to_json(self), "features": list(self.features)}


def _from_hub(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that hub files leave to their code: v1 and Agro run transformers' ESM, v2 its own."""
    is_v2 = values.get("add_bias_fnn") is not None or values.get("vocab_size", 4107) in (4107, 75)
    facts: dict[str, Any] = {
        "use_glu_in_ffn": is_v2,
        "add_bias_fnn": not is_v2,
        "ffn_activation": "swish" if is_v2 else "gelu-no-approx",
        "position_embedding_type": "rotary" if is_v2 else "absolute",
        "max_position_embeddings": 2050 if is_v2 else 1002,
    }
    given = {key: value for key, value in values.items() if value is not None or key in _MAY_BE_NULL}
    return {**facts, **given}


def _from_jax(values: Mapping[str, Any]) -> dict[str, Any]:
    """hyperparams.json and the JAX code's config class, whose defaults apply where a key is missing (sheet 1.5)."""
    is_rotary = bool(values.get("use_rotary_embedding", False))
    learned = values.get("positional_embedding", "learned")
    if learned not in ("learned", None):
        raise ConfigError(f"config.positional_embedding: expected 'learned' or null, got {learned!r}")
    kinds = {
        (True, True): "absolute+rotary",
        (True, False): "absolute",
        (False, True): "rotary",
        (False, False): "none",
    }
    k = int(values.get("k_for_kmers") or 6)
    activation = values.get("ffn_activation_name", "gelu-no-approx")
    if activation not in get_args(Activation):
        raise ConfigError(
            f"config.ffn_activation_name: expected one of {', '.join(get_args(Activation))}, got {activation!r}"
        )
    pad = int(values.get("pad_token_id", 1))
    defaults: dict[str, Any] = {
        "vocab_size": 4**k + (11 if is_rotary else 9),
        "hidden_size": 1280,
        "num_hidden_layers": 24,
        "num_attention_heads": 20,
        "intermediate_size": 5120,
        "layer_norm_eps": JAX_EPS,
        "add_bias_fnn": True,
        "use_glu_in_ffn": False,
        "ffn_activation": "gelu-no-approx",
    }
    renamed = {ours: values[theirs] for theirs, ours in _FROM_JAX.items() if theirs in values}
    ours = {key: values[key] for key in NucleotideTransformerConfig.__dataclass_fields__ if key in values}
    ratio = values.get("masking_ratio", 0.1) * values.get("masking_prob", 0.8)
    return {
        **defaults,
        **renamed,
        "position_embedding_type": kinds[learned == "learned", is_rotary],
        "max_position_embeddings": int(values.get("max_positions", 1000)) + pad + 1,
        "mask_ratio_train": ratio,
        "key_size": values.get("key_dim"),
        **ours,
    }
