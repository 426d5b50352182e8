"""The two kinds of layer around their cells (xlstm sheet 3.5, 3.6)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.families.xlstm.config import XLstmConfig
from chargaff.families.xlstm.layers import Convolution, HeadNorm, Headwise, split_heads
from chargaff.nn.rotary import rotary_angles, rotate_pairs
from chargaff.ops.mlstm import Form, MlstmState, mlstm
from chargaff.ops.mlstm import start_state as start_mlstm
from chargaff.ops.slstm import SlstmState, slstm
from chargaff.ops.slstm import start_state as start_slstm

ROTARY_THETA = 500_000.0


@dataclass(frozen=True, slots=True)
class LayerState:
    """What a layer carries between consecutive stretches of a sequence."""

    conv: Tensor | None
    """[B, K-1, E] the last inputs of the convolution in sequence order; None without one."""
    cell: MlstmState | SlstmState
    past: int
    """Tokens so far."""


class MlstmGates(nn.Module):
    """Name level of the published files."""

    def __init__(self, inner: int, heads: int) -> None:
        super().__init__()
        self.igate = nn.Linear(3 * inner, heads)
        self.fgate = nn.Linear(3 * inner, heads)
        self.outnorm = HeadNorm(inner)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Input and forget gates [B, T, H] before exp and sigmoid, of the concatenation of [B, T, E] each."""
        if not (isinstance(self.igate, nn.Linear) and isinstance(self.fgate, nn.Linear)):  # adapters are around them
            joined = torch.cat(inputs, -1)
            return self.igate(joined), self.fgate(joined)
        weight = torch.cat([self.igate.weight, self.fgate.weight])
        parts = torch.split(weight, [x.shape[-1] for x in inputs], 1)
        gates = torch.cat([self.igate.bias, self.fgate.bias])
        for x, part in zip(inputs, parts, strict=True):
            gates = gates + F.linear(x, part)
        igate, fgate = gates.chunk(2, -1)
        return igate, fgate


class MlstmLayer(nn.Module):
    """Up-projection, matrix memory, gate, down-projection."""

    def __init__(self, config: XLstmConfig) -> None:
        super().__init__()
        self.config = config
        width, inner, block = config.d_model, config.inner_width, config.m_qkv_proj_blocksize
        self.form: Form = "parallel" if config.m_backend == "parallel" else "recurrent"
        self.is_bidirectional = (
            config.bidirectional and not config.bidirectional_alternating and config.m_backend_bidirectional
        )
        self.proj_up = nn.Linear(width, 2 * inner, bias=config.m_bias)
        self.q_proj = Headwise(inner, block, bias=config.m_bias)
        self.k_proj = Headwise(inner, block, bias=config.m_bias)
        self.v_proj = Headwise(inner, block, bias=config.m_bias)
        taps = config.m_conv1d_kernel_size
        self.conv1d = Convolution(inner, taps, causal=config.m_conv1d_causal) if taps else None
        self.mlstm_cell = MlstmGates(inner, config.m_num_heads)
        self.learnable_skip = nn.Parameter(torch.empty(inner))
        self.proj_down = nn.Linear(inner, width, bias=config.m_bias)

    def init_state(self, batch: int) -> LayerState:
        weight = self.proj_up.weight
        like = weight.new_empty(batch, 0, self.config.m_num_heads, self.config.head_width, dtype=torch.float32)
        conv = None
        if self.conv1d is not None:
            conv = weight.new_zeros(batch, self.conv1d.taps - 1, self.config.inner_width)
        return LayerState(conv, start_mlstm(like, self.form), 0)

    def forward(
        self, x: Tensor, state: LayerState | None, *, reverse: bool, flip_heads: bool = False
    ) -> tuple[Tensor, LayerState | None]:
        """[B, T, D] -> [B, T, D] and, if a state was given, the next one.

        Args:
            reverse: read from the end.
            flip_heads: without effect; a quirk of the other kind of layer.
        """
        a, z = self.proj_up(x).chunk(2, -1)
        c, conv = a, None
        if self.conv1d is not None:
            c, conv = self.conv1d(a, None if state is None else state.conv, reverse=reverse)
        q, k, v = self.q_proj(c), self.k_proj(c), self.v_proj(a)
        igate, fgate = self.mlstm_cell(q, k, v)  # these see q and k before the rotation
        q, k, v = (split_heads(y, self.config.m_num_heads) for y in (q, k, v))
        if self.config.m_position_embeddings:
            angles = self._angles(x, 0 if state is None else state.past, reverse)
            q, k = rotate_pairs(q, angles), rotate_pairs(k, angles)
        if state is None:
            h = mlstm(
                q, k, v, igate, fgate, form=self.form, bidirectional=self.is_bidirectional, reverse=reverse
            )  # fmt: skip
        else:
            assert isinstance(state.cell, MlstmState)
            h, cell = mlstm(q, k, v, igate, fgate, reverse=reverse, initial_state=state.cell, return_state=True)
            state = LayerState(conv, cell, state.past + x.shape[1])
        y = (self.mlstm_cell.outnorm(h) + self.learnable_skip * c) * F.silu(z)
        return F.dropout(self.proj_down(y), self.config.dropout, self.training), state

    def _angles(self, x: Tensor, past: int, reverse: bool) -> Tensor:
        """[T, 1, P / 2]; positions count from the end that is read first."""
        angles = rotary_angles(x.shape[1], self.config.head_width, ROTARY_THETA, start=past, device=x.device)
        return (angles.flip(0) if reverse else angles).unsqueeze(1)


class SlstmWeights(nn.Module):
    """Recurrent weights and bias of the cell, in the layout of the released files."""

    def __init__(self, heads: int, head_width: int) -> None:
        super().__init__()
        self._recurrent_kernel_ = nn.Parameter(torch.empty(heads, head_width, 4 * head_width))
        self._bias_ = nn.Parameter(torch.empty(heads * 4 * head_width))

    def forward(self) -> tuple[Tensor, Tensor]:
        """[H, P, 4, P] and [H, 4, P]."""
        heads, head_width, _ = self._recurrent_kernel_.shape
        kernel = self._recurrent_kernel_.view(heads, head_width, 4, head_width)
        return kernel, self._bias_.view(heads, 4, head_width)


class SlstmLayer(nn.Module):
    """Scalar memory with recurrent weights."""

    def __init__(self, config: XLstmConfig) -> None:
        super().__init__()
        self.config = config
        width, heads, taps = config.d_model, config.s_num_heads, config.s_conv1d_kernel_size
        self.head_width = width // heads
        self.conv1d = Convolution(width, taps, causal=config.s_conv1d_causal) if taps else None
        self.fgate = Headwise(width, self.head_width, bias=False)
        self.igate = Headwise(width, self.head_width, bias=False)
        self.zgate = Headwise(width, self.head_width, bias=False)
        self.ogate = Headwise(width, self.head_width, bias=False)
        self.slstm_cell = SlstmWeights(heads, self.head_width)
        self.group_norm = HeadNorm(width)

    def init_state(self, batch: int) -> LayerState:
        weight = self.group_norm.weight
        like = weight.new_empty(batch, 0, self.config.s_num_heads, self.head_width, dtype=torch.float32)
        conv = None
        if self.conv1d is not None:
            conv = weight.new_zeros(batch, self.conv1d.taps - 1, self.config.d_model)
        return LayerState(conv, start_slstm(like), 0)

    def forward(
        self, x: Tensor, state: LayerState | None, *, reverse: bool, flip_heads: bool = False
    ) -> tuple[Tensor, LayerState | None]:
        """[B, T, D] -> [B, T, D] and, if a state was given, the next one.

        Args:
            reverse: read from the end.
            flip_heads: put the heads in reverse order before the norm, see `rcps_convention`.
        """
        c, conv = x, None
        if self.conv1d is not None:
            c, conv = self.conv1d(x, None if state is None else state.conv, reverse=reverse)
        # reference quirk: the map called fgate feeds the input gate and igate the forget gate
        maps = ((self.fgate, c), (self.igate, c), (self.zgate, x), (self.ogate, x))
        gates = [split_heads(gate(y), self.config.s_num_heads) for gate, y in maps]
        initial = None if state is None else state.cell
        assert initial is None or isinstance(initial, SlstmState)
        y, cell = slstm(*gates, *self.slstm_cell(), reverse=reverse, initial_state=initial, return_state=True)
        if state is not None:
            state = LayerState(conv, cell, state.past + x.shape[1])
        y = F.dropout(y, self.config.dropout, self.training)
        return self.group_norm(y.flip(2) if flip_heads else y), state
