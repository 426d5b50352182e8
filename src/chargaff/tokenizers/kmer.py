"""Non-overlapping k-mers: the vocabularies of the Nucleotide Transformer (nt sheet 2)."""

import itertools
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from chargaff.errors import CheckpointError, ConfigError, InputError
from chargaff.seq.alphabet import IUPAC_DNA, translate
from chargaff.seq.alphabet import Sequence as Letters

Ids = npt.NDArray[Any]

BASES = "ATCG"
"""The published order: a k-mer's number is a base-4 number with A 0, T 1, C 2, G 3, the first letter leading."""
_SPECIAL = ("<unk>", "<pad>", "<mask>", "<cls>")
_ENDS = ("<eos>", "<bos>")
_N, _UNKNOWN = 4, 5
"""Codes of what is no base."""
_RUN_BP = 1000
"""Runs of at least this length on average are worth a step each."""


@dataclass(frozen=True)
class KmerTokenizer:
    """k-mers from left to right; what remains before an N or at the end becomes single bases; each N is a token.

    `encode` takes sequence arrays, where every byte is a base; `encode_text` and `tokenize` take strings as the
    published tokenizers do, special tokens spelled out in them included.
    """

    PUBLISHED: ClassVar[tuple[str, ...]] = ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
    """Files of a published repository that `from_published` wants to see."""

    k: int = 6
    """Bases of a long token."""
    version: Literal["v1", "v2"] = "v2"
    """v2 has <eos> and <bos> as ids 4 and 5; v1 has neither."""
    case: Literal["upper", "exact"] = "upper"
    """Fold input to upper case, or take lower-case letters for unknown ones."""
    ambiguous: Literal["n", "unk", "error"] = "n"
    """IUPAC codes other than N: become N, as in the pre-training data, become <unk>, or are refused."""
    has_trailing_ends: bool = False
    """v1: <eos> and <bos> behind all others, as the JAX tokenizer has them; the model has no rows for these ids."""
    adds_cls: bool = True
    """Whether <cls> is put in front; single-base tokenizers of track models add nothing."""
    model_max_length: int | None = None
    """Longest input in tokens, <cls> included, that published files state."""

    def __post_init__(self) -> None:
        if not 1 <= self.k <= 7:
            raise ConfigError(f"tokenizer.k: expected 1 to 7, got {self.k}")
        if self.has_trailing_ends and self.version != "v1":
            raise ConfigError("tokenizer.has_trailing_ends: the v2 vocabulary has <eos> and <bos> already")

    @classmethod
    def sizes(cls) -> dict[int, tuple[int, str]]:
        """Entries of a vocabulary -> its k and version."""
        return {4**k + extra: (k, version) for k in range(1, 8) for extra, version in ((9, "v1"), (11, "v2"))}

    @classmethod
    def for_vocabulary(cls, size: int, *, model_max_length: int | None = None) -> "KmerTokenizer":
        """The tokenizer whose vocabulary has `size` entries: 4105 and 73 are v1 (k = 6, 3), 4107 and 75 v2.

        Raises:
            ConfigError: no k gives that size.
        """
        sizes = cls.sizes()
        if size not in sizes:
            raise ConfigError(
                f"vocab_size: {size} is that of no k-mers; 6-mers have 4105 (v1) or 4107 (v2), 3-mers 73 or 75"
            )
        k, version = sizes[size]
        return cls(k, "v1" if version == "v1" else "v2", model_max_length=model_max_length)

    @cached_property
    def vocab(self) -> tuple[str, ...]:
        """Token of each id."""
        kmers = ("".join(letters) for letters in itertools.product(BASES, repeat=self.k))
        ends = _ENDS if self.version == "v2" else ()
        return (*_SPECIAL, *ends, *kmers, *BASES, "N", *(_ENDS if self.has_trailing_ends else ()))

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """Id of each token; for k = 1, where bases occur twice, the later one."""
        return {token: number for number, token in enumerate(self.vocab)}

    @property
    def pad_id(self) -> int:
        return 1

    @property
    def mask_id(self) -> int | None:
        return 2

    @property
    def unk_id(self) -> int:
        return 0

    @property
    def cls_id(self) -> int:
        return 3

    @property
    def first_kmer_id(self) -> int:
        """Id of the k-mer of A alone."""
        return len(_SPECIAL) + (len(_ENDS) if self.version == "v2" else 0)

    @cached_property
    def token_bp(self) -> npt.NDArray[np.int64]:
        """[V] bases covered by each id: k, 1 for single bases, N and <unk>, 0 for the other special tokens."""
        covered = np.zeros(len(self.vocab), np.int64)
        covered[self.unk_id] = 1
        singles = self.first_kmer_id + 4**self.k
        covered[self.first_kmer_id : singles] = self.k
        covered[singles : singles + 5] = 1
        return covered

    @property
    def complement(self) -> npt.NDArray[np.integer[Any]] | None:
        """None: the other strand has other tokens."""
        return None

    def encode(self, seq: Letters, *, special: bool = True) -> Ids:
        """[L] uint8 ASCII -> [T] ids, int16 (uint8 up to 256 tokens), <cls> in front.

        Raises:
            InputError: a letter that is no base or N, with ambiguous = "error".
        """
        codes = translate(seq, self._codes)
        front = [self.cls_id] if special and self.adds_cls else []
        highest = int(codes.max()) if codes.size else 0
        if highest < _N:
            ids = np.empty(len(front) + self._num_tokens(len(codes)), self._dtype)
            ids[: len(front)] = front
            self._fill(codes, ids[len(front) :])
            return ids
        if highest == _UNKNOWN and self.ambiguous == "error":
            place = int(np.argmax(codes == _UNKNOWN))
            raise InputError(f"sequence: {chr(seq[place])!r} at offset {place:,} is none of A, C, G, T, N")
        edges = np.flatnonzero(np.diff(codes >= _N)) + 1
        ids = self._runs(codes, edges) if len(edges) * _RUN_BP < len(codes) else self._pieces(codes)
        return np.concatenate([np.array(front, self._dtype), ids])

    def encode_text(self, text: str, *, rules: Literal["hub", "jax"] = "hub") -> list[int]:
        """Ids of a string by the published rules (see `tokenize`)."""
        return [self.ids.get(token, self.unk_id) for token in self.tokenize(text, rules=rules)]

    @property
    def special_ids(self) -> Mapping[str, int]:
        """Role -> id: cls, mask, pad, unk; published files state no others."""
        return {"cls": self.cls_id, "mask": 2, "pad": self.pad_id, "unk": self.unk_id}

    def text_ids(self, text: str) -> list[int]:
        """Ids of a string by the hub's rules, with nothing around them."""
        letters = text.encode("ascii", "replace")
        if not letters.translate(None, b"ACGTN"):
            found: list[int] = self.encode(np.frombuffer(letters, np.uint8), special=False).tolist()
            return found
        return self.encode_text(text)[1 if self.adds_cls else 0 :]

    def tokenize(self, text: str, *, rules: Literal["hub", "jax"] = "hub") -> list[str]:
        """Tokens of a string as the published tokenizers give them; case counts.

        Args:
            rules: "hub": special tokens spelled out are found, white space is dropped, and each run of anything else
                is one <unk>; "jax": everything that is no token is refused.

        Raises:
            InputError: by "jax", a piece that is not in the vocabulary.
        """
        front = ["<cls>"] if self.adds_cls else []
        return front + (self._hub_tokens(text) if rules == "hub" else self._jax_tokens(text))

    def batch_tokenize(
        self, texts: Collection[str], *, fixed_tokens: int | None = None, rules: Literal["hub", "jax"] = "jax"
    ) -> list[tuple[list[str], list[int]]]:
        """(tokens, ids) of each string, padded on the right with <pad> to the longest or to `fixed_tokens`.

        Raises:
            ConfigError: a single string in place of several.
            InputError: longer than `fixed_tokens`; both lengths are given, in tokens and in bases.
        """
        if isinstance(texts, str):
            raise ConfigError("texts: expected several strings, got one; write [text]")
        rows = [self.tokenize(text, rules=rules) for text in texts]
        width = max((len(row) for row in rows), default=0) if fixed_tokens is None else fixed_tokens
        for row, text in zip(rows, texts, strict=True):
            if len(row) > width:
                raise InputError(
                    f"a sequence of {len(text):,} bp has {len(row):,} tokens; {width:,} tokens hold at most "
                    f"{(width - 1) * self.k:,} bp without N: cut it into windows"
                )
        padded = [row + ["<pad>"] * (width - len(row)) for row in rows]
        return [(row, [self.ids.get(token, self.unk_id) for token in row]) for row in padded]

    def decode(self, ids: npt.ArrayLike, *, skip_special: bool = False) -> str:
        """The tokens of [T] ids joined without separators, special ones by name.

        Args:
            skip_special: leave out special tokens.
        """
        numbers = np.asarray(ids, np.int64).ravel()
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self.vocab):
            wrong = numbers[(numbers < 0) | (numbers >= len(self.vocab))][0]
            raise InputError(f"token id {wrong} is not in the vocabulary of {len(self.vocab)}")
        tokens = (self.vocab[number] for number in numbers.tolist())
        return "".join(token for token in tokens if not (skip_special and token.startswith("<")))

    def published_files(self, *, model_max_length: int) -> dict[str, str]:
        """File name -> content of the tokenizer files in published repositories.

        Args:
            model_max_length: longest input in tokens.
        """
        names = ",\n  ".join(f'"{role}_token": "<{role}>"' for role in ("cls", "mask", "pad", "unk"))
        config = (
            '"clean_up_tokenization_spaces": true,\n  "eos_token": null,\n  '
            f'"model_max_length": {model_max_length},\n  "tokenizer_class": "EsmTokenizer"'
        )
        return {
            "vocab.txt": "\n".join(self.vocab),
            "special_tokens_map.json": f"{{\n  {names}\n}}\n",
            "tokenizer_config.json": f"{{\n  {config}\n}}\n",
        }

    @classmethod
    def from_published(cls, files: Mapping[str, str]) -> "KmerTokenizer":
        """The tokenizer described by vocab.txt and tokenizer_config.json of a published repository.

        Args:
            files: file name -> content.

        Raises:
            CheckpointError: another vocabulary, with the first line that differs, or another class.
        """
        if "vocab.txt" not in files:
            raise CheckpointError("no vocab.txt beside tokenizer_config.json; get it from the same repository")
        config = json.loads(files["tokenizer_config.json"])
        if config.get("tokenizer_class", "EsmTokenizer") != "EsmTokenizer":
            raise CheckpointError(
                f"tokenizer_config.json: expected tokenizer_class EsmTokenizer, got {config['tokenizer_class']!r}"
            )
        lines, length = files["vocab.txt"].split(), config.get("model_max_length")
        try:
            tokenizer = cls.for_vocabulary(len(lines), model_max_length=length if isinstance(length, int) else None)
        except ConfigError as error:
            raise CheckpointError(f"vocab.txt: {error}") from None
        for number, (found, expected) in enumerate(zip(lines, tokenizer.vocab, strict=True), start=1):
            if found != expected:
                raise CheckpointError(f"vocab.txt:{number}: {found!r}, expected {expected!r}")
        return tokenizer

    @property
    def _dtype(self) -> type[np.integer[Any]]:
        return np.uint8 if len(self.vocab) <= 256 else np.int16

    @cached_property
    def _codes(self) -> bytes:
        """Code of each byte: 0 to 3 for bases, 4 for N, 5 for what is unknown."""
        table = bytearray([_UNKNOWN]) * 256
        for number in range(128):
            letter = chr(number).upper() if self.case == "upper" else chr(number)
            if letter in BASES:
                table[number] = BASES.index(letter)
            elif letter == "N" or (self.ambiguous == "n" and letter.encode() in IUPAC_DNA):
                table[number] = _N
        return bytes(table)

    @cached_property
    def _single(self) -> Ids:
        """[6] id of each code alone."""
        singles = self.first_kmer_id + 4**self.k
        return np.array([*range(singles, singles + 5), self.unk_id], self._dtype)

    def _num_tokens(self, length_bp: int) -> int:
        """Of a sequence without N."""
        return length_bp if self.k == 1 else sum(divmod(length_bp, self.k))

    def _fill(self, codes: Letters, ids: Ids) -> None:
        """The ids of [L] bases, none of them N, into a place for `_num_tokens` of them."""
        num_long = 0 if self.k == 1 else len(codes) // self.k
        columns, number = codes[: num_long * self.k].reshape(num_long, self.k), ids[:num_long]
        number[:] = columns[:, 0]
        for column in range(1, self.k):
            number <<= 2
            number |= columns[:, column]
        number += self._dtype(self.first_kmer_id)
        ids[num_long:] = self._single[codes[num_long * self.k :]]

    def _runs(self, codes: Letters, edges: npt.NDArray[np.int64]) -> Ids:
        """As `_pieces`, for long runs of bases and of others that change at `edges`."""
        found = []
        for run in np.split(codes, edges):
            if run.size and run[0] < _N:
                found.append(np.empty(self._num_tokens(len(run)), self._dtype))
                self._fill(run, found[-1])
            else:
                found.append(self._single[run])
        return np.concatenate(found)

    def _pieces(self, codes: Letters) -> Ids:
        """Ids of [L] bases with N or unknown letters among them; the k-mers start anew behind each."""
        breaks = np.flatnonzero(codes >= _N)
        length = np.diff(breaks, prepend=-1, append=len(codes)) - 1
        num_long = np.zeros_like(length) if self.k == 1 else length // self.k
        num_tokens = length - (self.k - 1) * num_long
        num_tokens[:-1] += 1  # the letter that ended the piece
        end = np.cumsum(num_tokens)
        change = np.zeros(int(end[-1]) + 1, np.int8)  # where long tokens begin and cease
        filled = np.flatnonzero(num_long)
        begin = (end - num_tokens)[filled]
        change[begin], change[begin + num_long[filled]] = 1, -1
        is_long = np.cumsum(change[:-1], dtype=np.int8).view(np.bool_)
        bases = np.where(is_long, np.int32(self.k), np.int32(1))  # of each token
        base = np.cumsum(bases) - bases
        ids: Ids = self._single[codes[base]]
        place = np.flatnonzero(is_long)
        first = base[place]
        number = codes[first].astype(self._dtype)
        for column in range(1, self.k):
            number <<= 2
            number |= codes[first + column]
        ids[place] = number + np.array(self.first_kmer_id, self._dtype)
        return ids

    def _hub_tokens(self, text: str) -> list[str]:
        """The longest token from each place on; runs between tokens are words, each of them unknown."""
        names = "|".join(re.escape(token) for token in self.vocab if token.startswith("<"))
        pattern = re.compile(f"{names}|[{BASES}]{{{self.k}}}|[{BASES}N]")
        tokens: list[str] = []
        end = 0
        for match in pattern.finditer(text):
            tokens += ["<unk>"] * len(text[end : match.start()].split())
            tokens.append(match[0])
            end = match.end()
        return tokens + ["<unk>"] * len(text[end:].split())

    def _jax_tokens(self, text: str) -> list[str]:
        tokens: list[str] = []
        for index, piece in enumerate(text.split("N")):
            num_long = len(piece) // self.k
            found = [piece[i * self.k : (i + 1) * self.k] for i in range(num_long)] + [*piece[num_long * self.k :]]
            tokens += (["N"] if index else []) + found
        for token in tokens:
            if token not in self.ids:
                raise InputError(f"token {token!r} is not in the vocabulary: expected A, C, G, T, N in upper case")
        return tokens
