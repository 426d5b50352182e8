"""Model families: every folder here that holds a `checkpoints.toml` is one; its name is the key."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING

from chargaff.errors import ConfigError

if TYPE_CHECKING:
    from chargaff.families.protocol import Family


@cache
def list_families() -> tuple[str, ...]:
    """Names of all families, sorted; imports none of them."""
    folders = files(__name__).iterdir()
    return tuple(sorted(folder.name for folder in folders if folder.joinpath("checkpoints.toml").is_file()))


def get_family(name: str) -> Family:
    """The family of that name.

    Raises:
        ConfigError: no such family.
    """
    if name not in list_families():
        raise ConfigError(f"model.family: expected one of {', '.join(list_families())}, got {name!r}")
    family: Family = import_module(f"{__name__}.{name}").FAMILY
    return family
