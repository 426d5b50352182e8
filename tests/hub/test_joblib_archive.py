"""Archives of JAX code bases are read without JAX, and nothing they name is ever run."""

import os
import sys
import types
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

from chargaff.errors import CheckpointError
from chargaff.hub.joblib_archive import read_tree, write_tree
from chargaff.hub.readers import read_weights

TREE = {
    "net/~/embed": {"embeddings": np.arange(12, dtype=np.float32).reshape(3, 4)},
    "net/~/fc": {"w": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)), "b": np.float32([1.5])},
    "net/~/counter": {"counter": np.array(3, np.int32), "empty": np.zeros((0, 4), np.float32)},
}


def flat(tree) -> dict[str, np.ndarray]:
    return {f"{module}/{name}": array for module, arrays in tree.items() for name, array in arrays.items()}


def same(found: dict[str, torch.Tensor], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name].numpy(), array)


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3)], ids=str)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_arrays_of_every_kind_of_archive(tmp_path, compress, protocol):
    path = tmp_path / "tree.joblib"
    joblib.dump(TREE, path, compress=compress, protocol=protocol)
    same(read_weights(path), flat(TREE))


class JaxArray:
    """Pickles as a JAX array does."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __reduce__(self):
        make, arguments, state = self.array.__reduce__()
        return sys.modules["jax._src.array"]._reconstruct_array, (make, arguments, state, {"weak_type": False})


@pytest.fixture
def jax_names(monkeypatch):
    """Modules of the right names, so that the pickle can be written; reading must not look at them."""

    def _reconstruct_array(*args):
        raise AssertionError("called")

    _reconstruct_array.__module__ = "jax._src.array"
    _reconstruct_array.__qualname__ = "_reconstruct_array"
    for name in ("jax", "jax._src", "jax._src.array"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["jax._src.array"]._reconstruct_array = _reconstruct_array


@pytest.mark.usefixtures("jax_names")
@pytest.mark.parametrize("core", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_jax_arrays_under_both_names_of_numpys_core(tmp_path, core):
    path = tmp_path / "tree.joblib"
    tree = {module: {name: JaxArray(array) for name, array in arrays.items()} for module, arrays in TREE.items()}
    joblib.dump(tree, path)
    raw = path.read_bytes()
    ours = np.zeros(1).__reduce__()[0].__module__.encode()
    if len(ours) == len(core):  # the name is stored with its length
        raw = raw.replace(ours, core.encode())
    path.write_bytes(raw)
    same(read_tree(path), flat(TREE))


class Naming:
    """A pickle of it names any function, and calls it when loaded plainly."""

    def __init__(self, function, *arguments) -> None:
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    ("evil", "named"),
    [
        (Naming(os.mkdir, "here"), "posix.mkdir"),
        (Naming(eval, "1"), "builtins.eval"),
        (Naming(np.load, "x", None, True), "numpy.load"),
        (Naming(getattr, dict, "get"), "builtins.getattr"),
        (Path("x"), "pathlib.PosixPath"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_globals_are_refused_by_name(tmp_path, evil, named, monkeypatch):
    monkeypatch.chdir(tmp_path)
    joblib.dump({"net": {"w": np.zeros(2, np.float32), "x": evil}}, "tree.joblib")
    with pytest.raises(CheckpointError, match="refused") as caught:
        read_weights(tmp_path / "tree.joblib")
    assert named in str(caught.value)
    assert not (tmp_path / "here").exists()


def test_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / "tree.joblib"
    joblib.dump({"net": {"w": np.array([{}, []], dtype=object)}}, path)
    with pytest.raises(CheckpointError, match="no numbers"):
        read_tree(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path, kept):
    path = tmp_path / "tree.joblib"
    joblib.dump({"net": {"w": np.ones((100, 100), np.float32)}}, path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(kept * len(raw))])
    with pytest.raises(CheckpointError, match=r"tree\.joblib"):
        read_weights(path)


@pytest.mark.parametrize("content", [[1, 2], {"net": 3}, {}, np.zeros(3)], ids=str)
def test_what_is_no_tree_of_arrays_is_refused(tmp_path, content):
    path = tmp_path / "tree.joblib"
    joblib.dump(content, path)
    with pytest.raises(CheckpointError, match="expected"):
        read_tree(path)


def test_other_files_with_this_ending_say_what_they_are(tmp_path):
    path = tmp_path / "tree.joblib"
    path.write_text("<!DOCTYPE html><html></html>")
    with pytest.raises(CheckpointError, match="HTML page"):
        read_weights(path)


def test_written_archives_come_back_and_open_in_joblib(tmp_path):
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in flat(TREE).items() if a.dtype.kind == "f"}
    write_tree(tensors, tmp_path / "tree.joblib")
    found = read_tree(tmp_path / "tree.joblib")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    plain = joblib.load(tmp_path / "tree.joblib")
    assert plain["net/~/fc"]["w"].shape == (2, 3)
