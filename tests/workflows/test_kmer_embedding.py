"""Embeddings and attention maps of a model whose tokens are longer than a base."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import zarr

from chargaff.data.windows import plan_windows
from chargaff.errors import ConfigError, InputError
from chargaff.seq.alphabet import reverse_complement, to_array, to_string
from chargaff.workflows.attention import attention_maps, maps_to_file, parse_pairs
from chargaff.workflows.embed import EmbedOptions, embed, plan_embedding
from tests.workflows.toy import random_bases, tiny_model

FAMILY = "nucleotide_transformer"
RECORDS = {"short": "ACGTGTACGTA", "n": "ACGTGTNNNNNNACGTG", "lower": "acgtgtaacc"}


@pytest.fixture(scope="module", params=["v1", "v2"])
def model(request):
    return tiny_model(request.param, family=FAMILY, context_bp=None)


def encoded(model, sequence, taps=()):
    tokens = torch.from_numpy(model.tokenizer.encode(to_array(sequence))).unsqueeze(0)
    with torch.inference_mode():
        return model.encode(tokens, taps=taps)


def test_the_mean_is_over_tokens_without_the_class_token(model):
    found = embed(model, RECORDS)
    for row, sequence in zip(found.vectors, RECORDS.values(), strict=True):
        expected = encoded(model, sequence).hidden[0, 1:].mean(0)
        np.testing.assert_allclose(row, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_the_class_token_is_there_for_every_pooling(model):
    for pooling, pick in (("cls", lambda h: h[0]), ("mean-all", lambda h: h.mean(0)), ("max", lambda h: h[1:].amax(0))):
        found = embed(model, RECORDS, EmbedOptions(pooling=pooling))
        for row, sequence in zip(found.vectors, RECORDS.values(), strict=True):
            expected = pick(encoded(model, sequence).hidden[0]).numpy()
            np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-6)


def test_layers_follow_the_published_numbering(model):
    for layer in (0, 1, 2):
        found = embed(model, RECORDS, EmbedOptions(layer=layer))
        for row, sequence in zip(found.vectors, RECORDS.values(), strict=True):
            states = encoded(model, sequence, ["layer.0", "layer.1"])
            expected = states.hidden if layer == 2 else states.taps[f"layer.{layer}"]
            np.testing.assert_allclose(row, expected[0, 1:].mean(0).numpy(), rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match="layer"):
        embed(model, RECORDS, EmbedOptions(layer=3))


@pytest.mark.parametrize("pooling", ["mean", "mean-all", "max", "first", "last", "cls"])
def test_both_strands_are_averaged_after_pooling(model, pooling):
    sequence = random_bases(500) + "NN" + random_bases(100, seed=3)
    options = EmbedOptions(pooling=pooling, window_bp=200, overlap_bp=51)
    turned = embed(model, [to_string(reverse_complement(to_array(sequence)))], replace(options, strands="both"))
    both = embed(model, [sequence], replace(options, strands="both"))
    assert both.vectors.shape == (1, model.backbone.width)
    short = sequence[:150]  # one window, which both strands share
    one = embed(model, [short], replace(options, strands="both")).vectors
    other = to_string(reverse_complement(to_array(short)))
    expected = (embed(model, [short], options).vectors + embed(model, [other], options).vectors) / 2
    np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)
    assert turned.vectors.shape == both.vectors.shape
    with pytest.raises(ConfigError, match="averaged after pooling"):
        embed(model, [short], EmbedOptions(pooling="none", strands="both"))


def test_one_vector_a_base_repeats_those_of_the_tokens(model):
    found = embed(model, [RECORDS["short"]], EmbedOptions(pooling="none"))
    hidden = encoded(model, RECORDS["short"]).hidden[0].numpy()
    expected = np.repeat(hidden, [0, 3, 3, 3, 1, 1], axis=0)
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-4, atol=1e-6)


def test_windows_with_too_many_n_are_halved_until_they_fit(model):
    limit = model.backbone.rule.max_tokens
    sequence = random_bases(300) + "N" * 400 + random_bases(200, seed=1)
    job = plan_embedding(model, [sequence])
    assert job.plan.num_tokens.max() <= limit
    kept = np.zeros(len(sequence), int)
    for window in range(len(job.plan.windows)):
        start = job.plan.windows.start_bp[window]
        keep = job.plan.windows.keep_start_bp[window], job.plan.windows.keep_stop_bp[window]
        kept[start + keep[0] : start + keep[1]] += 1
    assert (kept == 1).all()
    found = embed(model, [sequence], EmbedOptions(pooling="none"))
    assert found.vectors.shape == (len(sequence), model.backbone.width)
    assert np.abs(found.vectors).sum(1).all()


def test_a_window_that_cannot_fit_says_what_would(model):
    longest = (model.backbone.rule.max_tokens - 1) * 3
    with pytest.raises(ConfigError, match=f"window-bp.*give at most {longest}"):
        embed(model, [random_bases(2000)], EmbedOptions(window_bp=longest + 1))
    assert len(embed(model, [random_bases(2000)]).vectors) == 1


def test_halving_windows_keeps_what_was_kept():
    plan = plan_windows([100, 7], 40, 10)
    halved = plan.halved(np.array([True, False, True, False]))
    assert halved.weight_bp.sum() == 107
    assert halved.record.tolist() == sorted(halved.record.tolist())
    covered = np.zeros(100, int)
    for record, start, first, stop in zip(
        halved.record, halved.start_bp, halved.keep_start_bp, halved.keep_stop_bp, strict=True
    ):
        if record == 0:
            covered[start + first : start + stop] += 1
    assert (covered == 1).all()


def test_maps_come_with_tokens_and_spans(model):
    found = attention_maps(model, RECORDS, [(1, 0), (2, 1)])
    assert [window.id for window in found] == list(RECORDS)
    for window, sequence in zip(found, RECORDS.values(), strict=True):
        taps = encoded(model, sequence.upper(), ["attn.1.0", "attn.2.1"]).taps
        expected = torch.cat([taps["attn.1.0"], taps["attn.2.1"]]).numpy()
        np.testing.assert_allclose(window.maps, expected, rtol=1e-5, atol=1e-6)
        assert window.tokens[0] == "<cls>"
        assert window.span_bp[0].tolist() == [0, 0]
        assert window.span_bp[-1, 1] == len(sequence)
        np.testing.assert_allclose(window.maps.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("ending", [".npz", ".zarr"])
def test_maps_in_files(model, tmp_path, ending):
    job, path = plan_embedding(model, RECORDS), tmp_path / f"maps{ending}"
    maps_to_file(job, ((1, 0), (2, 1)), path)
    expected = attention_maps(model, RECORDS, [(1, 0), (2, 1)])
    stored = np.load(path) if ending == ".npz" else zarr.open_group(path, mode="r")
    assert list(stored["id"][:]) == list(RECORDS)
    assert np.asarray(stored["layer_head"][:]).tolist() == [[1, 0], [2, 1]]
    for number, window in enumerate(expected):
        np.testing.assert_array_equal(stored[f"maps/{number}"][:], window.maps)
        assert list(stored[f"tokens/{number}"][:]) == list(window.tokens)
        np.testing.assert_array_equal(stored[f"span_bp/{number}"][:], window.span_bp)
    facts = json.loads(str(stored["metadata"])) if ending == ".npz" else dict(stored.attrs)
    assert "chargaff" in json.dumps(facts)
    with pytest.raises(InputError, match="exists"):
        maps_to_file(job, ((1, 0),), path)


def test_npy_holds_the_maps_of_one_window(model, tmp_path):
    maps_to_file(plan_embedding(model, [RECORDS["short"]]), ((2, 0),), tmp_path / "map.npy")
    assert np.load(tmp_path / "map.npy").shape == (1, 6, 6)
    with pytest.raises(ConfigError, match="there are 3"):
        maps_to_file(plan_embedding(model, RECORDS), ((2, 0),), tmp_path / "maps.npy")
    with pytest.raises(ConfigError, match="ending"):
        maps_to_file(plan_embedding(model, RECORDS), ((2, 0),), tmp_path / "maps.parquet")


def test_what_is_not_there_is_refused(model):
    assert parse_pairs("1:0, 2:1") == ((1, 0), (2, 1))
    with pytest.raises(ConfigError, match="layer:head pairs"):
        parse_pairs("1-0")
    with pytest.raises(ConfigError, match="no map 2:2; layers of this model are 1 to 2, heads 0 to 1"):
        attention_maps(model, RECORDS, [(2, 2)])
    with pytest.raises(ConfigError, match="caduceus has no attention maps"):
        attention_maps(tiny_model("ps"), RECORDS, [(1, 0)])
