"""What all tests share: where shared data lies, no network, and skips where an interpreter lacks a library."""

import ipaddress
import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does, before torch is there

REPOSITORY = Path(__file__).resolve().parent.parent


def shared_data(relative: str) -> Path:
    """A file or folder of the project's shared data (`../shared`, or $CHARGAFF_TEST_DATA); skips the test if absent."""
    root = Path(os.environ.get("CHARGAFF_TEST_DATA", REPOSITORY.parent / "shared"))
    path = root / relative
    if not path.exists():
        pytest.skip(f"shared data not here: {path} (set CHARGAFF_TEST_DATA to the folder that holds it)")
    return path


def pytest_configure(config: pytest.Config) -> None:
    """Shuts the network for this process."""
    sys.addaudithook(refuse_network)


def refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: connections and name look-ups may only concern this machine."""
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # a path: a socket in the file system
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if not is_this_machine(host):
        raise RuntimeError(f"no network in tests: {event} to {host!r}")


def is_this_machine(host: str | bytes | None) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


class ModuleForAnyInterpreter(pytest.Module):
    """A test file that is skipped, with the reason, if a library it imports is not installed."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        try:
            return list(super().collect())
        except self.CollectError as error:
            if isinstance(error.__cause__, ImportError):
                pytest.skip(f"this interpreter lacks a library: {error.__cause__}", allow_module_level=True)
            raise


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """`make test-gpu` runs in environments we did not build; elsewhere a missing library is an error."""
    if parent.config.option.markexpr != "gpu":
        return None
    return ModuleForAnyInterpreter.from_parent(parent, path=module_path)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked gpu need a CUDA device."""
    if item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
