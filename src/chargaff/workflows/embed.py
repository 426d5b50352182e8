"""Embeddings of sequences: one vector a record, or one a base."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from chargaff import __version__
from chargaff.errors import ConfigError, InputError
from chargaff.families.protocol import Backbone
from chargaff.hub.load import load
from chargaff.io.atomic import publish
from chargaff.io.row_store import RowStore
from chargaff.io.writers import Column, open_writer, output_format
from chargaff.model import Model
from chargaff.nn.pooling import POOLINGS
from chargaff.workflows.cost import LONGEST_PROBE_TOKENS, Cost, estimate_inference
from chargaff.workflows.provenance import hash_weights, provenance
from chargaff.workflows.sequences import (
    Inspection,
    Rejected,
    Sequences,
    as_sequences,
    inspect,
    list_rejected,
    read_sequences,
)
from chargaff.workflows.windows import Plan, Reading, combine_windows, make_plan, needs_second_pass, run_plan

_LOG = logging.getLogger(__name__)

BATCH_TOKENS = {"cpu": 8192, "cuda": 131_072}
"""A processor is fastest while a batch stays in its caches, a GPU while all of it is busy."""

LITTLE_WORK = 20
"""Runs shorter than this many probes start without an estimate."""

RECORDS_AT_ONCE = 4096
BASES_AT_ONCE = 65_536
"""Rows that are in memory while the output is written."""

Source = str | os.PathLike[str] | Mapping[str, Any] | Iterable[Any]


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """What to compute; None takes what the checkpoint says."""

    pooling: str | None = None
    """mean, mean-all, max, first, last, centre, cls, or none for one vector a base (see `nn.pooling.pool`)."""
    layer: int | None = None
    """None: final states; k: the residual stream after block k (0: the embedding)."""
    strands: Literal["forward", "both"] | None = None
    """"both" averages the two strands; None: both, unless the checkpoint reads the forward strand only."""
    window_bp: int | None = None
    """Records longer than this are read in windows; None: the checkpoint's context."""
    overlap_bp: int = 0
    """Bases that neighbouring windows share; each keeps the half that lies deeper inside it."""
    special_tokens: bool | None = None
    """Add the tokenizer's special tokens to every window; None: only for the poolings that need them."""
    n_as_pad: bool = False
    """Show N to the model as its pad token, as the pre-training of Caduceus and HyenaDNA did."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products; results are always float32."""
    batch_tokens: int | None = None
    """Most tokens read at once; a longer window is read alone. None: BATCH_TOKENS of the device."""
    max_unknown: float = 0.05
    """A record with a larger share of letters other than A, C, G, T, N is rejected."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors in the order of the input."""

    ids: tuple[str, ...]
    length_bp: NDArray[np.int64]
    """[R]"""
    vectors: NDArray[np.float32]
    """[R, D]; for pooling "none" [total bases, D], record r at rows offset_bp[r] to offset_bp[r + 1]."""
    offset_bp: NDArray[np.int64]
    """[R + 1]"""
    rejected: tuple[Rejected, ...]
    """Records that were left out."""
    provenance: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EmbedJob:
    """Everything fixed before the first batch is computed."""

    model: Model
    sequences: Sequences
    inspection: Inspection
    reading: Reading
    plan: Plan
    source: str | None
    """The file that was read; None for sequences from memory."""

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.sequences.ids[row] for row in self.plan.rows)

    @property
    def length_bp(self) -> NDArray[np.int64]:
        return np.diff(self.plan.offset_bp)

    @property
    def width(self) -> int:
        return int(cast(Any, self.model.backbone).width)

    @property
    def store_shape(self) -> tuple[int, int]:
        """Rows and columns that the batches fill."""
        if self.reading.pooling == "none":
            return int(self.plan.offset_bp[-1]), self.width
        return len(self.plan.windows), self.reading.num_strand_rows * self.width

    def describe(self) -> str:
        """The plan in words."""
        counts = f"windows: {len(self.plan.windows):,}, batches: {len(self.plan.batches):,}"
        rejected = f", rejected: {len(self.inspection.rejected):,}" if self.inspection.rejected else ""
        return f"records: {len(self.plan.rows):,} ({self.inspection.letters}){rejected}, {counts}"

    def log_plan(self) -> None:
        """Says what will be done and, before much work, what it will take."""
        _LOG.info("%s", self.describe())
        if self.plan.num_tokens.sum() > LITTLE_WORK * LONGEST_PROBE_TOKENS:
            cost = self.cost()
            _LOG.info("%s", cost)
            if cost.peak_bytes > cost.free_bytes:
                _LOG.warning("this may not fit in memory: use a smaller --batch-tokens or --window-bp")

    def cost(self) -> Cost:
        """Estimated time and memory; runs the model on a short random sequence."""
        passes = 2 if needs_second_pass(self.model, self.reading) else 1
        dtype = torch.bfloat16 if self.reading.dtype == "bfloat16" else None
        return estimate_inference(self.model, self.plan.work(passes), dtype=dtype)

    def key(self) -> str:
        """Identifies everything the numbers follow from: equal keys, equal results."""
        facts = {
            "weights": hash_weights(self.model),
            "records": self.inspection.sha256,
            "reading": asdict(self.reading),
            "device": self.model.device.type,
            "versions": [__version__, torch.__version__],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def provenance(self) -> dict[str, Any]:
        """What goes into the output."""
        letters = asdict(self.inspection.letters)
        records = {"records": len(self.plan.rows), "sha256": self.inspection.sha256, **letters}
        files = [] if self.source is None else [self.source]
        return provenance(self.model, inputs=[*files, records], options=asdict(self.reading))


def embed(
    model: Model | str | os.PathLike[str],
    source: Source,
    options: EmbedOptions | None = None,
    *,
    genome: str | os.PathLike[str] | None = None,
    column: str | None = None,
    num_workers: int = 1,
) -> Embeddings:
    """Vectors of sequences, in memory.

    Args:
        model: a loaded model, or the name or path of one.
        source: a file (FASTA, FASTQ, BED with `genome`, table with `column`), or sequences as name -> sequence or in
            a row; each a str, bytes or uint8 array.
        genome: FASTA file that a BED file refers to.
        column: of a table: where the sequences are.
        num_workers: threads that read and tokenise ahead; changes no number.

    Raises:
        InputError: malformed input, or no record that can be read.
        ConfigError: an option that does not fit the model or the input.
    """
    job = plan_embedding(model, source, options, genome=genome, column=column)
    rows = _MemoryRows(*job.store_shape)
    run_plan(job.model, job.sequences, job.plan, job.reading, rows, num_workers=num_workers)
    vectors = rows.values if job.reading.pooling == "none" else _combine(job, rows.read, slice(0, len(job.plan.rows)))
    return Embeddings(job.ids, job.length_bp, vectors, job.plan.offset_bp, job.inspection.rejected, job.provenance())


def embed_to_file(
    job: EmbedJob,
    output: str | os.PathLike[str],
    *,
    num_workers: int = 1,
    resume: bool = True,
    overwrite: bool = False,
    on_progress: Callable[[int], None] = lambda tokens: None,
) -> Path | None:
    """Computes a planned embedding and writes it in the order of the input.

    One row a record with columns id, length_bp and embedding [D], as Parquet, npy (names in the .json beside it), zarr
    or TSV. With pooling "none" a zarr group: embedding [total bases, D] holds the records one after another, record r
    at rows offset_bp[r] to offset_bp[r + 1], its name is id[r]. Provenance lies in the output's metadata. Rejected
    records are listed in `<output>.rejected.tsv`.

    What is computed is kept in the folder `<output>.unfinished` until the output is complete; the same call continues
    there after an interruption and gives the same bytes.

    Args:
        resume: continue; otherwise begin anew.
        on_progress: called with the number of tokens of each batch, those of a continued run included.

    Returns:
        The list of rejected records; None if there are none.

    Raises:
        InputError: the output exists, another process is computing it, or it cannot be written.
        ConfigError: an ending that says no format, or one that cannot hold the result.
    """
    path = Path(output)
    check_output(job, path, overwrite=overwrite)
    folder = Path(f"{path}.unfinished")
    rows, width = job.store_shape
    with RowStore(folder, key=job.key(), num_rows=rows, width=width, resume=resume) as store:
        finished = sum(int(job.plan.num_tokens[job.plan.batches[batch]].sum()) for batch in store.done)
        if finished:
            _LOG.info("continuing: %d of %d batches are done", len(store.done), len(job.plan.batches))
            on_progress(finished)
        try:
            run_plan(
                job.model, job.sequences, job.plan, job.reading, store, num_workers=num_workers, on_progress=on_progress
            )
        except KeyboardInterrupt:
            store.sync()
            done = f"{len(store.done)} of {len(job.plan.batches)} batches are kept in {folder}"
            raise KeyboardInterrupt(f"{done}; the same command continues there") from None
        _write_output(job, store, path, overwrite)
        store.remove()
    return list_rejected(job.inspection.rejected, path)


def check_output(job: EmbedJob, output: Path, *, overwrite: bool) -> None:
    """Raises what can be known to go wrong with the output before anything is computed."""
    kind = output_format(output)
    if job.reading.pooling == "none" and kind != "zarr":
        raise ConfigError(f"output {output}: one vector a base (pooling 'none') needs .zarr")
    if kind == "bed":
        raise ConfigError(f"output {output}: BED holds no vectors; expected .parquet, .npy, .zarr or .tsv")
    if os.path.lexists(output) and not overwrite:
        raise InputError(f"{output}: exists already; choose another path or allow overwriting (--overwrite)")


def plan_embedding(
    model: Model | str | os.PathLike[str],
    source: Source,
    options: EmbedOptions | None = None,
    *,
    genome: str | os.PathLike[str] | None = None,
    column: str | None = None,
    device: str = "auto",
) -> EmbedJob:
    """Reads and checks the input, and plans the windows; arguments and errors as `embed`.

    Args:
        device: where a model given by name is put.
    """
    is_file = isinstance(source, str | os.PathLike)
    if is_file:
        sequences = read_sequences(cast(str, source), genome=genome, column=column)
    else:
        sequences = as_sequences(cast(Any, source))
    options = options or EmbedOptions()
    if not isinstance(model, Model):
        model = load(Path(model) if isinstance(model, os.PathLike) else model, device=device)
    allow_n = cast(Backbone, model.backbone).rule.n_bases != "forbidden"
    inspection = inspect(sequences, max_unknown=options.max_unknown, allow_n=allow_n)
    reading = resolve_reading(model, options, int(sequences.length_bp[inspection.accepted].max()))
    plan = make_plan(model, sequences, inspection.accepted, reading)
    return EmbedJob(model, sequences, inspection, reading, plan, os.fspath(cast(str, source)) if is_file else None)


def resolve_reading(model: Model, options: EmbedOptions, longest_bp: int) -> Reading:
    """The options with every None replaced by what the checkpoint says.

    Args:
        longest_bp: of the records; the window where neither the options nor the checkpoint give one.

    Raises:
        ConfigError: an option that the model cannot follow.
    """
    pooling = options.pooling or model.spec.pooling
    if pooling not in POOLINGS:
        raise ConfigError(f"pool: expected one of {', '.join(POOLINGS)}, got {pooling!r}")
    strands = options.strands or ("forward" if model.spec.strands == "forward-only" else "both")
    if strands not in ("forward", "both"):
        raise ConfigError(f"strands: expected forward or both, got {strands!r}")
    if strands == "both" and pooling == "none" and model.tokenizer.complement is None:
        raise ConfigError("strands: the two strands have different tokens in this model and are averaged after pooling")
    if options.batch_tokens is not None and options.batch_tokens < 1:
        raise ConfigError(f"batch-tokens: expected at least 1, got {options.batch_tokens}")
    if not 0 <= options.max_unknown <= 1:
        raise ConfigError(f"max-unknown: expected a share from 0 to 1, got {options.max_unknown}")
    if options.layer is not None:
        _require_layer(model, options.layer)
    rule = cast(Backbone, model.backbone).rule
    needs_special = rule.needs_special or pooling in ("cls", "mean-all")
    special = needs_special if options.special_tokens is None else options.special_tokens
    return Reading(
        pooling=pooling,
        layer=_published_layer(model, options.layer),
        strands=strands,
        window_bp=_usual_window_bp(model, longest_bp, special) if options.window_bp is None else options.window_bp,
        overlap_bp=options.overlap_bp,
        special_tokens=special,
        n_as_pad=options.n_as_pad,
        dtype=options.dtype,
        batch_tokens=options.batch_tokens or BATCH_TOKENS.get(model.device.type, BATCH_TOKENS["cuda"]),
    )


def _usual_window_bp(model: Model, longest_bp: int, special: bool) -> int:
    """The checkpoint's context; where it does not say, as much as the model takes of sequences without N."""
    if model.spec.context_bp:
        return model.spec.context_bp
    rule, tokenizer = cast(Backbone, model.backbone).rule, model.tokenizer
    if rule.max_tokens is None:
        return longest_bp
    num_special = len(tokenizer.encode(np.zeros(0, np.uint8), special=special))
    return min(longest_bp, (rule.max_tokens - num_special) * int(tokenizer.token_bp.max()))


def _published_layer(model: Model, layer: int | None) -> int | None:
    """None for the last layer of a model whose authors count its final states as those."""
    blocks = getattr(model.backbone, "blocks", ())
    is_final = getattr(model.backbone, "last_layer_is_final", False) and layer == len(blocks)
    return None if is_final else layer


def _require_layer(model: Model, layer: int) -> None:
    blocks = getattr(model.backbone, "blocks", None)
    if blocks is None:
        raise ConfigError(f"layer: {model.spec.family} gives its final states only")
    if not 0 <= layer <= len(blocks):
        raise ConfigError(f"layer: expected 0 (the embedding) to {len(blocks)} (the last block) or 'last', got {layer}")


class _MemoryRows:
    """Results kept in memory."""

    def __init__(self, num_rows: int, width: int) -> None:
        self.done: set[int] = set()
        self.values = np.zeros((num_rows, width), np.float32)

    def write(self, batch: int, first_rows: Iterable[int], values: Iterable[NDArray[np.float32]]) -> None:
        for first, piece in zip(first_rows, values, strict=True):
            self.values[first : first + len(piece)] = piece

    def read(self, first: int, stop: int) -> NDArray[np.float32]:
        return self.values[first:stop]


def _combine(job: EmbedJob, read: Callable[[int, int], NDArray[np.float32]], records: slice) -> NDArray[np.float32]:
    """[n, D] vectors of these records."""
    begin, end = np.searchsorted(job.plan.windows.record, [records.start, records.stop])
    values = read(int(begin), int(end)).reshape(end - begin, job.reading.num_strand_rows, job.width)
    return combine_windows(values, job.plan, records, job.reading.pooling)


def _write_output(job: EmbedJob, store: RowStore, path: Path, overwrite: bool) -> None:
    metadata = {**job.provenance(), "rejected": len(job.inspection.rejected)}
    if job.reading.pooling == "none":
        _write_bases(job, store, path, metadata, overwrite)
        return
    schema = [Column("id", "text"), Column("length_bp", "int64"), Column("embedding", "float32", (job.width,))]
    ids, num_records = job.ids, len(job.plan.rows)
    with open_writer(path, schema, metadata=metadata, num_rows=num_records, overwrite=overwrite) as writer:
        for first in range(0, num_records, RECORDS_AT_ONCE):
            records = slice(first, min(first + RECORDS_AT_ONCE, num_records))
            columns = {"id": ids[records], "length_bp": job.length_bp[records]}
            columns["embedding"] = _combine(job, store.read, records)
            writer.write(np.arange(records.start, records.stop), columns)


def _write_bases(job: EmbedJob, store: RowStore, path: Path, metadata: dict[str, Any], overwrite: bool) -> None:
    """The table of bases, and beside it in the same group the arrays that say whose they are."""
    import zarr

    total = job.store_shape[0]
    with publish(path, overwrite=overwrite) as part:
        schema = [Column("embedding", "float32", (job.width,))]
        with open_writer(part, schema, metadata=metadata, num_rows=total, format="zarr") as writer:
            for first in range(0, total, BASES_AT_ONCE):
                stop = min(first + BASES_AT_ONCE, total)
                writer.write(np.arange(first, stop), {"embedding": store.read(first, stop)})
        group = zarr.open_group(part, mode="r+")
        group.create_array("offset_bp", data=job.plan.offset_bp)
        group.create_array("id", data=np.array(job.ids, dtype=np.dtypes.StringDType()))
