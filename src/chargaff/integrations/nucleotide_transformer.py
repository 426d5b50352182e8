"""The calls of the JAX package `nucleotide_transformer`, answered by this one. Needs no JAX.

`get_pretrained_model` takes the original's arguments and returns what stands in the same four places. What differs:
tensors are torch's, sequences are padded to the longest of the call unless a length is given, padding does not take
part in anything (embeddings and logits are zero there), and attention maps are numbered by head.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from chargaff.errors import ConfigError
from chargaff.families.nucleotide_transformer.config import NucleotideTransformerConfig
from chargaff.hub.load import load
from chargaff.model import Model, autocast, evaluating
from chargaff.tokenizers.kmer import KmerTokenizer

Numbering = Literal["heads", "jax"]


@dataclass(frozen=True)
class Tokenizer:
    """Strings to (tokens, ids), padded on the right; anything but A, C, G, T, N in upper case is refused."""

    kmers: KmerTokenizer
    max_positions: int | None = None
    """Length that every sequence is padded to, <cls> included; None: that of the longest of a call."""

    def tokenize(self, sequence: str) -> tuple[list[str], list[int]]:
        """Tokens and ids of one sequence, not padded."""
        tokens = self.kmers.tokenize(sequence, rules="jax")
        return tokens, [self.kmers.ids[token] for token in tokens]

    def batch_tokenize(self, sequences: Collection[str]) -> list[tuple[list[str], list[int]]]:
        """(tokens, ids) of each sequence.

        Raises:
            InputError: a letter that is no token, or more tokens than `max_positions`.
        """
        return self.kmers.batch_tokenize(sequences, fixed_tokens=self.max_positions, rules="jax")

    def token_to_id(self, token: str) -> int:
        return self.kmers.ids[token]

    def id_to_token(self, token_id: int) -> str:
        return self.kmers.vocab[token_id]

    @property
    def vocabulary(self) -> list[str]:
        """Token of each id; for v1 the last two are not the model's."""
        return list(self.kmers.vocab)

    @property
    def vocabulary_size(self) -> int:
        return len(self.kmers.vocab)

    @property
    def pad_token_id(self) -> int:
        return self.kmers.pad_id

    @property
    def mask_token_id(self) -> int:
        return self.kmers.ids["<mask>"]

    @property
    def class_token_id(self) -> int:
        return self.kmers.cls_id


@dataclass(frozen=True)
class Forward:
    """`apply(parameters, random_key, tokens)` as of a transformed function, or simply `forward(tokens)`."""

    model: Model
    embeddings_layers_to_save: tuple[int, ...] = ()
    attention_maps_to_save: tuple[tuple[int, int], ...] = ()
    numbering: Numbering = "heads"
    dtype: torch.dtype | None = field(default=None)
    """Of matrix products; None: float32."""

    def apply(self, parameters: Model, random_key: Any, tokens: Any) -> dict[str, Tensor]:
        """As `forward(tokens)` with the model in `parameters`; there is no randomness."""
        return replace(self, model=parameters)(tokens)

    @torch.inference_mode()
    def __call__(self, tokens: Any) -> dict[str, Tensor]:
        """Logits, embeddings and maps of [B, T] ids (lists, numpy or torch), float32, on the model's device.

        Returns:
            "logits" [B, T, V]; "embeddings_<layer>" [B, T, D], of the last layer after the head's first norm;
            "attention_map_layer_<layer>_number_<number>" [B, T, T].
        """
        taps, ids = self.taps(), torch.as_tensor(tokens, device=self.model.device)
        mask = ids != self.model.tokenizer.pad_id
        with evaluating(self.model), autocast(self.model.device, self.dtype):
            output = self.model(ids, None if bool(mask.all()) else mask, taps=set(taps.values()) - {"hidden"})
        assert output.logits is not None
        states: Mapping[str, Tensor] = {**output.encoded.taps, "hidden": output.encoded.hidden}
        found = {name: states[tap].float() for name, tap in taps.items()}
        return {"logits": output.logits * mask.unsqueeze(2), **found}

    def taps(self) -> dict[str, str]:
        """Name of each output that was asked for -> where it is tapped.

        Raises:
            ConfigError: a layer or a map that does not exist.
        """
        backbone: Any = self.model.backbone
        depth, heads = len(backbone.blocks), backbone.num_heads
        taps = {}
        for layer in self.embeddings_layers_to_save:
            if not 1 <= layer <= depth:
                raise ConfigError(f"embeddings_layers_to_save: expected 1 to {depth}, got {layer}")
            taps[f"embeddings_{layer}"] = "hidden" if layer == depth else f"layer.{layer}"
        for layer, number in self.attention_maps_to_save:
            last = heads if self.numbering == "jax" else heads - 1
            if not (1 <= layer <= depth and 0 <= number <= last):
                raise ConfigError(
                    f"attention_maps_to_save: expected layers 1 to {depth} and numbers 0 to {last}, got "
                    f"{(layer, number)}"
                )
            # the original stores head number + 1, and the last head where there is none
            head = min(number + 1, heads - 1) if self.numbering == "jax" else number
            taps[f"attention_map_layer_{layer}_number_{number}"] = f"attn.{layer}.{head}"
        return taps


def get_pretrained_model(
    model_name: str | os.PathLike[str],
    mixed_precision: bool = False,
    embeddings_layers_to_save: Iterable[int] = (),
    attention_maps_to_save: Iterable[tuple[int, int]] | None = None,
    max_positions: int | None = None,
    *,
    attention_numbering: Numbering = "heads",
    device: str = "auto",
    offline: bool = False,
) -> tuple[Model, Forward, Tokenizer, NucleotideTransformerConfig]:
    """(parameters, forward, tokenizer, config) of a model by the name the original gives it, or by path.

    Args:
        model_name: "500M_human_ref", "250M_multi_species_v2", ..., a hub id, or a folder in hub or JAX layout.
        mixed_precision: matrix products in bfloat16.
        embeddings_layers_to_save: layers, from 1.
        attention_maps_to_save: (layer from 1, number) pairs.
        max_positions: length in tokens that sequences are padded to, at most what the model takes; None: the longest.
        attention_numbering: "heads": number h is head h, from 0; "jax": as the original has it, number h is head h + 1,
            and the last head where there is none.
        device, offline: as `chargaff.load`.

    Raises:
        ConfigError: unknown name, or a layer or head that does not exist.
        CheckpointError: the weights are out of reach, or not of this family.
    """
    model = load(os.fspath(model_name), device=device, offline=offline)
    config = model.spec.config
    if not isinstance(config, NucleotideTransformerConfig) or model.head is None:
        raise ConfigError(f"{model_name}: no language model of the Nucleotide Transformer family")
    forward = Forward(
        model,
        tuple(embeddings_layers_to_save),
        tuple((layer, number) for layer, number in attention_maps_to_save or ()),
        attention_numbering,
        torch.bfloat16 if mixed_precision else None,
    )
    forward.taps()  # complains now about what does not exist
    kmers = KmerTokenizer.for_vocabulary(config.vocab_size)
    kmers = replace(kmers, has_trailing_ends=kmers.version == "v1")
    length = None if max_positions is None else min(max_positions, config.max_tokens)
    return model, forward, Tokenizer(kmers, length), config
