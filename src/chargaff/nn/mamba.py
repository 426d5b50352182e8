"""The Mamba mixer, one- and two-directional (caduceus sheet 2.1, 2.2)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chargaff.errors import ConfigError
from chargaff.ops.causal_conv1d import causal_conv1d
from chargaff.ops.selective_scan import selective_scan

BLOCK_TOKENS = 2048
"""Tokens per block of the inference path; its temporaries then stay in the processor's caches."""


@dataclass(frozen=True)
class SsmConfig:
    """`ssm_cfg` of the published configs."""

    d_state: int = 16
    """N, states a channel."""
    d_conv: int = 4
    """K, taps of the causal convolution."""
    expand: int | float = 2
    """E = int(expand * D)."""
    dt_rank: int | Literal["auto"] = "auto"
    """R; "auto" is ceil(D / 16)."""
    dt_min: float = 0.001
    """Smallest initial step size."""
    dt_max: float = 0.1
    """Largest initial step size."""
    dt_init: Literal["random", "constant"] = "random"
    """Distribution of dt_proj.weight."""
    dt_scale: float = 1.0
    """Scale of dt_proj.weight."""
    dt_init_floor: float = 1e-4
    """Initial step sizes are clamped here."""
    conv_bias: bool = True
    """Bias of the convolution."""
    bias: bool = False
    """Biases of the input and output projections."""
    use_fast_path: bool = True
    """Kept for round trips; chooses a GPU kernel in the original and changes no number."""

    def inner_width(self, width: int) -> int:
        return int(self.expand * width)

    def rank(self, width: int) -> int:
        return math.ceil(width / 16) if self.dt_rank == "auto" else self.dt_rank


@dataclass(slots=True)
class MixerState:
    """What one direction carries between consecutive stretches of a sequence."""

    conv: Tensor
    """[B, K, E] the last K inputs of the convolution in sequence order, zero before the start."""
    ssm: Tensor
    """[B, E, N] float32."""


class MambaMixer(nn.Module):
    """Parameters of one direction, and its arithmetic between the two projections."""

    def __init__(self, width: int, ssm: SsmConfig) -> None:
        super().__init__()
        self.ssm = ssm
        self.inner, self.rank = ssm.inner_width(width), ssm.rank(width)
        self.in_proj = nn.Linear(width, 2 * self.inner, bias=ssm.bias)
        self.conv1d = nn.Conv1d(self.inner, self.inner, ssm.d_conv, groups=self.inner, bias=ssm.conv_bias)
        self.x_proj = nn.Linear(self.inner, self.rank + 2 * ssm.d_state, bias=False)
        self.dt_proj = nn.Linear(self.rank, self.inner)
        self.A_log = nn.Parameter(torch.zeros(self.inner, ssm.d_state))
        self.D = nn.Parameter(torch.ones(self.inner))
        self.out_proj = nn.Linear(self.inner, width, bias=ssm.bias)
        self.mark_parameters()

    def mark_parameters(self) -> None:
        """Flags that other code reads: these two stay float32 and are exempt from weight decay."""
        for parameter in (self.A_log, self.D):
            parameter.keep_float32 = True  # type: ignore[attr-defined]
            parameter.no_weight_decay = True  # type: ignore[attr-defined]

    def init_state(self, batch: int) -> MixerState:
        weight = self.in_proj.weight
        return MixerState(
            weight.new_zeros(batch, self.ssm.d_conv, self.inner),
            weight.new_zeros(batch, self.inner, self.ssm.d_state, dtype=torch.float32),
        )

    def scan(self, h: Tensor, z: Tensor | None, *, reverse: bool) -> Tensor:
        """Convolution and selective scan of a whole sequence: h [B, L, E] -> [B, L, E], gated if z is given."""
        taps, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        u = causal_conv1d(h, taps, bias, activation="silu", reverse=reverse)
        delta, b, c = self._selection(u)
        return selective_scan(
            u, delta, self._decay(), b, c, self.D, z, self.dt_proj.bias.float(), softplus=True, reverse=reverse
        )

    def scan_stretch(
        self, h: Tensor, z: Tensor | None, context: Tensor, ssm: Tensor, *, reverse: bool
    ) -> tuple[Tensor, Tensor]:
        """Like `scan` for a stretch in the middle of a sequence.

        Args:
            context: [B, K-1, E] inputs next to the stretch: before it, or after it with `reverse`.
            ssm: [B, E, N] state there.

        Returns:
            [B, L, E] and the state at the far end.
        """
        taps, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        u = causal_conv1d(h, taps, bias, activation="silu", reverse=reverse, initial_state=context)
        delta, b, c = self._selection(u)
        return selective_scan(
            u,
            delta,
            self._decay(),
            b,
            c,
            self.D,
            z,
            self.dt_proj.bias.float(),
            softplus=True,
            reverse=reverse,
            initial_state=ssm,
            return_state=True,
        )

    def forward_chunk(self, x: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """[B, L, D] -> [B, L, D], continuing causally after `state`."""
        h, z = self.in_proj(x).chunk(2, -1)
        y, ssm = self.scan_stretch(h, z, state.conv[:, 1:], state.ssm, reverse=False)
        conv = torch.cat([state.conv, h[:, -self.ssm.d_conv :]], 1)[:, -self.ssm.d_conv :]
        return self.out_proj(y), MixerState(conv, ssm)

    def _selection(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step size before bias and softplus [B, L, E], and the input and output vectors [B, L, N]."""
        low, b, c = self.x_proj(u).split([self.rank, self.ssm.d_state, self.ssm.d_state], -1)
        if not isinstance(self.dt_proj, nn.Linear):
            return self.dt_proj(low) - self.dt_proj.bias, b, c
        return F.linear(low, self.dt_proj.weight), b, c  # its bias is added inside the float32 scan

    def _decay(self) -> Tensor:
        return -torch.exp(self.A_log.float())


class BiMamba(nn.Module):
    """Two Mamba directions over one sequence, combined by addition or multiplication (sheet 2.2)."""

    def __init__(self, width: int, ssm: SsmConfig, *, bidirectional: bool, strategy: str | None, tie: bool) -> None:
        super().__init__()
        if strategy not in (None, "add", "ew_multiply"):
            raise ConfigError(f"bidirectional_strategy: expected 'add' or 'ew_multiply', got {strategy!r}")
        self.multiplies = strategy == "ew_multiply"
        self.is_tied = tie
        self.mamba_fwd = MambaMixer(width, ssm)
        self.mamba_rev: MambaMixer | None = None
        if bidirectional:
            self.mamba_rev = MambaMixer(width, ssm)
            if tie:
                self.mamba_rev.in_proj = self.mamba_fwd.in_proj
                self.mamba_rev.out_proj = self.mamba_fwd.out_proj

    def _directions(self, reverse: bool) -> list[tuple[MambaMixer, bool]]:
        """Each direction with whether it reads from the end; `reverse` mirrors the mixer along the sequence."""
        found = [(self.mamba_fwd, reverse)]
        return found if self.mamba_rev is None else [*found, (self.mamba_rev, not reverse)]

    def _projections(self, mixer: MambaMixer) -> MambaMixer:
        """The mixer whose projections a direction uses; an adapter is put around tied ones in one place only."""
        return self.mamba_fwd if self.is_tied else mixer

    @property
    def _has_plain_projections(self) -> bool:
        """Whether their weights may be used without the modules; layers that adapters wrap must be called."""
        mixers = [self.mamba_fwd] if self.mamba_rev is None else [self.mamba_fwd, self.mamba_rev]
        return all(isinstance(linear, nn.Linear) for mixer in mixers for linear in (mixer.in_proj, mixer.out_proj))

    @property
    def _shares_products(self) -> bool:
        """Whether both directions see one input product and one output product."""
        return self.mamba_rev is None or (self.is_tied and not self.multiplies)

    def forward(self, x: Tensor, *, reverse: bool = False, flip: bool = False) -> Tensor:
        """[B, L, D] -> [B, L, D].

        Args:
            reverse: the mixer of the flipped sequence, flipped back: every direction runs the other way.
            flip: the mixer of the channel-flipped input, its output flipped back (weights are permuted instead).
        """
        directions = self._directions(reverse)
        if self._shares_products:
            h, z = _project_in(self.mamba_fwd, x, flip).chunk(2, -1)
            y = directions[0][0].scan(h, None, reverse=directions[0][1])
            if len(directions) == 2:
                y = y + directions[1][0].scan(h, None, reverse=directions[1][1])
            return _project_out(self.mamba_fwd, y * F.silu(z), flip, times=len(directions))
        out: Tensor | None = None
        for mixer, is_reverse in directions:
            around = self._projections(mixer)
            h, z = _project_in(around, x, flip).chunk(2, -1)
            out = self._combine(out, _project_out(around, mixer.scan(h, z, reverse=is_reverse), flip, times=1))
        assert out is not None
        return out

    def _combine(self, first: Tensor | None, second: Tensor) -> Tensor:
        if first is None:
            return second
        return first * second if self.multiplies else first + second

    @torch.no_grad()
    def add_to_(
        self, x: Tensor, norm: Callable[[Tensor], Tensor], *, reverse: bool, flip: bool, block: int = BLOCK_TOKENS
    ) -> None:
        """x += mixer(norm(x)), in place and without whole-length temporaries beyond two of width E; for inference.

        Equal to `forward` up to float rounding.

        Args:
            x: [B, L, D], the residual stream.
            norm: applied to each block of x.
            block: positions a block.
        """
        if not self._has_plain_projections:
            x += self(norm(x), reverse=reverse, flip=flip)
            return
        if not self._shares_products:
            out: Tensor | None = None
            for mixer, is_reverse in self._directions(reverse):
                out = self._combine(out, _one_direction(mixer, x, norm, is_reverse=is_reverse, flip=flip, block=block))
            assert out is not None
            x += out
            return
        directions = self._directions(reverse)
        if len(directions) == 1:
            x += _one_direction(self.mamba_fwd, x, norm, is_reverse=reverse, flip=flip, block=block)
            return
        causal, anticausal = sorted(directions, key=lambda entry: entry[1])
        self._add_tied_(x, norm, causal[0], anticausal[0], flip=flip, block=block)

    def _add_tied_(
        self,
        x: Tensor,
        norm: Callable[[Tensor], Tensor],
        causal: MambaMixer,
        anticausal: MambaMixer,
        *,
        flip: bool,
        block: int,
    ) -> None:
        """First all blocks from the left for the causal direction, then back from the right for the other."""
        batch, length, _ = x.shape
        inner, taps = causal.inner, causal.ssm.d_conv - 1
        w_in, b_in = _input_weights(self.mamba_fwd, flip)
        w_out, b_out = _output_weights(self.mamba_fwd, flip)
        bias_h, bias_z = (None, None) if b_in is None else b_in.chunk(2)
        w_h, w_z = w_in.chunk(2)
        dtype = _product_dtype(w_in)
        h = x.new_zeros(batch, taps + length + taps, inner, dtype=dtype)  # zeros on both sides of the sequence
        y = x.new_empty(batch, length, inner, dtype=dtype)
        state = causal.init_state(batch).ssm
        starts = range(0, length, block)
        for start in starts:
            stop = min(start + block, length)
            piece = F.linear(norm(x[:, start:stop]), w_h, bias_h)
            h[:, taps + start : taps + stop] = piece
            y[:, start:stop], state = causal.scan_stretch(piece, None, h[:, start : start + taps], state, reverse=False)
        state = anticausal.init_state(batch).ssm
        for start in reversed(starts):
            stop = min(start + block, length)
            after = h[:, taps + stop : taps + stop + taps]
            piece, state = anticausal.scan_stretch(h[:, taps + start : taps + stop], None, after, state, reverse=True)
            gate = F.linear(norm(x[:, start:stop]), w_z, bias_z)
            piece = piece.add_(y[:, start:stop]).mul_(F.silu(gate, inplace=True))
            x[:, start:stop] += F.linear(piece, w_out, None if b_out is None else 2 * b_out)


def _one_direction(
    mixer: MambaMixer, x: Tensor, norm: Callable[[Tensor], Tensor], *, is_reverse: bool, flip: bool, block: int
) -> Tensor:
    """mixer(norm(x)) block by block: [B, L, D] -> [B, L, D]."""
    batch, length, _ = x.shape
    taps = mixer.ssm.d_conv - 1
    w_in, b_in = _input_weights(mixer, flip)
    w_out, b_out = _output_weights(mixer, flip)
    dtype = _product_dtype(w_in)
    out = x.new_empty(x.shape, dtype=dtype)
    context = x.new_zeros(batch, taps, mixer.inner, dtype=dtype)
    state = mixer.init_state(batch).ssm
    starts = range(0, length, block)
    for start in reversed(starts) if is_reverse else starts:
        stop = min(start + block, length)
        h, z = F.linear(norm(x[:, start:stop]), w_in, b_in).chunk(2, -1)
        y, state = mixer.scan_stretch(h, z, context, state, reverse=is_reverse)
        near = torch.cat([h[:, :taps], context] if is_reverse else [context, h[:, max(0, stop - start - taps) :]], 1)
        context = near[:, :taps] if is_reverse else near[:, near.shape[1] - taps :]
        out[:, start:stop] = F.linear(y, w_out, b_out)
    return out


def _product_dtype(weight: Tensor) -> torch.dtype:
    """Type in which matrix products of this weight come out."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def _input_weights(mixer: MambaMixer, flip: bool) -> tuple[Tensor, Tensor | None]:
    weight = mixer.in_proj.weight
    return (weight.flip(1) if flip else weight), mixer.in_proj.bias


def _output_weights(mixer: MambaMixer, flip: bool) -> tuple[Tensor, Tensor | None]:
    weight, bias = mixer.out_proj.weight, mixer.out_proj.bias
    if not flip:
        return weight, bias
    return weight.flip(0), None if bias is None else bias.flip(0)


def _project_in(mixer: MambaMixer, x: Tensor, flip: bool) -> Tensor:
    if not isinstance(mixer.in_proj, nn.Linear):
        wrapped: Tensor = mixer.in_proj(x.flip(-1) if flip else x)
        return wrapped
    return F.linear(x, *_input_weights(mixer, flip))


def _project_out(mixer: MambaMixer, y: Tensor, flip: bool, *, times: int) -> Tensor:
    """The output projection; its bias counts once for each direction that was summed before."""
    if not isinstance(mixer.out_proj, nn.Linear):
        out = mixer.out_proj(y)
        if mixer.out_proj.bias is not None and times > 1:
            out = out + (times - 1) * mixer.out_proj.bias
        return out.flip(-1) if flip else out
    weight, bias = _output_weights(mixer, flip)
    return F.linear(y, weight, bias if bias is None or times == 1 else times * bias)


@torch.no_grad()
def init_mixer(mixer: MambaMixer, *, residual_divisor: float) -> None:
    """Fresh weights of one direction, biases of the projections at zero (caduceus sheet 2.1, "Initialisation").

    | tensor | distribution |
    |---|---|
    | in_proj, x_proj, out_proj weight | uniform(+-1/sqrt(fan_in)); out_proj divided by `residual_divisor` |
    | conv1d weight, bias | uniform(+-1/sqrt(K)) |
    | dt_proj weight | uniform(+-R^-0.5 dt_scale), or that constant |
    | dt_proj bias | inverse softplus of a log-uniform step size in [dt_min, dt_max] |
    | A_log, D | ln(1..N), 1 |
    """
    ssm = mixer.ssm
    for linear in (mixer.in_proj, mixer.x_proj, mixer.out_proj):
        nn.init.kaiming_uniform_(linear.weight, a=math.sqrt(5))
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
    mixer.out_proj.weight.div_(residual_divisor)
    mixer.conv1d.reset_parameters()
    bound = mixer.rank**-0.5 * ssm.dt_scale
    if ssm.dt_init == "constant":
        nn.init.constant_(mixer.dt_proj.weight, bound)
    else:
        nn.init.uniform_(mixer.dt_proj.weight, -bound, bound)
    spread = math.log(ssm.dt_max) - math.log(ssm.dt_min)
    step = torch.exp(torch.rand(mixer.inner) * spread + math.log(ssm.dt_min)).clamp_min(ssm.dt_init_floor)
    mixer.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))
    mixer.A_log.copy_(torch.arange(1, ssm.d_state + 1, dtype=torch.float32).log().expand_as(mixer.A_log))
    nn.init.ones_(mixer.D)
