"""The sLSTM cell: every backend gives what the reference defines, for outputs, states and all gradients."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from chargaff.errors import BackendError, InputError
from chargaff.ops import slstm as op
from chargaff.ops.slstm import SlstmState, slstm
from tests.ops.kernels import assert_close, fast_backends, strided, with_gradients

BACKENDS = fast_backends(op)
GATES = ("igate", "fgate", "zgate", "ogate")
STATE = SlstmState._fields

SMALLEST = torch.finfo(torch.float32).tiny
BFLOAT16 = 5e-3  # 8 bits
TOLERANCE = 2e-5  # a few roundings a step, passed on through the recurrent weights


def cell_inputs(
    length: int,
    given: tuple[str, ...] = (),
    *,
    batch: int = 2,
    heads: int = 3,
    width: int = 19,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """Inputs of an op call; width 19 is a whole vector and a rest.

    Args:
        given: "state" for an initial one, half of whose channels are empty.
    """
    rng = torch.Generator().manual_seed(length + width)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    inputs = {name: (2 * normal(batch, length, heads, width)).to(dtype) for name in GATES}
    inputs["recurrent"] = normal(heads, width, 4, width) * (0.5 / width**0.5)
    inputs["bias"] = normal(heads, 4, width)
    if "state" in given:
        full = torch.arange(width) % 2
        inputs["y"] = normal(batch, heads, width)
        inputs["c"] = normal(batch, heads, width) * full
        inputs["n"] = (normal(batch, heads, width).abs() + 0.1) * full
        inputs["m"] = normal(batch, heads, width)
    return {name: x.to(device) for name, x in inputs.items()}


def call(inputs: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    """All y, and the last state."""
    rows = {name: x for name, x in inputs.items() if name not in STATE}
    state = SlstmState(*(inputs[name] for name in STATE)) if "c" in inputs else None
    y, last = slstm(**rows, initial_state=state, return_state=True, **options)
    return {"all y": y, **{f"last {name}": x for name, x in last._asdict().items()}}


def results(inputs: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    """Outputs of `call` and their gradients."""
    return with_gradients(lambda leaves: call(leaves, **options), inputs)


def truth(inputs: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    """The reference in float64."""
    return results({name: x.double() for name, x in inputs.items()}, backend="reference", **options)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("given", [(), ("state",)], ids="+".join)
@pytest.mark.parametrize("length", [1, 2, 63, 100])
def test_equals_the_reference_at_any_length(backend, device, length, given, reverse):
    inputs = cell_inputs(length, given, device=device)
    slices = {name: strided(x) if name in GATES else x for name, x in inputs.items()}
    assert_close(results(slices, backend=backend, reverse=reverse), truth(inputs, reverse=reverse), TOLERANCE)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("batch", [1, 3, 4, 6])
@pytest.mark.parametrize("width", [1, 8, 16, 32, 50, 64])
def test_any_batch_and_width_of_the_heads(backend, device, width, batch):
    inputs = cell_inputs(20, ("state",), batch=batch, heads=2, width=width, device=device)
    assert_close(results(inputs, backend=backend), truth(inputs), TOLERANCE)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_bfloat16_is_computed_in_float32(backend, device):
    inputs = cell_inputs(30, dtype=torch.bfloat16, device=device)
    actual = results(inputs, backend=backend)
    assert actual["all y"].dtype == torch.bfloat16
    assert actual["last c"].dtype == torch.float32
    assert_close(actual, truth(inputs), BFLOAT16)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("size", [-300.0, -50.0, 50.0, 300.0])
@pytest.mark.parametrize("gate", GATES)
def test_gates_of_any_size_neither_overflow_nor_lose_the_result(backend, device, gate, size):
    inputs = cell_inputs(25, device=device)
    inputs[gate] += size
    actual, expected = results(inputs, backend=backend), truth(inputs)
    assert not [name for name, x in actual.items() if not x.isfinite().all()]
    error = (actual["all y"].double().cpu() - expected["all y"].cpu()).abs().max()
    rounding = TOLERANCE + 2**-23 * abs(size)  # of a gate of that size
    assert error <= rounding * expected["all y"].abs().max() + SMALLEST


def test_the_reference_has_the_gradients_of_its_outputs():
    inputs = {name: x.double().requires_grad_() for name, x in cell_inputs(4, batch=1, heads=1, width=3).items()}

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(call(dict(zip(inputs, tensors, strict=True)), backend="reference").values())

    assert torch.autograd.gradcheck(function, tuple(inputs.values()))


def test_the_reference_is_the_equation_of_the_cell():
    """One head of one channel, by hand and without stabilisation."""
    inputs = cell_inputs(6, batch=1, heads=1, width=1)
    gates = [inputs[name].double().flatten().tolist() for name in GATES]
    weights, bias = inputs["recurrent"].double().flatten(), inputs["bias"].double().flatten()
    y, c, n, expected = 0.0, 0.0, 0.0, []
    for step in zip(*gates, strict=True):
        i, f, z, o = (torch.tensor(step, dtype=torch.float64) + y * weights + bias).unbind()
        c = torch.sigmoid(f) * c + i.exp() * z.tanh()
        n = torch.sigmoid(f) * n + i.exp()
        y = torch.sigmoid(o) * c / n
        expected.append(y)
    found = slstm(**{name: x.double() for name, x in inputs.items()}, backend="reference").flatten()
    assert torch.allclose(found, torch.stack(expected), rtol=1e-12)


@pytest.mark.parametrize(("backend", "device"), [*BACKENDS, ("reference", "cpu")])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("piece", [1, 7, 64])
def test_pieces_that_pass_their_state_on_equal_one_pass(backend, device, piece, reverse):
    inputs = cell_inputs(66, device=device)
    whole = call(inputs, reverse=reverse, backend=backend)
    weights = (inputs["recurrent"], inputs["bias"])
    state, pieces = None, []
    splits = list(zip(*(inputs[name].split(piece, 1) for name in GATES), strict=True))
    for gates in splits[::-1] if reverse else splits:
        y, state = slstm(
            *gates, *weights, reverse=reverse, initial_state=state, return_state=True, backend=backend
        )  # fmt: skip
        pieces.append(y)
    found = {"all y": torch.cat(pieces[::-1] if reverse else pieces, 1)}
    assert_close({**found, **{f"last {name}": x for name, x in state._asdict().items()}}, whole, TOLERANCE)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_reverse_is_the_cell_on_the_flipped_sequence(backend, device):
    inputs = cell_inputs(40, device=device)
    flipped = call({name: x.flip(1) if name in GATES else x for name, x in inputs.items()}, backend=backend)
    found = call(inputs, reverse=True, backend=backend)
    assert torch.equal(found["all y"], flipped["all y"].flip(1))
    assert torch.equal(found["last m"], flipped["last m"])


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_layout_does_not_change_a_bit(backend, device, dtype):
    inputs = cell_inputs(30, dtype=dtype, device=device)
    expected = results(inputs, backend=backend)
    for arrange in (
        strided,
        lambda x: x.mT.contiguous().mT,
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    ):
        layout = {name: arrange(inputs[name]) for name in GATES}
        actual = results({**inputs, **layout}, backend=backend)
        assert all(torch.equal(actual[key], expected[key]) for key in expected)


@pytest.mark.parametrize(("backend", "device"), [b for b in BACKENDS if b.values[0] == "cpu"])
def test_results_do_not_depend_on_threads(backend, device):
    inputs = cell_inputs(300, batch=9, heads=4, width=32)
    found = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        found.append(results(inputs, backend=backend))
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in other)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_one_graph_under_compile_inference_mode_and_autocast(backend, device):
    inputs = {name: x.requires_grad_() for name, x in cell_inputs(12, device=device).items()}

    def function(**tensors: Tensor) -> Tensor:
        return sum(x.sin().sum() for x in call(tensors, backend=backend).values())

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    eager = torch.autograd.grad(function(**inputs), list(inputs.values()))
    traced = torch.autograd.grad(compiled(**inputs), list(inputs.values()))
    for a, b in zip(eager, traced, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    expected = function(**inputs)
    with torch.inference_mode():
        assert torch.equal(function(**inputs), expected)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(function(**inputs), expected)
        again = torch.autograd.grad(function(**inputs), list(inputs.values()))
    assert all(torch.equal(a, b) for a, b in zip(again, eager, strict=True))


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_nan_is_not_hidden(backend, device):
    for name in GATES:
        inputs = cell_inputs(20, device=device)
        inputs[name][0, 5, 1, 3] = float("nan")
        y = slstm(**inputs, backend=backend)
        assert y[0, 5, 1].isnan().sum() == 1, name
        assert y[0, 6:, 1].isnan().all(), name  # by way of the recurrent weights
        assert y[0, :, 0].isfinite().all(), name


@pytest.mark.parametrize(("backend", "device"), [*BACKENDS, ("reference", "cpu")])
def test_an_empty_batch_is_fine_and_an_empty_sequence_is_an_error(backend, device):
    inputs = cell_inputs(5, device=device)
    empty = {name: x[:0] if name in GATES else x for name, x in inputs.items()}
    assert results(empty, backend=backend)["drecurrent"].count_nonzero() == 0
    with pytest.raises(InputError, match="L >= 1"):
        slstm(**{name: x[:, :0] if name in GATES else x for name, x in inputs.items()}, backend=backend)


@pytest.mark.parametrize(("name", "shape"), [("fgate", (2, 5, 3, 7)), ("recurrent", (3, 19, 76)), ("bias", (3, 4, 18))])
def test_shapes_that_do_not_fit_are_named(name, shape):
    with pytest.raises(InputError, match=f"{name} has shape .*, expected"):
        slstm(**{**cell_inputs(5), name: torch.zeros(shape)})


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_second_derivatives_are_refused(backend, device):
    inputs = cell_inputs(5, device=device)
    gate = inputs["igate"].requires_grad_()
    (slope,) = torch.autograd.grad(slstm(**inputs, backend=backend).sum(), gate, create_graph=True)
    with pytest.raises(BackendError, match="use backend='reference'"):
        slope.sum().backward()


GARBAGE = """
import json, torch
from chargaff.ops.mlstm import mlstm
from chargaff.ops.slstm import slstm
torch.manual_seed(0)
x = torch.randn(5, 70, 2, 19, requires_grad=True)
weights = torch.randn(2, 19, 4, 19, requires_grad=True)
y = slstm(x, x, x, x, weights, torch.zeros(2, 4, 19), backend="cpu")
y = y + mlstm(x, x, x, x[..., 0], x[..., 1], backend="cpu")
y.square().sum().backward()
print(json.dumps([t.double().sum().item() for t in (y, x.grad, weights.grad)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="MALLOC_PERTURB_ is glibc's")
def test_kernels_of_both_cells_never_read_scratch_memory_they_did_not_write(capsys):
    """Here, and in a process whose fresh memory is full of another number."""
    process = subprocess.run(
        [sys.executable, "-c", GARBAGE], env={**os.environ, "MALLOC_PERTURB_": "85"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    exec(GARBAGE, {})
    assert json.loads(process.stdout) == json.loads(capsys.readouterr().out)
