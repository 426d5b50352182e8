"""The mLSTM cell: every backend gives what the definitions give, for outputs, states and all gradients."""

import pytest
import torch
from torch import Tensor

from chargaff.errors import BackendError, InputError
from chargaff.ops import mlstm as op
from chargaff.ops.mlstm import MlstmState, mlstm, start_state
from chargaff.ops.mlstm.reference import parallel_form
from tests.ops.kernels import assert_close, fast_backends, strided, with_gradients

BACKENDS = fast_backends(op)
STATE = MlstmState._fields
FORMS = {
    "recurrent": {"form": "recurrent"},
    "parallel": {"form": "parallel"},
    "bidirectional": {"bidirectional": True},
}

TOLERANCE = 5e-5  # sums over up to 300 positions, divided by a norm that is ten times smaller than its parts
BFLOAT16 = 5e-3  # 8 bits


def cell_inputs(
    length: int,
    given: tuple[str, ...] = (),
    *,
    batch: int = 2,
    heads: int = 3,
    width: int = 19,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    level: float = 0.0,
) -> dict[str, Tensor]:
    """Inputs of an op call; keys have a part in common, so that norms stay away from zero, where rounding is blown up.

    Args:
        given: "state" for an initial one.
        level: added to the input gates.
    """
    rng = torch.Generator().manual_seed(length + width)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    common = normal(batch, 1, heads, width)
    inputs = {
        "q": (normal(batch, length, heads, width) + 2 * common).to(dtype),
        "k": (normal(batch, length, heads, width) + 2 * common).to(dtype),
        "v": normal(batch, length, heads, width).to(dtype),
        "igate": (2 * normal(batch, length, heads) + level).to(dtype),
        "fgate": (2 * normal(batch, length, heads) + 2).to(dtype),
    }
    if "state" in given:
        inputs["C"] = normal(batch, heads, width, width)
        inputs["n"] = common[:, 0] + normal(batch, heads, width)
        inputs["m"] = normal(batch, heads)
    return {name: x.to(device) for name, x in inputs.items()}


def call(inputs: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    """h and, in one direction, the last state."""
    rows = {name: x for name, x in inputs.items() if name not in STATE}
    state = MlstmState(*(inputs[name] for name in STATE)) if "C" in inputs else None
    if options.get("bidirectional"):
        return {"h": mlstm(**rows, **options)}
    h, last = mlstm(**rows, initial_state=state, return_state=True, **options)
    return {"h": h, **{f"last {name}": x for name, x in last._asdict().items()}}


def results(inputs: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    """Outputs of `call` and their gradients."""
    return with_gradients(lambda leaves: call(leaves, **options), inputs)


def truth(inputs: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    """The definition in float64."""
    return results({name: x.double() for name, x in inputs.items()}, backend="reference", **options)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [2, 63, 64, 100, 300])
def test_equals_the_reference_at_any_length(backend, device, length, form, reverse):
    inputs = cell_inputs(length, device=device)
    slices = {name: strided(x) if x.dim() == 4 else x for name, x in inputs.items()}
    actual = results(slices, backend=backend, reverse=reverse, **FORMS[form])
    assert_close(actual, truth(inputs, reverse=reverse, **FORMS[form]), TOLERANCE)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("form", FORMS)
def test_one_position_equals_the_reference(backend, device, form):
    """What it is weighted with cancels in h, which is nearly v: gradients are held against those of v."""
    inputs = cell_inputs(1, device=device)
    actual, expected = results(inputs, backend=backend, **FORMS[form]), truth(inputs, **FORMS[form])
    largest = expected["dv"].abs().max()
    for name in ("dq", "dk", "digate", "dfgate"):
        assert (actual.pop(name).double().cpu() - expected.pop(name).cpu()).abs().max() <= TOLERANCE * largest, name
    assert_close(actual, expected, TOLERANCE)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("width", [1, 8, 32, 33, 64, 80])
def test_any_width_of_the_heads(backend, device, width):
    inputs = cell_inputs(70, ("state",), batch=1, heads=2, width=width, device=device)
    assert_close(results(inputs, backend=backend), truth(inputs), 4 * TOLERANCE)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("chunk_tokens", [1, 7, 16, 48, 128, 1000])
def test_chunks_change_rounding_alone(backend, device, chunk_tokens):
    inputs = cell_inputs(130, ("state",), device=device)
    assert_close(results(inputs, backend=backend, chunk_tokens=chunk_tokens), truth(inputs), TOLERANCE)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_bfloat16_is_computed_in_float32(backend, device):
    inputs = cell_inputs(100, dtype=torch.bfloat16, device=device)
    actual = results(inputs, backend=backend)
    assert actual["h"].dtype == torch.bfloat16
    assert actual["last C"].dtype == torch.float32
    assert_close(actual, truth(inputs), BFLOAT16)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("level", [-200.0, -30.0, 30.0, 200.0])
def test_gates_of_any_size_neither_overflow_nor_lose_the_result(backend, device, level, form):
    """Under -88, exp(igate) is 0 in float32, above 88 infinite."""
    inputs = cell_inputs(90, level=level, device=device)
    h = call(inputs, backend=backend, **FORMS[form])["h"]
    expected = call({name: x.double() for name, x in inputs.items()}, backend="reference", **FORMS[form])["h"]
    assert h.isfinite().all()
    assert (h.double() - expected).abs().max() <= TOLERANCE * expected.abs().max() + 1e-30
    gradients = results(inputs, backend=backend, **FORMS[form])
    assert not [name for name, x in gradients.items() if not x.isfinite().all()]


@pytest.mark.parametrize("form", FORMS)
def test_the_reference_has_the_gradients_of_its_outputs(form):
    inputs = {name: x.double().requires_grad_() for name, x in cell_inputs(5, batch=1, heads=1, width=3).items()}

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(call(dict(zip(inputs, tensors, strict=True)), backend="reference", **FORMS[form]).values())

    assert torch.autograd.gradcheck(function, tuple(inputs.values()))


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_by_hand_is_exact(form):
    """In float64 the slopes of maxima and of the small number in the denominator show."""
    inputs = cell_inputs(23, ("state",) if form == "recurrent" else (), level=3.0)
    options = {"chunk_tokens": 8, **FORMS[form]}
    double = {name: x.double() for name, x in inputs.items()}
    assert_close(results(double, backend="chunkwise", **options), truth(inputs, **FORMS[form]), 1e-10)


def test_the_parallel_form_is_the_recurrent_one_without_the_empty_start():
    inputs = cell_inputs(40)
    rows = [x.double() for x in inputs.values()]
    matrix = parallel_form(*(x.transpose(1, 2) for x in rows)).transpose(1, 2)
    assert torch.allclose(mlstm(*rows, form="parallel", backend="reference"), matrix, rtol=1e-10)
    assert start_state(rows[0], "parallel").m.isneginf().all()
    assert not torch.allclose(mlstm(*rows, form="recurrent", backend="reference"), matrix, rtol=1e-10)


@pytest.mark.parametrize(("backend", "device"), [*BACKENDS, ("reference", "cpu")])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("form", ["parallel", "recurrent"])
@pytest.mark.parametrize("piece", [1, 7, 64])
def test_pieces_that_pass_their_state_on_equal_one_pass(backend, device, piece, form, reverse):
    inputs = cell_inputs(66, device=device)
    whole = call(inputs, form=form, reverse=reverse, backend=backend)
    state, pieces = None, []
    splits = zip(*(x.split(piece, 1) for x in inputs.values()), strict=True)
    for rows in list(splits)[::-1] if reverse else splits:
        h, state = mlstm(
            *rows, form=form, reverse=reverse, initial_state=state, return_state=True, backend=backend
        )  # fmt: skip
        pieces.append(h)
    found = {"h": torch.cat(pieces[::-1] if reverse else pieces, 1)}
    assert_close({**found, **{f"last {name}": x for name, x in state._asdict().items()}}, whole, TOLERANCE)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_reverse_is_the_cell_on_the_flipped_sequence(backend, device):
    inputs = cell_inputs(77, device=device)
    flipped = call({name: x.flip(1) for name, x in inputs.items()}, backend=backend)
    found = call(inputs, reverse=True, backend=backend)
    assert torch.equal(found["h"], flipped["h"].flip(1))
    assert torch.equal(found["last C"], flipped["last C"])


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_both_directions_are_symmetric(backend, device):
    inputs = cell_inputs(77, device=device)
    flipped = mlstm(*(x.flip(1) for x in inputs.values()), bidirectional=True, backend=backend)
    found = mlstm(**inputs, bidirectional=True, backend=backend)
    assert_close({"h": flipped.flip(1)}, {"h": found}, TOLERANCE)


@pytest.mark.parametrize(("backend", "device"), [b for b in BACKENDS if b.values[0] == "cpu"])
def test_results_do_not_depend_on_threads(backend, device):
    inputs = cell_inputs(200, batch=3)
    found = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        found.append(results(inputs, backend=backend))
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in other)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("form", ["recurrent", "bidirectional"])
def test_one_graph_under_compile_inference_mode_and_autocast(backend, device, form):
    inputs = {name: x.requires_grad_() for name, x in cell_inputs(30, device=device).items()}

    def function(**tensors: Tensor) -> Tensor:
        return sum(x.sin().sum() for x in call(tensors, backend=backend, **FORMS[form]).values())

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
    for name in ("q", "k", "v", "igate", "fgate"):
        inputs = cell_inputs(20, device=device)
        inputs[name][0, 5, 1] = float("nan")
        h = mlstm(**inputs, backend=backend)
        assert h[0, 5, 1].isnan().any(), name
        assert h[0, :, 0].isfinite().all(), name


@pytest.mark.parametrize(("backend", "device"), [*BACKENDS, ("reference", "cpu")])
def test_an_empty_batch_is_fine_and_an_empty_sequence_is_an_error(backend, device):
    inputs = cell_inputs(5, device=device)
    assert results({name: x[:0] for name, x in inputs.items()}, backend=backend)["dq"].shape[0] == 0
    with pytest.raises(InputError, match="L >= 1"):
        mlstm(**{name: x[:, :0] for name, x in inputs.items()}, backend=backend)


@pytest.mark.parametrize(("name", "shape"), [("k", (2, 5, 3, 7)), ("igate", (2, 5, 3, 1)), ("fgate", (2, 4, 3))])
def test_shapes_that_do_not_fit_are_named(name, shape):
    with pytest.raises(InputError, match=f"{name} has shape .*, expected"):
        mlstm(**{**cell_inputs(5), name: torch.zeros(shape)})


def test_impossible_wishes_are_named():
    inputs = cell_inputs(5)
    with pytest.raises(InputError, match="'parallel' or 'recurrent', got 'chunkwise'"):
        mlstm(**inputs, form="chunkwise")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="bidirectional form has no state"):
        mlstm(**inputs, bidirectional=True, return_state=True)
    with pytest.raises(InputError, match="chunk_tokens must be positive, got 0"):
        mlstm(**inputs, chunk_tokens=0)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_second_derivatives_are_refused(backend, device):
    inputs = cell_inputs(5, device=device)
    q = inputs["q"].requires_grad_()
    (dq,) = torch.autograd.grad(mlstm(**inputs, backend=backend).sum(), q, create_graph=True)
    with pytest.raises(BackendError, match="use backend='reference'"):
        dq.sum().backward()
