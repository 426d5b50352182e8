"""The fused residual sum and norm: every backend gives what the reference defines, for outputs and all gradients."""

import pytest
import torch
from torch import Tensor

from chargaff.errors import InputError
from chargaff.ops import add_norm as op
from chargaff.ops.add_norm import add_norm
from tests.ops.kernels import assert_close, fast_backends, strided

BACKENDS = fast_backends(op)
ROUNDED = 5e-3  # bfloat16 results have 8 bits; the gradient moreover starts from the rounded sum


def norm_inputs(
    kind: str, *, shape: tuple[int, ...] = (2, 63), width: int = 37, device: str = "cpu", has_residual: bool = True
) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(width)
    inputs = {"branch": torch.randn(*shape, width, generator=rng), "weight": torch.randn(width, generator=rng)}
    if has_residual:
        inputs["residual"] = 3 * torch.randn(*shape, width, generator=rng) + 1
    if kind == "layer":
        inputs["bias"] = torch.randn(width, generator=rng)
    return {name: x.to(device) for name, x in inputs.items()}


def norm_results(inputs: dict[str, Tensor], kind: str, backend: str) -> dict[str, Tensor]:
    """Both outputs, and the gradient of a weighted sum of them for every input."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    normed, total = add_norm(**{"residual": None, **leaves}, eps=1e-5, kind=kind, backend=backend)
    rng = torch.Generator().manual_seed(0)
    loss = sum((y * torch.randn(y.shape, generator=rng).bfloat16().to(y)).sum() for y in (normed, total))
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    results = {"normed": normed, "total": total}
    results.update({f"d{name}": g for name, g in zip(leaves, gradients, strict=True)})
    return {name: x.detach() for name, x in results.items()}


def truth(inputs: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The reference in float64."""
    return norm_results({name: x.double() for name, x in inputs.items()}, kind, "reference")


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("has_residual", [True, False])
@pytest.mark.parametrize(
    ("shape", "width"), [((1,), 3), ((2, 1), 16), ((2, 63), 37), ((777,), 100), ((1, 2, 100), 256)]
)
def test_equals_the_reference_at_any_shape(backend, device, shape, width, has_residual, kind):
    inputs = norm_inputs(kind, shape=shape, width=width, device=device, has_residual=has_residual)
    slices = {name: strided(x) if x.dim() > 1 else x for name, x in inputs.items()}
    assert_close(norm_results(slices, kind, backend), truth(inputs, kind), 5e-6)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize(
    ("branch", "residual"),
    [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)],
)
def test_each_output_has_the_type_of_its_input(backend, device, branch, residual, kind):
    inputs = norm_inputs(kind, device=device)
    inputs["branch"], inputs["residual"] = inputs["branch"].to(branch), inputs["residual"].to(residual)
    actual = norm_results(inputs, kind, backend)
    assert actual["normed"].dtype == actual["dbranch"].dtype == branch
    assert actual["total"].dtype == actual["dresidual"].dtype == residual
    assert_close(actual, truth(inputs, kind), ROUNDED)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_the_reference_has_the_gradients_of_its_outputs(kind):
    inputs = {name: x.double().requires_grad_() for name, x in norm_inputs(kind, shape=(3,), width=4).items()}

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return add_norm(**dict(zip(inputs, tensors, strict=True)), eps=1e-3, kind=kind, backend="reference")

    assert torch.autograd.gradcheck(function, tuple(inputs.values()))


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_either_output_can_be_left_unused(backend, device, kind):
    inputs = norm_inputs(kind, device=device)
    for kept in (0, 1):
        results = []
        for tensors, name in ((inputs, backend), ({n: x.double() for n, x in inputs.items()}, "reference")):
            leaf = tensors["branch"].detach().requires_grad_()
            both = add_norm(**{**tensors, "branch": leaf}, kind=kind, backend=name)
            results.append({"dbranch": torch.autograd.grad(both[kept].square().sum(), leaf)[0]})
        assert_close(*results, 5e-6)


@pytest.mark.parametrize(("backend", "device"), [b for b in BACKENDS if b.values[0] == "cpu"])
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_results_do_not_depend_on_threads(backend, device, kind):
    inputs = norm_inputs(kind, shape=(3, 500), width=70)
    results = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        results.append(norm_results(inputs, kind, backend))
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("has_residual", [True, False])
def test_one_graph_under_compile_and_inference_mode(backend, device, has_residual):
    inputs = norm_inputs("layer", device=device, has_residual=has_residual)
    inputs = {"residual": None, **{name: x.requires_grad_() for name, x in inputs.items()}}
    leaves = [x for x in inputs.values() if x is not None]

    def function(**tensors: Tensor) -> Tensor:
        normed, total = add_norm(**tensors, kind="layer", backend=backend)
        return normed.sin().sum() + total.cos().sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    eager, traced = (torch.autograd.grad(f(**inputs), leaves) for f in (function, compiled))
    for a, b in zip(eager, traced, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    expected = function(**inputs)
    with torch.inference_mode():
        assert torch.equal(function(**inputs), expected)


@pytest.mark.parametrize(("backend", "device"), [*BACKENDS, ("reference", "cpu")])
def test_no_rows_are_fine(backend, device):
    inputs = norm_inputs("rms", shape=(0, 5), device=device)
    assert norm_results(inputs, "rms", backend)["dweight"].count_nonzero() == 0


def test_wrong_calls_are_named():
    inputs = norm_inputs("rms")
    with pytest.raises(InputError, match=r"residual has shape \(3,\), expected \(2, 63, 37\)"):
        add_norm(**{**inputs, "residual": torch.zeros(3)})
    with pytest.raises(InputError, match="'rms' or 'layer', got 'batch'"):
        add_norm(**inputs, kind="batch")
    with pytest.raises(InputError, match="has no bias"):
        add_norm(**inputs, bias=inputs["weight"])
