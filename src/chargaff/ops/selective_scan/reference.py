"""The definition of the scan: one step after the other in plain torch."""

import torch
from torch import Tensor
from torch.nn import functional

missing = None


def unsupported(*args: object) -> str | None:
    """Takes every call."""
    return None


def run(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
    reverse: bool,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor]:
    """y [B, L, D] and the last state [B, D, N]; float64 inputs are computed in float64, all others in float32."""
    exact = torch.float64 if u.dtype == torch.float64 else torch.float32
    x, step, A, B, C = (tensor.to(exact) for tensor in (u, delta, A, B, C))
    if delta_bias is not None:
        step = step + delta_bias.to(exact)
    if softplus:
        step = functional.softplus(step)
    state = x.new_zeros(x.shape[0], *A.shape) if initial_state is None else initial_state.to(exact)
    steps = list(zip(x.unbind(1), step.unbind(1), B.unbind(1), C.unbind(1), strict=True))
    rows = []
    for x_t, step_t, B_t, C_t in reversed(steps) if reverse else steps:
        decay = torch.exp(step_t[..., None] * A)  # [B, D, N]
        state = decay * state + (step_t * x_t)[..., None] * B_t[:, None]
        rows.append(torch.einsum("bdn,bn->bd", state, C_t))
    y = torch.stack(rows[::-1] if reverse else rows, 1)
    if D is not None:
        y = y + x * D.to(exact)
    if z is not None:
        y = y * functional.silu(z.to(exact))
    return y.to(u.dtype), state
