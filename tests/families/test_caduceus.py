"""Published facts about Caduceus that no contract test covers."""

import hashlib

import pytest
import torch

from chargaff.errors import CheckpointError, ConfigError
from chargaff.families import get_family
from chargaff.families.caduceus.config import CaduceusConfig
from chargaff.families.caduceus.layouts import read
from chargaff.families.caduceus.model import Caduceus, init_weights, make_lm_head

PUBLISHED = {"d_model": 256, "vocab_size": 16, "residual_in_fp32": False, "ssm_cfg": {}, "initializer_cfg": {}}


def fresh(**values) -> tuple[CaduceusConfig, Caduceus]:
    config = CaduceusConfig.from_json({"d_model": 16, "n_layer": 3, "vocab_size": 12, **values})
    torch.manual_seed(0)
    backbone = Caduceus(config)
    init_weights(backbone, config)
    return config, backbone.eval()


@pytest.mark.parametrize(
    ("rcps", "layers", "digest"),
    [(True, 16, "d0f8eaf9d62370ff"), (False, 4, "4bcbb5df87ce19bf")],  # sheet 1.1
)
def test_config_json_has_the_bytes_of_the_published_file(rcps, layers, digest):
    config = CaduceusConfig.from_json({**PUBLISHED, "rcps": rcps, "n_layer": layers})
    text = get_family("caduceus").published_files(config, "lm", 131072)["config.json"].encode()
    assert len(text) == 1375
    assert hashlib.sha256(text).hexdigest().startswith(digest)


@pytest.mark.parametrize(
    ("width", "layers", "count"),
    [(118, 4, 470_702), (128, 4, 541_312), (256, 4, 1_934_592), (256, 8, 3_864_832), (256, 16, 7_725_312)],  # sheet 2.9
)
@pytest.mark.parametrize("rcps", [False, True])
def test_parameter_counts_of_the_paper(width, layers, count, rcps):
    with torch.device("meta"):
        backbone = Caduceus(CaduceusConfig.from_json({**PUBLISHED, "d_model": width, "n_layer": layers, "rcps": rcps}))
    assert sum(parameter.numel() for parameter in backbone.parameters()) == count


def test_the_fused_path_swaps_strands_and_the_unfused_one_does_not():
    _, fused = fresh(rcps=True, fused_add_norm=True)
    _, unfused = fresh(rcps=True, fused_add_norm=False)
    state = {
        name.replace("norm.", "norm.submodule.").replace("norm_f.", "norm_f.submodule."): value
        for name, value in fused.state_dict().items()
    }
    unfused.load_state_dict(state)
    tokens = torch.randint(7, 11, (2, 33))
    assert not torch.allclose(fused(tokens).hidden, unfused(tokens).hidden, atol=1e-3)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("rms", [True, False])
def test_both_paths_are_exactly_equivariant(fused, layers, rms):
    config, backbone = fresh(rcps=True, fused_add_norm=fused, n_layer=layers, rms_norm=rms)
    head = make_lm_head(config, backbone)
    init_weights(head, config)
    tokens = torch.randint(0, 12, (2, 33))
    table = torch.tensor(config.complement)
    forward, other = backbone(tokens), backbone(table[tokens].flip(1))
    assert torch.allclose(head(forward), head(other).flip(1)[..., table], atol=1e-5)
    assert torch.allclose(forward.hidden, other.hidden_rc.flip(1), atol=1e-5)


def test_complement_map_keys_are_read_as_integers_whatever_their_order():
    shuffled = {str(key): value for key, value in sorted(({7: 10, 10: 7, 8: 9, 9: 8, 11: 11}).items(), key=str)}
    config = CaduceusConfig.from_json({"vocab_size": 12, "complement_map": shuffled})
    assert config.complement == [0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11, 12, 13, 14, 15]


def test_a_misspelt_config_key_is_named_with_its_nearest_neighbour():
    with pytest.raises(ConfigError, match=r"config\.d_modle: unknown key, did you mean 'd_model'\?"):
        CaduceusConfig.from_json({"d_modle": 3})
    with pytest.raises(ConfigError, match=r"config\.ssm_cfg\.d_state: expected int, got 'many'"):
        CaduceusConfig.from_json({"ssm_cfg": {"d_state": "many"}})


def test_library_bookkeeping_in_a_published_config_is_ignored():
    config = CaduceusConfig.from_json({"d_model": 8, "_name_or_path": "x", "output_attentions": False})
    assert config.d_model == 8


@pytest.mark.parametrize("prefix", ["caduceus.backbone.", "backbone.", "model.caduceus.backbone."])
def test_every_published_prefix_is_understood(prefix):
    config, backbone = fresh()
    published = {prefix + name: value for name, value in backbone.state_dict().items()}
    assert set(read(published, config)) == {f"backbone.{name}" for name in backbone.state_dict()}


def test_a_tensor_no_rule_knows_is_an_error_and_metric_counters_are_not():
    config, _ = fresh()
    counters = {"train_torchmetrics.num_tokens.count": torch.zeros(1)}
    assert read(counters, config) == {}
    with pytest.raises(CheckpointError, match=r"1 tensor names are not of this layout: transformer\.wte"):
        read({**counters, "transformer.wte": torch.zeros(1)}, config)


def test_residual_stream_is_float32_when_the_config_says_so():
    _, backbone = fresh(residual_in_fp32=True)
    backbone.bfloat16()
    assert backbone.embed(torch.randint(7, 11, (1, 5))).dtype == torch.float32
    assert backbone(torch.randint(7, 11, (1, 5))).hidden.dtype == torch.bfloat16


def test_run_leaves_its_input_alone():
    _, backbone = fresh()
    with torch.no_grad():
        x = backbone.embed(torch.randint(7, 11, (2, 20)))
        before = x.clone()
        backbone.run(x)
    assert torch.equal(x, before)
