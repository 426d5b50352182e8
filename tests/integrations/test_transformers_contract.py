"""What `chargaff.integrations.transformers` promises for every family and each of its tiny variants.

Families are found by listing folders: a new one is tested without a change here.
"""

import json

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

import chargaff
from chargaff.errors import CheckpointError, ConfigError, InputError
from chargaff.families import get_family
from chargaff.hub.load import load
from chargaff.integrations.transformers import ChargaffConfig, ChargaffTokenizer
from chargaff.model import Model
from tests.contract.tiny import IDS, VARIANTS, is_layered, legal_tokens, random_tokens, relative_error, tiny_model
from tests.integrations.folders import auto_class, exported, logits_of, saved

# float32 sums in another order differ by a few units of 2^-24, times the depth
REORDERED = 1e-5
WITH_ATTENTION = ("dnabert2", "nucleotide_transformer")


@pytest.fixture(params=VARIANTS, ids=IDS)
def variant(request):
    return request.param


@pytest.fixture
def folder(variant, tmp_path):
    return saved(*variant, tmp_path / "model")


@pytest.fixture
def core(folder) -> Model:
    return load(folder, device="cpu")


def needs_free_length(model: Model) -> None:
    if model.backbone.rule.fixed_bp is not None:
        pytest.skip("this family reads one input length")
    if reads_bins(model):
        pytest.skip("states are bins of bases, so padding is refused: test_padding_is_refused_where_states_are_bins")


def reads_bins(model: Model) -> bool:
    """Whether no padding is taken and inputs divide by a step, as where states are bins of bases."""
    return model.backbone.rule.padding == "never" and model.backbone.rule.multiple_of > 1


def test_the_auto_class_gives_the_logits_of_load_to_the_bit(folder, core):
    model = auto_class(core).from_pretrained(folder)
    tokens = random_tokens(core)
    assert not model.training
    assert type(model).__module__.startswith("chargaff.")
    assert torch.equal(logits_of(model, tokens), logits_of(core, tokens))


def test_a_published_folder_gives_the_logits_of_load_to_the_bit(variant, tmp_path):
    model = tiny_model(*variant)
    try:
        folder = exported(model, tmp_path / "hub")
    except ConfigError as error:
        pytest.skip(f"has no published form: {error}")
    core = load(folder, device="cpu")
    tokens = random_tokens(core)
    ours = auto_class(core).from_pretrained(folder)
    assert torch.equal(logits_of(ours, tokens), logits_of(core, tokens))
    assert isinstance(AutoConfig.from_pretrained(folder), ChargaffConfig)
    assert isinstance(AutoTokenizer.from_pretrained(folder), ChargaffTokenizer)


def test_what_it_saves_is_the_same_model_for_both(folder, core, tmp_path):
    model = auto_class(core).from_pretrained(folder)
    model.save_pretrained(tmp_path / "again")
    tokens = random_tokens(core)
    expected = logits_of(core, tokens)
    assert torch.equal(logits_of(load(tmp_path / "again", device="cpu"), tokens), expected)
    assert torch.equal(logits_of(auto_class(core).from_pretrained(tmp_path / "again"), tokens), expected)
    again = load(tmp_path / "again", device="cpu")
    assert again.spec.config == core.spec.config
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in core.parameters())


def test_a_config_shows_the_models_sizes_and_survives_saving(folder, core, tmp_path):
    config = AutoConfig.from_pretrained(folder)
    assert config.family == core.spec.family
    assert config.hidden_size == core.backbone.width
    assert config.num_hidden_layers == len(getattr(core.backbone, "blocks", ()))
    config.save_pretrained(tmp_path / "config")
    again = AutoConfig.from_pretrained(tmp_path / "config")
    assert again.parsed() == config.parsed() == core.spec.config
    assert json.loads(again.to_json_string()) == json.loads(config.to_json_string())


def test_a_model_from_a_config_has_fresh_weights_by_torchs_seed(folder, core):
    config = AutoConfig.from_pretrained(folder)
    tokens = random_tokens(core)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = auto_class(core).from_config(config).eval()
        found.append(logits_of(model, tokens))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not [name for name, tensor in model.state_dict().items() if tensor.isnan().any()]


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_masked_positions_have_no_influence(folder, core, side):
    needs_free_length(core)
    model = AutoModel.from_pretrained(folder)
    lengths = [legal_tokens(core, wanted) for wanted in (24, 17, 24, 9)]
    tokens = random_tokens(core, batch=4, tokens=24)
    mask = torch.zeros_like(tokens)
    for row, length in enumerate(lengths):
        mask[row, slice(0, length) if side == "right" else slice(24 - length, 24)] = 1
    noise = random_tokens(core, batch=4, tokens=24, seed=1)
    tokens = torch.where(mask.bool(), tokens, noise)
    found = model(tokens, attention_mask=mask).last_hidden_state
    other = model(torch.where(mask.bool(), tokens, tokens.roll(1, 0)), attention_mask=mask).last_hidden_state
    for row in range(4):
        real = mask[row].bool()
        alone = model(tokens[row][real].unsqueeze(0)).last_hidden_state[0]
        assert relative_error(found[row][real], alone) < REORDERED
        assert relative_error(other[row][real], alone) < REORDERED


@torch.no_grad()
def test_a_mask_of_ones_changes_nothing(folder, core):
    model = auto_class(core).from_pretrained(folder)
    tokens = random_tokens(core)
    masked = logits_of(model, tokens, attention_mask=torch.ones_like(tokens))
    assert relative_error(masked, logits_of(model, tokens)) < REORDERED


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_refused_where_states_are_bins(folder, core, side):
    if not reads_bins(core):
        pytest.skip("padding is honoured")
    step = core.backbone.rule.multiple_of
    tokens = random_tokens(core, tokens=4 * step)
    mask = torch.ones_like(tokens)
    mask[1, slice(0, step) if side == "left" else slice(3 * step, 4 * step)] = 0
    with pytest.raises(
        InputError, match=f"row 1 leaves out {step} of {4 * step} tokens.*one length.*multiple of {step}"
    ):
        auto_class(core).from_pretrained(folder)(tokens, attention_mask=mask)


def test_a_mask_with_gaps_is_refused_where_it_cannot_be_honoured(folder, core):
    if core.backbone.rule.padding == "masked" or core.backbone.rule.fixed_bp is not None:
        pytest.skip("this family takes any mask, or none")
    tokens = random_tokens(core, batch=2, tokens=8)
    mask = torch.ones_like(tokens)
    mask[1, 3] = 0
    with pytest.raises(InputError, match=r"row 1 (has gaps|leaves out 1 of)"):
        AutoModel.from_pretrained(folder)(tokens, attention_mask=mask)


def test_gradients_flow_through_masked_batches(folder, core):
    needs_free_length(core)
    model = AutoModel.from_pretrained(folder).train()
    tokens = random_tokens(core, batch=3, tokens=12)
    mask = torch.ones_like(tokens)
    mask[0, :5] = 0
    found = model(tokens, attention_mask=mask)
    loss = found.last_hidden_state[mask.bool()].square().mean()
    if "pooler_output" in found:
        loss = loss + found.pooler_output.square().mean()
    loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_hidden_states_begin_with_the_embedding(folder, core):
    model = AutoModel.from_pretrained(folder)
    tokens = random_tokens(core)
    if not is_layered(core):
        with pytest.raises(ConfigError, match="no blocks"):
            model(tokens, output_hidden_states=True)
        return
    with torch.no_grad():
        found = model(tokens, output_hidden_states=True)
        embedding = core.backbone(tokens, taps=["layer.0"]).taps["layer.0"]
    assert torch.equal(found.hidden_states[0], embedding)
    assert len(found.hidden_states) >= len(core.backbone.blocks)
    assert relative_error(found.last_hidden_state, logits_of(model, tokens)) < REORDERED


def test_attention_maps_are_given_or_refused(folder, core):
    model = AutoModel.from_pretrained(folder)
    tokens = random_tokens(core, batch=2, tokens=12)
    if core.spec.family not in WITH_ATTENTION:
        with pytest.raises(ConfigError, match=r"attention maps|no blocks"):
            model(tokens, output_attentions=True)
        return
    with torch.no_grad():
        found = model(tokens, output_attentions=True).attentions
    assert len(found) == len(core.backbone.blocks)
    for table in found:
        assert table.shape[0] == 2
        assert table.shape[2] == tokens.shape[1] <= table.shape[3]  # a learned key may be behind the tokens'
        assert torch.allclose(table.sum(-1), torch.ones(table.shape[:-1]), atol=1e-5)


def test_embeddings_in_place_of_ids_give_the_same_states(folder, core):
    if not is_layered(core):
        pytest.skip("this backbone is not a LayeredBackbone")
    model = AutoModel.from_pretrained(folder)
    tokens = random_tokens(core)
    with torch.no_grad():
        found = model(inputs_embeds=core.backbone.embed(tokens)).last_hidden_state
    assert relative_error(found, logits_of(model, tokens)) < REORDERED


@pytest.mark.filterwarnings(
    "ignore:.*is deprecated and will be removed in v6:FutureWarning"
)  # its new name is not in older versions
def test_gradient_checkpointing_keeps_loss_and_gradients(folder, core):
    model = auto_class(core).from_pretrained(folder).train()
    tokens = random_tokens(core)
    if not hasattr(core.backbone, "checkpointing"):
        with pytest.raises(ConfigError, match="no blocks"):
            model.gradient_checkpointing_enable()
        return
    results = []
    for recomputes in (False, True):
        if recomputes:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        torch.manual_seed(0)  # some models drop states
        loss = model(tokens).logits.square().mean()
        loss.backward()
        results.append((loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    assert model.is_gradient_checkpointing
    assert torch.equal(results[0][0], results[1][0])
    for name, gradient in results[0][1].items():
        assert relative_error(results[1][1][name], gradient) < REORDERED, name
    model.gradient_checkpointing_disable()
    assert not model.backbone.checkpointing


def test_labels_give_the_loss_of_the_published_class(folder, core):
    if core.spec.head != "lm":
        pytest.skip("this family has no language-model head")
    model = auto_class(core).from_pretrained(folder)
    tokens = random_tokens(core, batch=3, tokens=20)
    labels = tokens.clone().long()
    labels[:, ::3] = -100
    ignored = get_family(core.spec.family).ignored_label(core.spec.config)
    if ignored is not None:
        labels[1, 1] = ignored
    with torch.no_grad():
        found = model(tokens, labels=labels)
    logits, wanted = found.logits, labels
    if auto_class(core) is AutoModelForCausalLM:
        logits, wanted = logits[:, :-1], labels[:, 1:]
    counts = (wanted != -100) & (wanted != (-100 if ignored is None else ignored))
    expected = torch.nn.functional.cross_entropy(logits[counts], wanted[counts])
    assert relative_error(found.loss, expected) < REORDERED
    nothing = model(tokens, labels=torch.full_like(labels, -100)).loss
    assert nothing.item() == 0


def test_the_other_kind_of_language_model_is_refused_with_the_right_class(folder, core):
    if core.spec.head != "lm":
        pytest.skip("this family has no language-model head")
    other, name = {
        AutoModelForCausalLM: (AutoModelForMaskedLM, "AutoModelForCausalLM"),
        AutoModelForMaskedLM: (AutoModelForCausalLM, "AutoModelForMaskedLM"),
    }[auto_class(core)]
    if other is AutoModelForCausalLM and core.backbone.rule.padding == "causal":
        pytest.skip("a one-directional model that was trained on masks can be read either way")
    with pytest.raises(ConfigError, match=name):
        other.from_pretrained(folder)


@pytest.mark.parametrize("kind", [AutoModelForSequenceClassification, AutoModelForTokenClassification])
def test_a_classifier_on_a_pretrained_model_learns_and_comes_back(folder, core, kind, tmp_path):
    if kind is AutoModelForTokenClassification and not is_layered(core):
        pytest.skip("no state per token")
    model = kind.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True).train()
    tokens = random_tokens(core, batch=4)
    labels = torch.tensor([0, 1, 2, 1])
    if kind is AutoModelForTokenClassification:
        labels = labels.unsqueeze(1).expand_as(tokens)
    model(tokens, labels=labels).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    model.eval().save_pretrained(tmp_path / "classifier")
    again = kind.from_pretrained(tmp_path / "classifier")
    assert again.config.num_labels == 3
    assert torch.equal(logits_of(again, tokens), logits_of(model, tokens))
    assert torch.equal(logits_of(load(tmp_path / "classifier", device="cpu"), tokens), logits_of(model, tokens))
    with pytest.raises(CheckpointError, match="3 outputs, 2 are asked for"):
        kind.from_pretrained(tmp_path / "classifier", num_labels=2)
    fresh = kind.from_pretrained(tmp_path / "classifier", num_labels=2, ignore_mismatched_sizes=True)
    assert fresh.config.num_labels == 2
    assert logits_of(fresh, tokens).shape[-1] == 2


def test_tuples_come_in_the_order_of_the_output(folder, core):
    model = AutoModel.from_pretrained(folder)
    tokens = random_tokens(core)
    with torch.no_grad():
        assert torch.equal(model(tokens, return_dict=False)[0], model(tokens)[0])


def test_the_tokenizer_comes_back_from_its_own_folder(folder, core, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=500, padding_side="right")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    again = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert isinstance(again, ChargaffTokenizer)
    text = "ACGTTGCANACGTACGTA"
    expected = core.tokenizer.encode(torch.tensor(list(text.encode()), dtype=torch.uint8).numpy()).tolist()
    assert tokenizer(text)["input_ids"] == again(text)["input_ids"] == expected
    assert (again.padding_side, again.model_max_length) == ("right", 500)
    assert len(again) == len(core.tokenizer.vocab)


def test_the_bridge_gives_back_a_model_of_chargaff(folder, core):
    model = auto_class(core).from_pretrained(folder)
    tokens = random_tokens(core)
    assert torch.equal(logits_of(model.as_chargaff(), tokens), logits_of(core, tokens))
    assert isinstance(model.as_chargaff(), chargaff.Model)
