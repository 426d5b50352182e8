"""Opening user files for reading: plain, gzip or bgzip, a path or '-' for standard input."""

import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from chargaff.errors import InputError

BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
"""The empty block that ends every complete bgzip file (SAM specification, section 4.1.2)."""

_BUFFER_BYTES = 1 << 18
_FOREIGN = {
    b"PK\x03\x04": "a zip archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"PAR1": "a Parquet file",
    b"\x89HDF": "an HDF5 file",
    b"%PDF": "a PDF",
    b"BAM\x01": "a BAM file",
    b"CRAM": "a CRAM file",
    b"\x93NUMPY": "a npy file",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


def source_name(path: str | os.PathLike[str]) -> str:
    """The path as shown in messages; '-' is standard input."""
    name = os.fspath(path)
    return "<stdin>" if name == "-" else name


def is_gzip(head: bytes) -> bool:
    """Whether a file that begins with `head` is gzip or bgzip."""
    return head[:2] == b"\x1f\x8b"


def is_bgzf(head: bytes) -> bool:
    """Whether a file that begins with `head` (18 bytes or more) is bgzip: gzip whose blocks give their own size."""
    return head[:4] == b"\x1f\x8b\x08\x04" and head[12:16] == b"BC\x02\x00"


def foreign_format(head: bytes) -> str | None:
    """What kind of file begins with `head`, if it is one known not to be text."""
    return next((kind for magic, kind in _FOREIGN.items() if head.startswith(magic)), None)


@contextmanager
def user_file_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Operating-system and decompression errors of the block become InputErrors that name the file."""
    name = source_name(path)
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder, expected a file") from None
    except EOFError:
        raise InputError(
            f"{name}: the gzip data ends early; the file is truncated, copy or download it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{name}: the gzip data is corrupt ({error}); copy or download it again") from None
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise InputError(f"{name}: cannot be read ({reason})") from None


@contextmanager
def open_input(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """The decompressed bytes of a file or of standard input ('-'); compression is recognised by content.

    Raises:
        InputError: the file is missing, unreadable or empty; its reads raise one where it is truncated or corrupt.
    """
    with user_file_errors(path):
        raw = sys.stdin.buffer if os.fspath(path) == "-" else Path(path).open("rb", buffering=0)  # noqa: SIM115
    try:
        stream = io.BufferedReader(_Guarded(raw, path), _BUFFER_BYTES)
        head = stream.peek(18)
        if is_gzip(head):
            if is_bgzf(head) and raw.seekable():
                _require_bgzf_end(stream, path)
            unzipped = gzip.GzipFile(fileobj=stream)
            stream = io.BufferedReader(_Guarded(unzipped, path), _BUFFER_BYTES)
        if not stream.peek(1):
            raise InputError(f"{source_name(path)}: the file is empty")
        yield cast(BinaryIO, stream)
    finally:
        if raw is not sys.stdin.buffer:
            raw.close()


class _Guarded(io.RawIOBase):
    """A binary stream whose read errors are InputErrors with the file's name, and whose reads are never short."""

    def __init__(self, inner: Any, path: str | os.PathLike[str]) -> None:
        self._inner = inner
        self._path = path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._inner.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._inner.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        view, filled = memoryview(buffer), 0
        with user_file_errors(self._path):
            while filled < len(view) and (count := self._inner.readinto(view[filled:])):
                filled += count
        return filled


def _require_bgzf_end(stream: "io.BufferedReader[Any]", path: str | os.PathLike[str]) -> None:
    """A bgzip file cut between two blocks decompresses without complaint; only its end block tells."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, size - len(BGZF_END)))
    end = stream.read()
    stream.seek(0)
    if end != BGZF_END:
        message = "the bgzip end block is missing; the file is truncated, copy or compress it again"
        raise InputError(f"{source_name(path)}: {message}")
