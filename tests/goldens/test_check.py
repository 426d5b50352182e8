"""The golden checker itself: it must notice a wrong value, a value nobody looked at, and a kind nobody knows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

HERE = Path(__file__).parent
CADUCEUS = HERE / "data" / "caduceus"


def check(*paths: Path) -> tuple[int, str]:
    command = [sys.executable, str(HERE / "check.py"), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def altered(folder: Path, change, *, source="op.window_mean", meta=None) -> Path:
    """A copy of the smallest golden file after change(tensors)."""
    with safe_open(CADUCEUS / "vep_window.safetensors", "pt") as handle:
        stored = dict(handle.metadata())
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    change(tensors)
    path = folder / "altered.safetensors"
    save_file(tensors, path, {**stored, "kind": source, **(meta or {})})
    return path


def test_an_untouched_file_passes(tmp_path):
    code, out = check(altered(tmp_path, lambda tensors: None))
    assert code == 0
    assert out.splitlines()[0].startswith("PASS caduceus/vep_window")
    assert out.splitlines()[-1] == "1 passed, 0 failed"


def test_a_wrong_value_fails_with_the_tensor_named(tmp_path):
    code, out = check(altered(tmp_path, lambda tensors: tensors["output.concat_avg_ws"].add_(1e-3)))
    assert code == 1
    assert out.startswith("FAIL caduceus/vep_window")
    assert "output.concat_avg_ws" in out


@pytest.mark.parametrize(
    ("name", "verdict"), [("output.extra", "output.extra not recomputed"), ("input.extra", "input.extra not read")]
)
def test_a_tensor_nobody_looks_at_fails(tmp_path, name, verdict):
    code, out = check(altered(tmp_path, lambda tensors: tensors.update({name: torch.zeros(2)})))
    assert code == 1
    assert verdict in out


def test_a_non_finite_value_fails(tmp_path):
    def poison(tensors):
        tensors["input.ref"][0] = float("nan")

    assert "not finite" in check(altered(tmp_path, poison))[1]


@pytest.mark.parametrize("meta", [{"kind": "op.unheard_of"}, {"kind": "masked_lm", "family": "evo"}])
def test_what_is_not_built_yet_says_so_and_counts_as_failed(tmp_path, meta):
    code, out = check(altered(tmp_path, lambda tensors: None, meta=meta))
    assert code == 1
    assert out.startswith("TODO")
    assert out.splitlines()[-1] == "0 passed, 1 failed"


def test_a_wrong_json_value_fails(tmp_path):
    values = json.loads((CADUCEUS / "tokenizer_cases.json").read_text())
    values["hub_tokenizer"][0]["encoding"]["input_ids"][0] = 8
    path = tmp_path / "cases.json"
    path.write_text(json.dumps(values))
    assert "FAIL" in check(path)[1]


def test_files_without_a_kind_are_no_goldens(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert check(tmp_path) == (1, "0 passed, 0 failed\n")
