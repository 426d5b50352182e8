"""Where a sequence may be cut so that the pieces' byte-pair encodings, joined, are the encoding of the whole.

Byte-pair encoding applies its merges in the order of their ranks, each from left to right, and a merge never makes
room for one of lower rank. So a boundary that no merge ever crosses splits the work into two halves that know nothing
of each other: there, and only there, a sequence may be cut.

Whether a boundary is one can be told from a stretch of letters around it. The merges inside the stretch are carried
out in order. Beyond its ends anything may stand, so before each merge the outermost symbols are given up if some merge
of lower or equal rank could join them with an unknown neighbour. What is left when no merge remains are tokens of the
whole sequence, whatever the rest of it is.
"""

import json
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from chargaff.errors import CheckpointError

STRETCH_BP = 256
"""Letters looked at together: several times the longest token."""
_NEVER = 1 << 60


@dataclass(frozen=True)
class Merges:
    """The rules of a byte-pair encoding, in order."""

    rank: dict[tuple[str, str], int]
    """Pair -> place in the order."""
    as_left: dict[str, list[int]]
    """Symbol -> ranks of the rules it begins, ascending."""
    as_right: dict[str, list[int]]
    """Symbol -> ranks of the rules it ends, ascending."""

    @classmethod
    def of(cls, definition: str) -> "Merges":
        """From the content of a tokenizer.json.

        Raises:
            CheckpointError: a rule uses a symbol that only a later one makes.
        """
        stored = json.loads(definition)["model"]["merges"]
        pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in stored]
        rank: dict[tuple[str, str], int] = {}
        as_left: dict[str, list[int]] = {}
        as_right: dict[str, list[int]] = {}
        made: set[str] = set()
        for number, (left, right) in enumerate(pairs):
            for symbol in (left, right):
                if len(symbol) > 1 and symbol not in made:
                    raise CheckpointError(f"tokenizer.json: merge {number} uses {symbol!r} before it is made")
            made.add(left + right)
            rank[left, right] = number
            as_left.setdefault(left, []).append(number)
            as_right.setdefault(right, []).append(number)
        return cls(rank, as_left, as_right)

    def find_cut(self, letters: npt.NDArray[np.uint8], near: int) -> int | None:
        """A position at or after `near` where the sequence may be cut; None if none was found before its end.

        In long runs of a short repeat there may be none for a while.
        """
        start = near
        while start < len(letters):
            found = self._cut_in(letters[start : start + STRETCH_BP].tobytes().decode("ascii"))
            if found is not None:
                return start + found
            start += STRETCH_BP
        return None

    def _cut_in(self, text: str) -> int | None:
        """Start of the middle one of the tokens that are certain; None without one."""
        symbols, first = list(text), 0  # `first` letters are given up on the left
        done = 0  # rules below this rank have been carried out
        while symbols:
            ranks = [self.rank.get(pair, _NEVER) for pair in pairwise(symbols)]
            rank = min(ranks, default=_NEVER)
            if self._could_join(self.as_right, symbols[0], done, rank):
                first += len(symbols.pop(0))
            elif self._could_join(self.as_left, symbols[-1], done, rank):
                symbols.pop()
            elif rank == _NEVER:
                middle = len(symbols) // 2
                return first + sum(map(len, symbols[:middle]))
            else:
                symbols, done = _apply(symbols, ranks, rank), rank
        return None

    @staticmethod
    def _could_join(rules: dict[str, list[int]], symbol: str, done: int, rank: int) -> bool:
        """Whether a rule from `done` to `rank` takes the symbol."""
        ranks = rules.get(symbol, [])
        place = bisect_left(ranks, done)
        return place < len(ranks) and ranks[place] <= rank


def _apply(symbols: list[str], ranks: list[int], rank: int) -> list[str]:
    """The symbols after the rule of that rank; ranks are those of the pairs."""
    joined: list[str] = []
    place = 0
    while place < len(symbols):
        is_hit = place < len(ranks) and ranks[place] == rank
        joined.append(symbols[place] + symbols[place + 1] if is_hit else symbols[place])
        place += 2 if is_hit else 1
    return joined
