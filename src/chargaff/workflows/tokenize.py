"""What a model's tokenizer makes of sequences: tokens, ids, and the bases each covers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chargaff.errors import InputError
from chargaff.families import get_family
from chargaff.hub.catalog import find_checkpoint
from chargaff.hub.describe import describe
from chargaff.hub.files import resolve
from chargaff.seq.alphabet import to_array, upper
from chargaff.tokenizers.protocol import Tokenizer
from chargaff.workflows.sequences import InMemory, Sequences, read_sequences

_LETTERS = re.compile(r"[A-Za-z*-]*")
_LONGEST_PATH = 4096


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A record as tokens."""

    id: str
    length_bp: int
    tokens: tuple[str, ...]
    """[T]"""
    ids: NDArray[np.int64]
    """[T]"""
    span_bp: NDArray[np.int64]
    """[T, 2] bases that each token covers: start, end (exclusive); empty for special tokens."""


def tokenizer_of(name_or_path: str | os.PathLike[str], *, offline: bool = False) -> Tokenizer:
    """The tokenizer of a checkpoint or a model on this machine; reads no weights.

    Published checkpoints need no files, except where the vocabulary is one.

    Raises:
        ConfigError: no such name.
        CheckpointError: needed files are out of reach or contradict each other.
    """
    row = find_checkpoint(str(name_or_path))
    if row is not None:
        family = get_family(row.family)
        tokenizer = family.tokenizer(family.config.from_json(row.config))  # type: ignore[attr-defined]
        if not hasattr(type(tokenizer), "FILES"):
            return tokenizer
    path = Path(name_or_path) if isinstance(name_or_path, os.PathLike) else name_or_path
    return describe(resolve(path, offline=offline), {}).tokenizer


def tokenize(
    tokenizer: Tokenizer | str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    special: bool = True,
    keep_case: bool = False,
    column: str | None = None,
) -> Iterator[Tokenized]:
    """The tokens of a sequence or of a file's records, one record at a time.

    Args:
        tokenizer: one, or the name or path of a model.
        source: letters, or a FASTA, FASTQ or (with `column`) table file.
        special: with the tokens that the tokenizer adds.
        keep_case: hand letters over as they are; else in upper case, as the models read them.
        column: of a table: where the sequences are.

    Raises:
        InputError: no such file, or letters that are none.
    """
    if isinstance(tokenizer, str | os.PathLike):
        tokenizer = tokenizer_of(tokenizer)
    sequences = _sequences(source, column)
    for record, name in enumerate(sequences.ids):
        letters = sequences.fetch(record, 0, int(sequences.length_bp[record]))
        ids = tokenizer.encode(letters if keep_case else upper(letters), special=special).astype(np.int64)
        covered = tokenizer.token_bp[ids].astype(np.int64)
        end = np.cumsum(covered)
        words = tuple(tokenizer.vocab[number] for number in ids.tolist())
        yield Tokenized(name, len(letters), words, ids, np.stack([end - covered, end], 1))


def _sequences(source: str | os.PathLike[str], column: str | None) -> Sequences:
    if isinstance(source, str):
        is_file = len(source) <= _LONGEST_PATH and Path(source).exists()
        if not is_file and _LETTERS.fullmatch(source):
            return InMemory(["sequence"], [to_array(source)])
        if not is_file:
            raise InputError(f"{source:.80}: no such file, nor a sequence of letters")
    return read_sequences(source, column=column)
