"""Model configurations as transformers wants to hold them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from transformers import PreTrainedConfig

from chargaff.errors import ConfigError
from chargaff.families import get_family
from chargaff.families.protocol import Family

THEIRS = (
    "architectures",
    "auto_map",
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "is_encoder_decoder",
    "label2id",
    "model_type",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers_version",
)
"""Keys of a config.json that speak to transformers; all others describe the model."""

_DROPPED = ("auto_map", "model_type", "transformers_version")
_SIZES = ("hidden_size", "num_hidden_layers")


class ChargaffConfig(PreTrainedConfig):
    """Configuration of any family.

    `family_config` holds the family's published keys. They can be read and set as attributes too (`config.d_model`);
    keys that are not there show the family's default, and `hidden_size` and `num_hidden_layers` work for every family.
    """

    model_type: ClassVar[str] = "chargaff"

    family: str = ""
    """Name of the family."""
    family_config: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Published keys and values of the model."""

    @classmethod
    def from_published(cls, family: str, published: Mapping[str, Any]) -> "ChargaffConfig":
        """From the content of a published config.json.

        Raises:
            ConfigError: the keys do not describe a model of this family.
        """
        theirs = {key: value for key, value in published.items() if key in THEIRS and key not in _DROPPED}
        own = {key: value for key, value in published.items() if key not in THEIRS and not key.startswith("_")}
        config = cls(family=family, family_config=own, **theirs)
        config.parsed()
        if isinstance(own.get("pad_token_id"), int):
            config.pad_token_id = own["pad_token_id"]
        return config

    def parsed(self) -> Any:
        """The family's own configuration.

        Raises:
            ConfigError: a wrong value, or no family.
        """
        return self._kind().config.from_json(self.family_config)  # type: ignore[attr-defined]

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of a classifier's outputs in their order."""
        table = self.id2label or {}
        return tuple(str(table[index]) for index in sorted(table))

    @property
    def has_stated_labels(self) -> bool:
        """Whether somebody asked for these labels; transformers invents two where nobody did."""
        return bool(self.__dict__.get("_labels_are_stated", False))

    def state_labels(self) -> None:
        """Marks the labels as asked for."""
        self.__dict__["_labels_are_stated"] = True

    def to_dict(self) -> dict[str, Any]:
        """As written to config.json."""
        values: dict[str, Any] = super().to_dict()
        values.pop("_labels_are_stated", None)
        return values

    def _get_generation_parameters(self) -> dict[str, Any]:
        """None: a key such as `max_length` describes the model here."""
        return {}

    def _kind(self) -> Family:
        if not self.family:
            raise ConfigError("config.family: is empty; get a config from AutoConfig.from_pretrained(model)")
        return get_family(self.family)

    def _is_own(self, key: str) -> bool:
        """Whether a key describes the model. transformers itself changes token ids, which would alter the model."""
        own = self.__dict__.get("family_config")
        if own is None or key in THEIRS or key.startswith("_") or key.endswith("_token_id"):
            return False
        family = self.__dict__.get("family")
        return key in own or (bool(family) and key in _field_names(str(family)))

    def __setattr__(self, key: str, value: Any) -> None:
        if self._is_own(key):
            self.__dict__["family_config"][key] = value
        else:
            super().__setattr__(key, value)

    def __getattr__(self, key: str) -> Any:
        """Called for names that are no plain attributes."""
        own = self.__dict__.get("family_config")
        family = self.__dict__.get("family")
        if not own or not family or key.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no {key}")
        if key in own:
            return own[key]
        if key in _field_names(family):
            return getattr(self.parsed(), key)
        if key in _SIZES:
            with torch.device("meta"):
                backbone: Any = get_family(family).backbone(self.parsed())
            return backbone.width if key == "hidden_size" else len(getattr(backbone, "blocks", ()))
        raise AttributeError(f"{type(self).__name__} of family {family!r} has no {key!r}")


def _field_names(family: str) -> set[str]:
    return {field.name for field in dataclasses.fields(get_family(family).config)}
