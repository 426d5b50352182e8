"""Values along contigs as bigWig."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chargaff.errors import InputError
from chargaff.io.atomic import output_errors, publish
from chargaff.optional import need

Values = npt.NDArray[Any]


def write_bigwig(
    path: str | os.PathLike[str],
    contigs: Mapping[str, int],
    pieces: Iterable[tuple[str, int, Values]],
    *,
    decimals: int = 3,
    overwrite: bool = False,
) -> None:
    """One value a base. Equal neighbours are stored as one run, which is why values are rounded.

    Args:
        contigs: name -> length in bases.
        pieces: (contig, first base, [n] values), any order; NaN: no value there.
        decimals: of the stored values.

    Raises:
        InputError: two pieces give a value for one base, a piece reaches beyond its contig, or see `io.atomic.publish`.
        DependencyError: pybigtools is not installed.
    """
    pybigtools = need("pybigtools", extra="bigwig", feature="bigWig output")
    ordered = sorted(pieces, key=lambda piece: piece[:2])
    _require_disjoint(ordered, contigs)
    rows = chain.from_iterable(_runs(*piece, decimals) for piece in ordered)
    with publish(path, overwrite=overwrite) as part, output_errors(Path(path)):
        named = part.with_name(f"{part.name}.bw")  # the library goes by the ending
        try:
            pybigtools.open(str(named), "w").write(dict(sorted(contigs.items())), rows)
            named.replace(part)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # the library's only word when its threads cannot write
                raise
            raise OSError(errno.ENOSPC, "pybigtools gave up; is the disk full?") from None
        finally:
            named.unlink(missing_ok=True)


def bigwig_bytes(contigs: Mapping[str, int], pieces: Iterable[tuple[str, int, Values]], *, decimals: int = 3) -> bytes:
    """The content of the file that `write_bigwig` would write."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "track.bw"
        write_bigwig(path, contigs, pieces, decimals=decimals)
        return path.read_bytes()


def _require_disjoint(pieces: list[tuple[str, int, Values]], contigs: Mapping[str, int]) -> None:
    last_contig, last_end = "", 0
    for contig, start, values in pieces:
        if contig == last_contig and start < last_end:
            raise InputError(
                f"{contig}:{start}: lies inside the piece before it, and a bigWig holds one value a base; "
                "merge overlapping intervals, or write .tsv or .parquet"
            )
        last_contig, last_end = contig, start + len(values)
        if last_end > contigs[contig]:
            raise InputError(f"{contig}: values up to {last_end} bp, but the contig has {contigs[contig]} bp")


def _runs(contig: str, start: int, values: Values, decimals: int) -> Iterator[tuple[str, int, int, float]]:
    """Stretches of equal rounded values; none where the value is NaN."""
    rounded = np.round(np.asarray(values, np.float64), decimals)
    differs = (rounded[1:] != rounded[:-1]) & ~(np.isnan(rounded[1:]) & np.isnan(rounded[:-1]))
    begins = np.flatnonzero(np.concatenate([[len(rounded) > 0], differs]))
    ends = np.append(begins[1:], len(rounded))
    is_value = ~np.isnan(rounded[begins])
    begins, ends = begins[is_value], ends[is_value]
    columns = (begins + start).tolist(), (ends + start).tolist(), rounded[begins].tolist()
    return zip(repeat(contig), *columns, strict=False)
