"""Hyper-parameters under their published names (xlstm sheet 2)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chargaff.errors import ConfigError
from chargaff.families.configs import config_to_json, parse_config

STANDARD_COMPLEMENT = {7: 10, 8: 9, 9: 8, 10: 7}
"""A 7, C 8, G 9, T 10 of the published vocabulary; every other id is its own complement."""


@dataclass(frozen=True)
class XLstmConfig:
    """Defaults are those of the published training config; the last two keys are ours."""

    d_model: int = 256
    """D, width of the residual stream (of each strand with `rcps`)."""
    n_layer: int = 4
    """Blocks."""
    vocab_size: int = 12
    """V, rows of embedding and head."""
    pad_vocab_size_multiple: int = 8
    """Kept for round trips: the published code never pads its tables."""
    tie_weights: bool = False
    """Kept for round trips: the published code never ties the head, and True is refused for fresh models."""
    max_length: int = 1024
    """Length of the training windows; limits nothing here."""
    m_conv1d_kernel_size: int = 4
    """Taps of the depth-wise convolution in mLSTM layers; 0: none."""
    m_conv1d_causal: bool = True
    """Taps look back only; false: "same" padding, an even kernel looks one further ahead than back."""
    m_qkv_proj_blocksize: int = 4
    """b, width of the blocks of the block-diagonal q, k, v maps."""
    m_num_heads: int = 4
    """Heads of mLSTM layers."""
    m_proj_factor: float = 2.0
    """E = 64 floor(m_proj_factor D / 64), inner width of mLSTM layers."""
    m_backend: Literal["parallel", "chunkwise"] = "parallel"
    """Published formula; they differ by 1e-6 of the output, and both take linear time here."""
    m_chunk_size: int = 64
    """Kept for round trips: chunks change rounding alone, and ours have the size that is fastest."""
    m_backend_bidirectional: bool = False
    """With `bidirectional`: mLSTM cells that read both directions at once, with one normaliser."""
    m_position_embeddings: bool = False
    """Rotary positions on q and k of mLSTM layers."""
    m_bias: bool = False
    """Biases of the projections of mLSTM layers; gates and convolution always have them."""
    s_num_heads: int = 4
    """Heads of sLSTM layers."""
    s_conv1d_kernel_size: int = 4
    """Taps of the convolution in sLSTM layers; 0: none."""
    s_conv1d_causal: bool = True
    """As m_conv1d_causal."""
    s_lstm_at: tuple[int, ...] | Literal["all"] = ()
    """Blocks that are sLSTM; the others are mLSTM."""
    s_proj_factor: float = 1.3
    """Width of the feed-forward part of sLSTM blocks, in units of D."""
    s_round_proj_up_dim_up: bool = True
    """Round that width up, else down."""
    s_round_proj_up_to_multiple_of: int = 64
    """To a multiple of this."""
    s_position_embeddings: bool = False
    """Scaled sinusoidal positions added before the first block, of whatever kind."""
    dropout: float = 0.0
    """While training: what an mLSTM layer adds, and the output of an sLSTM cell."""
    bidirectional: bool = False
    """Each block reads both directions (or every second one the other, see the next key)."""
    bidirectional_alternating: bool = False
    """With `bidirectional`: blocks 0, 2, ... read from the end, the others from the start."""
    rcps: bool = False
    """Reverse-complement parameter sharing: both strands pass through the same weights."""
    complement_map: Mapping[int, int] | None = None
    """Id -> id of the complementary base; None: the published vocabulary's."""
    rcps_convention: Literal["exact", "reference"] = "exact"
    """With `rcps`: "reference" reverses the heads of sLSTM layers on the other strand, as the published code does by
    mistake and weights trained with it need; such models are equivariant with one head only. Published files, which
    lack this key, are read as "reference"."""
    m_proj_down_init: Literal["reference", "depth"] = "reference"
    """Standard deviation of fresh mLSTM output maps: 2 / sqrt(D) as in the published code, or that over n_layer."""

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layer", "vocab_size", "m_num_heads", "m_qkv_proj_blocksize", "s_num_heads"):
            self._require(getattr(self, name) >= 1, name, "a positive integer")
        for name in ("m_conv1d_kernel_size", "s_conv1d_kernel_size"):
            self._require(getattr(self, name) >= 0, name, "at least 0")
        self._require(0 <= self.dropout < 1, "dropout", "a value in [0, 1)")
        if isinstance(self.s_lstm_at, tuple):
            wrong = [index for index in self.s_lstm_at if not 0 <= index < self.n_layer]
            self._require(not wrong, "s_lstm_at", f"block numbers below n_layer {self.n_layer}")
        if self.slstm_blocks:
            self._require(self.d_model % self.s_num_heads == 0, "s_num_heads", f"a divisor of d_model {self.d_model}")
            self._require(self.feed_forward_width > 0, "s_proj_factor", "a width above 0 after rounding")
        if len(self.slstm_blocks) < self.n_layer:
            inner = self.inner_width
            self._require(inner > 0, "m_proj_factor", f"at least 64 / d_model {self.d_model}, for an inner width of 64")
            for name in ("m_num_heads", "m_qkv_proj_blocksize"):
                self._require(inner % getattr(self, name) == 0, name, f"a divisor of the inner width {inner}")
            if self.m_position_embeddings:
                self._require(self.head_width % 2 == 0, "m_num_heads", f"an even head width {inner} / m_num_heads")
        if self.s_position_embeddings:
            self._require(self.d_model % 2 == 0, "d_model", "an even width for s_position_embeddings")
            self._require(not self.rcps, "s_position_embeddings", "false with rcps: positions tell the strands apart")
        for source, target in (self.complement_map or {}).items():
            if not (0 <= source < self.vocab_size and 0 <= target < self.vocab_size):
                raise ConfigError(f"config.complement_map: {source} -> {target} is outside the vocabulary")

    def _require(self, condition: bool, name: str, expected: str) -> None:
        if not condition:
            raise ConfigError(f"config.{name}: expected {expected}, got {getattr(self, name)!r}")

    @property
    def slstm_blocks(self) -> frozenset[int]:
        """Numbers of the sLSTM blocks."""
        return frozenset(range(self.n_layer) if self.s_lstm_at == "all" else self.s_lstm_at)

    @property
    def inner_width(self) -> int:
        """E."""
        return 64 * math.floor(self.m_proj_factor * self.d_model / 64)

    @property
    def head_width(self) -> int:
        """P of mLSTM layers."""
        return self.inner_width // self.m_num_heads

    @property
    def feed_forward_width(self) -> int:
        """U."""
        multiple = self.s_round_proj_up_to_multiple_of
        nearest = math.ceil if self.s_round_proj_up_dim_up else math.floor
        return multiple * nearest(self.s_proj_factor * self.d_model / multiple)

    @property
    def is_causal(self) -> bool:
        """Whether no position depends on later ones."""
        kinds = self.slstm_blocks
        convolves_causally = (self.s_conv1d_causal or self.s_conv1d_kernel_size <= 1 or not kinds) and (
            self.m_conv1d_causal or self.m_conv1d_kernel_size <= 1 or len(kinds) == self.n_layer
        )
        return convolves_causally and not self.bidirectional and not self.rcps

    @property
    def is_equivariant(self) -> bool:
        """Whether the reverse complement of the input gives the mirrored output."""
        keeps_heads = self.rcps_convention == "exact" or self.s_num_heads == 1 or not self.slstm_blocks
        return self.rcps and keeps_heads

    @property
    def complement(self) -> list[int]:
        """[V] complement of every id; identity where the map says nothing."""
        table = list(range(self.vocab_size))
        given = self.complement_map
        if given is None:
            given = {k: v for k, v in STANDARD_COMPLEMENT.items() if max(k, v) < self.vocab_size}
        for source, target in given.items():
            table[source] = target
        return table

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, strict: bool = False) -> "XLstmConfig":
        """From a published model_config.json, a checkpoint row or a run file."""
        values = dict(values)
        if strict and values.get("tie_weights"):
            raise ConfigError("config.tie_weights: expected false, got True: the head of this family is never tied")
        if isinstance(values.get("s_lstm_at"), list):
            values["s_lstm_at"] = tuple(values["s_lstm_at"])
        if values.get("rcps") and not strict:
            values.setdefault("rcps_convention", "reference")
        return parse_config(cls, values, strict=strict)

    def to_json(self) -> dict[str, Any]:
        """Published keys and our two."""
        values = config_to_json(self)
        if self.s_lstm_at != "all":
            values["s_lstm_at"] = list(self.s_lstm_at)
        return values
