"""Embeddings: what the numbers are, and what they must not depend on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from chargaff.errors import BackendError, ConfigError, InputError
from chargaff.families import get_family
from chargaff.model import Model
from chargaff.nn.encoded import Encoded
from chargaff.seq.alphabet import reverse_complement, to_array, to_string
from chargaff.workflows import windows
from chargaff.workflows.embed import EmbedOptions, embed, plan_embedding
from tests.workflows.toy import CONTEXT_BP, random_bases, tiny_model

LENGTHS_BP = [1, 5, 63, 64, 65, 200, 64, 130, 5]
RECORDS = {f"r{i}": random_bases(length, seed=i, letters="ACGTN") for i, length in enumerate(LENGTHS_BP)}
CLOSE = 1e-5
"""Relative; float32 sums in another order."""


@pytest.fixture(scope="module", params=["ps", "ph"])
def model(request) -> Model:
    return tiny_model(request.param)


def relative(got, wanted) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def per_record(bases, how):
    """One vector a record from one a base."""
    return np.stack([how(bases.vectors[a:b]) for a, b in zip(bases.offset_bp, bases.offset_bp[1:], strict=False)])


def states(model: Model, sequence: str) -> Encoded:
    tokens = torch.from_numpy(model.tokenizer.encode(to_array(sequence), special=False)).unsqueeze(0)
    with torch.inference_mode():
        return model.encode(tokens, taps=("layer.1",), both_strands=True)


def test_a_record_within_the_context_gives_the_models_own_states(model):
    sequence = RECORDS["r2"]
    encoded = states(model, sequence)
    bases = embed(model, [sequence], EmbedOptions(pooling="none", strands="forward"))
    np.testing.assert_allclose(bases.vectors, encoded.hidden[0].numpy(), rtol=1e-5, atol=1e-6)
    both = embed(model, [sequence], EmbedOptions(pooling="none", strands="both"))
    mean = (encoded.hidden + encoded.hidden_rc)[0].numpy() / 2
    np.testing.assert_allclose(both.vectors, mean, rtol=1e-5, atol=1e-6)


def test_a_layer_gives_the_residual_stream_of_the_forward_strand(model):
    width = model.backbone.width
    tap = states(model, RECORDS["r2"]).taps["layer.1"][0, :, :width].numpy()
    found = embed(model, [RECORDS["r2"]], EmbedOptions(pooling="none", layer=1, strands="forward"))
    np.testing.assert_allclose(found.vectors, tap, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("overlap_bp", [0, 16, 33])
def test_the_mean_of_a_record_is_the_mean_over_its_bases(model, overlap_bp):
    bases = embed(model, RECORDS, EmbedOptions(pooling="none", overlap_bp=overlap_bp))
    assert bases.vectors.shape == (sum(LENGTHS_BP), model.backbone.width)
    means = embed(model, RECORDS, EmbedOptions(pooling="mean", overlap_bp=overlap_bp))
    assert means.ids == tuple(RECORDS)
    assert means.length_bp.tolist() == LENGTHS_BP
    assert relative(means.vectors, per_record(bases, lambda rows: rows.mean(0))) < CLOSE


@pytest.mark.parametrize(
    ("pooling", "pick", "pick_other"),
    [
        ("max", lambda rows: rows.max(0), lambda rows: rows.max(0)),
        ("first", lambda rows: rows[0], lambda rows: rows[-1]),
        ("last", lambda rows: rows[-1], lambda rows: rows[0]),
    ],
)
def test_other_poolings_pick_on_each_strand_in_its_own_direction(model, pooling, pick, pick_other):
    forward = embed(model, RECORDS, EmbedOptions(pooling="none", overlap_bp=16, strands="forward"))
    both = embed(model, RECORDS, EmbedOptions(pooling="none", overlap_bp=16, strands="both"))
    other = replace(both, vectors=2 * both.vectors - forward.vectors)
    wanted = (per_record(forward, pick) + per_record(other, pick_other)) / 2
    found = embed(model, RECORDS, EmbedOptions(pooling=pooling, overlap_bp=16, strands="both"))
    assert relative(found.vectors, wanted) < CLOSE
    one = embed(model, RECORDS, EmbedOptions(pooling=pooling, overlap_bp=16, strands="forward"))
    assert relative(one.vectors, per_record(forward, pick)) < CLOSE


@pytest.mark.parametrize("overlap_bp", [0, 16])
def test_the_centre_of_a_record_is_its_middle_base_or_two(model, overlap_bp):
    bases = embed(model, RECORDS, EmbedOptions(pooling="none", overlap_bp=overlap_bp))
    found = embed(model, RECORDS, EmbedOptions(pooling="centre", overlap_bp=overlap_bp))
    wanted = per_record(bases, lambda rows: rows[(len(rows) - 1) // 2 : len(rows) // 2 + 1].mean(0))
    assert relative(found.vectors, wanted) < CLOSE


def test_each_base_comes_from_the_window_it_lies_deeper_in(model):
    sequence = random_bases(100, seed=9)
    whole = embed(model, [sequence], EmbedOptions(pooling="none", overlap_bp=20)).vectors
    windows_of = [sequence[:64], sequence[36:]]  # the last window ends with the record: 28 bases are shared
    first, second = (embed(model, [part], EmbedOptions(pooling="none")).vectors for part in windows_of)
    wanted = np.concatenate([first[:50], second[14:]])
    assert relative(whole, wanted) < CLOSE


def test_results_are_the_same_to_the_bit_for_any_number_of_workers(model):
    options = EmbedOptions(overlap_bp=16, batch_tokens=130)
    first = embed(model, RECORDS, options, num_workers=0)
    for num_workers in (1, 2, 7):
        assert np.array_equal(embed(model, RECORDS, options, num_workers=num_workers).vectors, first.vectors)


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_an_embedding_does_not_depend_on_its_batch_mates(model, pooling):
    together = embed(model, RECORDS, EmbedOptions(pooling=pooling, overlap_bp=16))
    small = embed(model, RECORDS, EmbedOptions(pooling=pooling, overlap_bp=16, batch_tokens=1))
    backwards = embed(model, dict(reversed(RECORDS.items())), EmbedOptions(pooling=pooling, overlap_bp=16))
    alone = [embed(model, {k: v}, EmbedOptions(pooling=pooling, overlap_bp=16)).vectors for k, v in RECORDS.items()]
    assert relative(small.vectors, together.vectors) < CLOSE
    assert relative(np.concatenate(alone), together.vectors) < CLOSE
    back = [backwards.vectors[a:b] for a, b in zip(backwards.offset_bp, backwards.offset_bp[1:], strict=False)]
    if pooling == "none":
        assert relative(np.concatenate(back[::-1]), together.vectors) < CLOSE
    else:
        assert relative(backwards.vectors[::-1], together.vectors) < CLOSE


@pytest.mark.parametrize("layer", [None, 0, 1, 2])
def test_both_strands_give_one_vector_whichever_strand_is_read(model, layer):
    records = [sequence for sequence in RECORDS.values() if len(sequence) <= CONTEXT_BP]
    turned = [to_string(reverse_complement(to_array(sequence))) for sequence in records]
    options = EmbedOptions(layer=layer, strands="both")
    assert relative(embed(model, turned, options).vectors, embed(model, records, options).vectors) < CLOSE


@pytest.mark.parametrize(
    ("variant", "contract", "strands"),
    [("ps", "equivariant", "both"), ("ph", "forward-only", "forward"), ("ph", "conjoined", "both")],
)
def test_the_strands_read_follow_the_models_contract_unless_told_otherwise(variant, contract, strands):
    model = tiny_model(variant)
    assert model.spec.strands == {"ps": "equivariant", "ph": "forward-only"}[variant]
    model.spec = replace(model.spec, strands=contract)
    assert plan_embedding(model, RECORDS).reading.strands == strands
    assert plan_embedding(model, RECORDS, EmbedOptions(strands="forward")).reading.strands == "forward"


def test_a_causal_model_may_be_padded_and_still_gives_each_record_its_own_vector():
    model = tiny_model(next(iter(get_family("mamba").tiny)), family="mamba")
    for pooling in ("mean", "last", "none"):
        for strands in ("forward", "both"):
            options = EmbedOptions(pooling=pooling, strands=strands)
            plan = plan_embedding(model, RECORDS, options).plan
            is_padded = any(len(set(plan.num_tokens[batch])) > 1 for batch in plan.batches)
            assert is_padded == (strands == "forward")  # read from the other end, padding would come first
            together = embed(model, RECORDS, options)
            alone = [embed(model, [sequence], options).vectors for sequence in RECORDS.values()]
            assert relative(np.concatenate(alone), together.vectors) < CLOSE


def test_a_model_with_one_input_length_is_refused():
    model = tiny_model(next(iter(get_family("cnn").tiny)), family="cnn", head="sequence")
    with pytest.raises(ConfigError, match="cnn: models with a fixed input length"):
        embed(model, RECORDS, EmbedOptions(pooling="mean"))


def test_lower_case_is_read_as_upper_case(model):
    lower = {name: sequence.lower() for name, sequence in RECORDS.items()}
    assert np.array_equal(embed(model, lower).vectors, embed(model, RECORDS).vectors)


def test_n_as_pad_changes_n_alone(model):
    plain, padded = EmbedOptions(), EmbedOptions(n_as_pad=True)
    assert relative(embed(model, RECORDS, padded).vectors, embed(model, RECORDS, plain).vectors) > 1e-3
    clean = [random_bases(50)]
    assert np.array_equal(embed(model, clean, padded).vectors, embed(model, clean, plain).vectors)
    assert (model.tokenizer.encode(to_array("N"), special=False) != model.tokenizer.pad_id).all()


def test_special_tokens_count_in_mean_all_only(model):
    sequence = "ACGTACGTAC"
    tokens = torch.from_numpy(model.tokenizer.encode(to_array(sequence))).unsqueeze(0)
    assert tokens.shape[1] == len(sequence) + 1
    with torch.inference_mode():
        hidden = model.encode(tokens).hidden[0].numpy()
    found = {
        pooling: embed(model, [sequence], EmbedOptions(pooling=pooling, strands="forward", special_tokens=True)).vectors
        for pooling in ("mean", "mean-all", "cls")
    }
    np.testing.assert_allclose(found["mean"][0], hidden[:-1].mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["mean-all"][0], hidden.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["cls"][0], hidden[0], rtol=1e-5, atol=1e-6)


def test_bfloat16_stays_near_float32(model):
    exact = embed(model, RECORDS).vectors
    rough = embed(model, RECORDS, EmbedOptions(dtype="bfloat16")).vectors
    assert rough.dtype == np.float32
    assert 0 < relative(rough, exact) < 0.05  # bfloat16 has eight bits of mantissa


def test_the_model_is_left_as_it_was_found():
    model = tiny_model("ps").train()
    model.backbone.blocks[0].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    embed(model, RECORDS)
    modes = {name: module.training for name, module in model.named_modules()}
    assert not modes.pop("backbone.layers.0")
    assert modes[""]
    assert modes["backbone.layers.1"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_batch_that_does_not_fit_is_halved(monkeypatch, caplog):
    model = tiny_model("ps")
    wanted = embed(model, RECORDS)
    read, sizes = windows.read_batch, []

    def short_of_memory(model, batch, *, reading):
        if batch.tokens.numel() > 100:
            raise torch.OutOfMemoryError("tried to allocate more than there is")
        sizes.append(batch.tokens.numel())
        return read(model, batch, reading=reading)

    monkeypatch.setattr(windows, "read_batch", short_of_memory)
    found = embed(model, RECORDS)
    assert relative(found.vectors, wanted.vectors) < CLOSE
    assert max(sizes) <= 100
    assert "out of memory: going on with batches of at most" in caplog.text


def test_one_window_that_does_not_fit_is_an_error_with_a_remedy(monkeypatch):
    def no_memory(model, batch, *, reading):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(windows, "read_batch", no_memory)
    with pytest.raises(BackendError, match=r"does not fit in memory .* use a smaller --window-bp"):
        embed(tiny_model("ps"), RECORDS)


def test_a_failure_of_the_model_is_not_taken_for_lack_of_memory(monkeypatch):
    def broken(model, batch, *, reading):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(windows, "read_batch", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        embed(tiny_model("ps"), RECORDS)


def test_rejected_records_are_named_and_the_others_stand():
    records = {"good": "ACGTACGT", "none": "", "protein": "MKLVEEEPPP", "gap": "ACGT-CGTAC" * 2, "n": "NNNN"}
    found = embed(tiny_model("ps"), records, EmbedOptions(max_unknown=0.1))
    assert found.ids == ("good", "gap", "n")
    assert [(record.row, record.id) for record in found.rejected] == [(1, "none"), (2, "protein")]
    assert found.rejected[0].reason == "the sequence is empty"
    assert "10 unexpected letters" in found.rejected[1].reason
    assert "the first 'M' at offset 0" in found.rejected[1].reason


def test_letters_are_counted_in_the_provenance():
    found = embed(tiny_model("ps"), {"a": "acgtNNRACGTACGTACGTACGTACGT"})
    letters = found.provenance["inputs"][0]
    assert (letters["total_bp"], letters["lower_bp"], letters["n_bp"], letters["unknown_bp"]) == (27, 4, 2, 1)
    assert found.provenance["options"]["pooling"] == "mean"
    assert found.provenance["options"]["strands"] == "both"
    assert len(found.provenance["model"]["weights_sha256"]) == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EmbedOptions(layer=4), "layer: expected 0 .* to 3 .*, got 4"),
        (EmbedOptions(layer=-1), "layer: .* got -1"),
        (EmbedOptions(pooling="median"), "pool: expected one of mean, .* got 'median'"),
        (EmbedOptions(strands="three"), "strands: expected forward or both, got 'three'"),
        (EmbedOptions(window_bp=-5), "window_bp: expected at least 1, got -5"),
        (EmbedOptions(window_bp=10, overlap_bp=10), r"overlap_bp: expected 0 to 9 .* got 10"),
        (EmbedOptions(batch_tokens=0), "batch-tokens: expected at least 1, got 0"),
        (EmbedOptions(max_unknown=1.5), "max-unknown: expected a share from 0 to 1, got 1.5"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        embed(tiny_model("ps"), RECORDS, options)


def test_no_record_at_all_is_an_error():
    with pytest.raises(InputError, match="the input holds no record"):
        embed(tiny_model("ps"), [])
    with pytest.raises(InputError, match=r"record '0': the sequence is empty \(and 1 more records, all rejected\)"):
        embed(tiny_model("ps"), ["", ""])
