"""The public interface is a file: tests/public_api.txt changes only on purpose.

    python tests/test_public_api.py --update

writes it anew. It lists what `import chargaff` offers and the protocols that contributions build on, with signatures as
they stand in the source, so that it is the same for every version of Python.
"""

import ast
import difflib
import sys
from collections.abc import Iterator
from pathlib import Path

import chargaff

TESTS = Path(__file__).resolve().parent
SOURCE = TESTS.parent / "src" / "chargaff"
SNAPSHOT = TESTS / "public_api.txt"

# What contributors build on beside the names of `import chargaff`; every public name in them counts.
CONTRACTS = (
    "errors.py",
    "families/__init__.py",
    "families/protocol.py",
    "model.py",
    "nn/encoded.py",
    "data/batch.py",
    "seq/grid.py",
    "tokenizers/protocol.py",
    "tasks/protocol.py",
    "ops/*/__init__.py",
)


def public_names() -> dict[Path, set[str] | None]:
    """File -> its public names; None: all of them."""
    found: dict[Path, set[str] | None] = {
        SOURCE / f"{module.replace('.', '/')}.py": set(names) for module, names in chargaff._HOMES.items()
    }
    for pattern in CONTRACTS:
        matches = sorted(SOURCE.glob(pattern))
        assert matches, f"{pattern} is listed here but not in the tree"
        found |= dict.fromkeys(matches)
    return dict(sorted(found.items()))


def describe() -> list[str]:
    """One line a public name, methods and fields indented below their class."""
    lines: list[str] = []
    for path, names in public_names().items():
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        lines.append(f"[{'.'.join(parts[:-1] if parts[-1] == '__init__' else parts)}]")
        for node in ast.parse(path.read_text()).body:
            if names is None or getattr(node, "name", None) in names:
                lines += describe_node(node)
        lines.append("")
    return lines


def describe_node(node: ast.stmt, *, indent: str = "") -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        if is_public(node.name) and "overload" not in [ast.unparse(item) for item in node.decorator_list]:
            returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            marks = "".join(f"@{ast.unparse(item)} " for item in node.decorator_list)
            yield f"{indent}{marks}{node.name}({ast.unparse(node.args)}){returns}"
    elif isinstance(node, ast.ClassDef):
        if is_public(node.name):
            marks = "".join(f"@{ast.unparse(item)} " for item in node.decorator_list)
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            yield f"{indent}{marks}class {node.name}({bases})"
            for child in node.body:
                yield from describe_node(child, indent=indent + "    ")
    elif isinstance(node, ast.AnnAssign) and is_public(ast.unparse(node.target)):
        default = "" if node.value is None else f" = {ast.unparse(node.value)}"
        yield f"{indent}{ast.unparse(node.target)}: {ast.unparse(node.annotation)}{default}"
    elif isinstance(node, ast.Assign) and all(is_public(ast.unparse(target)) for target in node.targets):
        yield f"{indent}{' = '.join(ast.unparse(target) for target in node.targets)}"


def is_public(name: str) -> bool:
    return not name.startswith("_") or name in ("__init__", "__call__", "__getitem__", "__len__", "__all__")


def test_every_offered_name_can_be_had():
    assert sorted(name for names in chargaff._HOMES.values() for name in names) == sorted(chargaff.__all__)
    assert all(getattr(chargaff, name).__name__ == name for name in chargaff.__all__)


def test_public_interface_is_the_recorded_one():
    recorded, found = SNAPSHOT.read_text().splitlines(), describe()
    change = "\n".join(difflib.unified_diff(recorded, found, "recorded", "found", lineterm="", n=0))
    assert not change, f"{change}\n\nif this is intended: python tests/test_public_api.py --update, and commit the file"


if __name__ == "__main__" and "--update" in sys.argv:
    SNAPSHOT.write_text("\n".join(describe()) + "\n")
