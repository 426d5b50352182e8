"""One toolkit for DNA foundation models.

The names below are loaded on first use: `import chargaff` itself imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from chargaff.errors import (
        BackendError,
        ChargaffError,
        CheckpointError,
        ConfigError,
        DependencyError,
        InputError,
    )
    from chargaff.hub.catalog import Checkpoint, get_checkpoint, list_checkpoints
    from chargaff.hub.load import create, load
    from chargaff.hub.save import export, save
    from chargaff.io.fasta import Genome
    from chargaff.io.records import read_records
    from chargaff.model import Model
    from chargaff.seq.interval import Interval, Strand, Variant
    from chargaff.workflows.embed import Embeddings, EmbedOptions, embed

__all__ = [
    "BackendError",
    "ChargaffError",
    "Checkpoint",
    "CheckpointError",
    "ConfigError",
    "DependencyError",
    "EmbedOptions",
    "Embeddings",
    "Genome",
    "InputError",
    "Interval",
    "Model",
    "Strand",
    "Variant",
    "create",
    "embed",
    "export",
    "get_checkpoint",
    "list_checkpoints",
    "load",
    "read_records",
    "save",
]

_HOMES = {
    "errors": ("BackendError", "ChargaffError", "CheckpointError", "ConfigError", "DependencyError", "InputError"),
    "hub.catalog": ("Checkpoint", "get_checkpoint", "list_checkpoints"),
    "hub.load": ("create", "load"),
    "hub.save": ("export", "save"),
    "io.fasta": ("Genome",),
    "io.records": ("read_records",),
    "model": ("Model",),
    "seq.interval": ("Interval", "Strand", "Variant"),
    "workflows.embed": ("EmbedOptions", "Embeddings", "embed"),
}
"""Module -> the public names it holds; the imports above say the same to type checkers."""


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f"chargaff.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'chargaff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
