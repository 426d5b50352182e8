"""Reading many sequences with a model: windows, batches, states of one or both strands, pooled or per base.

The plan is fixed before anything is computed and depends on lengths and options only, so the number of workers cannot
change a result.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chargaff.data.tiling import Frame
from chargaff.data.windows import WindowPlan, plan_batches, plan_windows
from chargaff.errors import BackendError, ConfigError
from chargaff.families.protocol import Backbone, InputRule
from chargaff.model import Model, autocast, evaluating
from chargaff.nn.encoded import Encoded
from chargaff.nn.pooling import pool_strands
from chargaff.seq.alphabet import Sequence, reverse_complement, upper
from chargaff.tokenizers.char import CharTokenizer
from chargaff.tokenizers.protocol import Tokenizer
from chargaff.workflows.cost import Workload
from chargaff.workflows.frames import find_state_frame
from chargaff.workflows.sequences import Sequences

_LOG = logging.getLogger(__name__)

QUEUED_BATCHES = 4
"""Results that may wait for the writer; bounds the memory they take."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that decides what number comes out for a sequence, besides the model."""

    pooling: str
    """See `nn.pooling.pool`; "none" gives one row a base."""
    layer: int | None
    """None: after the final norm; k: the residual stream after block k (0: the embedding)."""
    strands: Literal["forward", "both"]
    """"both" averages the two strands' views, in forward coordinates."""
    window_bp: int
    """Longest piece the model reads at once."""
    overlap_bp: int
    """Bases that neighbouring windows of a record share; each keeps the half that lies deeper inside it."""
    special_tokens: bool
    """Whether the tokenizer adds its special tokens to every window."""
    n_as_pad: bool
    """Whether N is shown to the model as the pad token."""
    dtype: Literal["float32", "bfloat16"]
    """Of matrix products; results are float32."""
    batch_tokens: int
    """Most tokens in a batch; a single longer window is a batch of its own."""

    @property
    def num_strand_rows(self) -> int:
        """Rows kept per window: 2 where the strands may pick their values from different windows of a record."""
        return 2 if self.strands == "both" and self.pooling in ("first", "last", "max") else 1


@dataclass(frozen=True, slots=True)
class Plan:
    """Windows over records, and the batches they are read in."""

    rows: NDArray[np.int64]
    """[R] row of each record in its `Sequences`."""
    windows: WindowPlan
    num_tokens: NDArray[np.int64]
    """[W]"""
    batches: list[NDArray[np.int64]]
    """Window numbers of each batch."""
    offset_bp: NDArray[np.int64]
    """[R + 1] where each record begins when all bases are counted through."""
    frame: Frame | None = None
    """What is read for a window and where its states lie, in models whose states are bins; None: a state a token."""

    def before_bp(self, windows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bases with states before each of these windows, which lie in the middle of their frame."""
        assert self.frame is not None
        spare = self.frame.answered_bp - self.windows.length_bp[windows]
        return spare // 2 // self.frame.step_bp * self.frame.step_bp

    def work(self, passes: int = 1) -> list[Workload]:
        """What there is to compute, if the model reads every batch `passes` times."""
        return [Workload(len(batch), int(self.num_tokens[batch].max()), passes) for batch in self.batches]


@dataclass(slots=True)
class WindowBatch:
    """Tokens of some windows, on the host."""

    windows: NDArray[np.int64]
    """[B] their numbers."""
    tokens: Tensor
    """[B, T]"""
    mask: Tensor | None
    """[B, T] True where not padding; None without padding."""
    weight: NDArray[Any]
    """[B, T] what each state counts in pooling: its bases in the window's kept part; for "mean" the share of its
    token's bases there, so that tokens count alike; for "mean-all" 1 for every state there and every special token."""
    other: WindowBatch | None = None
    """The reverse complements of the same windows, where their tokens do not follow from these."""


class RowSink(Protocol):
    """Where results go; `io.row_store.RowStore` is one."""

    done: set[int]

    def write(self, batch: int, first_rows: Iterable[int], values: Iterable[NDArray[np.float32]]) -> None: ...


def make_plan(model: Model, sequences: Sequences, rows: NDArray[np.int64], reading: Reading) -> Plan:
    """The windows and batches for these rows of `sequences`.

    Raises:
        ConfigError: the model takes inputs of special lengths only.
    """
    rule = cast(Backbone, model.backbone).rule
    frame = find_state_frame(model, reading.window_bp)
    if frame is not None and reading.pooling == "cls":
        raise ConfigError(f"pool: {model.spec.family} has no token for a whole sequence; take mean, max, first or last")
    if frame is None and (rule.fixed_bp is not None or rule.multiple_of != 1):
        raise ConfigError(f"{model.spec.family}: models with a fixed input length or step are not supported here")
    length_bp = sequences.length_bp[rows]
    windows = plan_windows(length_bp, reading.window_bp if frame is None else frame.answered_bp, reading.overlap_bp)
    if reading.pooling == "centre":
        windows = windows.middle_only(length_bp)
    tokenizer = reading_tokenizer(model, reading)
    num_special = len(tokenizer.encode(np.zeros(0, np.uint8), special=reading.special_tokens))
    if frame is not None:
        num_tokens = np.full(len(windows), frame.input_bp)
    elif tokenizer.complement is not None:
        num_tokens = windows.length_bp + num_special
    else:
        longest_bp = int(windows.length_bp.max())
        if rule.max_tokens is not None and longest_bp > (rule.max_tokens - num_special) * int(tokenizer.token_bp.max()):
            raise ConfigError(
                f"window-bp: a window of {longest_bp:,} bp has more tokens than the model takes, {rule.max_tokens:,}; "
                f"give at most {(rule.max_tokens - num_special) * int(tokenizer.token_bp.max()):,}"
            )
        windows, num_tokens = _count_tokens(tokenizer, sequences, rows, windows, reading, rule.max_tokens)
    longest = int(num_tokens.max())
    if rule.max_tokens is not None and longest > rule.max_tokens:
        raise ConfigError(f"window-bp: windows have up to {longest:,} tokens, the model takes {rule.max_tokens:,}")
    batches = plan_batches(num_tokens, _batch_rule(model, reading), reading.batch_tokens)
    return Plan(rows, windows, num_tokens, batches, np.concatenate([[0], np.cumsum(length_bp)]), frame)


def _count_tokens(
    tokenizer: Tokenizer,
    sequences: Sequences,
    rows: NDArray[np.int64],
    windows: WindowPlan,
    reading: Reading,
    max_tokens: int | None,
) -> tuple[WindowPlan, NDArray[np.int64]]:
    """Windows and their tokens, where these depend on the letters.

    A window with more tokens than the model takes, because N are tokens of their own, is halved until it fits.
    """
    while True:
        found = (_encode(tokenizer, sequences, rows, windows, window, reading) for window in range(len(windows)))
        num_tokens = np.fromiter((len(ids) for ids in found), np.int64, len(windows))
        too_long = num_tokens > (max_tokens or num_tokens.max()) if len(windows) else np.zeros(0, bool)
        too_long &= windows.length_bp > 1
        if not too_long.any():
            return windows, num_tokens
        windows = windows.halved(too_long)


def reading_tokenizer(model: Model, reading: Reading) -> Tokenizer:
    """The model's tokenizer with the options of `reading`."""
    if not reading.n_as_pad:
        return model.tokenizer
    if not isinstance(model.tokenizer, CharTokenizer):
        raise ConfigError(f"n-as-pad: {model.spec.family} has no token for a single N")
    return replace(model.tokenizer, n_as_pad=True)


def needs_second_pass(model: Model, reading: Reading) -> bool:
    """Whether the other strand has to be read separately; models that are equivariant by construction give both."""
    return reading.strands == "both" and model.spec.strands != "equivariant"


def run_plan(
    model: Model,
    sequences: Sequences,
    plan: Plan,
    reading: Reading,
    sink: RowSink,
    *,
    num_workers: int = 1,
    on_progress: Callable[[int], None] = lambda tokens: None,
) -> None:
    """Computes every batch that `sink` does not have yet and writes it there, in the background.

    A batch that does not fit in memory is halved, and so are the following ones.

    Args:
        num_workers: threads that read and tokenise ahead.
        on_progress: called with the tokens of each batch that was handed to the sink.
    """
    todo = [number for number in range(len(plan.batches)) if number not in sink.done]
    prepare = partial(prepare_batch, reading_tokenizer(model, reading), sequences, plan, reading)
    read = partial(read_batch, model, reading=reading)
    halving = _Halving()
    with (
        evaluating(model),
        _in_background(QUEUED_BATCHES) as submit,
        closing(_ahead(lambda number: prepare(plan.batches[number]), todo, num_workers)) as batches,
    ):
        for number, batch in zip(todo, batches, strict=True):
            results = halving.run(read, batch)
            submit(partial(_write, sink, number, plan, reading, batch, results))
            on_progress(batch.tokens.numel())


def prepare_batch(
    tokenizer: Tokenizer, sequences: Sequences, plan: Plan, reading: Reading, windows: NDArray[np.int64]
) -> WindowBatch:
    """Reads and tokenises these windows, which become a batch; padding goes to the right."""
    if plan.frame is not None:
        return _framed(tokenizer, sequences, plan, plan.frame, reading, windows)
    letters = [_letters(sequences, plan.rows, plan.windows, window) for window in windows]
    kept = plan.windows.keep_start_bp[windows], plan.windows.keep_stop_bp[windows]
    batch = _tokenised(tokenizer, windows, letters, kept, reading)
    if reading.strands == "both" and tokenizer.complement is None:
        length = plan.windows.length_bp[windows]
        mirrored = length - kept[1], length - kept[0]
        batch.other = _tokenised(tokenizer, windows, map(reverse_complement, letters), mirrored, reading)
    return batch


def _tokenised(
    tokenizer: Tokenizer,
    windows: NDArray[np.int64],
    letters: Iterable[Sequence],
    kept_bp: tuple[NDArray[np.int64], NDArray[np.int64]],
    reading: Reading,
) -> WindowBatch:
    """The batch of these windows; `kept_bp` are start and end of each window's kept part."""
    rows = [tokenizer.encode(piece, special=reading.special_tokens) for piece in letters]
    lengths = np.array([len(ids) for ids in rows])
    shape = len(rows), int(lengths.max())
    tokens = np.full(shape, tokenizer.pad_id, rows[0].dtype)
    weight = np.zeros(shape, np.float64 if reading.pooling == "mean" else np.int64)
    for i, (ids, keep_start, keep_stop) in enumerate(zip(rows, *kept_bp, strict=True)):
        tokens[i, : len(ids)] = ids
        covered = tokenizer.token_bp[ids].astype(np.int64)
        end = np.cumsum(covered)
        kept = np.clip(np.minimum(end, keep_stop) - np.maximum(end - covered, keep_start), 0, None)
        if reading.pooling == "mean":
            kept = kept / np.maximum(covered, 1)
        weight[i, : len(ids)] = (kept > 0) | (covered == 0) if reading.pooling == "mean-all" else kept
    mask = np.arange(shape[1]) < lengths[:, None]
    return WindowBatch(windows, torch.from_numpy(tokens), None if mask.all() else torch.from_numpy(mask), weight)


def _framed(
    tokenizer: Tokenizer,
    sequences: Sequences,
    plan: Plan,
    frame: Frame,
    reading: Reading,
    windows: NDArray[np.int64],
) -> WindowBatch:
    """The batch of these windows, each in the middle of its frame: beyond it the record goes on, or N."""
    before_bp = plan.before_bp(windows)
    rows = []
    for window, before in zip(windows, before_bp.tolist(), strict=True):
        row = int(plan.rows[plan.windows.record[window]])
        begin = int(plan.windows.start_bp[window]) - before - frame.output_offset_bp
        low, high = max(begin, 0), min(begin + frame.input_bp, int(sequences.length_bp[row]))
        letters = np.full(frame.input_bp, ord("N"), np.uint8)
        letters[low - begin : high - begin] = upper(sequences.fetch(row, low, high))
        rows.append(tokenizer.encode(letters, special=False))
    end = np.arange(frame.step_bp, frame.answered_bp + 1, frame.step_bp) - before_bp[:, None]
    keep_start, keep_stop = plan.windows.keep_start_bp[windows, None], plan.windows.keep_stop_bp[windows, None]
    kept = np.clip(np.minimum(end, keep_stop) - np.maximum(end - frame.step_bp, keep_start), 0, None)
    weight = kept > 0 if reading.pooling == "mean-all" else kept
    return WindowBatch(windows, torch.from_numpy(np.stack(rows)), None, weight)


@torch.inference_mode()
def read_batch(model: Model, batch: WindowBatch, *, reading: Reading) -> Tensor:
    """[B, S, D] float32 pooled states with S = reading.num_strand_rows, or [B, T, D] for pooling "none"."""
    if batch.other is not None:
        forward, strands = replace(reading, strands="forward"), (replace(batch, other=None), batch.other)
        return _combine_strands(tuple(read_batch(model, strand, reading=forward)[:, 0] for strand in strands), reading)
    tokens = batch.tokens.to(model.device, non_blocking=True)
    mask = None if batch.mask is None else batch.mask.to(model.device, non_blocking=True)
    dtype = torch.bfloat16 if reading.dtype == "bfloat16" else None
    with autocast(model.device, dtype):
        encoded = _read_strands(model, tokens, mask, reading)
    how = "mean" if reading.pooling == "centre" else reading.pooling  # windows keep no base but the middle
    parts = pool_strands(encoded, _pool_weight(batch, reading, model.device), how)
    return _combine_strands(parts, reading)


def _combine_strands(parts: tuple[Tensor, ...], reading: Reading) -> Tensor:
    """[B, S, D], or [B, T, D] for pooling "none"."""
    if reading.num_strand_rows == 2:
        return torch.stack(parts, 1)
    mean = parts[0] if len(parts) == 1 else (parts[0] + parts[1]) / 2
    return mean if reading.pooling == "none" else mean.unsqueeze(1)


def combine_windows(values: NDArray[np.float32], plan: Plan, record: slice, pooling: str) -> NDArray[np.float32]:
    """One vector a record from those of its windows.

    "mean", "mean-all", "centre" and "cls" average, weighted by the bases each window keeps. The others pick on each
    strand, the largest value or that of the window at the strand's end, and then average the strands.

    Args:
        values: [W, S, D] of all windows of these records.
        record: which records of the plan.

    Returns:
        [R, D] float32, summed in float64.
    """
    begin, end = np.searchsorted(plan.windows.record, [record.start, record.stop])
    first = np.searchsorted(plan.windows.record, np.arange(record.start, record.stop)) - begin
    last = np.append(first[1:], end - begin) - 1
    if pooling in ("first", "last"):
        at_end = (first, last) if pooling == "first" else (last, first)  # the other strand begins at our end
        picked = np.stack([values[at_end[strand], strand] for strand in range(values.shape[1])], 1)
    elif pooling == "max":
        picked = np.maximum.reduceat(values, first, axis=0)
    else:
        weight = plan.windows.weight_bp[begin:end, None, None].astype(np.float64)
        picked = np.add.reduceat(values * weight, first, axis=0) / np.add.reduceat(weight, first, axis=0)
    mean: NDArray[np.float64] = picked.mean(1, dtype=np.float64)  # of the strands
    return mean.astype(np.float32)


def _read_strands(model: Model, tokens: Tensor, mask: Tensor | None, reading: Reading) -> Encoded:
    """Float32 states of the strands asked for, both in forward coordinates."""
    taps = () if reading.layer is None else (f"layer.{reading.layer}",)
    forward, other = _views(model, model.encode(tokens, mask, taps=taps), reading.layer)
    if reading.strands == "forward":
        return Encoded(forward.float())
    if other is None:
        flipped = None if mask is None else mask.flip(1)
        again, _ = _views(model, model.encode(model.reverse_complement(tokens), flipped, taps=taps), reading.layer)
        other = again.flip(1)
    return Encoded(forward.float(), other.float())


def _views(model: Model, encoded: Encoded, layer: int | None) -> tuple[Tensor, Tensor | None]:
    """States of the forward strand, and of the other one where the model gives both; forward coordinates."""
    if layer is None:
        return encoded.hidden, encoded.hidden_rc
    tap = encoded.taps[f"layer.{layer}"]
    if encoded.hidden_rc is None:
        return tap, None
    first, second = tap.chunk(2, -1)  # two-strand models keep the other strand's channels reversed here
    return first, second.flip(-1)


def _pool_weight(batch: WindowBatch, reading: Reading, device: torch.device) -> Tensor | None:
    """[B, T] float32, or None if all positions count the same."""
    if reading.pooling in ("none", "cls") or (batch.weight == 1).all():
        return None
    return torch.from_numpy(batch.weight.astype(np.float32)).to(device)


def _encode(
    tokenizer: Tokenizer,
    sequences: Sequences,
    rows: NDArray[np.int64],
    windows: WindowPlan,
    window: int,
    reading: Reading,
) -> NDArray[Any]:
    """[T] ids of one window."""
    return tokenizer.encode(_letters(sequences, rows, windows, window), special=reading.special_tokens)


def _letters(sequences: Sequences, rows: NDArray[np.int64], windows: WindowPlan, window: int) -> Sequence:
    """[L] of one window, in upper case."""
    start, length = int(windows.start_bp[window]), int(windows.length_bp[window])
    return upper(sequences.fetch(int(rows[windows.record[window]]), start, start + length))


def _batch_rule(model: Model, reading: Reading) -> InputRule:
    """The model's rule; read from the other end, right padding would come first, which causal models do not allow."""
    rule = cast(Backbone, model.backbone).rule
    if rule.padding == "causal" and needs_second_pass(model, reading):
        return replace(rule, padding="never")
    return rule


def _write(sink: RowSink, number: int, plan: Plan, reading: Reading, batch: WindowBatch, results: Tensor) -> None:
    values = results.cpu().numpy()
    if reading.pooling == "none":
        columns, ours = np.arange(values.shape[1]), batch.windows
        start = plan.windows.start_bp[ours] + plan.windows.keep_start_bp[ours]
        pieces = [row[np.repeat(columns, weight)] for row, weight in zip(values, batch.weight, strict=True)]
        sink.write(number, plan.offset_bp[plan.windows.record[ours]] + start, pieces)
        return
    cuts = np.flatnonzero(np.diff(batch.windows) != 1) + 1
    begins = batch.windows[np.concatenate([[0], cuts])]
    sink.write(number, begins, np.split(values.reshape(len(values), -1), cuts))


class _Halving:
    """Runs batches, in smaller pieces once one did not fit in memory."""

    def __init__(self) -> None:
        self._most_tokens: int | None = None

    def run(self, read: Callable[[WindowBatch], Tensor], batch: WindowBatch) -> Tensor:
        is_single = len(batch.windows) == 1
        if self._most_tokens is None or batch.tokens.numel() <= self._most_tokens or is_single:
            try:
                return read(batch)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
            if is_single:
                raise BackendError(
                    f"one window of {batch.tokens.shape[1]:,} tokens does not fit in memory ({reason}); "
                    "use a smaller --window-bp, --dtype bfloat16, or another --device"
                )
            self._most_tokens = batch.tokens.numel() // 2
            _LOG.warning("out of memory: going on with batches of at most %s tokens", f"{self._most_tokens:,}")
        middle = len(batch.windows) // 2
        return torch.cat(
            [self.run(read, _part(batch, slice(middle))), self.run(read, _part(batch, slice(middle, None)))]
        )


def _part(batch: WindowBatch, rows: slice) -> WindowBatch:
    mask = None if batch.mask is None else batch.mask[rows]
    other = None if batch.other is None else _part(batch.other, rows)
    return WindowBatch(batch.windows[rows], batch.tokens[rows], mask, batch.weight[rows], other)


def _is_out_of_memory(error: BaseException) -> bool:
    """Of a GPU or of the machine; torch has no class for the latter."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


@contextmanager
def _in_background(depth: int) -> Iterator[Callable[[Callable[[], None]], None]]:
    """A function that has jobs done in order by one thread and waits while `depth` of them are not done."""
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as executor:

        def submit(job: Callable[[], None]) -> None:
            while len(waiting) >= depth:
                waiting.popleft().result()
            waiting.append(executor.submit(job))

        yield submit
        while waiting:
            waiting.popleft().result()


def _ahead(
    prepare: Callable[[int], WindowBatch], numbers: Iterable[int], num_workers: int
) -> Generator[WindowBatch, None, None]:
    """prepare(number) for each number, in order, some of them before they are asked for."""
    if num_workers == 0:
        yield from map(prepare, numbers)
        return
    waiting: deque[Future[WindowBatch]] = deque()
    with ThreadPoolExecutor(num_workers) as executor:
        try:
            for number in numbers:
                waiting.append(executor.submit(prepare, number))
                if len(waiting) > num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            executor.shutdown(cancel_futures=True)
