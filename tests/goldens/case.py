"""One golden file: its tensors, what was compared, and how far it was off."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

Tolerance = Callable[[Tensor], Tensor | float]

# (family) -> tolerances of outputs and of gradients, as functions of the expected tensor; ../shared/goldens/KINDS.md
OUTPUT_TOLERANCE: dict[str, Tolerance] = {
    "caduceus": lambda b: 1e-5 * _largest(b) + 1e-6,
    "dnabert": lambda b: 1e-5 + 1e-4 * b.abs().double(),
    "hyenadna": lambda b: 1e-4 * b.abs().double() + 2e-5,
    "llama": lambda b: 5e-5,
    **dict.fromkeys(("segment", "enformer", "borzoi"), lambda b: 1e-4 + 1e-4 * b.abs().double()),
    "nt": lambda b: 1e-4 + 1e-4 * b.abs().double(),
}
GRADIENT_TOLERANCE: dict[str, Tolerance] = {
    "caduceus": lambda b: 1e-4 * _largest(b) + 1e-7,
    "dnabert": lambda b: 1e-3 * b.abs().double() + 1e-5,
    "hyenadna": lambda b: 1e-3 * b.abs().double() + 5e-5,
    "llama": lambda b: max(2e-5 * _largest(b), 1e-30),
    **dict.fromkeys(("nt", "segment", "enformer", "borzoi"), lambda b: max(1e-4 * _largest(b), 1e-30)),
}
GPU_FACTOR = 10.0


def _largest(expected: Tensor) -> float:
    return expected.abs().max().item() if expected.numel() else 0.0


class MismatchError(Exception):
    """A check that has no error figure failed."""


class TodoError(Exception):
    """A kind or family that is not built yet."""


class SkipError(Exception):
    """What a case needs is not here, and is not part of the repository."""


@dataclass
class Case:
    """Expected values of one file and the record of what was compared."""

    path: Path
    family: str
    kind: str
    config: dict[str, Any]
    meta: dict[str, str]
    tensors: dict[str, Tensor]
    device: str = "cpu"
    folder: Path | None = None
    """Where the same weights lie as a published folder, to be loaded from there."""
    read: set[str] = field(default_factory=set)
    worst: tuple[float, str] = (0.0, "-")

    @classmethod
    def open(cls, path: Path, device: str) -> "Case | None":
        """The case in a safetensors file; None if the file is no golden."""
        with safe_open(path, "pt") as handle:
            meta = handle.metadata() or {}
            if "kind" not in meta:
                return None
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
        return cls(path, meta["family"], meta["kind"], json.loads(meta.get("config", "{}")), meta, tensors, device)

    @property
    def label(self) -> str:
        name = f"{self.family}/{self.meta.get('case', self.path.stem)}"
        return name if self.folder is None else f"{name} from {self.folder.name}"

    def input(self, name: str) -> Tensor:
        """input.<name> on the device."""
        self.read.add(f"input.{name}")
        return self.tensors[f"input.{name}"].to(self.device)

    def optional(self, name: str) -> Tensor | None:
        return self.input(name) if self.has(f"input.{name}") else None

    def has(self, name: str) -> bool:
        return name in self.tensors

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors under a prefix such as "param.", without it."""
        return {name[len(prefix) :]: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}

    def output(self, name: str, actual: Tensor, tolerance: Tolerance | None = None) -> None:
        """Compares with output.<name> if it is stored."""
        if self.has(f"output.{name}"):
            self._compare(f"output.{name}", actual, tolerance or self._family_tolerance(OUTPUT_TOLERANCE))

    def gradient(self, name: str, actual: Tensor | None, tolerance: Tolerance | None = None) -> None:
        """Compares with grad.<name>; None counts as zero."""
        expected = self.tensors[f"grad.{name}"]
        found = torch.zeros_like(expected) if actual is None else actual
        self._compare(f"grad.{name}", found, tolerance or self._family_tolerance(GRADIENT_TOLERANCE))

    def require(self, condition: bool, what: str) -> None:
        if not condition:
            raise MismatchError(what)

    def finish(self) -> Iterator[str]:
        """Names that nothing looked at."""
        for name in sorted(self.tensors):
            if name.startswith(("output.", "grad.")) and name not in self.read:
                yield f"{name} not recomputed"
            if name.startswith("input.") and name not in self.read:
                yield f"{name} not read"

    def _family_tolerance(self, table: dict[str, Tolerance]) -> Tolerance:
        if self.family not in table:
            raise TodoError(f"no tolerance for family {self.family}")
        return table[self.family]

    def _compare(self, name: str, actual: Tensor, tolerance: Tolerance) -> None:
        self.read.add(name)
        expected = self.tensors[name]
        actual = actual.detach().cpu()
        if expected.numel() == 1 and actual.numel() == 1:
            actual = actual.reshape(expected.shape)
        if actual.shape != expected.shape:
            raise MismatchError(f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
        if not expected.is_floating_point():
            if not torch.equal(actual.to(expected.dtype), expected):
                raise MismatchError(f"{name}: integers differ")
            return
        allowed = torch.as_tensor(tolerance(expected), dtype=torch.float64)
        allowed = allowed * (1.0 if self.device == "cpu" else GPU_FACTOR)
        ratio = (actual.double() - expected.double()).abs() / allowed
        if ratio.numel() and not torch.isfinite(ratio).all():
            raise MismatchError(f"{name}: not finite")
        worst = ratio.max().item() if ratio.numel() else 0.0
        if worst >= self.worst[0]:
            self.worst = (worst, name)
