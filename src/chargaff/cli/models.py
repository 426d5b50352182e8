"""`chargaff models`: what can be loaded."""

import json
from typing import Annotated, Any

from cyclopts import Parameter


def run(name: str | None = None, /, *, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """List the published checkpoints, or show one of them or a model on this machine.

    Args:
        name: checkpoint name, folder or weight file; without it a table of all checkpoints.
        as_json: print JSON.
    """
    from chargaff.workflows.checkpoints import checkpoint_rows, describe_checkpoint

    found: Any = checkpoint_rows() if name is None else describe_checkpoint(name)
    if as_json:
        print(json.dumps(found, indent=2))
    elif name is None:
        _print_table(found)
    else:
        _print_entry(found)


def _print_table(rows: list[dict[str, Any]]) -> None:
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    is_number = [isinstance(value, int) for value in rows[0].values()]
    for line in cells:
        placed = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        ]
        print("  ".join(placed).rstrip())


def _print_entry(entry: dict[str, Any], indent: str = "") -> None:
    for key, value in entry.items():
        if isinstance(value, dict) and value:
            print(f"{indent}{key}:")
            _print_entry(value, indent + "  ")
        elif value not in ("", None, [], (), {}):
            print(f"{indent}{key}: {_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
