"""Published facts about DNA-xLSTM that no contract test covers."""

import json

import pytest
import torch
from torch import Tensor, nn

from chargaff.errors import CheckpointError, ConfigError
from chargaff.families.protocol import Encoded
from chargaff.families.xlstm import FAMILY
from chargaff.families.xlstm.config import XLstmConfig
from chargaff.families.xlstm.layouts import read, write_hub, write_training
from chargaff.families.xlstm.model import Block, init_weights, make_backbone, make_lm_head
from tests.families import literal_xlstm

SLSTM = {"s_lstm_at": "all", "s_proj_factor": 1.1, "s_round_proj_up_dim_up": False, "s_round_proj_up_to_multiple_of": 8}
SMALL = {"d_model": 32, "n_layer": 2}
MODES = {
    "causal": {},
    "both ways": {"bidirectional": True},
    "alternating": {"bidirectional": True, "bidirectional_alternating": True},
    "native": {"bidirectional": True, "m_backend_bidirectional": True},
}


class Lm(nn.Module):
    """Backbone and head as a `Model` has them."""

    def __init__(self, config: XLstmConfig) -> None:
        super().__init__()
        self.backbone = make_backbone(config)
        self.head = make_lm_head(config, self.backbone)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.backbone(tokens))


def fresh(**values: object) -> Lm:
    """A model whose weights are all away from the values that hide mistakes (zero gates, scales of one)."""
    model = Lm(XLstmConfig.from_json({**SMALL, **values}, strict=True))
    torch.manual_seed(0)
    for part in model.children():
        init_weights(part, model.backbone.config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def tokens(length: int, batch: int = 2) -> Tensor:
    return torch.randint(7, 11, (batch, length), generator=torch.Generator().manual_seed(length))


def reverse_complement(ids: Tensor) -> Tensor:
    return torch.tensor(XLstmConfig().complement)[ids].flip(1)


def count(**values: object) -> int:
    with torch.device("meta"):
        model = Lm(XLstmConfig.from_json(values))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("width", "layers", "counts"),
    [
        (128, 4, (349_312, 435_328, 440_992, 446_624)),
        (128, 6, (522_368, 651_392, 659_888, 668_336)),
        (256, 4, (1_403_136, 1_722_624, 1_668_384, 1_679_648)),
        (256, 6, (2_101_504, 2_580_736, 2_499_376, 2_516_272)),
        (384, 5, (3_903_360, 4_456_320, 4_600_360, 4_621_480)),
        (512, 4, (5_575_168, 6_459_904, 6_482_464, 6_504_992)),
    ],  # sheet 1
)
def test_parameter_counts_of_the_published_code(width, layers, counts):
    variants = (SLSTM, {"s_lstm_at": "all"}, {}, {"m_bias": True})
    assert tuple(count(d_model=width, n_layer=layers, **values) for values in variants) == counts


def test_widths_round_as_published():
    assert XLstmConfig(d_model=256).feed_forward_width == 384
    assert XLstmConfig.from_json({"d_model": 256, **SLSTM}).feed_forward_width == 280
    assert XLstmConfig(d_model=100).inner_width == 192
    assert XLstmConfig(s_lstm_at=(0, 2)).slstm_blocks == {0, 2}
    assert XLstmConfig(s_lstm_at="all", n_layer=3).slstm_blocks == {0, 1, 2}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"d_model": 30, "m_proj_factor": 2}, r"config\.m_proj_factor: expected at least 64 / d_model 30"),
        ({"s_lstm_at": [4]}, r"config\.s_lstm_at: expected block numbers below n_layer 4, got \(4,\)"),
        ({"s_lstm_at": "all", "s_num_heads": 3}, r"config\.s_num_heads: expected a divisor of d_model 256, got 3"),
        ({"m_num_heads": 3}, r"config\.m_num_heads: expected a divisor of the inner width 512, got 3"),
        ({"m_qkv_proj_blocksize": 3}, r"config\.m_qkv_proj_blocksize: expected a divisor of the inner width"),
        ({"m_num_heads": 512, "m_position_embeddings": True}, r"config\.m_num_heads: expected an even head width"),
        ({"rcps": True, "s_position_embeddings": True}, r"config\.s_position_embeddings: expected false with rcps"),
        ({"m_backend": "recurrent"}, r"config\.m_backend: expected one of \('parallel', 'chunkwise'\)"),
        ({"complement_map": {"7": 99}}, r"config\.complement_map: 7 -> 99 is outside the vocabulary"),
        ({"m_nun_heads": 4}, r"config\.m_nun_heads: unknown key, did you mean 'm_num_heads'\?"),
    ],
)
def test_impossible_configs_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        XLstmConfig.from_json(values)


def test_a_tied_head_is_refused_when_asked_for_and_overlooked_in_published_files():
    assert XLstmConfig.from_json({"tie_weights": True}).tie_weights
    with pytest.raises(ConfigError, match="the head of this family is never tied"):
        XLstmConfig.from_json({"tie_weights": True}, strict=True)


def test_published_configs_with_shared_strands_are_read_in_the_published_convention():
    assert XLstmConfig.from_json({"rcps": True}).rcps_convention == "reference"
    assert XLstmConfig.from_json({"rcps": True}, strict=True).rcps_convention == "exact"
    assert XLstmConfig.from_json({"rcps": True, "rcps_convention": "exact"}).rcps_convention == "exact"


BOTH = {"bidirectional": True}
OPTIONS = {
    "chunkwise": {"m_backend": "chunkwise", "m_chunk_size": 5},
    "rotary, biases, two heads": {"m_position_embeddings": True, "m_bias": True, "m_num_heads": 2},
    "narrow blocks, odd convolution": {"m_qkv_proj_blocksize": 2, "m_conv1d_kernel_size": 3, "m_proj_factor": 4.0},
    "looks ahead": {"m_conv1d_causal": False, "s_conv1d_causal": False, "s_lstm_at": [1], "s_conv1d_kernel_size": 5},
    "looks ahead, both ways": {"m_conv1d_causal": False, "s_conv1d_causal": False, "s_lstm_at": [1], **BOTH},
    "hybrid, both ways": {"s_lstm_at": [0], "m_position_embeddings": True, **BOTH},
    "hybrid, alternating": {"s_lstm_at": [1], **BOTH, "bidirectional_alternating": True, "m_position_embeddings": True},
    "hybrid, native": {"s_lstm_at": [0], **BOTH, "m_backend_bidirectional": True, "m_bias": True},
    "native with chunks": {**BOTH, "m_backend_bidirectional": True, "m_backend": "chunkwise"},
    "native is not alternating": {**BOTH, "m_backend_bidirectional": True, "bidirectional_alternating": True},
    "slstm without convolution": {**SLSTM, "s_conv1d_kernel_size": 0, "s_num_heads": 2},
    "hybrid with positions": {"s_lstm_at": [1], "s_position_embeddings": True},
    "strands": {**SLSTM, "rcps": True},
    "strands, both ways": {**SLSTM, "rcps": True, **BOTH, "s_conv1d_causal": False},
    "strands, alternating": {**SLSTM, "rcps": True, **BOTH, "bidirectional_alternating": True},
    "strands, exact": {**SLSTM, "rcps": True, "rcps_convention": "exact", **BOTH},
    "strands of mlstm": {"rcps": True, "rcps_convention": "exact", "s_lstm_at": [0], "m_position_embeddings": True},
}


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_does_what_the_fact_sheet_says(options):
    convention = {"rcps_convention": "reference", **options} if options.get("rcps") else options
    model = fresh(**convention).double()
    config = model.backbone.config
    expected = literal_xlstm.logits(write_hub(model.state_dict(), config), config, tokens(19))
    encoded = model.backbone(tokens(19))
    assert torch.allclose(model.head(encoded).double(), expected, rtol=0, atol=1e-6 * expected.abs().max())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("at", [(), (0, 1), (1,)], ids=["mlstm", "slstm", "hybrid"])
def test_exact_strand_sharing_is_equivariant_in_every_mode(at, mode):
    model = fresh(rcps=True, s_lstm_at=at, m_conv1d_causal=False, m_position_embeddings=True, **MODES[mode])
    ids = tokens(29)
    here, there = model(ids), model(reverse_complement(ids))
    table = torch.tensor(model.backbone.config.complement)
    assert torch.allclose(here, there.flip(1)[..., table], atol=1e-4)
    assert model.backbone.config.is_equivariant


@pytest.mark.parametrize("heads", [1, 4])
def test_the_published_convention_is_equivariant_with_one_head_only(heads):
    options = {**SLSTM, "rcps": True, "s_num_heads": heads}
    reference, exact = (fresh(rcps_convention=name, **options) for name in ("reference", "exact"))
    reference.load_state_dict(exact.state_dict())
    ids = tokens(29)
    is_same = torch.allclose(reference(ids), exact(ids), atol=1e-6)
    assert is_same == reference.backbone.config.is_equivariant == (heads == 1)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"m_conv1d_causal": False},
        {"m_conv1d_causal": False, "m_conv1d_kernel_size": 3, "m_backend": "chunkwise"},
        {"m_conv1d_kernel_size": 0, "m_position_embeddings": True, "m_bias": True},
        {"m_conv1d_kernel_size": 1},
        {"s_lstm_at": "all"},
        {"s_lstm_at": "all", "s_conv1d_causal": False},
        {"s_lstm_at": "all", "s_conv1d_kernel_size": 0},
    ],
)
def test_reading_from_the_end_is_reading_the_flipped_sequence(values):
    block = fresh(**values).backbone.blocks[1]
    x = torch.randn(2, 21, 32, generator=torch.Generator().manual_seed(0))
    backwards, _ = block.one_way(x, None, 0, reverse=True)
    flipped, _ = block.one_way(x.flip(1), None, 0, reverse=False)
    assert torch.allclose(backwards, flipped.flip(1), atol=1e-5)


@pytest.mark.parametrize("at", [(), (0, 1)], ids=["mlstm", "slstm"])
def test_directions_combine_as_published(at):
    """Sheet 3.2, with flips: both ways doubles the stream, alternating stacks begin from the right."""

    def one_way(block: Block, x: Tensor) -> Tensor:
        return x + block.one_way(x, None, 0, reverse=False)[0]

    ids = tokens(21)
    both = fresh(s_lstm_at=at, bidirectional=True).backbone
    x = both.token_embedding(ids)
    for block in both.blocks:
        x = one_way(block, x) + one_way(block, x.flip(1)).flip(1)
    assert torch.allclose(both(ids).hidden, both.finish(x).hidden, atol=1e-5)

    alternating = fresh(s_lstm_at=at, bidirectional=True, bidirectional_alternating=True).backbone
    x = alternating.token_embedding(ids)
    x = one_way(alternating.blocks[0], x.flip(1)).flip(1)
    x = one_way(alternating.blocks[1], x)
    assert torch.allclose(alternating(ids).hidden, alternating.finish(x).hidden, atol=1e-5)


def test_the_native_bidirectional_cell_works_with_either_backend_and_not_in_alternating_stacks():
    values = {**MODES["native"], "m_conv1d_kernel_size": 0}
    ids = tokens(21)
    parallel, chunkwise = (fresh(**values, m_backend=name) for name in ("parallel", "chunkwise"))
    assert torch.allclose(parallel(ids), chunkwise(ids), atol=1e-6)
    mirrored = parallel(ids.flip(1)).flip(1)  # without the convolution it has no direction
    assert torch.allclose(parallel(ids), mirrored, atol=1e-4)
    one_sided = fresh(**values, bidirectional_alternating=True)
    assert not torch.allclose(one_sided(ids), one_sided(ids.flip(1)).flip(1), atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("rcps", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("block_tokens", [1, 8, 30])
def test_long_inputs_in_stretches_give_the_same_states(mode, rcps, block_tokens):
    model = fresh(n_layer=3, s_lstm_at=[1], rcps=rcps, m_position_embeddings=True, **MODES[mode])
    ids = tokens(43)
    whole = model.backbone(ids)
    model.backbone.block_tokens = block_tokens
    found = model.backbone(ids)
    assert torch.allclose(found.hidden, whole.hidden, atol=1e-4)
    assert rcps == (whole.hidden_rc is not None)
    if rcps:
        assert torch.allclose(found.hidden_rc, whole.hidden_rc, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("values", [{"s_lstm_at": [1], "m_position_embeddings": True}, {"s_position_embeddings": True}])
def test_the_carried_state_has_one_size_and_counts_positions(values):
    backbone = fresh(**values).backbone
    ids = tokens(40)
    state, pieces = backbone.init_state(2), []
    sizes = [x.shape for layer in state for x in (layer.conv, *layer.cell)]
    for piece in ids.split(9, 1):
        encoded, state = backbone.forward_chunk(piece, state)
        pieces.append(encoded.hidden)
        assert [x.shape for layer in state for x in (layer.conv, *layer.cell)] == sizes
    assert torch.allclose(torch.cat(pieces, 1), backbone(ids).hidden, atol=1e-4)


@pytest.mark.parametrize(
    "values",
    [{"bidirectional": True}, {"rcps": True}, {"m_conv1d_causal": False}],
    ids=lambda values: next(iter(values)),
)
def test_models_that_read_later_tokens_have_no_state(values):
    backbone = fresh(**values).backbone
    assert backbone.rule.padding == "never"
    assert not hasattr(backbone, "init_state")
    assert not hasattr(backbone, "forward_chunk")


def test_a_convolution_that_no_block_has_does_not_decide_about_causality():
    assert XLstmConfig(s_conv1d_causal=False).is_causal
    assert not XLstmConfig(s_conv1d_causal=False, s_lstm_at=(1,)).is_causal
    assert XLstmConfig(m_conv1d_causal=False, s_lstm_at="all").is_causal
    assert XLstmConfig(m_conv1d_causal=False, m_conv1d_kernel_size=1).is_causal


@pytest.mark.parametrize("at", [(), (0, 1)], ids=["mlstm", "slstm"])
def test_dropout_acts_while_training_only(at):
    model, plain = (fresh(s_lstm_at=at, dropout=p) for p in (0.5, 0.0))
    ids = tokens(20)
    assert torch.equal(model(ids), plain(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("rcps", [False, True])
@pytest.mark.parametrize("prefix", ["", "backbone.", "model.backbone.", "model.backbone.backbone."])
def test_every_published_prefix_is_understood(prefix, rcps):
    model = fresh(**SLSTM, rcps=rcps, rcps_convention="reference")
    config, state = model.backbone.config, model.state_dict()
    bare = {name.removeprefix("backbone."): tensor for name, tensor in write_hub(state, config).items()}
    found = read(prefixed(bare, prefix), config)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_training_checkpoints_carry_the_prefix_of_the_training_code():
    model = fresh()
    names = write_training(model.state_dict(), model.backbone.config)
    assert "model.backbone.lm_head.weight" in names
    assert "model.backbone.xlstm_block_stack.blocks.0.xlstm.mlstm_cell.outnorm.weight" in names
    assert all(name.startswith("model.backbone.") for name in names)


def test_a_classifier_is_read_without_the_unused_head_and_written_under_its_published_names():
    model = fresh(s_lstm_at=[1])
    config = model.backbone.config
    classifier = {"decoder.0.output_transform.weight": torch.ones(3, 32)}
    state = {**prefixed(write_hub(model.state_dict(), config), "model.backbone."), **classifier}
    found = read(state, config)
    assert {name for name in found if name.startswith("head.")} == {"head.linear.weight"}
    written = write_hub(found, config)
    assert "model.backbone.backbone.token_embedding.weight" in written
    assert set(written) == {name for name in state if "lm_head" not in name}


def test_unknown_tensors_are_refused_and_metric_counters_dropped():
    counters = {"train_torchmetrics.num_tokens.count": torch.zeros(1)}
    assert read(counters, XLstmConfig()) == {}
    with pytest.raises(CheckpointError, match=r"1 tensor names are not of this layout: transformer\.wte"):
        read({**counters, "transformer.wte": torch.zeros(1)}, XLstmConfig())


def test_both_layouts_of_recurrent_weights_load_to_the_same_model():
    """The shape of the kernel tells the layout; the bias has one shape in both and would load silently wrong."""
    model = fresh(**SLSTM)
    config, vanilla = model.backbone.config, write_hub(model.state_dict(), model.backbone.config)
    heads, width = 4, 8
    for name in list(vanilla):
        if name.endswith("_recurrent_kernel_"):
            kernel = vanilla[name].view(heads, width, 4, width)
            vanilla[name] = kernel.permute(0, 2, 3, 1).reshape(heads, 4 * width, width)
        elif name.endswith("_bias_"):
            vanilla[name] = vanilla[name].view(heads, 4, width).transpose(0, 1).reshape(-1)
    found, state = read(vanilla, config), model.state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_the_config_file_is_that_of_a_released_model():
    config = XLstmConfig.from_json({**SMALL, **SLSTM, "rcps": True})
    text = FAMILY.published_files(config, "lm", 1024, ())["model_config.json"]
    values = json.loads(text)["config"]
    assert values.pop("_target_") == "models.dna_xlstm.modelling_xlstm.xLSTMConfig"
    assert not {"rcps_convention", "m_proj_down_init"} & set(values)
    assert XLstmConfig.from_json(values) == config
    assert FAMILY.recognises(values)


@pytest.mark.parametrize("values", [{"rcps_convention": "exact"}, {"rcps_convention": "reference", "s_lstm_at": [0]}])
def test_strand_sharing_that_the_published_code_lacks_is_not_exported(values):
    config = XLstmConfig.from_json({**SMALL, **SLSTM, "rcps": True, **values})
    with pytest.raises(ConfigError, match="the published layout has only 'reference'"):
        FAMILY.published_files(config, "lm", None, ())


def std(tensor: Tensor) -> float:
    return tensor.std().item()


def test_fresh_weights_have_the_published_distributions():
    config = XLstmConfig(d_model=256, n_layer=3, s_lstm_at=(1, 2))
    model = Lm(config)
    torch.manual_seed(1)
    for part in model.children():
        init_weights(part, config)
    narrow, wide = (2 / (5 * 256)) ** 0.5, 2 / 256**0.5
    first, middle, _last = model.backbone.blocks
    near = {"rel": 0.05}
    for tensor in (first.layer.proj_up.weight, first.layer.q_proj.weight, middle.layer.zgate.weight):
        assert std(tensor) == pytest.approx(narrow, **near)
    assert std(model.head.weight) == pytest.approx(narrow, **near)
    assert std(middle.ffn.proj_up.weight) == pytest.approx(narrow, **near)
    assert std(middle.ffn.proj_down.weight) == pytest.approx(wide / 3, **near)
    assert std(first.layer.proj_down.weight) == pytest.approx(wide, **near)
    gates = first.layer.mlstm_cell
    assert not gates.igate.weight.any()
    assert torch.equal(gates.fgate.bias, torch.linspace(3, 6, 4))
    assert 0 < gates.igate.bias.abs().max() < 0.5
    assert not middle.layer.slstm_cell._recurrent_kernel_.any()
    assert not first.xlstm_norm.weight.any()
    assert first.layer.learnable_skip.eq(1).all()


@pytest.mark.parametrize(("index", "power"), [(0, 0.3), (1, 0.95), (2, 1.6)])
def test_forget_bias_of_slstm_falls_with_a_power_of_the_depth(index, power):
    config = XLstmConfig(d_model=256, n_layer=3, s_lstm_at="all")
    backbone = make_backbone(config)
    init_weights(backbone, config)
    _, bias = backbone.blocks[index].layer.slstm_cell()
    place = torch.arange(64) / 63
    assert torch.allclose(bias[:, 1], (5 - 12 * place**power).expand(4, -1), atol=1e-5)
    assert not bias[:, [0, 2, 3]].any()


def test_one_channel_heads_have_a_forget_bias():
    config = XLstmConfig(d_model=64, n_layer=1, s_lstm_at="all", s_num_heads=64)
    backbone = make_backbone(config)
    init_weights(backbone, config)
    assert backbone.blocks[0].layer.slstm_cell()[1][:, 1].eq(5).all()


def test_the_depth_can_be_let_into_the_output_maps():
    config = XLstmConfig(d_model=256, n_layer=4, m_proj_down_init="depth")
    backbone = make_backbone(config)
    init_weights(backbone, config)
    assert std(backbone.blocks[0].layer.proj_down.weight) == pytest.approx(2 / 16 / 4, rel=0.05)


def test_bfloat16_weights_give_bfloat16_states():
    model = fresh(s_lstm_at=[1]).bfloat16()
    encoded: Encoded = model.backbone(tokens(20))
    assert encoded.hidden.dtype == torch.bfloat16
    assert model.head(encoded).dtype == torch.float32
