"""Choosing a kernel: each op's folder is a table of backends, and one of them takes each call.

A backend module `ops/<op>/<name>.py` defines

    missing: str | None                 why this environment cannot use it; found without importing anything heavy
    unsupported(*args) -> str | None    why it cannot take this call; None if it can
    run(*args)                          the op

and an op's package defines `BACKENDS = load_backends(__name__)` and `example(device)`, the arguments of a tiny call.
"""

import importlib
import os
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chargaff.errors import BackendError

ORDER = ("triton", "cpu", "chunkwise", "fft", "sdpa", "reference")
FORCED = os.environ.get("CHARGAFF_BACKEND", "auto")
"""What `auto` means in this process; read once, so that compiled graphs stay valid."""


@dataclass(frozen=True)
class Backend:
    """One implementation of an op."""

    name: str
    missing: str | None
    unsupported: Callable[..., str | None]
    run: Callable[..., Any]


def load_backends(package: str) -> tuple[Backend, ...]:
    """The backends in an op's folder, fastest first."""
    folder = Path(str(importlib.import_module(package).__file__)).parent
    modules = [importlib.import_module(f"{package}.{name}") for name in ORDER if (folder / f"{name}.py").exists()]
    return tuple(Backend(m.__name__.rpartition(".")[2], m.missing, m.unsupported, m.run) for m in modules)


def choose(op: str, table: tuple[Backend, ...], wanted: str, args: tuple[Any, ...]) -> Backend:
    """The first backend that takes this call, or the one named `wanted`; BackendError with the reasons if none does."""
    wanted = FORCED if wanted == "auto" else wanted
    reasons = []
    for backend in table:
        if wanted in ("auto", backend.name):
            reason = refusal(backend, args)
            if reason is None:
                return backend
            reasons.append(f"{backend.name}: {reason}")
    known = ", ".join(["auto", *(backend.name for backend in table)])
    raise BackendError(f"{op}: " + ("; ".join(reasons) or f"no backend {wanted!r}; expected one of {known}"))


def refusal(backend: Backend, args: tuple[Any, ...]) -> str | None:
    """Why this backend cannot take the call; None if it can."""
    return backend.missing if backend.missing is not None else backend.unsupported(*args)


def list_backends(device: str = "cpu") -> Iterator[tuple[str, str, str | None]]:
    """(op, backend, reason it would refuse a plain float32 call on `device`, or None), in order of preference."""
    for module in pkgutil.iter_modules(importlib.import_module("chargaff.ops").__path__):
        if module.ispkg:
            op = importlib.import_module(f"chargaff.ops.{module.name}")
            for backend in op.BACKENDS:
                yield module.name, backend.name, refusal(backend, op.example(device))
