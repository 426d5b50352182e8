"""The two search trees of a bigWig: contigs by name, and blocks by place (Kent et al. 2010, supplementary tables)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

CONTIG_MAGIC, PLACE_MAGIC = 0x78CA8C91, 0x2468ACE0
MOST_CHILDREN = 256
BLOCK = np.dtype(
    [(name, "<u4") for name in ("first_contig", "start", "last_contig", "end")] + [("offset", "<u8"), ("bytes", "<u8")]
)
"""A block of data: its first and last base, and where it lies in the file."""

Bytes = npt.NDArray[np.uint8]


def contig_tree(contigs: Mapping[str, int], offset: int) -> bytes:
    """From a contig's name to its number, which is its place in `contigs`, and its length in bases.

    Args:
        offset: of the tree in the file.
    """
    names = [name.encode() for name in contigs]
    key_bytes = max(map(len, names), default=1)
    order = sorted(range(len(names)), key=names.__getitem__)
    keys = np.frombuffer(b"".join(names[i].ljust(key_bytes, b"\0") for i in order), np.uint8).reshape(-1, key_bytes)
    values = np.array([order, np.array(list(contigs.values()), np.int64)[order]], "<u4").T
    children = _children(len(names))
    head = struct.pack("<IIIIQQ", CONTIG_MAGIC, children, key_bytes, 8, len(names), 0)
    return head + _nodes(keys, keys[:, :0], _as_bytes(values), children, offset + len(head))


def place_tree(blocks: npt.NDArray[Any], offset: int, *, items: int) -> bytes:
    """From a place to the blocks that overlap it.

    Args:
        blocks: [n] of `BLOCK`, in the order of the contigs' numbers and of places.
        offset: of the tree in the file, which is the end of the blocks.
        items: most items in a block.
    """
    rows = _as_bytes(blocks)
    children = _children(len(blocks))
    first, last = (rows[0, :8].tobytes(), rows[-1, 8:16].tobytes()) if len(rows) else (bytes(8), bytes(8))
    head = struct.pack("<IIQ8s8sQII", PLACE_MAGIC, children, len(blocks), first, last, offset, items, 0)
    return head + _nodes(rows[:, :8], rows[:, 8:16], rows[:, 16:], children, offset + len(head))


def _children(num_items: int) -> int:
    return min(max(num_items, 2), MOST_CHILDREN)


def _as_bytes(rows: npt.NDArray[Any]) -> Bytes:
    """[n, bytes of a row]"""
    raw: Bytes = np.frombuffer(rows.tobytes(), np.uint8).reshape(len(rows), -1 if len(rows) else BLOCK.itemsize)
    return raw


def _nodes(first: Bytes, last: Bytes, payload: Bytes, children: int, offset: int) -> bytes:
    """Levels of nodes from the root to the leaves, every node padded to its full size.

    Args:
        first, last: [n, ...] what an item begins and ends with; a node above has that of its first and last child.
        payload: [n, ...] what else a leaf holds of it; a node above holds the offset of the child in the file.
        offset: of the root in the file.
    """
    spans = [(first, last)]
    while len(first) > children:
        ends = np.append(np.arange(children, len(first), children), len(first)) - 1
        first, last = first[::children], last[ends]
        spans.insert(0, (first, last))
    span_bytes = first.shape[1] + last.shape[1]
    node_bytes = [4 + children * (span_bytes + 8)] * (len(spans) - 1) + [4 + children * (span_bytes + payload.shape[1])]
    levels = []
    for depth, (first, last) in enumerate(spans):
        is_leaf = depth == len(spans) - 1
        offset += -(-len(first) // children) * node_bytes[depth]
        if not is_leaf:
            child = offset + np.arange(len(first), dtype="<u8") * np.uint64(node_bytes[depth + 1])
        rows = np.concatenate([first, last, payload if is_leaf else _as_bytes(child.astype("<u8"))], 1)
        levels.append(_level(rows, children, is_leaf))
    return b"".join(levels)


def _level(rows: Bytes, children: int, is_leaf: bool) -> bytes:
    num_nodes = max(-(-len(rows) // children), 1)
    body = np.zeros((num_nodes * children, rows.shape[1]), np.uint8)
    body[: len(rows)] = rows
    counts = np.minimum(len(rows) - np.arange(num_nodes) * children, children).astype("<u2")
    head = np.zeros((num_nodes, 4), np.uint8)
    head[:, 0] = is_leaf
    head[:, 2:] = _as_bytes(counts)
    return np.concatenate([head, body.reshape(num_nodes, -1)], 1).tobytes()
