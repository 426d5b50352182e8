"""The GPU kernels without a GPU: Triton's interpreter runs the kernel tests in a process of its own."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("op", ["causal_conv1d", "selective_scan"])
def test_kernels_pass_their_tests_in_the_interpreter(op):
    if find_spec("triton") is None:
        pytest.skip("triton is not installed (pip install -c constraints.txt triton)")
    command = [sys.executable, "-m", "pytest", "-m", "not gpu", "-rA", str(HERE / f"test_{op}.py"), "-k", "triton"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "PASSED" in done.stdout
