"""What a run will take: peak memory and time, from short runs of the model itself.

Matrix-multiply operations and live bytes are counted while the model reads rows of each of two lengths; both are then
extrapolated (operations: linear plus quadratic in the length, memory: linear). Time is the measured time of the longer
rows, scaled with the operations.
"""

from __future__ import annotations

import os
import re
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from chargaff.families.protocol import Backbone
from chargaff.model import Model, autocast, evaluating

LONGEST_PROBE_TOKENS = 8192
"""Most tokens in a probe; with more, the cost per token hardly changes in models without attention."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows of equal length that pass the model together."""

    rows: int
    tokens: int
    """Tokens per row."""
    times: float = 1
    """How often such a batch is run."""


@dataclass(frozen=True, slots=True)
class Cost:
    """An estimate; good to perhaps a third on an idle machine."""

    device: str
    dtype: str
    parameters: int
    tokens: int
    """Tokens read, padding included."""
    gemm_flops: float
    """Operations in matrix products and convolutions, two per multiply-add."""
    gemm_flops_per_s: float
    """What this device reaches on a square matrix product in this dtype."""
    seconds: float
    peak_bytes: int
    """Weights, activations and (in training) gradients and optimizer state; on a GPU without the CUDA context."""
    free_bytes: int
    """Memory that was free on the device."""

    @property
    def floor_s(self) -> float:
        """Time that the matrix products alone need at the measured rate."""
        return self.gemm_flops / self.gemm_flops_per_s

    def __str__(self) -> str:
        return (
            f"{self.parameters:,} parameters on {self.device} in {self.dtype}; {self.tokens:,} tokens, "
            f"{self.gemm_flops / 1e9:,.1f} GFLOP of matrix products\n"
            f"time about {format_seconds(self.seconds)} (matrix products alone {format_seconds(self.floor_s)} at "
            f"{self.gemm_flops_per_s / 1e9:,.0f} GFLOP/s)\n"
            f"peak memory about {format_bytes(self.peak_bytes)}, free now {format_bytes(self.free_bytes)}"
        )


def estimate_inference(model: Model, work: Iterable[Workload], *, dtype: torch.dtype | None = None) -> Cost:
    """The cost of forward passes without gradients on the model's device.

    Args:
        work: what will be run.
        dtype: autocast to it; None computes in the parameters' dtype.
    """

    def run(tokens: Tensor) -> object:
        with torch.inference_mode():
            return model.encode(tokens)

    return _estimate(model, tuple(work), run, dtype, bytes_per_parameter=0)


def estimate_training(
    model: Model,
    *,
    batch_size: int,
    length_tokens: int,
    num_steps: int,
    dtype: torch.dtype | None = None,
    optimizer_moments: int = 2,
) -> Cost:
    """The cost of forward and backward passes on the model's device; parameters and gradients are left as they were.

    Args:
        batch_size: rows that are in memory at once.
        num_steps: how many such batches are run (optimizer steps times accumulated batches).
        dtype: autocast to it; None computes in the parameters' dtype.
        optimizer_moments: float32 values the optimizer keeps per parameter; 2 for Adam.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def run(tokens: Tensor) -> object:
        output = model(tokens)
        result = output.encoded.hidden if output.logits is None else output.logits
        return torch.autograd.grad(result.float().square().mean(), trainable, allow_unused=True)

    work = (Workload(batch_size, length_tokens, num_steps),)
    return _estimate(model, work, run, dtype, bytes_per_parameter=4 * optimizer_moments)


def _estimate(
    model: Model,
    work: tuple[Workload, ...],
    run: Callable[[Tensor], object],
    dtype: torch.dtype | None,
    *,
    bytes_per_parameter: int,
) -> Cost:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    weight_bytes = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    own_dtype = next(model.parameters()).dtype
    largest = max(work, key=lambda batch: batch.rows * batch.tokens, default=Workload(1, 1))
    short, long = _probe_lengths(model, largest.tokens)
    rows = max(1, min(largest.rows, LONGEST_PROBE_TOKENS // long))
    with evaluating(model):
        small = _probe(model, rows, short, run, dtype)
        large = small if short == long else _probe(model, rows, long, run, dtype)
    flops = _quadratic((short, small.flops / rows), (long, large.flops / rows))
    slope = (large.bytes - small.bytes) / (long - short) / rows if long > short else large.bytes / long / rows
    # gradients and whatever else does not grow with the tokens
    constant = max(large.bytes - slope * long * rows, 0.0)
    activation = constant + slope * largest.rows * largest.tokens if work else 0.0
    total_flops = sum(batch.rows * batch.times * flops(batch.tokens) for batch in work)
    total_tokens = sum(batch.rows * batch.times * batch.tokens for batch in work)
    scale = total_flops / large.flops if large.flops else total_tokens / (rows * long)
    return Cost(
        device=str(model.device),
        dtype=str(dtype or own_dtype).removeprefix("torch."),
        parameters=parameters,
        tokens=round(total_tokens),
        gemm_flops=total_flops,
        gemm_flops_per_s=measure_gemm_rate(model.device, dtype or own_dtype),
        seconds=scale * large.seconds,
        peak_bytes=round(weight_bytes + bytes_per_parameter * parameters + activation),
        free_bytes=free_memory_bytes(model.device),
    )


@dataclass(frozen=True, slots=True)
class _Probe:
    flops: float
    bytes: int
    seconds: float


def _probe(
    model: Model, rows: int, num_tokens: int, run: Callable[[Tensor], object], dtype: torch.dtype | None
) -> _Probe:
    tokens = _random_tokens(model, num_tokens).repeat(rows, 1)
    known = [*model.parameters(), *model.buffers(), tokens]
    counter, memory = FlopCounterMode(display=False), _LiveBytes(known)
    with autocast(model.device, dtype):
        with counter, memory:
            run(tokens)  # compiles kernels too, which must not be timed
        begin = _now(model.device)
        run(tokens)
        return _Probe(counter.get_total_flops(), memory.peak, _now(model.device) - begin)


def _probe_lengths(model: Model, longest: int) -> tuple[int, int]:
    rule = cast(Backbone, model.backbone).rule
    if rule.fixed_bp is not None:
        return longest, longest
    step = rule.multiple_of
    long = max(min(longest, LONGEST_PROBE_TOKENS) // step * step, step, rule.min_tokens)
    return max(long // 2 // step * step, step, rule.min_tokens), long


def _random_tokens(model: Model, num_tokens: int) -> Tensor:
    """[1, T] of the alphabet's bases."""
    widest = int(np.max(model.tokenizer.token_bp))
    bases = np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(0).integers(0, 4, num_tokens * widest)]
    ids = model.tokenizer.encode(bases, special=False)
    return torch.from_numpy(np.resize(ids, num_tokens)).to(model.device).unsqueeze(0)


def _quadratic(first: tuple[int, float], second: tuple[int, float]) -> Callable[[float], float]:
    """The curve a*T + b*T^2, with a and b not negative, through two points."""
    (short, f_short), (long, f_long) = first, second
    b = (f_long / long - f_short / short) / (long - short) if long > short else 0.0
    b = max(b, 0.0)
    a = max(f_long / long - b * long, 0.0)
    return lambda tokens: a * tokens + b * tokens * tokens


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors made inside the block, by storage; `peak` is the most that lived at once."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._live: dict[int, int] = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._live:
            return
        self._live[storage._cdata] = storage.nbytes()
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._release, storage._cdata)

    def _release(self, key: int) -> None:
        self._now -= self._live.pop(key)


def measure_gemm_rate(device: torch.device, dtype: torch.dtype, width: int = 1024) -> float:
    """Floating-point operations a second of a square matrix product; takes some tens of milliseconds on a CPU."""
    a = torch.ones(width, width, device=device, dtype=dtype)
    a @ a
    best = float("inf")
    for _ in range(3):
        begin = _now(device)
        a @ a
        best = min(best, _now(device) - begin)
    return 2 * width**3 / best


def free_memory_bytes(device: torch.device) -> int:
    """Memory a new allocation can use: of the GPU, or of the machine and this process's control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    amounts = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        available = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
        amounts += [int(available[1]) * 1024] if available else []
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        amounts.append(int(limit.read_text()) - int(used.read_text()))
    return max(min(amounts), 0)


def format_bytes(count: float) -> str:
    """ "3.2 GiB" and the like."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def format_seconds(seconds: float) -> str:
    """ "0.2 s", "3 min 20 s" or "5 h 12 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
