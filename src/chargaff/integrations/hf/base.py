"""What all model classes share: construction, loading, saving, and reading a batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from chargaff.errors import ConfigError, InputError
from chargaff.families import get_family
from chargaff.hub.assign import shared_names
from chargaff.hub.download import sha256_of
from chargaff.hub.manifest import MANIFEST, describe_model, tokenizer_files
from chargaff.integrations.hf.config import ChargaffConfig
from chargaff.integrations.hf.find import HUB_OPTIONS, find
from chargaff.integrations.hf.loading import fresh_model, load_model
from chargaff.integrations.hf.masking import encode_masked, reads_bins
from chargaff.io.atomic import write_atomically, write_manifest
from chargaff.model import Model
from chargaff.nn.encoded import Encoded

_WITHOUT_EFFECT = (
    "_commit_hash",
    "_fast_init",
    "_from_auto",
    "_from_pipeline",
    "attn_implementation",
    "code_revision",
    "low_cpu_mem_usage",
    "trust_remote_code",
    "use_safetensors",
    "weights_only",
)
"""Arguments of from_pretrained that concern how transformers itself would load: there is one way here."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A batch after the backbone."""

    encoded: Encoded
    mask: Tensor | None
    """[B, T] True where real, for the head; None where states are not those of single tokens."""
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None
    last: Tensor
    """[B, T, C] as the published class returns it; C is 2D where that returns both strands."""


class ChargaffPreTrainedModel(PreTrainedModel):
    """A model of chargaff in transformers' clothes.

    `backbone` and `head` are the family's modules; names of weights are those of `chargaff.save`.
    """

    config_class = ChargaffConfig
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = False
    head_kind: ClassVar[str] = "none"

    backbone: Any
    head: Any

    def __init__(self, config: ChargaffConfig, *, core: Model | None = None, **options: Any) -> None:
        """With fresh weights, unless `core` brings some."""
        super().__init__(config)
        if core is None:
            core = fresh_model(config, self._kind_for(config))
        self.backbone, self.head = core.backbone, core.head
        self.dna_spec, self.dna_tokenizer = core.spec, core.tokenizer
        self._take_options(options)
        self.post_init()

    def _take_options(self, options: Mapping[str, Any]) -> None:
        """Arguments of the constructor of a subclass."""
        if options:
            raise ConfigError(f"{type(self).__name__}: unknown arguments {', '.join(options)}")

    @classmethod
    def _kind_for(cls, config: ChargaffConfig) -> str:
        """The head that this class has in a family."""
        return cls.head_kind

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, config: ChargaffConfig | None = None, **kwargs: Any
    ) -> Self:
        """The model of a folder or hub id, in evaluation mode; keys of its config may be given by name.

        Raises:
            CheckpointError, ConfigError: as `chargaff.load`.
        """
        name = pretrained_model_name_or_path
        hub = {key: kwargs.pop(key) for key in HUB_OPTIONS if key in kwargs}
        if config is None:
            config, kwargs = config_from_pretrained(name, hub, kwargs)
        options = {key: value for key, value in kwargs.items() if key not in _WITHOUT_EFFECT}
        dtype = options.pop("dtype", None) or options.pop("torch_dtype", None)
        options.pop("torch_dtype", None)
        adapter = dict(options.pop("adapter_kwargs", None) or {})
        wants_info = options.pop("output_loading_info", False)
        core = load_model(
            name,
            config,
            cls._kind_for(config),
            hub,
            device=options.pop("device_map", None),
            dtype=dtype,
            replaces_head=bool(options.pop("ignore_mismatched_sizes", False)),
        )
        config.name_or_path = str(name)
        model: Self = cls(config, core=core, **options).eval()
        config.dtype = model.dtype
        if "_adapter_model_path" in adapter:
            path = adapter.pop("_adapter_model_path")
            model.load_adapter(path, adapter_kwargs=adapter)
        if wants_info:
            nothing: dict[str, list[str]] = {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}
            return model, {**nothing, "error_msgs": []}  # type: ignore[return-value]
        return model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """A folder that from_pretrained and `chargaff.load` take back; of tied tensors one is written.

        Raises:
            ConfigError: `push_to_hub=True`, which would upload before the folder is complete.
        """
        if kwargs.pop("push_to_hub", False):
            raise ConfigError(
                "save_pretrained: push_to_hub=True would leave model.json behind; use model.push_to_hub(id)"
            )
        state = kwargs.pop("state_dict", None)
        state = dict(self.state_dict() if state is None else state)
        has_adapter = getattr(self, "_hf_peft_config_loaded", False)
        if not has_adapter:
            kept = {names[0] for names in shared_names(self)}
            state = _apart({key: tensor for key, tensor in state.items() if key in kept})
        folder = Path(save_directory)
        is_main = bool(kwargs.get("is_main_process", True))
        if is_main and not has_adapter:  # an older model there, perhaps in another number of files, must not survive
            for name in (MANIFEST, "model.safetensors", "model.safetensors.index.json"):
                (folder / name).unlink(missing_ok=True)
        super().save_pretrained(save_directory, *args, state_dict=state, **kwargs)
        written = sorted(folder.glob("model*.safetensors"))
        if written and not has_adapter and is_main:
            for name, text in tokenizer_files(self.dna_tokenizer).items():
                write_atomically(folder / name, text)
            sums = {path.name: sha256_of(path) for path in written}
            write_manifest(folder, MANIFEST, describe_model(self.as_chargaff(), sums))

    def as_chargaff(self) -> Model:
        """The same modules as a `chargaff.Model`, for embed, predict and the others."""
        return Model(self.dna_spec, self.backbone, self.head, self.dna_tokenizer)

    def get_input_embeddings(self) -> nn.Module | None:
        """The token embedding; None for models that read one-hot bases."""
        return next((module for module in self.backbone.modules() if isinstance(module, nn.Embedding)), None)

    def enable_input_require_grads(self) -> None:
        """As transformers does; nothing without an embedding, since recomputed blocks do not need it."""
        if self.get_input_embeddings() is not None:
            super().enable_input_require_grads()

    def get_output_embeddings(self) -> None:
        """None: heads are modules of the family, tied by construction."""

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Refused: ids of DNA vocabularies have fixed meanings.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("resize_token_embeddings: the vocabulary of a DNA model is fixed")

    def init_weights(self) -> None:
        """Nothing to do: weights are there when the module is."""

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: tied tensors are one object by construction."""

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether blocks are computed again in the backward pass."""
        return bool(getattr(self.backbone, "checkpointing", False))

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = None, every_n_layers: int = 1
    ) -> None:
        if not hasattr(self.backbone, "checkpointing"):
            raise ConfigError(f"gradient checkpointing: {self.config.family} has no blocks to compute again")
        if every_n_layers != 1:
            raise ConfigError(f"gradient checkpointing: every_n_layers is 1 here, got {every_n_layers}")
        if getattr(gradient_checkpointing_func, "func", checkpoint) is not checkpoint:
            raise ConfigError(
                "gradient checkpointing: activations are recomputed, not moved to the host; offload=False"
            )
        self.backbone.checkpointing = enable

    def read(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        inputs_embeds: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        wants_states: bool | None = None,
        wants_attentions: bool | None = None,
    ) -> Reading:
        """A batch through the backbone.

        Args:
            input_ids: [B, T]. Without an attention_mask every token counts, padding too, as in the published classes
                that take none.
            attention_mask: [B, T], 1 where real; positions with 0 have no influence on the others. Models of bins
                (Enformer, Borzoi) take ones only.
            inputs_embeds: [B, T, C] in place of input_ids, what the family's `embed` gives.
            token_type_ids: [B, T] segment of each token; other than zeros only for DNABERT-2.

        Raises:
            InputError: neither ids nor embeddings, or a mask that this family cannot honour.
            ConfigError: states or attention maps that this family does not have.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("give either input_ids or inputs_embeds")
        wants_states = self.config.output_hidden_states if wants_states is None else wants_states
        wants_attentions = self.config.output_attentions if wants_attentions is None else wants_attentions
        mask = None if attention_mask is None else attention_mask.bool()
        taps = self._taps(bool(wants_states), bool(wants_attentions))
        x = inputs_embeds if input_ids is None else input_ids
        pad_id = self.dna_tokenizer.pad_id
        assert x is not None
        if inputs_embeds is not None:
            if taps:
                raise ConfigError("inputs_embeds: come without hidden states and attention maps; give input_ids")
            encoded = encode_masked(self.backbone, self._from_embeddings, x, mask, pad_id=pad_id)
        else:
            segments = self._segments(token_type_ids)

            def encode(ids: Tensor, m: Tensor | None) -> Encoded:
                found: Encoded = self.backbone(ids, m, taps=taps, **segments)
                return found

            encoded = encode_masked(self.backbone, encode, x, mask, pad_id=pad_id)
        return self._reading(encoded, mask, bool(wants_states), bool(wants_attentions))

    def _segments(self, token_type_ids: Tensor | None) -> dict[str, Tensor]:
        """For the backbone, where there is more than one segment."""
        if token_type_ids is None or not bool(token_type_ids.any()):
            return {}
        if "segments" not in signature(self.backbone.forward).parameters:
            raise InputError(f"token_type_ids: {self.config.family} reads one segment; give zeros or nothing")
        return {"segments": token_type_ids}

    def _from_embeddings(self, x: Tensor, mask: Tensor | None) -> Encoded:
        if not hasattr(self.backbone, "run"):
            raise ConfigError(f"inputs_embeds: {self.config.family} cannot be used in steps")
        encoded: Encoded = self.backbone.finish(self.backbone.run(x, mask))
        return encoded

    def _taps(self, wants_states: bool, wants_attentions: bool) -> list[str]:
        depth = len(getattr(self.backbone, "blocks", ()))
        if (wants_states or wants_attentions) and not depth:
            raise ConfigError(f"output_hidden_states: {self.config.family} has no blocks whose states it could return")
        taps = [f"layer.{k}" for k in range(depth + 1)] if wants_states else []
        if wants_states and self._family.published_output is not None:
            taps += [f"layer.{k}.branch" for k in range(1, depth + 1)]
        return taps + ([f"attn.{k}" for k in range(1, depth + 1)] if wants_attentions else [])

    def _reading(self, encoded: Encoded, mask: Tensor | None, wants_states: bool, wants_attentions: bool) -> Reading:
        attentions = tuple(tap for name, tap in encoded.taps.items() if name.startswith("attn."))
        if wants_attentions and not attentions:
            raise ConfigError(f"output_attentions: {self.config.family} computes no attention maps")
        last = both_strands(encoded)
        states = None
        if wants_states:
            own = self._family.published_output
            plain = [encoded.taps[name] for name in encoded.taps if name.count(".") == 1 and name.startswith("layer.")]
            states = own(self.dna_spec.config, encoded) if own is not None else (*plain[:-1], last)
        rule = self.backbone.rule
        counted = None if rule.fixed_bp is not None or reads_bins(rule) else mask
        return Reading(encoded, counted, states, attentions if wants_attentions else None, last)

    @property
    def _family(self) -> Any:
        return get_family(self.config.family)

    def _returns_dict(self, return_dict: bool | None) -> bool:
        return bool(self.config.return_dict if return_dict is None else return_dict)


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, each in memory of its own, as safetensors needs them."""
    seen: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        found[name] = tensor.clone() if tensor.data_ptr() in seen else tensor.contiguous()
        seen.add(tensor.data_ptr())
    return found


def both_strands(encoded: Encoded) -> Tensor:
    """[B, T, C]: the states, followed by those of the other strand in the channel order of the published code."""
    if encoded.hidden_rc is None:
        return encoded.hidden
    return torch.cat([encoded.hidden, encoded.hidden_rc.flip(-1)], -1)


def config_from_pretrained(
    name: Any, hub: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> tuple[ChargaffConfig, dict[str, Any]]:
    """The config of a model of ours with the keys among `kwargs`, and the other kwargs.

    Raises:
        ConfigError: it is not a model of ours.
    """
    found = find(name, hub)
    if found is None:
        raise ConfigError(f"{name}: no family of chargaff recognises it")
    return with_overrides(found.config(), name, kwargs)


def with_overrides(
    config: ChargaffConfig, name: Any, kwargs: Mapping[str, Any]
) -> tuple[ChargaffConfig, dict[str, Any]]:
    """The config with those of the kwargs that are keys of it, and the others."""
    rest: dict[str, Any] = {}
    config.name_or_path = str(name)
    for key, value in kwargs.items():
        if key in ("num_labels", "id2label", "label2id"):
            config.state_labels()
        if key in ("dtype", "torch_dtype", "attn_implementation") or not hasattr(config, key):
            rest[key] = value
        else:
            setattr(config, key, value)
    config.parsed()
    return config, rest
