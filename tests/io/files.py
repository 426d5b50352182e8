"""Files for tests, written the long way so that readers are not tested against themselves."""

import gzip
from collections.abc import Mapping
from pathlib import Path

import pysam
from hypothesis import strategies as st

COMPRESSIONS = ("plain", "gzip", "bgzip")

names = st.text("abcXYZ019_.|:-", min_size=1, max_size=8)
sequences = st.binary(min_size=1, max_size=90).map(lambda raw: bytes(b"ACGTNacgtnRy"[code % 12] for code in raw))
contigs = st.dictionaries(names, sequences, min_size=1, max_size=5)


def fasta(records: Mapping[str, bytes], width: int = 60, eol: bytes = b"\n", *, last_eol: bool = True) -> bytes:
    """FASTA text with lines of `width` letters."""
    lines = []
    for name, sequence in records.items():
        lines += [
            b">" + name.encode() + b" some words",
            *(sequence[i : i + width] for i in range(0, len(sequence), width)),
        ]
    return eol.join(lines) + (eol if last_eol else b"")


def write(path: Path, content: bytes, compression: str = "plain") -> Path:
    """The file with that content."""
    if compression == "plain":
        path.write_bytes(content)
    elif compression == "gzip":
        path.write_bytes(gzip.compress(content))
    else:
        with pysam.BGZFile(str(path), "wb") as file:
            file.write(content)
    return path
