"""The model classes behind transformers' Auto classes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, GenerationMixin
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
    MaskedLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import GENERATION_CONFIG_NAME

from chargaff.errors import ConfigError, InputError
from chargaff.families import get_family
from chargaff.integrations.hf.base import ChargaffPreTrainedModel, Reading
from chargaff.integrations.hf.config import ChargaffConfig
from chargaff.integrations.hf.generating import CarriedState
from chargaff.integrations.hf.losses import before_padding, classifier_loss, infer_problem, token_loss
from chargaff.integrations.hf.masking import reads_bins
from chargaff.model import Model
from chargaff.nn.encoded import Encoded


class ChargaffModel(ChargaffPreTrainedModel):
    """States without a head: AutoModel. Families whose published class pools have that, too."""

    @classmethod
    def _kind_for(cls, config: ChargaffConfig) -> str:
        return "pooler" if "pooler" in get_family(config.family).extra_heads else "none"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """last_hidden_state [B, T, D]; 2D for models that carry both strands, as published.

        Arguments as `ChargaffPreTrainedModel.read`.
        """
        found = self.read(
            input_ids,
            attention_mask,
            inputs_embeds,
            token_type_ids,
            wants_states=output_hidden_states,
            wants_attentions=output_attentions,
        )
        states = {"hidden_states": found.hidden_states, "attentions": found.attentions}
        output: Any
        if self.head is None:
            output = BaseModelOutput(last_hidden_state=found.last, **states)
        else:
            output = BaseModelOutputWithPooling(
                last_hidden_state=found.last, pooler_output=apply_head(self, found), **states
            )
        return output if self._returns_dict(return_dict) else output.to_tuple()


class ChargaffForMaskedLM(ChargaffPreTrainedModel):
    """Logits of every position from its surroundings: AutoModelForMaskedLM."""

    head_kind = "lm"

    def __init__(self, config: ChargaffConfig, *, core: Model | None = None, **options: Any) -> None:
        super().__init__(config, core=core, **options)
        if is_causal(self) and get_family(config.family).objective == "causal":
            raise ConfigError(f"{config.family} reads from left to right: load it with AutoModelForCausalLM")

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        loss_weights: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """logits [B, T, V] and, with labels [B, T], the loss.

        The loss is the mean over positions whose label is neither -100 nor the one that the published class leaves out
        (Caduceus, xLSTM: 4, its padding; DNABERT-2: 0, its unknown token). Without such a position it is 0.

        Args:
            loss_weights: [B, T] weight of each position in the mean.
            encoder_attention_mask: without effect: there is no second encoder. Published examples give it.
        """
        found = self.read(
            input_ids,
            attention_mask,
            inputs_embeds,
            token_type_ids,
            wants_states=output_hidden_states,
            wants_attentions=output_attentions,
        )
        logits = apply_head(self, found)
        loss = None
        if labels is not None:
            ignored = get_family(self.config.family).ignored_label(self.dna_spec.config)
            loss = token_loss(logits, labels, ignored=ignored, weights=loss_weights)
        output = MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=found.hidden_states, attentions=found.attentions
        )
        return output if self._returns_dict(return_dict) else output.to_tuple()


class ChargaffForCausalLM(ChargaffPreTrainedModel, GenerationMixin):
    """Logits of the next token: AutoModelForCausalLM, with `generate`."""

    head_kind = "lm"
    _is_stateful = True

    def __init__(self, config: ChargaffConfig, *, core: Model | None = None, **options: Any) -> None:
        super().__init__(config, core=core, **options)
        if not is_causal(self):
            raise ConfigError(f"this {config.family} model reads both ways: load it with AutoModelForMaskedLM")
        vocab = self.dna_tokenizer.vocab
        embedding: Any = self.get_input_embeddings()
        rows = len(embedding.weight)
        letters = [number for number in range(min(rows, len(vocab))) if vocab[number] in ("A", "C", "G", "T")]
        self.generation_config.suppress_tokens = [number for number in range(rows) if number not in letters]
        self.generation_config.pad_token_id = self.dna_tokenizer.pad_id

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As for all classes, with the generation settings that a folder of ours holds."""
        found = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = found[0] if isinstance(found, tuple) else found
        if (Path(pretrained_model_name_or_path) / GENERATION_CONFIG_NAME).is_file():
            model.generation_config = GenerationConfig.from_pretrained(pretrained_model_name_or_path)
        return found

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: CarriedState | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """logits [B, T, V] and, with labels [B, T], the loss of predicting each label from the tokens before it.

        Labels equal the ids: the shift by one is done here. -100 does not count, nor does what the published training
        leaves out (padding, except for HyenaDNA, where every position counts).

        Args:
            past_key_values: what earlier calls read; then input_ids hold only what follows.
            use_cache: return the state after the last token.
        """
        if past_key_values is not None or use_cache:
            found, state = self._continue(input_ids, attention_mask, past_key_values)
        else:
            found, state = (
                self.read(
                    input_ids,
                    attention_mask,
                    inputs_embeds,
                    token_type_ids,
                    wants_states=output_hidden_states,
                    wants_attentions=output_attentions,
                ),
                None,
            )
        logits = apply_head(self, found)
        loss = None
        if labels is not None:
            ignored = get_family(self.config.family).ignored_label(self.dna_spec.config)
            loss = token_loss(logits, labels, ignored=ignored, shifts=True)
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=state,
            hidden_states=found.hidden_states,
            attentions=found.attentions,
        )
        return output if self._returns_dict(return_dict) else output.to_tuple()

    def _continue(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, past: CarriedState | None
    ) -> tuple[Reading, CarriedState]:
        if input_ids is None or not hasattr(self.backbone, "forward_chunk"):
            raise ConfigError("use_cache: needs input_ids and a model that carries state; pass use_cache=False")
        if attention_mask is not None and not bool(attention_mask.all()):
            raise InputError("use_cache: not with padding; pass use_cache=False")
        state = self.backbone.init_state(input_ids.shape[0]) if past is None else past.state
        encoded, state = self.backbone.forward_chunk(input_ids, state)
        carried = CarriedState(state, (0 if past is None else past.tokens) + input_ids.shape[1])
        return Reading(encoded, None, None, None, encoded.hidden), carried

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: CarriedState | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """What `generate` gives to `forward`: only new tokens where state is carried, all of them otherwise."""
        is_padded = attention_mask is not None and not bool(attention_mask.all())
        if is_padded or not use_cache or not hasattr(self.backbone, "forward_chunk"):
            return {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        new = input_ids if past_key_values is None else input_ids[:, past_key_values.tokens :]
        return {"input_ids": new, "past_key_values": past_key_values, "use_cache": True}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """False: the state is `CarriedState`."""
        return False


class ChargaffForSequenceClassification(ChargaffPreTrainedModel):
    """Classes or values of a sequence: AutoModelForSequenceClassification."""

    head_kind = "sequence"

    def _take_options(self, options: Mapping[str, Any]) -> None:
        rest = dict(options)
        self.conjoin_train = bool(rest.pop("conjoin_train", False))
        self.conjoin_eval = bool(rest.pop("conjoin_eval", False))
        pooling = rest.pop("pooling_strategy", None)
        if pooling is not None:
            if not hasattr(self.head, "pooling"):
                raise ConfigError(f"pooling_strategy: the classifier of {self.config.family} has its own")
            self.head.pooling = pooling
            options = {**self.dna_spec.head_options, "pooling": pooling}
            self.dna_spec = replace(self.dna_spec, head_options=options)
        super()._take_options(rest)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """logits [B, C] and, with labels, the loss by `config.problem_type`.

        Args:
            input_ids: [B, T], or [B, T, 2] with the ids of the other strand behind, whose outputs are averaged.
            labels: [B] classes or values, [B, C] of several labels.
        """
        second = None
        if input_ids is not None and input_ids.dim() == 3:
            input_ids, second = input_ids.unbind(-1)
        found = self.read(
            input_ids,
            attention_mask,
            inputs_embeds,
            token_type_ids,
            wants_states=output_hidden_states,
            wants_attentions=output_attentions,
        )
        found = self._conjoined(found, input_ids, second, attention_mask)
        found = self._with_last(found, input_ids)
        logits = apply_head(self, found)
        loss = None
        if labels is not None:
            self.config.problem_type = self.config.problem_type or infer_problem(logits.shape[1], labels)
            loss = classifier_loss(logits, labels, self.config.problem_type)
        output = SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=found.hidden_states, attentions=found.attentions
        )
        return output if self._returns_dict(return_dict) else output.to_tuple()

    def _conjoined(
        self, found: Reading, input_ids: Tensor | None, second: Tensor | None, attention_mask: Tensor | None
    ) -> Reading:
        """With the states of the other strand, if they are asked for and not there already."""
        wants = self.conjoin_train or (self.conjoin_eval and not self.training) or second is not None
        if not wants or found.encoded.hidden_rc is not None or input_ids is None:
            return found
        if second is None:
            second = self.as_chargaff().reverse_complement(input_ids)
        mask = None if attention_mask is None else attention_mask.flip(1)
        other = self.read(second, mask, wants_states=False, wants_attentions=False).encoded.hidden.flip(1)
        encoded = Encoded(found.encoded.hidden, other, found.encoded.taps)
        return Reading(encoded, found.mask, found.hidden_states, found.attentions, found.last)

    def _with_last(self, found: Reading, input_ids: Tensor | None) -> Reading:
        """Where the last state decides and nobody says which that is, padding ids tell."""
        if found.mask is not None or input_ids is None or getattr(self.head, "pooling", "") != "last":
            return found
        if reads_bins(self.backbone.rule):
            return found
        mask = before_padding(input_ids, self.dna_tokenizer.pad_id)
        return Reading(found.encoded, mask, found.hidden_states, found.attentions, found.last)


class ChargaffForTokenClassification(ChargaffPreTrainedModel):
    """Classes of every token: AutoModelForTokenClassification."""

    head_kind = "token"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """logits [B, T, C] and, with labels [B, T], the mean loss where they are not -100."""
        found = self.read(
            input_ids,
            attention_mask,
            inputs_embeds,
            token_type_ids,
            wants_states=output_hidden_states,
            wants_attentions=output_attentions,
        )
        logits = apply_head(self, found)
        loss = None if labels is None else token_loss(logits, labels)
        output = TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=found.hidden_states, attentions=found.attentions
        )
        return output if self._returns_dict(return_dict) else output.to_tuple()


def apply_head(model: ChargaffPreTrainedModel, found: Reading) -> Tensor:
    """What the head makes of a batch."""
    assert model.head is not None
    logits: Tensor = model.head(found.encoded, found.mask)
    return logits


def is_causal(model: ChargaffPreTrainedModel) -> bool:
    """Whether no position sees those behind it."""
    return bool(model.backbone.rule.padding == "causal")
