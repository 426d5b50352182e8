"""Files and functions stay readable: the limits of CONTRIBUTING.md."""

import ast
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = REPOSITORY / "src" / "chargaff"
FILE_LINES = 500
MODEL_FILE_LINES = 700
FUNCTION_LINES = 80


def python_files() -> list[Path]:
    folders = (SOURCE, REPOSITORY / "examples", REPOSITORY / "benchmarks")
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def test_files_are_short_enough():
    wrong = []
    for path in python_files():
        is_model = path.name == "model.py" and path.parent.parent == SOURCE / "families"
        limit = MODEL_FILE_LINES if is_model else FILE_LINES
        lines = len(path.read_text().splitlines())
        if lines > limit:
            wrong.append(f"{path.relative_to(REPOSITORY)}: {lines} lines, at most {limit}")
    assert not wrong, "\n".join(wrong)


def test_functions_are_short_enough():
    """Docstrings do not count. Kernels are exempt: unrolled loops read worse when they are cut up."""
    wrong = []
    for path in python_files():
        if path.is_relative_to(SOURCE / "ops"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = length(node) - (length(node.body[0]) if ast.get_docstring(node) else 0)
                if lines > FUNCTION_LINES:
                    where = f"{path.relative_to(REPOSITORY)}:{node.lineno}"
                    wrong.append(f"{where}: {node.name} has {lines} lines, at most {FUNCTION_LINES}")
    assert not wrong, "\n".join(wrong)


def length(node: ast.stmt) -> int:
    return (node.end_lineno or 0) - node.lineno + 1
