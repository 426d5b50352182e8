"""Attention: every layout and bias gives what the definition gives, and no [T, T] bias is ever stored."""

import math

import pytest
import torch
from torch import Tensor

from chargaff.errors import BackendError, InputError
from chargaff.ops import attention as op
from chargaff.ops.attention import alibi_slopes, attention, attention_weights, sdpa
from tests.ops.kernels import assert_close, fast_backends, tolerance, with_gradients

BACKENDS = fast_backends(op)
# sums over keys in another order, in float32
REORDERED = 2e-5


def inputs_of(*shape: int, heads: int = 3, shared: int = 1, width: int = 8, device="cpu", seed=0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    counts = {"query": heads, "key": heads // shared, "value": heads // shared}
    return {name: torch.randn(*shape, count, width, generator=rng).to(device) for name, count in counts.items()}


def results(inputs: dict[str, Tensor], backend: str, **options) -> dict[str, Tensor]:
    return with_gradients(lambda x: {"y": attention(**x, backend=backend, **options)}, inputs)


def truth(inputs: dict[str, Tensor], **options) -> dict[str, Tensor]:
    return results({name: x.double() for name, x in inputs.items()}, "reference", **options)


def holes(batch: int, length: int) -> Tensor:
    """A mask with left padding, right padding, and a hole."""
    mask = torch.ones(batch, length, dtype=torch.bool)
    mask[0, : length // 3] = False
    mask[1 % batch, length - length // 4 :] = False
    mask[batch - 1, length // 2] = False
    return mask


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("length", [1, 2, 63, 100])
def test_padded_layout_equals_the_definition(backend, device, length, biased, causal):
    inputs = inputs_of(2, length, device=device)
    options = {"slopes": alibi_slopes(3).to(device) if biased else None, "causal": causal}
    assert_close(results(inputs, backend, **options), truth(inputs, **options), REORDERED)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("lengths", [(7, 7, 3, 0, 1, 7), (40,), (5, 64, 64)])
def test_packed_layout_equals_the_definition(backend, device, lengths, biased, causal):
    inputs = inputs_of(sum(lengths), device=device)
    options = {"slopes": alibi_slopes(3).to(device) if biased else None, "causal": causal, "lengths": lengths}
    assert_close(results(inputs, backend, **options), truth(inputs, **options), REORDERED)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_a_mask_of_any_pattern_equals_the_definition(backend, device, biased, causal):
    inputs = inputs_of(3, 33, device=device)
    slopes = alibi_slopes(3).to(device) if biased else None
    options = {"slopes": slopes, "causal": causal, "mask": holes(3, 33).to(device)}
    assert_close(results(inputs, backend, **options), truth(inputs, **options), REORDERED)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("block_values", [1, 1 << 24])
def test_positions_set_the_distances(backend, device, block_values, causal, monkeypatch):
    monkeypatch.setattr(sdpa, "BLOCK_VALUES", block_values)
    options = {"slopes": alibi_slopes(3).to(device), "causal": causal}
    columns = torch.randint(0, 50, (2, 21), generator=torch.Generator().manual_seed(1)).to(device)
    padded = inputs_of(2, 21, device=device)
    expected = truth(padded, positions=columns, **options)
    assert_close(results(padded, backend, positions=columns, **options), expected, REORDERED)
    packed = {name: x.flatten(0, 1) for name, x in padded.items()}
    got = results(packed, backend, positions=columns.flatten(), lengths=(21, 21), **options)
    assert_close({"y": got["y"]}, {"y": expected["y"].flatten(0, 1)}, REORDERED)
    mask = torch.rand(2, 21, generator=torch.Generator().manual_seed(2)).gt(0.3).to(device)
    options |= {"positions": columns, "mask": mask}
    assert_close(results(padded, backend, **options), truth(padded, **options), REORDERED)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("biased", [False, True])
def test_query_heads_may_share_keys_and_values(backend, device, biased):
    inputs = inputs_of(2, 19, heads=6, shared=3, device=device)
    options = {"slopes": alibi_slopes(6).to(device) if biased else None}
    expected = truth(inputs, **options)
    assert_close(results(inputs, backend, **options), expected, REORDERED)
    repeated = {**inputs, **{name: inputs[name].repeat_interleave(3, 2) for name in ("key", "value")}}
    assert_close({"y": truth(repeated, **options)["y"]}, {"y": expected["y"]}, REORDERED)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_slices_of_one_projection_are_read_where_they_lie(backend, device):
    wide = torch.randn(2, 17, 3, 3, 8, generator=torch.Generator().manual_seed(0)).to(device)
    sliced = dict(zip(("query", "key", "value"), wide.unbind(2), strict=True))
    slopes = alibi_slopes(3).to(device)
    copied = {name: x.contiguous() for name, x in sliced.items()}
    got = attention(**sliced, slopes=slopes, backend=backend)
    assert_close({"y": got}, {"y": attention(**copied, slopes=slopes, backend=backend)}, REORDERED)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("biased", [False, True])
def test_bfloat16_stays_near_the_definition(backend, device, biased):
    inputs = {name: x.bfloat16() for name, x in inputs_of(2, 50, device=device).items()}
    options = {"slopes": alibi_slopes(3).to(device) if biased else None}
    got = attention(**inputs, **options, backend=backend)
    assert got.dtype == torch.bfloat16
    expected = attention(**{name: x.double() for name, x in inputs.items()}, **options, backend="reference")
    assert_close({"y": got}, {"y": expected}, 2 * tolerance(torch.bfloat16, 0))


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_scale_replaces_the_usual_one(backend, device):
    inputs = inputs_of(1, 12, device=device)
    assert_close(results(inputs, backend, scale=0.11), truth(inputs, scale=0.11), REORDERED)


@pytest.mark.parametrize("causal", [False, True])
def test_devices_that_copy_views_get_blocks(monkeypatch, causal):
    monkeypatch.setattr(sdpa, "READS_VIEWS", ())
    monkeypatch.setattr(sdpa, "BLOCK_VALUES", 3 * 63 * 10)
    inputs, options = inputs_of(2, 63), {"slopes": alibi_slopes(3), "causal": causal}
    assert_close(results(inputs, "sdpa", **options), truth(inputs, **options), REORDERED)


def test_no_bias_matrix_is_stored(monkeypatch):
    """At 4,096 tokens one matrix for 4 heads would take 256 MB; the whole call makes a few MB."""
    seen = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, attn_mask, **options):
        seen.append(attn_mask.untyped_storage().nbytes())
        return fused(*args, attn_mask=attn_mask, **options)

    monkeypatch.setattr(sdpa.F, "scaled_dot_product_attention", spy)
    attention(**inputs_of(1, 4096, heads=4), slopes=alibi_slopes(4), backend="sdpa")
    attention(**inputs_of(6000, heads=4), slopes=alibi_slopes(4), lengths=(1904, 4096), backend="sdpa")
    assert len(seen) == 3
    assert max(seen) == 4 * (2 * 4096 - 1) * 4


def test_the_weights_are_those_of_the_definition():
    inputs, mask, slopes = inputs_of(3, 20), holes(3, 20), alibi_slopes(3)
    weights = attention_weights(inputs["query"], inputs["key"], mask=mask, slopes=slopes)
    assert weights.shape == (3, 3, 20, 20)
    averaged = torch.einsum("bhts,bshk->bthk", weights, inputs["value"])
    assert_close({"y": averaged}, {"y": attention(**inputs, mask=mask, slopes=slopes)}, REORDERED)
    sums = weights.sum(-1)
    assert torch.allclose(sums, mask[:, None].expand_as(sums).float(), atol=1e-6)
    assert not weights.masked_select(~mask[:, None, None]).any()
    one = attention_weights(inputs["query"][:, :, 1:2], inputs["key"][:, :, 1:2], mask=mask, slopes=slopes[1:2])
    assert_close({"map": one}, {"map": weights[:, 1:2]}, REORDERED)


def test_a_row_without_any_real_token_gives_zeros():
    mask = torch.tensor([[True, True, False], [False, False, False]])
    for backend in ("sdpa", "reference"):
        for slopes in (None, alibi_slopes(3)):
            y = attention(**inputs_of(2, 3), mask=mask, slopes=slopes, backend=backend)
            assert y.isfinite().all()
            assert not y[1].any()


def test_dropout_averages_to_no_dropout():
    inputs = inputs_of(1, 6)
    torch.manual_seed(0)
    for backend in ("sdpa", "reference"):
        draws = torch.stack([attention(**inputs, dropout=0.4, backend=backend) for _ in range(4000)])
        # values are of size 1 and weights about 1/6: the mean of 4,000 draws is off by about 0.01
        assert (draws.mean(0) - attention(**inputs)).abs().max() < 0.05
        assert draws.std(0).min() > 0.01


def test_slopes_are_powers_of_two_and_those_between():
    assert alibi_slopes(1).tolist() == [2.0**-8]
    assert alibi_slopes(4).tolist() == [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]
    wanted = [2.0**-k for k in range(1, 9)] + [2.0 ** -(k + 0.5) for k in range(4)]
    assert torch.equal(alibi_slopes(12), torch.tensor(wanted))
    for heads in range(1, 40):
        slopes = alibi_slopes(heads)
        assert len(set(slopes.tolist())) == len(slopes) == heads
        assert 0 < slopes.min() <= slopes.max() < 1
    with pytest.raises(InputError, match="at least one head"):
        alibi_slopes(0)


def test_padded_layout_traces_in_one_graph():
    inputs, slopes = inputs_of(2, 17), alibi_slopes(3)
    torch.compiler.reset()
    compiled = torch.compile(lambda q, k, v: attention(q, k, v, slopes=slopes), fullgraph=True, backend="aot_eager")
    got = with_gradients(lambda x: {"y": compiled(*x.values())}, inputs)
    assert_close(got, truth(inputs, slopes=slopes), REORDERED)


def test_the_reference_has_the_gradients_of_its_outputs():
    inputs = {name: x.double().requires_grad_() for name, x in inputs_of(2, 5, heads=2, width=3).items()}

    def function(*tensors: Tensor) -> Tensor:
        return attention(*tensors, slopes=alibi_slopes(2), mask=holes(2, 5), backend="reference")

    assert torch.autograd.gradcheck(function, tuple(inputs.values()))


def test_distances_decide_where_nothing_else_does():
    """Equal scores: the weights are softmax(-slope |i - j|) by hand."""
    x = torch.zeros(1, 4, 1, 2)
    weights = attention_weights(x, x, slopes=torch.tensor([math.log(2)]))[0, 0]
    expected = torch.tensor([[8.0, 4, 2, 1], [4, 8, 4, 2], [2, 4, 8, 4], [1, 2, 4, 8]])
    assert torch.allclose(weights, expected / expected.sum(1, keepdim=True))


def test_wrong_shapes_are_named():
    x = torch.zeros(2, 5, 4, 8)
    wrong = [
        ((x[0], x[0], x[0]), {}, r"query must be \[B, T, H, K\]"),
        ((x, x, x), {"lengths": (10,)}, r"query must be \[N, H, K\]"),
        ((x, x[:, :, :3], x[:, :, :3]), {}, "key has shape"),
        ((x, x, x[:, :4]), {}, "value has shape"),
        ((x[0], x[0], x[0]), {"lengths": (3, 3)}, "lengths sum to 6, but there are 5 tokens"),
        ((x, x, x), {"mask": torch.ones(2, 4)}, "mask has shape"),
        ((x, x, x), {"slopes": torch.ones(3)}, "slopes has shape"),
        ((x, x, x), {"positions": torch.ones(5)}, "positions has shape"),
        ((x[0], x[0], x[0]), {"lengths": (5,), "mask": torch.ones(5)}, "either lengths or a mask"),
    ]
    for tensors, options, message in wrong:
        with pytest.raises(InputError, match=message):
            attention(*tensors, **options)
    with pytest.raises(BackendError, match="no backend 'flash'"):
        attention(x, x, x, backend="flash")
