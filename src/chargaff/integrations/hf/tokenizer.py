"""Our tokenizers behind transformers' interface."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizer

from chargaff.errors import ConfigError
from chargaff.families import get_family
from chargaff.hub.manifest import describe_tokenizer, parse_tokenizer, tokenizer_files
from chargaff.io.atomic import write_atomically
from chargaff.tokenizers.protocol import Tokenizer
from chargaff.tokenizers.text import Layout

_ROLES = ("bos", "cls", "eos", "mask", "pad", "sep", "unk")


class ChargaffTokenizer(PreTrainedTokenizer):
    """A family's tokenizer with the calls, padding and special tokens of its published class.

    Texts become ids by one table look-up. As the published tokenizers of models without a mask, it returns input_ids
    alone unless the model can use an attention_mask.
    """

    vocab_files_names = {"definition": "tokenizer.json"}  # noqa: RUF012 - transformers' name and type
    model_input_names = ["input_ids"]  # noqa: RUF012 - transformers' name and type

    def __init__(
        self,
        family: str = "",
        family_config: Mapping[str, Any] | None = None,
        dna_options: Mapping[str, Any] | None = None,
        definition: str | None = None,
        *,
        core: Tokenizer | None = None,
        **kwargs: Any,
    ) -> None:
        """A tokenizer of a family; the first three arguments are what tokenizer_config.json keeps.

        Args:
            family_config: published keys of the model.
            dna_options: as model.json describes a tokenizer; None: the family's own.
            definition: path of a vocabulary file, for families that have one.
            core: the tokenizer itself, where it exists already.
        """
        if not family:
            raise ConfigError("tokenizer: has no family; get it from AutoTokenizer.from_pretrained(model)")
        config = get_family(family).config.from_json(dict(family_config or {}))  # type: ignore[attr-defined]
        if core is None:
            core = get_family(family).tokenizer(config)
            if dna_options is not None:
                core = parse_tokenizer(
                    Path(definition or "tokenizer.json").with_name("tokenizer_config.json"), dna_options, core
                )
        self.core = core
        for role, number in _special_ids(core).items():
            kwargs.setdefault(f"{role}_token", core.vocab[number])
        super().__init__(
            family=family, family_config=dict(family_config or {}), dna_options=describe_tokenizer(core), **kwargs
        )

    @property
    def vocab_size(self) -> int:
        """Entries of the published vocabulary."""
        return len(self.core.vocab)

    def get_vocab(self) -> dict[str, int]:
        """Token -> id, added ones too."""
        found = {token: number for number, token in enumerate(self.core.vocab)}
        return {**found, **self._added_tokens_encoder}

    def batch_encode_plus(self, batch: Any, **kwargs: Any) -> Any:
        """What a call does with several texts; published examples use this name, which transformers 5 dropped."""
        return self(batch, **kwargs)

    def _encode_plus(self, text: Any, text_pair: Any = None, **kwargs: Any) -> Any:
        """Strings become ids here, without a Python object for every base."""
        if not kwargs.get("is_split_into_words"):
            text, text_pair = self._ids(text), self._ids(text_pair)
        return super()._encode_plus(text, text_pair, **kwargs)

    def _ids(self, text: Any) -> Any:
        """Ids of a string; anything else, and an empty string, as it is."""
        if not isinstance(text, str) or not text:
            return text
        special = [] if self.split_special_tokens else list(self._added_tokens_encoder)
        pieces = re.split("(" + "|".join(map(re.escape, sorted(special, key=len, reverse=True))) + ")", text)
        ids: list[int] = []
        for piece in pieces if special else [text]:
            number = self._added_tokens_encoder.get(piece) if special else None
            ids += [number] if number is not None else self._core_ids(piece)
        return ids or text

    def _core_ids(self, text: str) -> list[int]:
        if not text:
            return []
        found: list[int] = self.core.text_ids(text)  # type: ignore[attr-defined]
        return found

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [self.core.vocab[number] for number in self._core_ids(text)]

    def _convert_token_to_id(self, token: str) -> int:
        found = self.core.vocab.index(token) if token in self.core.vocab else self.unk_token_id
        return int(found)

    def _convert_id_to_token(self, index: int) -> str:
        """Rows that only pad the embedding are unknown tokens."""
        return self.core.vocab[index] if 0 <= index < len(self.core.vocab) else str(self.unk_token)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Tokens joined as the published class does: by spaces where a token can be longer than a base."""
        return (" " if self.core.token_bp.max() > 1 else "").join(tokens)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """What the published tokenizer puts around a text; a second text and another closing token follow."""
        front, behind = self._around()
        joined = [*front, *token_ids_0, *behind]
        return joined if token_ids_1 is None else [*joined, *token_ids_1, *behind]

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 for tokens that are added around the texts."""
        if already_has_special_tokens:
            marks: list[int] = super().get_special_tokens_mask(token_ids_0, token_ids_1, True)
            return marks
        front, behind = self._around()
        mask = [1] * len(front) + [0] * len(token_ids_0) + [1] * len(behind)
        return mask if token_ids_1 is None else [*mask, *[0] * len(token_ids_1), *[1] * len(behind)]

    def truncate_sequences(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        num_tokens_to_remove: int = 0,
        truncation_strategy: Any = "longest_first",
        stride: int = 0,
    ) -> tuple[list[int], list[int] | None, list[int]]:
        """By the rules of the published tokenizers' calls, where texts are cut on the right."""
        rule = getattr(truncation_strategy, "value", truncation_strategy)
        if self.truncation_side != "right" or stride or num_tokens_to_remove <= 0:
            found: tuple[list[int], list[int] | None, list[int]] = super().truncate_sequences(
                ids, pair_ids, num_tokens_to_remove, truncation_strategy, stride
            )
            return found
        length = len(ids) + len(pair_ids or ()) - num_tokens_to_remove
        kept, pair = Layout(truncation=rule, max_length=length).truncate(ids, pair_ids, 0)
        return kept, pair, ids[len(kept) :]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """The vocabulary file of families that have one; for others tokenizer_config.json says it all."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        paths = []
        for name, text in tokenizer_files(self.core).items():
            paths.append(str(Path(save_directory) / f"{prefix}{name}"))
            write_atomically(Path(paths[-1]), text)
        return tuple(paths)

    @property
    def complement_map(self) -> dict[int, int]:
        """Id -> id of the complementary base, as the published Caduceus tokenizer offers it.

        Raises:
            AttributeError: tokens are not single bases.
        """
        if self.core.complement is None:
            raise AttributeError("complement_map: tokens of this vocabulary are not single bases")
        return dict(enumerate(self.core.complement.tolist()))

    def _around(self) -> tuple[list[int], list[int]]:
        """Ids put in front of and behind a text."""
        one = np.frombuffer(b"A", np.uint8)
        inner, whole = self.core.encode(one, special=False).tolist(), self.core.encode(one).tolist()
        place = next(start for start in range(len(whole)) if whole[start : start + len(inner)] == inner)
        return whole[:place], whole[place + len(inner) :]


def _special_ids(core: Tokenizer) -> Mapping[str, int]:
    """Role -> id."""
    found = getattr(core, "special_ids", None)
    if found is not None:
        return {role: number for role, number in found.items() if role in _ROLES}
    roles = {"pad": core.pad_id}
    return roles if core.mask_id is None else {**roles, "mask": core.mask_id}
