"""Attention maps of chosen layers and heads."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from chargaff.errors import ConfigError
from chargaff.families.protocol import LayeredBackbone
from chargaff.io.maps import WindowMaps, check_maps_output, write_maps
from chargaff.model import Model, autocast, evaluating
from chargaff.workflows.embed import EmbedJob, EmbedOptions, Source, plan_embedding
from chargaff.workflows.windows import prepare_batch, reading_tokenizer

_PAIR = re.compile(r"(\d+):(\d+)")

Pairs = tuple[tuple[int, int], ...]
"""(layer from 1, head from 0)."""


def parse_pairs(text: str) -> Pairs:
    """ "12:3,12:4" -> ((12, 3), (12, 4)).

    Raises:
        ConfigError: anything else.
    """
    found = []
    for word in text.split(","):
        match = _PAIR.fullmatch(word.strip())
        if match is None:
            raise ConfigError(f"attention: expected layer:head pairs such as 12:3,12:4, got {word!r}")
        found.append((int(match[1]), int(match[2])))
    return tuple(found)


def require_maps(model: Model, pairs: Pairs) -> None:
    """Raises ConfigError where the model has no such maps."""
    heads = getattr(model.backbone, "num_heads", None)
    if heads is None:
        raise ConfigError(f"attention: {model.spec.family} has no attention maps")
    depth = len(cast(LayeredBackbone, model.backbone).blocks)
    for layer, head in pairs:
        if not (1 <= layer <= depth and 0 <= head < heads):
            raise ConfigError(
                f"attention: no map {layer}:{head}; layers of this model are 1 to {depth}, heads 0 to {heads - 1}"
            )


def attention_maps(
    model: Model | str | os.PathLike[str], source: Source, pairs: Iterable[tuple[int, int]], **options: Any
) -> list[WindowMaps]:
    """The maps of every window of every record, in memory; a record up to the model's context is one window.

    Args:
        model: a loaded model, or the name or path of one.
        source: as `embed`.
        pairs: (layer from 1, head from 0).
        options: fields of `EmbedOptions`, such as window_bp.

    Raises:
        ConfigError: the model has no such maps.
        InputError: malformed input.
    """
    job = plan_embedding(model, source, EmbedOptions(**options))
    return list(compute_maps(job, tuple(pairs)))


def compute_maps(
    job: EmbedJob, pairs: Pairs, on_progress: Callable[[int], None] = lambda tokens: None
) -> Iterator[WindowMaps]:
    """The maps of the windows of a planned embedding, in the order of the input; one window is read at a time."""
    require_maps(job.model, pairs)
    tokenizer = reading_tokenizer(job.model, job.reading)
    names = [f"attn.{layer}.{head}" for layer, head in pairs]
    dtype = torch.bfloat16 if job.reading.dtype == "bfloat16" else None
    windows = job.plan.windows
    for window in range(len(windows)):
        batch = prepare_batch(tokenizer, job.sequences, job.plan, job.reading, np.array([window]))
        with evaluating(job.model), torch.inference_mode(), autocast(job.model.device, dtype):
            taps = job.model.encode(batch.tokens.to(job.model.device), taps=names).taps
        maps = torch.stack([taps[name][0] for name in names]).float().cpu().numpy()
        ids = batch.tokens[0].numpy()
        end = np.cumsum(tokenizer.token_bp[ids].astype(np.int64)) + int(windows.start_bp[window])
        spans = np.stack([end - tokenizer.token_bp[ids], end], 1)
        record = int(windows.record[window])
        words = tuple(tokenizer.vocab[number] for number in ids.tolist())
        yield WindowMaps(job.ids[record], int(windows.start_bp[window]), words, spans, maps)
        on_progress(len(ids))


def check_maps(job: EmbedJob, pairs: Pairs, output: Path) -> None:
    """Raises what can be known to go wrong before anything is computed."""
    require_maps(job.model, pairs)
    check_maps_output(output, len(job.plan.windows))


def maps_to_file(
    job: EmbedJob,
    pairs: Pairs,
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    on_progress: Callable[[int], None] = lambda tokens: None,
) -> None:
    """Computes and writes the maps (see `io.maps.write_maps`).

    Raises:
        ConfigError: no such maps, or an ending that says no format.
        InputError: the output exists or cannot be written.
    """
    path = Path(output)
    check_maps(job, pairs, path)
    table: NDArray[np.int64] = np.array(pairs, np.int64)
    write_maps(path, compute_maps(job, pairs, on_progress), table, job.provenance(), overwrite=overwrite)
