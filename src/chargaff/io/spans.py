"""Reading spans of a file by position: no shared file offset that forks, threads or workers could disturb."""

import functools
import os
import struct
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from chargaff.errors import InputError
from chargaff.io.streams import is_bgzf, user_file_errors

_GZI_PAIR = np.dtype([("compressed", "<u8"), ("plain", "<u8")])
_CACHED_BLOCKS = 128  # of at most 64 KiB each


class Spans(Protocol):
    """Uncompressed bytes of a file by position."""

    size_bytes: int
    """Uncompressed size."""

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`; fewer at the end of the file."""
        ...

    def read_many(self, offsets: Sequence[int], counts: Sequence[int]) -> list[bytes]:
        """`read` for each pair."""
        ...


class PlainSpans:
    """Spans of an uncompressed file; `identity` is its size and time when it was opened."""

    def __init__(self, path: Path) -> None:
        with user_file_errors(path):
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._handle)
        self._path = path
        self.identity = self._status()
        self.size_bytes = self.identity[0]

    def read(self, offset: int, count: int) -> bytes:
        self._require_unchanged()
        parts = []
        with user_file_errors(self._path):
            while count > 0 and (part := os.pread(self._handle, count, offset)):
                parts.append(part)
                offset, count = offset + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_many(self, offsets: Sequence[int], counts: Sequence[int]) -> list[bytes]:
        self._require_unchanged()
        handle, pread = self._handle, os.pread
        with user_file_errors(self._path):
            parts = [pread(handle, count, offset) for offset, count in zip(offsets, counts, strict=True)]
        for i, part in enumerate(parts):
            if len(part) != counts[i]:
                parts[i] = self.read(offsets[i], counts[i])
        return parts

    def _status(self) -> tuple[int, int]:
        status = os.fstat(self._handle)
        return status.st_size, status.st_mtime_ns

    def _require_unchanged(self) -> None:
        """A file written in place under an open handle would give other bases than its index means."""
        if self._status() != self.identity:
            raise InputError(f"{self._path}: the file changed while it was in use; open it again")


class MemorySpans:
    """Spans of bytes held in memory."""

    def __init__(self, content: bytes | bytearray) -> None:
        self._content = memoryview(content)
        self.size_bytes = len(content)

    def read(self, offset: int, count: int) -> bytes:
        return bytes(self._content[offset : offset + count])

    def read_many(self, offsets: Sequence[int], counts: Sequence[int]) -> list[bytes]:
        return [self.read(offset, count) for offset, count in zip(offsets, counts, strict=True)]


class BgzfSpans:
    """Spans of a bgzip file, from its .gzi index if there is a current one, else from a walk over its block headers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = PlainSpans(path)
        pairs = _read_gzi(path, self._file.size_bytes)
        if pairs is None:
            pairs = self._walk()
        self._compressed = pairs["compressed"].astype(np.int64)
        self._plain = pairs["plain"].astype(np.int64)
        self._block = functools.lru_cache(_CACHED_BLOCKS)(self._decompress)
        last = len(self._plain) - 1
        self.size_bytes = int(self._plain[last]) + len(self._decompress(last))

    def read(self, offset: int, count: int) -> bytes:
        count = min(count, self.size_bytes - offset)
        if count <= 0:
            return b""
        first, last = np.searchsorted(self._plain, [offset, offset + count - 1], side="right") - 1
        start = offset - int(self._plain[first])
        joined = b"".join(self._block(block) for block in range(int(first), int(last) + 1))
        return joined[start : start + count]

    def read_many(self, offsets: Sequence[int], counts: Sequence[int]) -> list[bytes]:
        return [self.read(offset, count) for offset, count in zip(offsets, counts, strict=True)]

    def gzi(self) -> bytes:
        """The content of the .gzi file: the blocks after the first, as htslib writes it."""
        pairs = np.rec.fromarrays([self._compressed[1:], self._plain[1:]], dtype=_GZI_PAIR)
        return struct.pack("<Q", len(pairs)) + pairs.tobytes()

    def _decompress(self, block: int) -> bytes:
        begin = int(self._compressed[block])
        size, plain_size = self._block_sizes(begin)
        raw = self._file.read(begin, size)
        extra = int.from_bytes(raw[10:12], "little")
        try:
            content = zlib.decompress(raw[12 + extra : -8], wbits=-15)
        except zlib.error as error:
            raise InputError(f"{self._path}: the bgzip block at byte {begin} is corrupt ({error})") from None
        checksum = int.from_bytes(raw[-8:-4], "little")
        if len(content) != plain_size or zlib.crc32(content) != checksum:
            raise InputError(f"{self._path}: the bgzip block at byte {begin} is corrupt (wrong checksum)")
        return content

    def _block_sizes(self, begin: int) -> tuple[int, int]:
        """Compressed and uncompressed bytes of the block at byte `begin`."""
        head = self._file.read(begin, 18)
        if len(head) == 18 and is_bgzf(head):
            size = int.from_bytes(head[16:18], "little") + 1
            tail = self._file.read(begin + size - 4, 4)
            if len(tail) == 4 and size >= 26:
                return size, int.from_bytes(tail, "little")
        raise InputError(
            f"{self._path}: no bgzip block at byte {begin}; the file is truncated, corrupt, or its .gzi is stale"
        )

    def _walk(self) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
        begin, plain, pairs = 0, 0, []
        while begin < self._file.size_bytes:
            size, plain_size = self._block_sizes(begin)
            if plain_size:
                pairs.append((begin, plain))
            begin, plain = begin + size, plain + plain_size
        if not pairs:
            raise InputError(f"{self._path}: the file is empty inside its compression")
        return np.array(pairs, _GZI_PAIR)


def _read_gzi(path: Path, size_bytes: int) -> "np.ndarray[tuple[int], np.dtype[np.void]] | None":
    """All blocks of a .gzi at least as new as the file, or None if there is none that can be right."""
    gzi = Path(f"{path}.gzi")
    if not gzi.is_file() or gzi.stat().st_mtime_ns < path.stat().st_mtime_ns:
        return None
    content = gzi.read_bytes()
    count = int.from_bytes(content[:8], "little")
    if len(content) != 8 + 16 * count:
        return None
    pairs = np.concatenate([np.zeros(1, _GZI_PAIR), np.frombuffer(content, _GZI_PAIR, offset=8)])
    rising = (np.diff(pairs["compressed"].astype(np.int64)) > 0).all() and (
        np.diff(pairs["plain"].astype(np.int64)) >= 0
    ).all()
    return pairs if rising and pairs["compressed"][-1] < size_bytes else None
