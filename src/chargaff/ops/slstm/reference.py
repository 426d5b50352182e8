"""The definition of the sLSTM cell: one step after the other in plain torch (xlstm sheet 3.6)."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

missing = None


def unsupported(*args: object) -> str | None:
    """Takes every call."""
    return None


def run(
    igate: Tensor,
    fgate: Tensor,
    zgate: Tensor,
    ogate: Tensor,
    recurrent: Tensor,
    bias: Tensor,
    reverse: bool,
    y: Tensor,
    c: Tensor,
    n: Tensor,
    m: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(all y [B, L, H, K], y, c, n, m [B, H, K] after the last step); float64 in float64, all else in float32."""
    exact = torch.float64 if igate.dtype == torch.float64 else torch.float32
    given = torch.stack([igate, fgate, zgate, ogate], 3).to(exact)  # [B, L, H, 4, K]
    given = given + bias.to(exact)
    y, c, n, m, recurrent = (x.to(exact) for x in (y, c, n, m, recurrent))
    steps = given.unbind(1)  # at once, for the gradient of an index fills a whole tensor
    rows = []
    for step in reversed(steps) if reverse else steps:
        i, f, z, o = (step + torch.einsum("bhk,hkgj->bhgj", y, recurrent)).unbind(2)
        kept = torch.where(n == 0, float("-inf"), logsigmoid(f) + m)  # an empty state has no exponent of its own
        m = torch.maximum(i, kept)
        added, left = (i - m).exp(), (kept - m).exp()
        c = left * c + added * z.tanh()
        n = left * n + added
        y = o.sigmoid() * c / n
        rows.append(y)
    return torch.stack(rows[::-1] if reverse else rows, 1).to(igate.dtype), y, c, n, m
