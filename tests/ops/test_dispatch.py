"""Which backend takes a call, and what is said when none does."""

import json
import os
import subprocess
import sys

import pytest
import torch

from chargaff.errors import BackendError
from chargaff.ops.dispatch import Backend, choose, list_backends
from chargaff.ops.selective_scan import selective_scan

TABLE = (
    Backend("absent", "the package absent is not installed", lambda *args: None, lambda *args: "absent"),
    Backend("picky", None, lambda x: "x is odd" if x % 2 else None, lambda x: "picky"),
    Backend("reference", None, lambda *args: None, lambda *args: "reference"),
)


def test_auto_takes_the_first_that_does_not_object():
    assert choose("op", TABLE, "auto", (2,)).name == "picky"
    assert choose("op", TABLE, "auto", (3,)).name == "reference"


def test_a_named_backend_is_taken_or_says_why_not():
    assert choose("op", TABLE, "reference", (2,)).name == "reference"
    with pytest.raises(BackendError, match="op: picky: x is odd"):
        choose("op", TABLE, "picky", (3,))
    with pytest.raises(BackendError, match="op: absent: the package absent is not installed"):
        choose("op", TABLE, "absent", (2,))


def test_every_reason_is_given_when_none_can():
    with pytest.raises(BackendError, match="absent: the package absent is not installed; picky: x is odd"):
        choose("op", TABLE[:2], "auto", (3,))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(BackendError, match="no backend 'cuda'; expected one of auto, absent, picky, reference"):
        choose("op", TABLE, "cuda", (2,))


def test_every_op_has_a_reference_and_says_why_backends_would_refuse():
    rows = list(list_backends())
    ops = {op for op, _, _ in rows}
    assert {"selective_scan", "causal_conv1d"} <= ops
    assert {op for op, backend, reason in rows if backend == "reference" and reason is None} == ops
    assert all(reason is None or len(reason) > 3 for _, _, reason in rows)


def test_float64_falls_to_the_reference():
    x = torch.zeros(1, 1, 1, dtype=torch.float64)
    assert selective_scan(x, x, x[0], x, x).dtype == torch.float64
    with pytest.raises(BackendError, match="selective_scan: cpu: float64 is left to the reference"):
        selective_scan(x, x, x[0], x, x, backend="cpu")


def test_the_environment_forces_a_backend():
    code = "import json; from chargaff.ops import selective_scan as o; from chargaff.ops.dispatch import choose; "
    code += "print(json.dumps(choose('o', o.BACKENDS, 'auto', o.example('cpu')).name))"
    for name in ("reference", "cpu"):
        environment = {**os.environ, "CHARGAFF_BACKEND": name}
        output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
        assert json.loads(output) == name
