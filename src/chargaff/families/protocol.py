"""The contract between model families and the rest of the package (DESIGN 2.3, 2.4)."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from chargaff.nn.encoded import Encoded
from chargaff.tokenizers.protocol import Tokenizer

__all__ = [
    "Backbone",
    "Encoded",
    "Family",
    "InputRule",
    "LayeredBackbone",
    "Layout",
    "State",
    "StateDict",
    "StatefulBackbone",
]

StateDict = dict[str, Tensor]
"""Flat parameter name -> tensor."""

State = tuple[Any, ...]
"""What a causal backbone carries between chunks; opaque to callers, batch first."""


@dataclass(frozen=True, slots=True)
class InputRule:
    """What a backbone accepts; read by the code that cuts windows and forms batches."""

    max_tokens: int | None = None
    """Longest input; None: limited by memory alone."""
    multiple_of: int = 1
    """Token count must divide by this, special tokens excluded."""
    min_tokens: int = 1
    """Shortest input, for models that cut off its ends."""
    fixed_bp: int | None = None
    """The only input length, for models that have one."""
    padding: Literal["masked", "causal", "never"] = "masked"
    """masked: pad freely; causal: on the right only; never: batches of equal length."""
    n_bases: Literal["token", "zero", "forbidden"] = "token"
    """What becomes of N: a token of its own, an all-zero row, or not allowed."""
    needs_special: bool = False
    """The tokenizer's special tokens belong to every input, whatever is done with the states."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Both directions between a published set of tensor names and ours."""

    read: Callable[[StateDict, Any], StateDict]
    """(published tensors, config) -> ours, tied duplicates and all; CheckpointError for a name no rule knows."""
    write: Callable[[StateDict, Any], StateDict] | None = None
    """(ours without tied duplicates, config) -> published; None: this layout is only read."""
    files: Callable[[Any, str, int | None, Sequence[str]], Mapping[str, str]] | None = None
    """As `Family.published_files`, where this layout has files of its own."""
    archive: Literal["safetensors", "joblib"] = "safetensors"
    """What the tensors are written in; "joblib" is the pickled tree of the JAX code bases."""


@dataclass(frozen=True, slots=True)
class Family:
    """A model family: a value, not a class to inherit. `families/<name>/__init__.py` holds it as FAMILY."""

    config: type
    """Frozen dataclass; field names are the published config.json keys. Has `from_json(mapping)` and `to_json()`."""
    backbone: Callable[[Any], nn.Module]
    """config -> Backbone."""
    tokenizer: Callable[[Any], Tokenizer]
    init: Callable[[nn.Module, Any], None]
    """(backbone or head, config): sets every parameter in place from torch's global generator."""
    lm_head: Callable[[Any, nn.Module], nn.Module] | None = None
    """(config, backbone) -> head; ties weights itself."""
    objective: Literal["masked", "causal", "none"] = "none"
    """What the language-model head was trained for."""
    strands: Callable[[Any], str] = lambda config: "forward-only"
    """config -> what the model does about the two strands by construction: "equivariant" or "forward-only"."""
    pooling: str = "mean"
    """How the authors pool token states; a checkpoint row may say otherwise."""
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    """"hub" | "lightning" | "jax" | ..."""
    recognises: Callable[[Mapping[str, Any]], bool] = lambda published: False
    """True if a published config.json belongs to this family."""
    recognises_names: Callable[[Collection[str]], bool] = lambda names: False
    """True if the tensors of an archive that comes without any description are this family's."""
    published_files: Callable[[Any, str, int | None, Sequence[str]], Mapping[str, str]] | None = None
    """(config, head, context_bp, labels) -> file name -> text that goes beside the weights in the "hub" layout.

    labels: names of a classifier's outputs. Raises ConfigError for a head that has no published form."""
    published_head: Mapping[str, Any] = field(default_factory=dict)
    """pooling and bias of the published sequence classifier, where that is a common `SequenceHead`."""
    ignored_label: Callable[[Any], int | None] = lambda config: None
    """config -> id that the published token losses leave out."""
    published_output: Callable[[Any, Encoded], tuple[Tensor, ...]] | None = None
    """(config, encoded with every "layer.k" and "layer.k.branch") -> hidden_states as the published class returns them;
    None: the embedding, the stream after each block but the last, and the final states."""
    extra_heads: Mapping[str, Callable[[Any, nn.Module, int], nn.Module]] = field(default_factory=dict)
    """(config, backbone, num_outputs) -> head, for kinds where this family brings its own ("segmentation", ...)."""
    head_outputs: Mapping[str, Callable[[Any], int]] = field(default_factory=dict)
    """Kinds of its own heads whose number of outputs the config fixes -> that number."""
    fresh_heads: tuple[str, ...] = ()
    """Those of extra_heads that give vectors, not answers: as wide as the states unless `num_outputs` says otherwise,
    and made afresh by `load`, with a warning, where a file lacks them."""
    tiny: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Variant name -> config small enough for tests that must run in well under a second."""


class Backbone(Protocol):
    width: int
    """D of Encoded.hidden."""
    rule: InputRule

    def __call__(self, tokens: Tensor, mask: Tensor | None = None, *, taps: Collection[str] = ()) -> Encoded: ...
    def init_buffers(self, device: Any) -> None:
        """Builds the non-persistent buffers after weights were assigned."""
        ...


class LayeredBackbone(Backbone, Protocol):
    """A token model that can also be used in steps."""

    checkpointing: bool
    """Recompute each block in the backward pass instead of keeping its activations."""

    @property
    def blocks(self) -> nn.ModuleList: ...
    def embed(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, T, C]; C = 2D, in the published half order, for two-strand models."""
        ...

    def run(self, x: Tensor, mask: Tensor | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        """Blocks start..stop-1: [B, T, C] -> [B, T, C], the residual stream."""
        ...

    def finish(self, x: Tensor) -> Encoded:
        """[B, T, C] -> Encoded."""
        ...


class StatefulBackbone(LayeredBackbone, Protocol):
    """A causal model: chunks of any length with a carried state equal one forward pass."""

    def init_state(self, batch: int) -> State: ...
    def forward_chunk(self, tokens: Tensor, state: State) -> tuple[Encoded, State]:
        """Continues after `state`; a decoding step is a chunk of one."""
        ...
