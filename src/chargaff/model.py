"""The one wrapper around backbone, head and tokenizer."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chargaff.errors import ConfigError
from chargaff.families.protocol import Encoded, StatefulBackbone
from chargaff.generation import Sampling, continuations
from chargaff.tokenizers.protocol import Tokenizer


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything about a model that is not a tensor."""

    family: str
    config: Any
    head: str
    """"lm", "sequence", "token", "segmentation", "tracks" or "none"."""
    name: str = ""
    """Checkpoint name, hub id or path it came from; "" for a fresh model."""
    head_options: Mapping[str, Any] = field(default_factory=dict)
    """Of "sequence" and "token" heads: num_outputs, pooling, bias, problem."""
    labels: tuple[str, ...] = ()
    """Names of the head's outputs (classes or tracks)."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Output -> probability from which it counts as called; one half for those that are not here."""
    context_bp: int | None = None
    """Length in bases of the training windows; None if unknown."""
    pooling: str = "mean"
    """How the authors pool token states."""
    strands: str = "forward-only"
    """Strand contract: equivariant, conjoined, averaged or forward-only."""
    licence: str = ""
    paper: str = ""
    sha256: str = ""
    """Of the weight file, for provenance."""
    parent: str = ""
    """Checkpoint this one was fine-tuned from."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Further facts for provenance, e.g. data set and seed."""


@dataclass(frozen=True, slots=True)
class Output:
    encoded: Encoded
    logits: Tensor | None
    """What the head returned: [B, T, V] or [B, outputs]; None without a head."""


class Model(nn.Module):
    """Backbone + head + tokenizer + spec; keys of its state are `backbone.…` and `head.…`."""

    def __init__(self, spec: ModelSpec, backbone: nn.Module, head: nn.Module | None, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.head = head
        self.tokenizer = tokenizer

    def forward(
        self, tokens: Tensor, mask: Tensor | None = None, *, taps: Collection[str] = (), both_strands: bool = False
    ) -> Output:
        """Encodes and applies the head.

        Args:
            tokens: [B, T], any integer dtype.
            mask: [B, T] True where real; None if nothing is padded.
            taps: intermediate states to return ("layer.3", "layer.3.branch").
            both_strands: see `encode`.
        """
        encoded = self.encode(tokens, mask, taps=taps, both_strands=both_strands)
        return Output(encoded, None if self.head is None else self.head(encoded, mask))

    def encode(
        self, tokens: Tensor, mask: Tensor | None = None, *, taps: Collection[str] = (), both_strands: bool = False
    ) -> Encoded:
        """States of the backbone; arguments as in `forward`.

        With `both_strands`, a model that sees one strand also reads the reverse complement in a second pass, so that
        `hidden_rc` is filled ("conjoining"). Models that are equivariant by construction fill it anyway.

        Raises:
            ConfigError: `both_strands` for a tokenizer whose tokens are not single bases.
        """
        encoded: Encoded = self.backbone(tokens, mask, taps=taps)
        if not both_strands or encoded.hidden_rc is not None:
            return encoded
        other = self.backbone(self.reverse_complement(tokens), None if mask is None else mask.flip(1))
        return Encoded(encoded.hidden, other.hidden.flip(1), encoded.taps)

    def generate(
        self,
        prompt: str | NDArray[np.uint8],
        *,
        length: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        num: int = 1,
        letters: str = "ACGT",
        on_token: Callable[[], None] = lambda: None,
    ) -> list[str]:
        """Continuations of a sequence, sampled letter by letter from a causal language model.

        Sequence i follows from model, prompt, options, seed and i, not from how many are asked for.

        Args:
            prompt: letters, read in upper case; at least one.
            length: letters to add.
            temperature: flattens (above 1) or sharpens the probabilities; 0 takes the likeliest letter.
            top_k: choose among the k likeliest letters.
            top_p: choose among the likeliest letters that together have this probability.
            num: sequences.
            letters: those that may be chosen.
            on_token: called after each step of all sequences.

        Returns:
            `num` strings of `length` letters, the prompt not repeated.

        Raises:
            ConfigError: not a causal language model of letters, an option out of range, or more than it can read.
            InputError: the prompt is empty.
        """
        if not hasattr(self.backbone, "forward_chunk") or self.head is None or self.spec.head != "lm":
            name = self.spec.name or self.spec.family
            raise ConfigError(f"generation needs a causal language model with its head; {name} is none")
        with evaluating(self):
            return continuations(
                cast(StatefulBackbone, self.backbone),
                self.head,
                self.tokenizer,
                prompt,
                length=length,
                sampling=Sampling(temperature, top_k, top_p, seed),
                num=num,
                letters=letters,
                on_token=on_token,
                device=self.device,
            )

    def reverse_complement(self, tokens: Tensor) -> Tensor:
        """Tokens of the other strand: [B, T] -> [B, T], in its own reading direction."""
        if self.tokenizer.complement is None:
            raise ConfigError(
                f"both strands at token level need one token per base; {self.spec.family} has longer tokens: "
                "average after pooling instead"
            )
        table = torch.as_tensor(self.tokenizer.complement, device=tokens.device)
        return table[tokens.int()].flip(1).to(tokens.dtype)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; every module is put back on exit."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Automatic mixed precision in `dtype`, or nothing for None and float32."""
    if dtype in (None, torch.float32):
        return nullcontext()
    return torch.autocast(device.type, dtype)
