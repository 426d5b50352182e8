"""The causal convolution: every backend gives what the reference defines, for outputs and all gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from chargaff.errors import BackendError, InputError
from chargaff.ops import causal_conv1d as op
from chargaff.ops.causal_conv1d import causal_conv1d
from tests.ops.kernels import INTERPRETED, assert_close, fast_backends, strided, tolerance

BACKENDS = fast_backends(op)
TOLERANCE = 5e-6  # sums of up to 2 x 777 products


def conv_inputs(
    length: int,
    given: tuple[str, ...] = ("bias", "initial_state"),
    *,
    batch: int = 2,
    width: int = 37,
    taps: int = 4,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(length + taps)
    inputs = {
        "x": torch.randn(batch, length, width, generator=rng).to(dtype),
        "weight": torch.randn(width, taps, generator=rng),
        "bias": torch.randn(width, generator=rng),
        "initial_state": torch.randn(batch, taps - 1, width, generator=rng).to(dtype),
    }
    return {name: x.to(device) for name, x in inputs.items() if name in ("x", "weight", *given)}


def conv_results(inputs: dict[str, Tensor], *, backend: str, reverse: bool = False, activation: str | None = "silu"):
    """y, and the gradient of a weighted sum of it for every input."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    y = causal_conv1d(**leaves, activation=activation, reverse=reverse, backend=backend)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).bfloat16().to(y)
    gradients = torch.autograd.grad((y * weights).sum(), list(leaves.values()), materialize_grads=True)
    return {"y": y.detach(), **{f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}}


def truth(inputs: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    """The reference in float64."""
    return conv_results({name: x.double() for name, x in inputs.items()}, backend="reference", **options)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 2, 63, 100] if INTERPRETED else [1, 2, 63, 100, 128, 777])
def test_equals_the_reference_at_any_length(backend, device, length, dtype, reverse):
    inputs = conv_inputs(length, dtype=dtype, device=device)
    slices = {name: strided(x) if x.dim() == 3 else x for name, x in inputs.items()}
    actual = conv_results(slices, backend=backend, reverse=reverse)
    assert actual["y"].dtype == dtype
    assert_close(actual, truth(inputs, reverse=reverse), tolerance(dtype, TOLERANCE))


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("taps", [1, 2, 3, 7])
@pytest.mark.parametrize("given", [(), ("bias",), ("initial_state",), ("bias", "initial_state")], ids="+".join)
def test_absent_arguments_drop_out_for_any_number_of_taps(backend, device, given, taps, activation):
    inputs = conv_inputs(9, given, taps=taps, device=device)
    assert_close(
        conv_results(inputs, backend=backend, activation=activation), truth(inputs, activation=activation), TOLERANCE
    )


def test_the_reference_is_the_convolution_of_torch():
    inputs = conv_inputs(50, ("bias",), taps=4)
    expected = functional.conv1d(
        inputs["x"].mT, inputs["weight"][:, None], inputs["bias"], padding=3, groups=inputs["x"].shape[2]
    )[..., :50].mT
    torch.testing.assert_close(causal_conv1d(**inputs, backend="reference"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_reference_has_the_gradients_of_its_output(reverse):
    inputs = {name: x.double().requires_grad_() for name, x in conv_inputs(5, width=3).items()}

    def function(*tensors: Tensor) -> Tensor:
        named = dict(zip(inputs, tensors, strict=True))
        return causal_conv1d(**named, activation="silu", reverse=reverse, backend="reference")

    assert torch.autograd.gradcheck(function, tuple(inputs.values()))


@pytest.mark.parametrize(("backend", "device"), [*BACKENDS, ("reference", "cpu")])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_chunks_that_pass_their_state_on_equal_one_pass(backend, device, chunk, reverse):
    inputs = conv_inputs(130, device=device)
    expected = causal_conv1d(**inputs, activation="silu", reverse=reverse, backend=backend)
    state, pieces = inputs["initial_state"], []
    starts = range(0, 130, chunk)
    for start in reversed(starts) if reverse else starts:
        piece = {**inputs, "x": inputs["x"][:, start : start + chunk], "initial_state": state}
        y, state = causal_conv1d(**piece, activation="silu", reverse=reverse, return_state=True, backend=backend)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces[::-1] if reverse else pieces, 1), expected, rtol=1e-6, atol=1e-6)
    x = inputs["x"]
    assert torch.equal(state, x[:, :3] if reverse else x[:, -3:])


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_the_gradient_passes_through_the_state(backend, device):
    inputs = conv_inputs(20, device=device)
    results = []
    for tensors, name in ((inputs, backend), ({n: t.double() for n, t in inputs.items()}, "reference")):
        leaf = tensors["x"].detach().requires_grad_()
        _, state = causal_conv1d(**{**tensors, "x": leaf[:, :2]}, return_state=True, backend=name)
        y = causal_conv1d(leaf[:, 2:], tensors["weight"], initial_state=state, backend=name)
        results.append({"dx": torch.autograd.grad(y.square().sum(), leaf)[0]})
    assert_close(*results, TOLERANCE)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_reverse_is_the_convolution_of_the_flipped_sequence(backend, device):
    inputs = conv_inputs(77, device=device)
    flipped = {n: x.flip(1) if x.dim() == 3 else x for n, x in inputs.items()}
    y, state = causal_conv1d(**inputs, reverse=True, return_state=True, backend=backend)
    y_flipped, state_flipped = causal_conv1d(**flipped, return_state=True, backend=backend)
    torch.testing.assert_close(y, y_flipped.flip(1), rtol=0, atol=0)
    torch.testing.assert_close(state, state_flipped.flip(1), rtol=0, atol=0)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_layout_does_not_change_a_bit(backend, device, dtype):
    inputs = conv_inputs(200, dtype=dtype, device=device)
    expected = conv_results(inputs, backend=backend)
    for layout in (
        {n: strided(x) for n, x in inputs.items()},
        {n: x.mT.contiguous().mT for n, x in inputs.items() if x.dim() > 1},
        {n: x.transpose(0, 1).contiguous().transpose(0, 1) for n, x in inputs.items() if x.dim() > 1},
    ):
        actual = conv_results({**inputs, **layout}, backend=backend)
        assert all(torch.equal(actual[key], expected[key]) for key in expected)


@pytest.mark.parametrize(("backend", "device"), [b for b in BACKENDS if b.values[0] == "cpu"])
def test_results_do_not_depend_on_threads(backend, device):
    inputs = conv_inputs(700, batch=3, width=150)
    results = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        results.append(conv_results(inputs, backend=backend))
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_one_graph_under_compile_inference_mode_and_autocast(backend, device):
    inputs = {name: x.requires_grad_() for name, x in conv_inputs(30, device=device).items()}

    def function(**tensors: Tensor) -> Tensor:
        y, state = causal_conv1d(**tensors, activation="silu", reverse=True, return_state=True, backend=backend)
        return y.sin().sum() + state.sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    eager = torch.autograd.grad(function(**inputs), list(inputs.values()))
    traced = torch.autograd.grad(compiled(**inputs), list(inputs.values()))
    for a, b in zip(eager, traced, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    expected = function(**inputs)
    with torch.inference_mode():
        assert torch.equal(function(**inputs), expected)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(function(**inputs), expected)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_nan_is_not_hidden(backend, device):
    inputs = conv_inputs(20, device=device)
    inputs["x"][0, 5, 3] = float("nan")
    y = causal_conv1d(**inputs, activation="silu", backend=backend)
    assert y[0, 5:9, 3].isnan().all()
    assert y.isnan().sum() == 4


@pytest.mark.parametrize(("backend", "device"), [*BACKENDS, ("reference", "cpu")])
def test_an_empty_batch_is_fine_and_an_empty_sequence_is_an_error(backend, device):
    inputs = conv_inputs(5, device=device)
    empty = {n: x[:0] if x.dim() == 3 else x for n, x in inputs.items()}
    assert conv_results(empty, backend=backend)["dweight"].count_nonzero() == 0
    with pytest.raises(InputError, match="L >= 1"):
        causal_conv1d(**{**inputs, "x": inputs["x"][:, :0]}, backend=backend)


@pytest.mark.parametrize(("name", "shape"), [("weight", (36, 4)), ("bias", (4,)), ("initial_state", (2, 4, 37))])
def test_shapes_that_do_not_fit_are_named(name, shape):
    with pytest.raises(InputError, match=f"{name} has shape .*, expected"):
        causal_conv1d(**{**conv_inputs(5), name: torch.zeros(shape)})


def test_an_unknown_activation_is_named():
    with pytest.raises(InputError, match="'silu' or None, got 'relu'"):
        causal_conv1d(**conv_inputs(5), activation="relu")  # type: ignore[arg-type]


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_second_derivatives_are_refused(backend, device):
    inputs = conv_inputs(5, device=device)
    x = inputs["x"].requires_grad_()
    (dx,) = torch.autograd.grad(causal_conv1d(**inputs, backend=backend).sum(), x, create_graph=True)
    with pytest.raises(BackendError, match="use backend='reference'"):
        dx.sum().backward()
