"""The selective scan: every backend gives what the reference defines, for outputs and all gradients."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from chargaff.errors import BackendError, InputError
from chargaff.ops import selective_scan as op
from chargaff.ops.selective_scan import selective_scan
from tests.ops.kernels import INTERPRETED, assert_close, fast_backends, strided, tolerance

BACKENDS = fast_backends(op)
GOLDEN = Path(__file__).parent.parent / "goldens" / "data" / "caduceus" / "selective_scan.safetensors"
ALONG_TIME = ("u", "delta", "B", "C", "z")
OPTIONAL = ("D", "z", "delta_bias", "initial_state")

TOLERANCE = 1e-5  # a few roundings per step, and sums over up to 2 x 777 positions


def scan_inputs(
    length: int,
    given: tuple[str, ...] = OPTIONAL,
    *,
    batch: int = 2,
    width: int = 37,
    states: int = 5,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """Inputs of an op call; width 37 is two whole vectors and a rest."""
    rng = torch.Generator().manual_seed(length + states)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    inputs = {
        "u": normal(batch, length, width).to(dtype),
        "delta": (0.5 * normal(batch, length, width).abs()).to(dtype),
        "A": -torch.exp(normal(width, states)),
        "B": normal(batch, length, states).to(dtype),
        "C": normal(batch, length, states).to(dtype),
        "D": normal(width),
        "z": normal(batch, length, width).to(dtype),
        "delta_bias": normal(width).abs(),
        "initial_state": normal(batch, width, states),
    }
    return {name: x.to(device) for name, x in inputs.items() if name in given or name not in OPTIONAL}


def scan_results(inputs: dict[str, Tensor], *, backend: str, softplus: bool = True, reverse: bool = False):
    """y, the last state, and the gradient of a weighted sum of both for every input."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    y, state = selective_scan(**leaves, softplus=softplus, reverse=reverse, return_state=True, backend=backend)
    rng = torch.Generator().manual_seed(0)
    loss = (y * torch.randn(y.shape, generator=rng).bfloat16().to(y)).sum()
    loss = loss + (state * torch.randn(state.shape, generator=rng).to(state)).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    results = {"y": y, "state": state}
    results.update({f"d{name}": g for name, g in zip(leaves, gradients, strict=True)})
    return {name: x.detach() for name, x in results.items()}


def truth(inputs: dict[str, Tensor], **options: bool) -> dict[str, Tensor]:
    """The reference in float64."""
    return scan_results({name: x.double() for name, x in inputs.items()}, backend="reference", **options)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 33] if INTERPRETED else [1, 63, 100, 777])
def test_equals_the_reference_at_any_length(backend, device, length, dtype, reverse):
    inputs = scan_inputs(length, dtype=dtype, device=device)
    slices = {name: strided(x) if x.dim() == 3 and name != "initial_state" else x for name, x in inputs.items()}
    actual = scan_results(slices, backend=backend, reverse=reverse)
    assert actual["y"].dtype == dtype
    assert actual["state"].dtype == torch.float32
    assert_close(actual, truth(inputs, reverse=reverse), tolerance(dtype, TOLERANCE))


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("softplus", [False, True])
@pytest.mark.parametrize(
    "given",
    [c for k in range(0, 5, 4 if INTERPRETED else 1) for c in itertools.combinations(OPTIONAL, k)],
    ids="+".join,
)
def test_absent_arguments_drop_out(backend, device, given, softplus):
    inputs = scan_inputs(9, given, device=device)
    assert_close(scan_results(inputs, backend=backend, softplus=softplus), truth(inputs, softplus=softplus), TOLERANCE)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize(
    ("batch", "width", "states"), [(1, 1, 1), (3, 16, 16), (1, 200, 3), (2, 33, 64)][: 1 if INTERPRETED else 4]
)
def test_any_batch_width_and_state_size(backend, device, batch, width, states):
    inputs = scan_inputs(40, batch=batch, width=width, states=states, device=device)
    assert_close(scan_results(inputs, backend=backend), truth(inputs), TOLERANCE)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_reference_has_the_gradients_of_its_outputs(reverse):
    inputs = {name: x.double().requires_grad_() for name, x in scan_inputs(4, width=3, states=2).items()}

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(inputs, tensors, strict=True))
        return selective_scan(**named, softplus=True, reverse=reverse, return_state=True, backend="reference")

    assert torch.autograd.gradcheck(function, tuple(inputs.values()))


@pytest.mark.parametrize(("backend", "device"), [*BACKENDS, ("reference", "cpu")])
def test_equals_the_published_operator(backend, device):
    with safe_open(GOLDEN, "pt") as file:
        config = json.loads(file.metadata()["config"])
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    ours = {name: x.transpose(1, 2) if x.dim() == 3 and "state" not in name else x for name, x in stored.items()}
    leaves = {name: ours[f"input.{name}"].to(device).requires_grad_() for name in config["given"]}
    y, state = selective_scan(**leaves, softplus=config["delta_softplus"], return_state=True, backend=backend)
    loss = (y * ours["input.cotangent"].to(device)).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    actual = {"output.out": y, "output.last_state": state, "output.loss": loss}
    assert_close(actual, {name: ours[name] for name in actual}, TOLERANCE)
    actual = {f"grad.{name}": g for name, g in zip(leaves, gradients, strict=True)}
    assert_close(actual, {name: ours[name] for name in actual}, 1e-4)


@pytest.mark.parametrize(("backend", "device"), [*BACKENDS, ("reference", "cpu")])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("chunk", [7] if INTERPRETED else [1, 7, 64])
def test_chunks_that_pass_their_state_on_equal_one_pass(backend, device, chunk, reverse):
    inputs = scan_inputs(30 if INTERPRETED else 130, width=20, device=device)
    whole = scan_results(inputs, backend=backend, reverse=reverse)
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    state, pieces = leaves["initial_state"], []
    starts = range(0, leaves["u"].shape[1], chunk)
    for start in reversed(starts) if reverse else starts:
        piece = {n: x[:, start : start + chunk] if n in ALONG_TIME else x for n, x in leaves.items()}
        piece["initial_state"] = state
        y, state = selective_scan(**piece, softplus=True, reverse=reverse, return_state=True, backend=backend)
        pieces.append(y)
    y = torch.cat(pieces[::-1] if reverse else pieces, 1)
    rng = torch.Generator().manual_seed(0)
    loss = (y * torch.randn(y.shape, generator=rng).bfloat16().to(y)).sum()
    loss = loss + (state * torch.randn(state.shape, generator=rng).to(state)).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    chunked = {"y": y, "state": state, **{f"d{n}": g for n, g in zip(leaves, gradients, strict=True)}}
    assert_close(chunked, whole, TOLERANCE)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_reverse_is_the_scan_of_the_flipped_sequence(backend, device):
    inputs = scan_inputs(77, device=device)
    flipped = {n: x.flip(1) if n in ALONG_TIME else x for n, x in inputs.items()}
    y, state = selective_scan(**inputs, softplus=True, reverse=True, return_state=True, backend=backend)
    y_flipped, state_flipped = selective_scan(**flipped, softplus=True, return_state=True, backend=backend)
    torch.testing.assert_close(y, y_flipped.flip(1), rtol=0, atol=0)
    torch.testing.assert_close(state, state_flipped, rtol=0, atol=0)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_layout_does_not_change_a_bit(backend, device, dtype):
    inputs = scan_inputs(50, dtype=dtype, device=device)
    layouts = {
        "slices": {n: strided(x) for n, x in inputs.items()},
        "channels first": {n: x.mT.contiguous().mT if x.dim() > 1 else x for n, x in inputs.items()},
        "time first": {n: x.transpose(0, 1).contiguous().transpose(0, 1) for n, x in inputs.items() if x.dim() > 1},
    }
    expected = scan_results(inputs, backend=backend)
    for name, layout in layouts.items():
        actual = scan_results({**inputs, **layout}, backend=backend)
        assert all(torch.equal(actual[key], expected[key]) for key in expected), name


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_broadcast_inputs_are_read_in_place(backend, device):
    inputs = scan_inputs(20, batch=3, device=device)
    expanded = {n: x[:1].expand(3, -1, -1) if n in ("u", "B", "C") else x for n, x in inputs.items()}
    dense = {n: x.contiguous() for n, x in expanded.items()}
    assert torch.equal(
        selective_scan(**expanded, softplus=True, backend=backend),
        selective_scan(**dense, softplus=True, backend=backend),
    )


@pytest.mark.parametrize(("backend", "device"), [b for b in BACKENDS if b.values[0] == "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_do_not_depend_on_threads(backend, device, dtype):
    inputs = scan_inputs(200, batch=3, width=150, dtype=dtype)
    results = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        results.append(scan_results(inputs, backend=backend))
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_each_input_alone_gets_its_gradient(backend, device):
    inputs = scan_inputs(40, device=device)
    everything = scan_results(inputs, backend=backend)
    for name in inputs:
        leaf = inputs[name].detach().requires_grad_()
        y, state = selective_scan(**{**inputs, name: leaf}, softplus=True, return_state=True, backend=backend)
        rng = torch.Generator().manual_seed(0)
        loss = (y * torch.randn(y.shape, generator=rng).bfloat16().to(y)).sum()
        loss = loss + (state * torch.randn(state.shape, generator=rng).to(state)).sum()
        assert torch.equal(torch.autograd.grad(loss, leaf)[0], everything[f"d{name}"]), name


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_either_result_can_be_left_unused(backend, device):
    inputs = scan_inputs(40, device=device)
    exact = {name: x.double() for name, x in inputs.items()}
    for kept in (0, 1):
        gradients = []
        for tensors, name in ((inputs, backend), (exact, "reference")):
            leaf = tensors["delta"].detach().requires_grad_()
            both = selective_scan(**{**tensors, "delta": leaf}, softplus=True, return_state=True, backend=name)
            gradients.append({"ddelta": torch.autograd.grad(both[kept].sum(), leaf)[0]})
        assert_close(*gradients, TOLERANCE)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize(
    ("u", "delta"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float16, torch.float16)],
)
def test_mixed_types_are_widened(backend, device, u, delta):
    inputs = scan_inputs(30, device=device)
    inputs["u"], inputs["delta"] = inputs["u"].to(u), inputs["delta"].to(delta)
    actual = scan_results(inputs, backend=backend)
    assert actual["y"].dtype == actual["du"].dtype == u
    assert actual["ddelta"].dtype == delta
    assert_close(actual, truth(inputs), tolerance(torch.bfloat16, TOLERANCE) if torch.bfloat16 in (u, delta) else 1e-3)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_one_graph_under_compile_inference_mode_and_autocast(backend, device):
    inputs = {name: x.requires_grad_() for name, x in scan_inputs(30, device=device).items()}

    def function(**tensors: Tensor) -> Tensor:
        y, state = selective_scan(**tensors, softplus=True, reverse=True, return_state=True, backend=backend)
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
@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C"])
def test_nan_is_not_hidden(backend, device, name):
    inputs = scan_inputs(20, (), device=device)
    inputs[name].flatten()[0] = float("nan")
    y = selective_scan(**inputs, softplus=True, backend=backend)
    assert y[0, 0, 0].isnan()
    assert y[1].isfinite().all() or name == "A"


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_extreme_step_sizes_stay_finite(backend, device):
    inputs = scan_inputs(64, (), device=device)
    inputs["delta"][:, ::2] = 1e4  # the state is forgotten at once: the decay underflows to 0
    inputs["delta"][:, 1::2] = -1e4  # the step size underflows to 0: the state stays as it is
    expected = truth(inputs)
    actual = scan_results(inputs, backend=backend)
    assert all(x.isfinite().all() for x in actual.values())
    assert_close(actual, expected, TOLERANCE)


@pytest.mark.parametrize(("backend", "device"), [*BACKENDS, ("reference", "cpu")])
def test_an_empty_batch_is_fine_and_an_empty_sequence_is_an_error(backend, device):
    empty = {n: x[:0] if x.dim() == 3 else x for n, x in scan_inputs(5, device=device).items()}
    assert scan_results(empty, backend=backend)["dA"].count_nonzero() == 0
    with pytest.raises(InputError, match="L >= 1"):
        selective_scan(**{n: x[:, :0] if x.dim() == 3 else x for n, x in scan_inputs(5).items()}, backend=backend)


@pytest.mark.parametrize(("name", "shape"), [("delta", (2, 5, 36)), ("B", (2, 4, 5)), ("initial_state", (2, 5, 37))])
def test_shapes_that_do_not_fit_are_named(name, shape):
    with pytest.raises(InputError, match=rf"{name} has shape \({shape[0]}, {shape[1]}, {shape[2]}\), expected"):
        selective_scan(**{**scan_inputs(5), name: torch.zeros(shape)})


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_second_derivatives_are_refused(backend, device):
    inputs = scan_inputs(5, (), device=device)
    u = inputs["u"].requires_grad_()
    (du,) = torch.autograd.grad(selective_scan(**inputs, backend=backend).sum(), u, create_graph=True)
    with pytest.raises(BackendError, match="use backend='reference'"):
        du.sum().backward()
