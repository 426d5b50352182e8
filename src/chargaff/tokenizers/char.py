"""One token per letter: the vocabularies of Caduceus, HyenaDNA, xLSTM and PlantCaduceus, and any like them."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from chargaff.errors import CheckpointError, ConfigError, InputError
from chargaff.seq.alphabet import Sequence, translate
from chargaff.tokenizers.text import Layout, Padding, Row, TextEncoding, Truncation

Ids = npt.NDArray[np.uint8]
Side = Literal["left", "right"]

_PUBLISHED_FILES = ("tokenizer_config.json", "special_tokens_map.json")
_UNLIMITED = 10**20  # transformers writes 10**30 for "no limit"
_ROLES = ("bos", "cls", "mask", "pad", "sep", "unk")


@dataclass(frozen=True)
class CharTokenizer:
    """Letters to ids and back; by default the vocabulary published with Caduceus.

    Ids are the special tokens in order, then the letters in order. A byte that is no letter becomes [UNK].
    `encode` takes sequence arrays, where every byte is a base; `encode_text` takes strings as the published tokenizers
    do, with padding, truncation, pairs and special tokens spelled out in the text.
    """

    special_tokens: tuple[str, ...] = ("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]")
    """Ids 0, 1, ...; [PAD] and [UNK] are needed, and [BOS], [CLS], [MASK], [SEP] have their roles where present."""
    letters: str = "ACGTN"
    """The ids that follow, one each."""
    complements: str | None = "TGCAN"
    """Complement of each letter, or None where the vocabulary is not of DNA."""
    case: Literal["upper", "lower", "exact"] = "upper"
    """Fold input to this case, or "exact": a letter in the other case is unknown."""
    first: str | None = None
    """Special token put in front of a sequence."""
    last: str | None = "[SEP]"
    """Special token put behind each sequence."""
    eos: str | None = "[SEP]"
    """Token that plays the end-of-sequence role."""
    finds_special_text: bool = True
    """Whether special tokens spelled out in a text, such as AC[MASK]GT, become their ids."""
    n_as_pad: bool = False
    """Give N the id of [PAD]: what the pre-training of Caduceus and HyenaDNA has seen in place of unknown bases."""
    padding_side: Side = "left"
    """Where texts are padded."""
    model_max_length: int | None = None
    """Longest text in tokens, special ones included, when a call asks for a limit without giving one."""
    published_as: tuple[str, str] | None = ("tokenization_caduceus", "CaduceusTokenizer")
    """Module and class named in published tokenizer files; None if the vocabulary was never published so."""

    def __post_init__(self) -> None:
        if not self.letters.isascii() or len(set(self.letters)) != len(self.letters):
            raise ConfigError(f"tokenizer.letters: expected different ASCII letters, got {self.letters!r}")
        if self.case != "exact" and self._fold(self.letters) != self.letters:
            raise ConfigError(
                f"tokenizer.letters: {self.letters!r} can never occur when input is made {self.case} case"
            )
        if self.complements is not None and sorted(self.complements) != sorted(self.letters):
            raise ConfigError(
                f"tokenizer.complements: expected the letters {self.letters!r} in some order, got {self.complements!r}"
            )
        for token in ("[PAD]", "[UNK]", self.first, self.last, self.eos):
            if token is not None and token not in self.special_tokens:
                raise ConfigError(f"tokenizer.special_tokens: {token!r} is missing from {self.special_tokens}")
        if self.n_as_pad and not self._n_letters:
            raise ConfigError(f"tokenizer.n_as_pad: the letters {self.letters!r} have no N")

    @classmethod
    def standard(cls, *, n_as_pad: bool = False, model_max_length: int | None = None) -> "CharTokenizer":
        """The hub tokenizer of Caduceus: makes upper case, appends [SEP], pads on the left."""
        return cls(n_as_pad=n_as_pad, model_max_length=model_max_length)

    @classmethod
    def finetune(cls, max_length: int | None = None) -> "CharTokenizer":
        """The case-sensitive tokenizer of the fine-tuning loaders; lower case is unknown, end-of-sequence is [PAD].

        Args:
            max_length: longest sequence in bases; two special tokens are added to it.
        """
        limit = None if max_length is None else max_length + 2
        return cls(case="exact", first="[CLS]", eos="[PAD]", model_max_length=limit, published_as=None)

    @classmethod
    def hyenadna(
        cls,
        flavor: Literal["hub", "training", "standalone"] = "hub",
        *,
        padding_side: Side = "left",
        model_max_length: int | None = None,
    ) -> "CharTokenizer":
        """HyenaDNA's, all case-sensitive: "hub" and "training" append [SEP], "standalone" also puts [CLS] in front.

        Only "hub" finds special tokens spelled out in a text; the others split them into unknown letters.
        """
        published = ("tokenization_hyena", "HyenaDNATokenizer") if flavor == "hub" else None
        return cls(
            case="exact",
            first="[CLS]" if flavor == "standalone" else None,
            finds_special_text=flavor == "hub",
            padding_side=padding_side,
            model_max_length=model_max_length,
            published_as=published,
        )

    @classmethod
    def plant_caduceus(cls) -> "CharTokenizer":
        """The seven symbols of PlantCaduceus: makes lower case, adds nothing, N is unknown, pads on the right."""
        return cls(
            special_tokens=("[PAD]", "[MASK]", "[UNK]"),
            letters="acgt",
            complements="tgca",
            case="lower",
            last=None,
            eos=None,
            padding_side="right",
            published_as=None,
        )

    @classmethod
    def one_hot(cls) -> "CharTokenizer":
        """Of models that read four channels: makes upper case, adds nothing; "." is a base outside the chromosome."""
        return cls(
            special_tokens=("[PAD]", "[UNK]"),
            letters="ACGTN.",
            complements="TGCAN.",
            last=None,
            eos=None,
            padding_side="right",
            published_as=None,
        )

    @cached_property
    def vocab(self) -> tuple[str, ...]:
        """Token of each id."""
        return (*self.special_tokens, *self.letters)

    @cached_property
    def special_ids(self) -> Mapping[str, int]:
        """Role -> id: bos, cls, eos, mask, pad, sep, unk, as far as the vocabulary has them."""
        named = {role: f"[{role.upper()}]" for role in _ROLES} | {"eos": self.eos or ""}
        return {role: self.vocab.index(token) for role, token in sorted(named.items()) if token in self.special_tokens}

    @property
    def pad_id(self) -> int:
        """Id of [PAD]."""
        return self.special_ids["pad"]

    @property
    def unk_id(self) -> int:
        """Id of [UNK]."""
        return self.special_ids["unk"]

    @property
    def mask_id(self) -> int | None:
        """Id of [MASK], or None."""
        return self.special_ids.get("mask")

    @cached_property
    def token_bp(self) -> npt.NDArray[np.int64]:
        """[V] bases covered by each id: 1 for letters and what stands for one ([UNK], [MASK], [PAD] if N is PAD)."""
        covered = np.array([len(token) == 1 for token in self.vocab], np.int64)
        covered[self.unk_id] = 1
        if self.mask_id is not None:
            covered[self.mask_id] = 1
        if self.n_as_pad:
            covered[self.pad_id] = 1
        return covered

    @cached_property
    def complement(self) -> Ids | None:
        """[V] id of each token's complement; special tokens are their own."""
        if self.complements is None:
            return None
        table = np.arange(len(self.vocab), dtype=np.uint8)
        table[len(self.special_tokens) :] = [self.vocab.index(letter) for letter in self.complements]
        return table

    def encode(self, seq: Sequence, *, special: bool = True) -> Ids:
        """[..., L] uint8 ASCII to [..., T] uint8 ids; T = L, plus the special tokens in front and behind."""
        ids = translate(seq, self._table)
        if not special or (self.first is None and self.last is None):
            return ids
        ends = [np.full((*seq.shape[:-1], len(end)), end, np.uint8) for end in self._added()]
        return np.concatenate([ends[0], ids, ends[1]], axis=-1)

    def text_ids(self, text: str) -> list[int]:
        """Ids of a string by the published rules, with nothing around them."""
        return self._text_ids(text)

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
    ) -> TextEncoding:
        """Ids of a text or of several, as a call of the published tokenizer returns them (sheet 1.2).

        Args:
            text: one string, or several to be padded together.
            text_pair: a second string for each; its tokens and another closing special token follow the first's.
            add_special_tokens: put the tokenizer's special tokens around the text.
            padding: True or "longest", "max_length", or False.
            truncation: True or "longest_first", "only_first", "only_second", False; a `max_length` alone implies True.
            max_length: in tokens; `model_max_length` if truncation or padding needs one and none is given.
            pad_to_multiple_of: round the padded length up.
        """
        limit = max_length
        if limit is None and (truncation not in (None, False, "do_not_truncate") or padding == "max_length"):
            limit = self.model_max_length
        layout = Layout(padding, truncation, limit, pad_to_multiple_of, self.padding_side)
        texts = [text] if isinstance(text, str) else list(text)
        pairs: list[str] | list[None] = [None] * len(texts)
        if text_pair is not None:
            pairs = [text_pair] if isinstance(text_pair, str) else list(text_pair)
        if len(pairs) != len(texts):
            raise InputError(f"text_pair: {len(pairs)} texts for {len(texts)}; expected one for each")
        rows = [self._row(one, other, add_special_tokens, layout) for one, other in zip(texts, pairs, strict=True)]
        return layout.batch(rows, self.pad_id, single=isinstance(text, str))

    def decode(self, ids: npt.ArrayLike, *, skip_special: bool = False) -> str:
        """The tokens of [T] ids joined without separators; the letters' original case is lost.

        Args:
            skip_special: leave out all tokens with a role, unknown ones too.
        """
        numbers = np.asarray(ids, np.int64).ravel()
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self.vocab):
            wrong = numbers[(numbers < 0) | (numbers >= len(self.vocab))][0]
            raise InputError(f"token id {wrong} is not in the vocabulary of {len(self.vocab)}")
        skipped = set(self.special_ids.values()) if skip_special else set()
        return "".join(self.vocab[i] for i in numbers.tolist() if i not in skipped)

    def published_files(self, *, model_max_length: int | None = None) -> dict[str, str]:
        """File name -> content of the tokenizer files in published repositories (sorted keys, closing newline).

        Args:
            model_max_length: the limit to write; the tokenizer's own by default.
        """
        limit = self.model_max_length if model_max_length is None else model_max_length
        if self.published_as is None or limit is None:
            what = "published class" if self.published_as is None else "model_max_length"
            raise ConfigError(f"tokenizer: cannot be written in the published form without a {what}")
        names = {f"{role}_token": self.vocab[number] for role, number in self.special_ids.items()}
        flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False) | {"special": True}
        config = {
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(i): {"content": self.vocab[i], **flags} for i in sorted(set(self.special_ids.values()))
            },
            "auto_map": {"AutoTokenizer": [".".join(self.published_as), None]},
            "clean_up_tokenization_spaces": True,
            "model_max_length": limit,
            "padding_side": self.padding_side,
            "tokenizer_class": self.published_as[1],
            **names,
        }
        texts = {"tokenizer_config.json": config, "special_tokens_map.json": names}
        return {name: json.dumps(value, indent=2, sort_keys=True) + "\n" for name, value in texts.items()}

    @classmethod
    def from_published(cls, files: Mapping[str, str]) -> "CharTokenizer":
        """The tokenizer described by tokenizer_config.json and special_tokens_map.json of a published repository.

        Args:
            files: file name -> content; special_tokens_map.json may be missing.

        Raises:
            CheckpointError: another tokenizer class, or special tokens that differ from that class's.
        """
        parsed = {name: _parse(name, text) for name, text in files.items() if name in _PUBLISHED_FILES}
        config = parsed.get("tokenizer_config.json")
        if config is None:
            raise CheckpointError(f"tokenizer: no tokenizer_config.json among {sorted(files)}")
        known = {"CaduceusTokenizer": cls.standard(), "HyenaDNATokenizer": cls.hyenadna()}
        name = config.get("tokenizer_class")
        if name not in known:
            raise CheckpointError(f"tokenizer_config.json: expected tokenizer_class {' or '.join(known)}, got {name!r}")
        limit = config.get("model_max_length")
        tokenizer = replace(
            known[name],
            model_max_length=limit if isinstance(limit, int) and limit < _UNLIMITED else None,
            padding_side=config.get("padding_side", "left"),
        )
        tokenizer._require_same_tokens(config, parsed.get("special_tokens_map.json", {}))
        return tokenizer

    def _require_same_tokens(self, config: Mapping[str, Any], names: Mapping[str, Any]) -> None:
        for number, token in config.get("added_tokens_decoder", {}).items():
            content = token.get("content") if isinstance(token, dict) else token
            if not number.isdecimal() or int(number) >= len(self.vocab) or self.vocab[int(number)] != content:
                expected = dict(enumerate(self.special_tokens))
                raise CheckpointError(
                    f"tokenizer_config.json: token {number} is {content!r}, expected one of {expected}"
                )
        for file, table in (("tokenizer_config.json", config), ("special_tokens_map.json", names)):
            for role, number in self.special_ids.items():
                value = table.get(f"{role}_token", self.vocab[number])
                content = value.get("content") if isinstance(value, dict) else value
                if content != self.vocab[number]:
                    raise CheckpointError(f"{file}: {role}_token is {content!r}, expected {self.vocab[number]!r}")

    def _fold(self, text: str) -> str:
        return {"upper": text.upper, "lower": text.lower, "exact": text.__str__}[self.case]()

    @property
    def _n_letters(self) -> set[str]:
        return {"N", "n"} & set(self.letters)

    @cached_property
    def _table(self) -> bytes:
        """Id of each byte."""
        table = bytearray([self.unk_id]) * 256
        for code in range(128):
            letter = self._fold(chr(code))
            if letter in self._n_letters and self.n_as_pad:
                table[code] = self.pad_id
            elif letter in self.letters:
                table[code] = self.vocab.index(letter)
        return bytes(table)

    def _added(self) -> tuple[list[int], list[int]]:
        """Ids put in front of and behind a sequence."""
        front, behind = ([] if token is None else [self.vocab.index(token)] for token in (self.first, self.last))
        return front, behind

    def _row(self, text: str, pair: str | None, special: bool, layout: Layout) -> Row:
        front, behind = self._added() if special else ([], [])
        second = None if pair is None else self._text_ids(pair)
        num_added = len(front) + len(behind) * (1 if pair is None else 2)
        ids, second = layout.truncate(self._text_ids(text), second, num_added)
        pieces = [(front, 1), (ids, 0), (behind, 1)]
        if second is not None:
            pieces += [(second, 0), (behind, 1)]
        return Row([i for piece, _ in pieces for i in piece], [flag for piece, flag in pieces for _ in piece])

    def _text_ids(self, text: str) -> list[int]:
        """Ids of a text; special tokens in it count as such if `finds_special_text`, letters fold as strings do."""
        named = {self.vocab[i]: i for i in self.special_ids.values()}
        if not self.finds_special_text:
            return self._letter_ids(text)
        ids: list[int] = []
        for piece in re.split("(" + "|".join(map(re.escape, named)) + ")", text):
            ids += [named[piece]] if piece in named else self._letter_ids(piece)
        return ids

    def _letter_ids(self, text: str) -> list[int]:
        return list(self._fold(text).encode("ascii", "replace").translate(self._table))


def _parse(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{name}: is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{name}: expected a JSON object, found {type(value).__name__}")
    return value
