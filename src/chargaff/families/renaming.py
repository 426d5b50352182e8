"""Published tensor names -> ours, by a two-column table."""

import re
from collections.abc import Sequence

from torch import Tensor

from chargaff.errors import CheckpointError

Rules = Sequence[tuple[str, str | None]]
"""(regular expression over the whole published name, replacement); None: dropped on purpose."""


def rename(state: dict[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """The tensors under new names; the first matching rule decides.

    Raises:
        CheckpointError: names that match no rule, or two names that become one.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    result: dict[str, Tensor] = {}
    source: dict[str, str] = {}
    unknown: list[str] = []
    for name, tensor in state.items():
        for pattern, replacement in compiled:
            match = pattern.fullmatch(name)
            if match is None:
                continue
            if replacement is not None:
                ours = match.expand(replacement)
                if ours in result:
                    raise CheckpointError(f"two tensors become {ours!r}: {source[ours]!r} and {name!r}")
                result[ours], source[ours] = tensor, name
            break
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(f"{len(unknown)} tensor names are not of this layout: {', '.join(sorted(unknown)[:5])}")
    return result
