"""Imports point one way, and importing does nothing but define names.

Everything here is read from syntax trees; the last tests import the modules in a process of their own.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "chargaff"

# Package or module -> what it may import of chargaff besides itself. "errors" and "optional" are open to all.
BASE = {"seq": set[str](), "io": {"seq"}, "tokenizers": {"seq"}, "ops": set[str](), "nn": {"ops", "seq.grid"}}
UP_TO_TRAIN = {*BASE, "families", "hub", "model", "data", "tasks", "train", "config"}
MAY_IMPORT: dict[str, set[str]] = {
    "bundled": set(),
    "errors": set(),
    "optional": set(),
    "config": set(),
    **BASE,
    "families": {"nn", "ops", "tokenizers", "seq.grid"},
    "generation": {"families.protocol", "tokenizers", "seq"},
    "model": {"families.protocol", "generation", "tokenizers"},
    "hub": {"families", "io", "tokenizers", "model", "nn"},
    "data": {"seq", "io", "tokenizers"},
    # data.rng and data.augment: the keyed random numbers and the device-side augmentation that `Task.prepare` applies;
    # seq: segments, which are what per-base labels are judged by
    "tasks": {"nn", "seq", "data.batch", "data.rng", "data.augment", "model", "tokenizers"},
    "train": {"tasks", "data", "hub", "families", "io", "model", "config"},
    "workflows": {*UP_TO_TRAIN, "report"},
    "report": UP_TO_TRAIN,
    "integrations": {*UP_TO_TRAIN, "workflows"},
    "cli": {"workflows", "hub.catalog", "config"},
}

NETWORKED = {"hub", "io.remote", "data.download"}
NETWORK = ("huggingface_hub", "urllib.request", "http", "requests", "httpx", "socket", "fsspec")

# Library -> the only packages or modules that may import it.
ONLY_IN: dict[str, set[str]] = {
    "triton": {"ops"},
    "numba": {"ops", "seq", "io", "tokenizers"},
    "lightning": {"train"},
    "pytorch_lightning": set(),
    "transformers": {"integrations"},
    "ray": {"integrations"},
    "jax": {"integrations"},
    "cyclopts": {"cli"},
    "pysam": {"io"},
    **dict.fromkeys(NETWORK, NETWORKED),
}

# The lowest layers need nothing beyond these libraries.
NEEDS_ONLY: dict[str, set[str]] = {
    "bundled": set(),
    "errors": set(),
    "optional": set(),
    "config": {"pydantic", "pydantic_core", "tomli_w"},
    "seq": {"numpy"},
    "tokenizers": {"numpy", "tokenizers"},
    "hub.catalog": set(),
}

# Outside io/, only these open files, and only for what the reason says.
OPENS_FILES = {
    "hub": "weights and the model description beside them",
    "config": "run files",
    "cli.main": "the null device, when the reader of our output is gone",
    "ops.lanes": "its own source, for the key of the kernel cache",
    "train.log": "the log of its own run",
    "train.state": "the state of its own run",
    "workflows.cost": "the operating system's account of free memory",
    "workflows.provenance": "inputs as plain bytes, for their hash",
}
OPENERS = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "fdopen", "memmap", "fromfile", "loadtxt"}
LOADERS = {("np", "load"), ("np", "save"), ("np", "savez"), ("torch", "load"), ("torch", "save"), ("numpy", "load")}

# Modules whose top level may run a statement.
RUNS_WHEN_IMPORTED = {
    "__main__": "it is the program",
    "integrations.transformers": "the import is how users ask for our classes behind the Auto classes",
    "ops.lanes": "gives its Numba type the arithmetic operators, as a decorator would one by one",
}

# 1-based positions: where notations such as chr1:101-200, and GFF, are read or written.
ONE_BASED = {"seq.interval", "io.regions"}


@cache
def modules() -> dict[str, ast.Module]:
    """Dotted name below chargaff ("" for the package itself) -> syntax tree."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(), filename=str(path))
    return found


def is_in(module: str, places: set[str]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def imports(module: str) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import, those inside functions and TYPE_CHECKING included."""
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import; the tree uses absolute ones"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                inner = full.removeprefix("chargaff.")
                yield node.lineno, full if full != inner and inner in modules() else str(node.module)


def imported_modules(module: str) -> Iterator[tuple[int, str]]:
    """The imports of chargaff's own modules, as dotted names below chargaff."""
    for line, name in imports(module):
        if name == "chargaff" or name.startswith("chargaff."):
            yield line, name.removeprefix("chargaff").removeprefix(".")


def layer(module: str) -> str:
    return module.partition(".")[0]


def test_every_package_has_a_place_in_the_table():
    places = {layer(name) for name in modules()} - {"", "__main__", "bundled", "recipes"}
    assert places <= set(MAY_IMPORT), sorted(places - set(MAY_IMPORT))


def test_imports_point_one_way():
    wrong = []
    for module in modules():
        if module in ("", "__main__"):  # the package offers names of all layers, on first use
            continue
        allowed = {"", "errors", "optional", layer(module), *MAY_IMPORT[layer(module)]}
        wrong += [
            f"{module}:{line} imports {target or 'chargaff'}; may import {sorted(allowed)}"
            for line, target in imported_modules(module)
            if target not in allowed and not is_in(target, allowed - {""})
        ]
    assert not wrong, "\n".join(wrong)


def test_the_table_itself_has_no_cycle():
    def reached(place: str, path: tuple[str, ...]) -> None:
        assert place not in path, " -> ".join((*path, place))
        for target in MAY_IMPORT.get(layer(place), set()):
            if (layer(place), target) != ("model", "families.protocol"):  # a leaf of types below the model
                reached(layer(target), (*path, place))

    for place in MAY_IMPORT:
        reached(place, ())


def test_no_family_imports_another():
    folders = {path.parent.name for path in (SOURCE / "families").glob("*/__init__.py")}
    wrong = []
    for module in modules():
        family = module.split(".")[1] if module.startswith("families.") else ""
        if family in folders:
            others = {f"families.{name}" for name in folders - {family}}
            wrong += [f"{module}:{line} imports {t}" for line, t in imported_modules(module) if is_in(t, others)]
    assert not wrong, "\n".join(wrong)


def test_libraries_stay_where_they_belong():
    wrong = [
        f"{module or 'chargaff'}:{line} imports {name}; only {sorted(places) or 'nobody'} may"
        for module in modules()
        for line, name in imports(module)
        for library, places in ONLY_IN.items()
        if (name == library or name.startswith(f"{library}.")) and not is_in(module, places)
    ]
    assert not wrong, "\n".join(wrong)


def test_low_layers_need_few_libraries():
    wrong = [
        f"{module}:{line} imports {name}; only {sorted(libraries)} and the standard library"
        for place, libraries in NEEDS_ONLY.items()
        for module in modules()
        if is_in(module, {place})
        for line, name in imports(module)
        if layer(name) not in {*sys.stdlib_module_names, "chargaff", *libraries}
    ]
    assert not wrong, "\n".join(wrong)


def test_only_io_opens_user_files():
    wrong = []
    for module, tree in modules().items():
        if is_in(module, {"io", *OPENS_FILES}):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            name = (
                called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
            )
            owner = called.value.id if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) else ""
            if name in OPENERS or (owner, name) in LOADERS:
                wrong.append(f"{module}:{node.lineno} calls {ast.unparse(called)}")
    assert not wrong, "\n".join(wrong)


def test_no_listed_exception_is_stale():
    for place in {*OPENS_FILES, *ONE_BASED, *NEEDS_ONLY, *RUNS_WHEN_IMPORTED}:
        assert any(is_in(module, {place}) for module in modules()), f"{place} is in a table here but not in the tree"


def test_one_based_positions_stay_at_the_border():
    wrong = []
    for module, tree in modules().items():
        if not is_in(module, ONE_BASED):
            names = ((node.lineno, name) for node in ast.walk(tree) if (name := identifier(node)))
            wrong += [f"{module}:{line} {name}" for line, name in names if "pos1" in name]
    assert not wrong, "\n".join(wrong)


def identifier(node: ast.AST) -> str:
    for field in ("id", "attr", "arg", "name"):
        if isinstance(value := getattr(node, field, None), str) and hasattr(node, "lineno"):
            return value
    return ""


def test_package_init_files_are_empty_where_they_should_be():
    speaking = {"", "families"}
    full = [
        path.relative_to(SOURCE)
        for path in SOURCE.rglob("__init__.py")
        if path.stat().st_size and ".".join(path.relative_to(SOURCE).parent.parts) not in speaking
    ]
    wrong = [str(path) for path in full if path.parts[0] not in ("families", "ops") or len(path.parts) != 3]
    assert not wrong, wrong


def test_importing_a_module_only_defines_names():
    wrong = []
    for module, tree in modules().items():
        wrong += [
            f"{module}:{node.lineno} runs when imported: {ast.unparse(node)[:60]}"
            for node in tree.body
            if module not in RUNS_WHEN_IMPORTED and not only_defines(node, is_op=module.startswith("ops."))
        ]
        wrong += [f"{module}:{n.lineno} global {n.names}" for n in ast.walk(tree) if isinstance(n, ast.Global)]
    assert not wrong, "\n".join(wrong)


def only_defines(node: ast.stmt, *, is_op: bool) -> bool:
    """Definitions and docstrings; a kernel may be told its gradient, which has no decorator."""
    if isinstance(node, ast.Expr):
        is_gradient = is_op and ast.unparse(node).partition("(")[0].endswith(".register_autograd")
        return isinstance(node.value, ast.Constant) or is_gradient
    return not isinstance(node, ast.For | ast.While | ast.With | ast.Delete)


PROBE = """
import importlib, json, logging, os, random, signal, sys, threading, warnings
import numpy, torch

def state():
    return {
        "dtype": str(torch.get_default_dtype()), "device": str(torch.get_default_device()),
        "grad": torch.is_grad_enabled(), "threads": torch.get_num_threads(),
        "torch random": torch.random.get_rng_state().sum().item(), "numpy random": str(numpy.random.get_state()[2]),
        "python random": hash(random.getstate()), "environment": dict(os.environ), "folder": os.getcwd(),
        "path": list(sys.path), "filters": len(warnings.filters), "handlers": len(logging.root.handlers),
        "level": logging.root.level, "interrupt": str(signal.getsignal(signal.SIGINT)),
        "printing": str(torch._tensor_str.PRINT_OPTS), "deterministic": torch.are_deterministic_algorithms_enabled(),
    }

for library, names in json.loads(sys.argv[2]).items():
    for name in names:  # some libraries load their parts when these are first asked for
        getattr(importlib.import_module(library), name, None)
before = state()
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
after = state()
print(json.dumps({key: [str(before[key]), str(after[key])] for key in before if before[key] != after[key]}))
"""


def test_importing_everything_leaves_the_process_as_it_was():
    libraries = sorted({layer(name) for module in modules() for _, name in imports(module)} - {"chargaff"})
    missing = {name for name in libraries if find_spec(name) is None}
    names = [
        f"chargaff.{module}".rstrip(".")
        for module in modules()
        if module != "__main__" and not missing & {layer(name) for _, name in imports(module)}
    ]
    here = {name: ["__name__"] for name in libraries if name not in missing and name != "__future__"}
    for tree in modules().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in here:
                here[node.module] += [alias.name for alias in node.names]
    run = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(names), json.dumps(here)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == {}


HEAVY = ["torch", "numba", "pyarrow", "lightning", "matplotlib", "pysam", "zarr", "sklearn", "transformers"]


@pytest.mark.parametrize("module", ["chargaff", "chargaff.cli.main", "chargaff.hub.catalog", "chargaff.config"])
def test_light_modules_import_no_heavy_library(module):
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "[]", "")
