"""Byte-pair encoding through the `tokenizers` library, for records of any length (dnabert sheet 1.3)."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from chargaff.errors import CheckpointError, ConfigError, InputError
from chargaff.seq.alphabet import Sequence, translate
from chargaff.tokenizers.merges import Merges
from chargaff.tokenizers.text import Padding, TextEncoding, Truncation

Ids = npt.NDArray[np.int16] | npt.NDArray[np.int32]

SPECIAL_TOKENS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
PIECE_BP = 1 << 16
"""Longer sequences are cut into pieces of about this many letters."""
PIECES_AT_ONCE = 32
"""Encoded together, by as many threads as the library takes."""
_UNLIMITED = 10**20
_OTHER = ord("N")
_ALTERS_TOKENS = ("fuse_unk", "dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
"""Settings of a model by which tokens are not simply the letters they cover."""


def letters_definition() -> str:
    """The tokenizer.json of a vocabulary without merges: the special tokens, then A, C, G, T."""
    vocab = {token: number for number, token in enumerate((*SPECIAL_TOKENS, *"ACGT"))}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    around = [{"SpecialToken": {"id": token, "type_id": 0}} for token in ("[CLS]", "[SEP]")]
    first, second = ({"Sequence": {"id": name, "type_id": kind}} for name, kind in (("A", 0), ("B", 1)))
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocab[token], "content": token, **flags} for token in SPECIAL_TOKENS],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [around[0], first, around[1]],
            "pair": [around[0], first, around[1], second, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
            "special_tokens": {
                token: {"id": token, "ids": [vocab[token]], "tokens": [token]} for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": None,
        "model": {"type": "BPE", "unk_token": "[UNK]", "fuse_unk": False, "vocab": vocab, "merges": []},
    }
    return json.dumps(definition)


@dataclass(frozen=True)
class BpeTokenizer:
    """Sequences to ids by the merges of a `tokenizer.json`.

    `encode` takes sequence arrays, where every byte is a base: a token covers as many bases as it has letters, and what
    is none of the vocabulary's letters becomes one [UNK] each. `encode_text` takes strings as the library does.
    """

    FILES: ClassVar[Mapping[str, str]] = {"definition": "tokenizer.json"}
    """Field -> file that it is kept in, beside the weights."""
    PUBLISHED: ClassVar[tuple[str, ...]] = ("tokenizer.json", "tokenizer_config.json")
    """Files that `from_published` reads."""

    definition: str = field(default_factory=letters_definition, repr=False)
    """Content of tokenizer.json; by default single letters without merges, which no published model has."""
    case: Literal["upper", "exact"] = "upper"
    """Of arrays. upper: lower-case letters count as upper-case ones; exact: as unknown, as in the published file."""
    unknown: Literal["token", "refuse"] = "token"
    """Of arrays: N and other letters become [UNK] each, or raise InputError."""
    padding_side: Literal["left", "right"] = "right"
    """Where texts are padded."""
    truncation_side: Literal["left", "right"] = "right"
    """Where texts are cut; the special tokens stay."""
    model_max_length: int | None = None
    """Longest text in tokens, special ones included, when a call asks for a limit without giving one."""

    def __post_init__(self) -> None:
        for name, choices in (("case", ("upper", "exact")), ("unknown", ("token", "refuse"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"tokenizer.{name}: expected {' or '.join(choices)}, got {getattr(self, name)!r}")

    @classmethod
    def from_published(cls, files: Mapping[str, str]) -> "BpeTokenizer":
        """The tokenizer in tokenizer.json and tokenizer_config.json of a published repository.

        Args:
            files: file name -> content; tokenizer_config.json may be missing.

        Raises:
            CheckpointError: no tokenizer.json, or one that is no byte-pair encoding of A, C, G, T.
        """
        if "tokenizer.json" not in files:
            raise CheckpointError(
                "tokenizer.json is missing: the vocabulary is not part of the weights; put the published file there"
            )
        _check_definition(files["tokenizer.json"])
        settings = _parse("tokenizer_config.json", files.get("tokenizer_config.json", "{}"))
        limit = settings.get("model_max_length")
        return cls(
            files["tokenizer.json"],
            padding_side=settings.get("padding_side", "right"),
            truncation_side=settings.get("truncation_side", "right"),
            model_max_length=int(limit) if isinstance(limit, int | float) and limit < _UNLIMITED else None,
        )

    def published_files(self, *, model_max_length: int | None = None) -> dict[str, str]:
        """File name -> content of the tokenizer files in published repositories."""
        limit = self.model_max_length if model_max_length is None else model_max_length
        roles = {f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS}
        settings: dict[str, str | int] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **roles,
            "padding_side": self.padding_side,
        }
        if limit is not None:
            settings["model_max_length"] = limit
        return {"tokenizer.json": self.definition, "tokenizer_config.json": json.dumps(settings, indent=2) + "\n"}

    @cached_property
    def vocab(self) -> tuple[str, ...]:
        """Token of each id."""
        table = self._library.get_vocab(with_added_tokens=True)
        return tuple(sorted(table, key=table.__getitem__))

    @property
    def pad_id(self) -> int:
        """Id of [PAD]."""
        return self.vocab.index("[PAD]")

    @property
    def unk_id(self) -> int:
        """Id of [UNK]."""
        return self.vocab.index("[UNK]")

    @property
    def mask_id(self) -> int | None:
        """Id of [MASK]."""
        return self.vocab.index("[MASK]")

    @cached_property
    def token_bp(self) -> npt.NDArray[np.int64]:
        """[V] letters of each token; 1 for [UNK], 0 for the other special tokens."""
        covered = np.array([0 if token in SPECIAL_TOKENS else len(token) for token in self.vocab], np.int64)
        covered[self.unk_id] = 1
        return covered

    @property
    def complement(self) -> None:
        """None: tokens of the other strand are unrelated to those of this one."""

    def encode(self, seq: Sequence, *, special: bool = True) -> Ids:
        """[L] uint8 ASCII -> [T] ids, int16 where the vocabulary fits; with [CLS] and [SEP] around them if `special`.

        Equal to the library's encoding of the whole sequence; only a few pieces of it are in memory as text at once.

        Raises:
            InputError: an unknown letter where `unknown` is "refuse".
        """
        letters = translate(seq, self._table)
        if self.unknown == "refuse":
            self._require_known(letters, seq)
        dtype = np.int16 if len(self.vocab) <= 1 << 15 else np.int32
        ends = ([self.vocab.index("[CLS]")], [self.vocab.index("[SEP]")]) if special else ([], [])
        parts = [np.array(ends[0], dtype)]
        remaining = self._pieces(letters)
        while pieces := list(islice(remaining, PIECES_AT_ONCE)):
            texts = [piece.tobytes().decode("ascii") for piece in pieces]
            found = self._library.encode_batch_fast(texts, add_special_tokens=False)
            parts += [np.array(encoding.ids, dtype) for encoding in found]
        return np.concatenate([*parts, np.array(ends[1], dtype)])

    def encode_text(
        self,
        text: str | Collection[str],
        text_pair: str | Collection[str] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: Padding = False,
        truncation: Truncation | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
    ) -> "BpeEncoding":
        """Ids of a text or of several, as a call of the published tokenizer returns them: no change of case.

        Args:
            text: one string, or several to be padded together.
            text_pair: a second string for each.
            add_special_tokens: [CLS] in front, [SEP] behind each text.
            padding: True or "longest", "max_length", or False.
            truncation: True or "longest_first", "only_first", "only_second", False; a `max_length` alone implies True.
            max_length: in tokens; `model_max_length` if truncation or padding needs one and none is given.
            pad_to_multiple_of: round the padded length up.
        """
        texts = [text] if isinstance(text, str) else list(text)
        pairs = [text_pair] if isinstance(text_pair, str) else list(text_pair or ())
        if text_pair is not None and len(pairs) != len(texts):
            raise InputError(f"text_pair: {len(pairs)} texts for {len(texts)}; expected one for each")
        library = self._shaped(padding, truncation, max_length, pad_to_multiple_of, add_special_tokens)
        inputs: list[Any] = texts if text_pair is None else list(zip(texts, pairs, strict=True))
        rows = library.encode_batch(inputs, add_special_tokens=add_special_tokens)
        return BpeEncoding.of(rows[0]) if isinstance(text, str) else BpeEncoding.of_all(rows)

    def decode(self, ids: npt.ArrayLike, *, skip_special: bool = False) -> str:
        """The tokens of [T] ids joined without separators, special ones by name.

        Args:
            skip_special: leave the special tokens out, unknown ones too.
        """
        numbers = np.asarray(ids, np.int64).ravel()
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self.vocab):
            wrong = numbers[(numbers < 0) | (numbers >= len(self.vocab))][0]
            raise InputError(f"token id {wrong} is not in the vocabulary of {len(self.vocab)}")
        tokens = (self.vocab[i] for i in numbers.tolist())
        return "".join(token for token in tokens if not (skip_special and token in SPECIAL_TOKENS))

    @cached_property
    def _library(self) -> Tokenizer:
        """Without truncation and padding, whatever the file says."""
        try:
            found: Tokenizer = Tokenizer.from_str(self.definition)
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"tokenizer.json: {error}") from None
        found.no_truncation()
        found.no_padding()
        return found

    def _shaped(
        self,
        padding: Padding,
        truncation: Truncation | None,
        max_length: int | None,
        multiple: int | None,
        has_special: bool,
    ) -> Tokenizer:
        """A tokenizer of its own for calls that cut or pad."""
        rule = "longest_first" if truncation is True else truncation
        if truncation is None:
            rule = "longest_first" if max_length is not None and padding is False else False
        limit = self.model_max_length if max_length is None else max_length
        cuts, pads = rule not in (False, "do_not_truncate"), padding not in (False, "do_not_pad")
        if not cuts and not pads:
            return self._library
        found: Tokenizer = Tokenizer.from_str(self._library.to_str())
        if cuts and limit is not None:
            if limit < (3 if has_special else 1):
                raise ConfigError(f"max_length: {limit} tokens leave no room for the text")
            found.enable_truncation(limit, strategy=rule, direction=self.truncation_side)
        if padding == "max_length" and limit is None:
            raise ConfigError("padding: 'max_length' needs a max_length")
        if pads:
            found.enable_padding(
                direction=self.padding_side,
                pad_id=self.pad_id,
                pad_token="[PAD]",
                length=limit if padding == "max_length" else None,
                pad_to_multiple_of=multiple,
            )
        return found

    @cached_property
    def _letters(self) -> str:
        """Those that are tokens."""
        return "".join(token for token in self.vocab if len(token) == 1 and token.isascii() and token.isalpha())

    @cached_property
    def _table(self) -> bytes:
        """Each byte as a letter the library reads as one token at most; N for all that is none."""
        table = bytearray([_OTHER]) * 256
        for letter in self._letters:
            table[ord(letter)] = ord(letter)
            if self.case == "upper" and letter.isupper():
                table[ord(letter.lower())] = ord(letter)
        return bytes(table)

    def _require_known(self, letters: Sequence, seq: Sequence) -> None:
        wrong = np.flatnonzero(letters == _OTHER)
        if wrong.size:
            raise InputError(
                f"position {wrong[0]}: {chr(seq[wrong[0]])!r} has no token (and {wrong.size - 1:,} more letters); "
                f"expected {', '.join(self._letters)}"
            )

    @cached_property
    def _merges(self) -> Merges:
        return Merges.of(self.definition)

    def _pieces(self, letters: Sequence) -> Iterator[Sequence]:
        """The sequence in pieces whose encodings, one after another, are its own."""
        start = 0
        while len(letters) - start > 2 * PIECE_BP:
            stop = self._merges.find_cut(letters, start + PIECE_BP)
            if stop is None:
                break
            yield letters[start:stop]
            start = stop
        if start < len(letters):
            yield letters[start:]


@dataclass(frozen=True, slots=True)
class BpeEncoding(TextEncoding):
    """Ids of one text or pair (lists of int) or of several (lists of such lists)."""

    token_type_ids: list[int] | list[list[int]]
    """0 for the first text and its special tokens, 1 for the second and its [SEP]."""

    @classmethod
    def of(cls, row: Encoding) -> "BpeEncoding":
        return cls(row.ids, row.attention_mask, row.special_tokens_mask, row.type_ids)

    @classmethod
    def of_all(cls, rows: list[Encoding]) -> "BpeEncoding":
        columns = ([getattr(row, name) for row in rows] for name in _COLUMNS)
        return cls(*columns)


_COLUMNS = ("ids", "attention_mask", "special_tokens_mask", "type_ids")


def _check_definition(text: str) -> None:
    content = _parse("tokenizer.json", text)
    model = content.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if kind != "BPE":
        raise CheckpointError(f"tokenizer.json: expected a model of type 'BPE', got {kind!r}")
    vocab = model.get("vocab", {})  # type: ignore[union-attr]
    lacking = [token for token in (*SPECIAL_TOKENS, *"ACGT") if token not in vocab]
    if lacking:
        raise CheckpointError(f"tokenizer.json: the vocabulary has no {', '.join(lacking)}; is it that of a DNA model?")
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise CheckpointError(f"tokenizer.json: the ids of {len(vocab)} tokens are not 0 to {len(vocab) - 1}")
    strange = [key for key in _ALTERS_TOKENS if model.get(key)]  # type: ignore[union-attr]
    strange += ["normalizer"] if content.get("normalizer") else []
    splitter = (content.get("pre_tokenizer") or {}).get("type", "Whitespace")
    strange += [] if splitter in ("Whitespace", "WhitespaceSplit") else [f"pre_tokenizer {splitter}"]
    if strange:
        raise CheckpointError(
            f"tokenizer.json: tokens must be the letters they cover; not supported: {', '.join(strange)}"
        )
    Merges.of(text)


def _parse(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{name}: is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{name}: expected a JSON object, found {type(value).__name__}")
    return value
