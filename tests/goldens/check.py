"""Recomputes golden files with this package and compares every stored value.

    python tests/goldens/check.py PATH... [--device cuda] [--backend auto]

PATH is a golden file, a folder of them, or a checkpoint folder in published layout. The kind in a file's metadata says
what to run (../shared/goldens/KINDS.md); names of files mean nothing. One line a file, then `N passed, N failed` and
how many were skipped, if any, because they need a file that is not part of the repository.
"""

import argparse
import importlib
import json
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent / "src"), str(HERE)]


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 if any case failed or none was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="auto", help="kernel backend that every op must use")
    parser.add_argument("--tokenizer", help="tokenizer.json for the cases of kind tokenizer.text")
    parser.add_argument("--trace", action="store_true", help="print the trace of failing cases")
    options = parser.parse_args(argv)
    os.environ["CHARGAFF_BACKEND"] = options.backend  # read when the ops are imported, below
    if options.tokenizer:
        os.environ["CHARGAFF_TEST_TOKENIZER"] = options.tokenizer
    passed = failed = skipped = 0
    cases = [(path, None) for path in _files(options.paths)] + list(_folders(options.paths))
    for path, folder in cases:
        verdict = _check(path, options.device, options.trace, folder)
        if verdict is None:
            continue
        print(verdict, flush=True)
        passed += verdict.startswith("PASS")
        skipped += verdict.startswith("SKIP")
        failed += not verdict.startswith(("PASS", "SKIP"))
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed or not passed else 0


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise SystemExit(f"{path}: no such file or folder")
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in found if file.suffix in (".safetensors", ".json"))
        if path.is_dir() and (path / "config.json").exists():  # a checkpoint folder; its values may lie beside it
            beside = path.with_name(path.name + ".safetensors")
            if beside.exists():
                yield beside


def _folders(paths: list[Path]) -> Iterator[tuple[Path, Path]]:
    """(golden with the same weights, folder) for checkpoint folders that have no expected values of their own."""
    for path in paths:
        below = [path, *sorted(path.rglob("*"))] if path.is_dir() else []
        for folder in below:
            described = [folder / name for name in ("config.json", "hyperparams.json", "params.joblib")]
            own = [folder.with_name(folder.name + ".safetensors"), folder / "expected.safetensors"]
            if any(file.exists() for file in described) and not any(file.exists() for file in own):
                golden = _golden_of(folder)
                if golden is not None:
                    yield golden, folder


def _golden_of(folder: Path) -> Path | None:
    """The golden beside a checkpoint folder that holds the same tensors; None: nothing is known about the folder."""
    import torch
    from case import Case

    from chargaff.hub.files import resolve
    from chargaff.hub.readers import read_weights

    beside = [case for path in sorted(folder.parent.glob("*.safetensors")) if (case := Case.open(path, "cpu"))]
    if not beside:
        return None
    stored = read_weights(resolve(folder).weights)
    for case in beside:
        params = case.group("param.")
        if params.keys() == stored.keys() and all(torch.equal(params[name], stored[name]) for name in params):
            return case.path
    return None


def _kinds() -> dict[str, Callable[..., Any]]:
    """kind -> function, from the modules of the folder `kinds`; "family/kind" where a family has its own function."""
    table: dict[str, Callable[..., Any]] = {}
    for module in pkgutil.iter_modules([str(HERE / "kinds")]):
        table.update(importlib.import_module(f"kinds.{module.name}").KINDS)
    return table


def _check(path: Path, device: str, trace: bool, folder: Path | None = None) -> str | None:
    """One line for a golden; None for a file that is none.

    Args:
        folder: load the model from there instead of the golden's own tensors.
    """
    from case import Case, MismatchError, SkipError, TodoError

    if path.suffix == ".json":
        values = json.loads(path.read_text())
        if not isinstance(values, dict) or "kind" not in values:
            return None
        family, kind, content = values.get("family", "?"), values["kind"], values
        label = f"{family}/{values.get('case', path.stem)}"
    else:
        case = Case.open(path, device)
        if case is None:
            return None
        case.folder = folder
        family, label, kind, content = case.family, case.label, case.kind, case
    try:
        kinds = _kinds()
        run = kinds.get(f"{family}/{kind}", kinds.get(kind))
        if run is None:
            raise TodoError(f"kind {kind}")
        run(content)
        if isinstance(content, dict):
            return f"PASS {label} exact {kind}"
        left = list(content.finish())
        if left:
            raise MismatchError(f"{len(left)} not compared: {'; '.join(left[:5])}")
        error, name = content.worst
        return f"{'PASS' if error <= 1 else 'FAIL'} {label} {error:.3g} {name}"
    except TodoError as reason:
        return f"TODO {label} {reason}"
    except SkipError as reason:
        return f"SKIP {label} {reason}"
    except Exception as error:  # the report has a line for every file, whatever goes wrong in it
        if trace:
            traceback.print_exc()
        return f"FAIL {label} {type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
