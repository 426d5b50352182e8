"""Embeddings by models whose states are bins: a record stands in the middle of a full window; its bins are pooled."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from chargaff.errors import ConfigError
from chargaff.families import get_family
from chargaff.hub.load import create
from chargaff.workflows.embed import EmbedOptions, embed, plan_embedding

CONFIGS = {
    "enformer": get_family("enformer").tiny["all-bins"],
    "borzoi": {**get_family("borzoi").tiny["relative"], "bins_to_return": 6},
}
BASES = "".join(np.random.default_rng(0).choice(list("ACGT"), 150))


@pytest.fixture(params=CONFIGS)
def model(request):
    made = create(request.param, CONFIGS[request.param], head="tracks", seed=1)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += torch.randn_like(parameter) / 10
    made.spec = replace(made.spec, context_bp=64)
    return made.eval()


@torch.inference_mode()
def states_of(model, record, start):
    """base of the record -> state of its bin, in a window of 64 bases that begins at `start`."""
    letters = ("N" * 100 + record + "N" * 200)[100 + start : 164 + start]
    tokens = torch.from_numpy(model.tokenizer.encode(np.frombuffer(letters.encode(), np.uint8)))[None]
    hidden, grid = model.encode(tokens).hidden[0].numpy(), model.backbone.grid(64)
    return {start + grid.offset_bp + base: hidden[base // grid.step_bp] for base in range(grid.size * grid.step_bp)}


def test_a_short_record_is_the_mean_of_its_bins(model):
    grid = model.backbone.grid(64)
    for length in (1, 17, grid.size * grid.step_bp):
        found = embed(model, {"a": BASES[:length]}).vectors
        spare = grid.size * grid.step_bp - length
        start = -(spare // 2 // grid.step_bp * grid.step_bp) - grid.offset_bp
        padded = states_of(model, BASES[:length], start)
        expected = np.mean([padded[base] for base in range(length)], axis=0)
        assert np.allclose(found[0], expected, atol=1e-5)


def test_a_long_record_is_read_in_windows_that_see_their_surroundings(model):
    grid = model.backbone.grid(64)
    usable = grid.size * grid.step_bp
    found = embed(model, {"a": BASES}, EmbedOptions(pooling="none")).vectors
    assert len(found) == 150
    last = 150 - usable
    for start in range(0, last, usable):
        expected = states_of(model, BASES, start - grid.offset_bp)
        for base in range(start, min(start + usable, last)):
            assert np.allclose(found[base], expected[base], atol=1e-5)


def test_both_strands_lie_on_each_other(model):
    short = BASES[: model.backbone.grid(64).step_bp * 2]
    turned = short[::-1].translate(str.maketrans("ACGT", "TGCA"))
    both, first, second = (
        embed(model, {"a": bases}, EmbedOptions(strands=strands)).vectors
        for bases, strands in ((short, "both"), (short, "forward"), (turned, "forward"))
    )
    assert np.allclose(both, (first + second) / 2, atol=1e-5)


def test_a_record_does_not_depend_on_its_batch_mates_and_costs_are_known(model):
    records = {"a": BASES[:10], "b": BASES, "c": BASES[20:75]}
    together = embed(model, records).vectors
    for row, bases in enumerate(records.values()):
        assert np.allclose(together[row], embed(model, {"x": bases}).vectors[0], atol=1e-5)
    assert plan_embedding(model, records).cost().tokens > 0


def test_what_has_no_meaning_for_bins_is_refused(model):
    with pytest.raises(ConfigError, match="no token for a whole sequence"):
        embed(model, {"a": BASES}, EmbedOptions(pooling="cls"))
    with pytest.raises(ConfigError, match="gives its final states only"):
        embed(model, {"a": BASES}, EmbedOptions(layer=1))
