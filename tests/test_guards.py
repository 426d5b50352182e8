"""What holds for the repository as a whole: no network, pinned installs, light start, nothing of one workplace."""

import ast
import re
import resource
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = REPOSITORY / "src" / "chargaff"


def tracked_files() -> list[Path]:
    """Every file of the repository; skips the test outside a git checkout."""
    run = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip(f"needs a git checkout: {run.stderr.strip()}")
    return [path for name in run.stdout.split("\0") if name and (path := REPOSITORY / name).is_file()]


def text_of(path: Path) -> str:
    """The file as text, "" if it is binary."""
    data = path.read_bytes()
    return "" if b"\0" in data[:8192] else data.decode(errors="replace")


def pins(path: Path) -> dict[str, str]:
    """Normalised name -> version of every `name==version` line."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\]+)", path.read_text(), flags=re.M)
    return {normalise(name): version for name, version in found}


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(requirement: str) -> str:
    return normalise(re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0])


PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


# Addresses reserved for documentation (RFC 5737, RFC 2606): nothing answers there even without the guard.
@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("example.invalid", 80)])
def test_tests_cannot_reach_the_network(address):
    with pytest.raises(RuntimeError, match="no network in tests"):
        socket.create_connection(address, timeout=0.1)


def test_tests_may_talk_to_a_server_of_their_own():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=1).close()


HEAVY = ("torch", "numba", "pyarrow", "lightning", "matplotlib", "pysam", "zarr", "sklearn")


@pytest.mark.parametrize("command", [[], ["--help"], ["--version"]])
def test_help_imports_no_heavy_library(command):
    code = f"""import sys; from chargaff.cli.main import main
main(sys.argv[1:]); print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"""
    run = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr.strip()) == (0, "[]")


def test_help_answers_within_half_a_second():
    """Measured as processor time, so that a busy machine does not fail the test."""
    best_s = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "chargaff", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best_s = min(best_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert best_s < 0.5


def install_lines() -> list[tuple[str, str]]:
    places = ["Makefile", "Dockerfile", "README.md", "CONTRIBUTING.md", ".ci/run", "docs/**/*.md"]
    return [
        (f"{path.relative_to(REPOSITORY)}:{number}", line)
        for pattern in places
        for path in sorted(REPOSITORY.glob(pattern))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\bpip3?\b[^.]* install\b", line)
    ]


def test_every_pip_install_is_constrained():
    lines = install_lines()
    assert any(place.startswith("Makefile") for place, _ in lines), "the pattern no longer finds the Makefile's calls"
    wrong = [f"{place}: {line.strip()}" for place, line in lines if "-c constraints.txt" not in line]
    assert not wrong, "\n".join(wrong)


def test_every_requirement_is_pinned():
    extras = PROJECT["optional-dependencies"].values()
    asked = {requirement_name(r) for group in (PROJECT["dependencies"], *extras) for r in group} - {"chargaff"}
    assert asked <= set(pins(REPOSITORY / "constraints.txt")), asked - set(pins(REPOSITORY / "constraints.txt"))


def test_hashed_and_plain_pins_agree():
    plain, hashed = pins(REPOSITORY / "constraints.txt"), pins(REPOSITORY / "requirements-hashed.txt")
    assert set(hashed) == {"lightning", "pytorch-lightning"}
    assert hashed == {name: plain[name] for name in hashed}
    assert f"lightning=={hashed['lightning']}" in PROJECT["dependencies"]


def test_torch_is_asked_for_loosely_and_pinned_without_a_local_suffix():
    assert "torch>=2.10" in PROJECT["dependencies"]
    assert re.fullmatch(r"[0-9.]+", pins(REPOSITORY / "constraints.txt")["torch"])


def test_peers_add_to_the_constraints_and_contradict_none():
    plain = pins(REPOSITORY / "constraints.txt")
    peers = (REPOSITORY / "benchmarks" / "peers.txt").read_text().splitlines()
    names = [normalise(line.partition("==")[0]) for line in peers if line and not line.startswith("#")]
    own = pins(REPOSITORY / "benchmarks" / "peers.txt")
    assert [name for name in names if name not in plain and name not in own] == []
    assert {name: own[name] for name in own.keys() & plain.keys()} == {}
    assert not {"transformers", "mambapy", "mamba-ssm"} & {requirement_name(r) for r in PROJECT["dependencies"]}


def test_extras_named_in_messages_exist():
    """`need(..., extra="vcf")` sends the user to `pip install chargaff[vcf]`: that extra must be there."""
    calls = [
        (path, node)
        for path in sorted(SOURCE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "need"
    ]
    extras = [(path, keyword.value) for path, call in calls for keyword in call.keywords if keyword.arg == "extra"]
    missing = [
        f"{path.relative_to(REPOSITORY)}:{value.lineno}: {ast.unparse(value)}"
        for path, value in extras
        if not (isinstance(value, ast.Constant) and value.value in PROJECT["optional-dependencies"])
    ]
    assert not missing, missing


# Spelled in two parts so that this file does not find itself.
FOREIGN = ["/" + "work/", "/" + "farm/", "farm" + "-bench", "farm" + "-studio", "before" + "-stop", "sub" + "agent"]
FOREIGN += ["/" + "root/", "/opt/" + "pypi", "/opt/" + "wheels", "/tmp/" + "brief"]


def test_no_file_speaks_of_one_workplace():
    wrong = [
        f"{path.relative_to(REPOSITORY)}: {word}"
        for path in tracked_files()
        for word in FOREIGN
        if word.lower() in text_of(path).lower()
    ]
    assert not wrong, "\n".join(wrong)


def test_no_tracked_file_is_large():
    sizes = {str(path.relative_to(REPOSITORY)): path.stat().st_size for path in tracked_files()}
    assert {name: size for name, size in sizes.items() if size > 3_000_000} == {}
