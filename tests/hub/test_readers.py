"""Weight files of every kind are read; damaged or foreign ones are refused with the file and what was found."""

import io
import json
import os
import pickle
import sys
import zipfile
from collections import OrderedDict, defaultdict
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import shared_data
from safetensors.torch import save_file

from chargaff.errors import CheckpointError
from chargaff.hub.readers import read_weights, shards_of

STATE = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.tensor([1, 2], dtype=torch.int64)}


class Settings:
    """Stands for hyper-parameters of a class that the reader's machine does not have."""

    def __init__(self):
        self.lr = 0.1


class CreatesFile:
    """A pickle of it creates a file as soon as it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class ListOfObjects(list):
    """A list with attributes, as configuration libraries have."""


def assert_same(state, expected=None):
    expected = STATE if expected is None else expected
    assert list(state) == list(expected)
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth"])
def test_torch_pickle(tmp_path, suffix):
    torch.save(STATE, tmp_path / f"w{suffix}")
    assert_same(read_weights(tmp_path / f"w{suffix}"))


def test_torch_pickle_of_the_old_format(tmp_path):
    torch.save(STATE, tmp_path / "w.bin", _use_new_zipfile_serialization=False)
    assert_same(read_weights(tmp_path / "w.bin"))


def test_safetensors(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors")
    assert_same(read_weights(tmp_path / "w.safetensors"))


def test_the_content_counts_not_the_suffix(tmp_path):
    save_file(STATE, tmp_path / "w.bin")
    assert_same(read_weights(tmp_path / "w.bin"))


def test_parameters_come_without_gradients(tmp_path):
    torch.save({"w": torch.nn.Parameter(torch.ones(2))}, tmp_path / "w.pt")
    assert not read_weights(tmp_path / "w.pt")["w"].requires_grad


# training checkpoints


def training_checkpoint(path: Path, state, **extra) -> Path:
    content = {
        "epoch": 3,
        "state_dict": state,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(5)}}}],
        "hyper_parameters": Settings(),
        "loops": defaultdict(list, {"x": [1]}),
        "schedule": partial(sorted, key=len),
        "where": Path("/nowhere"),
        "objects": ListOfObjects([Settings(), {1, 2}, SimpleNamespace(a=torch.float16)]),
        **extra,
    }
    torch.save(content, path)
    return path


def test_training_checkpoint_with_foreign_objects(tmp_path, monkeypatch):
    (tmp_path / "foreign_package.py").write_text("class Config(dict):\n    pass\n\n\ndef work():\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    foreign = import_module("foreign_package")
    state = OrderedDict(STATE, half=torch.ones(3, dtype=torch.bfloat16), empty=torch.zeros(0, 2))
    path = training_checkpoint(tmp_path / "last.ckpt", state, foreign=[foreign.Config(a=1), foreign.work])
    monkeypatch.delitem(sys.modules, "foreign_package")
    assert_same(read_weights(path), state)
    assert "foreign_package" not in sys.modules


def test_training_checkpoint_keeps_views_and_shared_storage(tmp_path):
    base = torch.arange(24.0)
    state = {"view": base.view(4, 6).t()[1:3], "tied": base, "scalar": torch.tensor(2.5), "bool": torch.tensor([True])}
    assert_same(read_weights(training_checkpoint(tmp_path / "x.ckpt", state)), state)


def test_training_checkpoint_without_a_state_dict_is_taken_as_one(tmp_path):
    torch.save(STATE, tmp_path / "x.ckpt")
    assert_same(read_weights(tmp_path / "x.ckpt"))


def test_published_training_checkpoint_with_objects_of_absent_packages():
    folder = shared_data("goldens/xlstm/checkpoint_fixture/dna_xlstm_tiny_mlm_ph")
    state = read_weights(folder / "checkpoints" / "test" / "loss.ckpt")
    assert len(state) > 20
    assert all(name.startswith("model.") for name in state)
    assert all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_in_a_training_checkpoint_runs(tmp_path, protocol):
    trap = tmp_path / "trap"
    content = {"state_dict": STATE, "callbacks": CreatesFile(trap)}
    torch.save(content, tmp_path / "x.ckpt", pickle_protocol=protocol)
    assert_same(read_weights(tmp_path / "x.ckpt"))
    assert not trap.exists()
    torch.load(tmp_path / "x.ckpt", weights_only=False)
    assert trap.exists(), "the trap is no trap"


def test_a_call_in_place_of_a_tensor_is_refused_and_not_made(tmp_path):
    trap = tmp_path / "trap"
    torch.save({"state_dict": {"w": CreatesFile(trap)}}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="'w' is Inert, expected a tensor"):
        read_weights(tmp_path / "x.ckpt")
    assert not trap.exists()


def archive(path: Path, data: bytes, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", data)
        for name, content in records.items():
            file.writestr(f"x/data/{name}", content)
    return path


class Unit:
    """Pickled as a call of a rebuilding function with chosen arguments."""

    def __init__(self, function, args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def hand_made(tmp_path, args, name="_rebuild_tensor_v2"):
    """A checkpoint whose tensor "w" has these offset, size and stride over a storage of 4 floats."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if isinstance(value, io.BytesIO) else None

    buffer = io.BytesIO()
    rebuild = getattr(torch._utils, name)
    Pickler(buffer, 2).dump({"state_dict": {"w": Unit(rebuild, (io.BytesIO(), *args, False, OrderedDict()))}})
    return archive(tmp_path / "x.ckpt", buffer.getvalue(), **{"0": bytes(16)})


def test_hand_made_archive_is_read(tmp_path):
    assert_same(read_weights(hand_made(tmp_path, (1, (3,), (1,)))), {"w": torch.zeros(3)})


@pytest.mark.parametrize("args", [(0, (5,), (1,)), (3, (2,), (1,)), (-1, (2,), (1,)), (0, (10**9, 10**9), (1, 1))])
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, args):
    with pytest.raises(CheckpointError, match="damaged tensor record '0'"):
        read_weights(hand_made(tmp_path, args))


def test_big_endian_checkpoint_is_refused(tmp_path):
    path = hand_made(tmp_path, (0, (4,), (1,)))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("x/byteorder", b"big")
    with pytest.raises(CheckpointError, match="big-endian"):
        read_weights(path)


def test_damaged_bytes_in_a_training_checkpoint_are_noticed(tmp_path):
    path = training_checkpoint(tmp_path / "x.ckpt", {"w": torch.full((100,), 7.0)})
    raw = bytearray(path.read_bytes())
    raw[raw.index(torch.full((100,), 7.0).numpy().tobytes()) + 50] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"x\.ckpt: truncated or damaged.*CRC"):
        read_weights(path)


# refusals


@pytest.mark.parametrize("is_zip", [True, False])
def test_forbidden_pickle_is_refused_by_name_and_not_run(tmp_path, is_zip):
    trap = tmp_path / "trap"
    torch.save({"w": CreatesFile(trap)}, tmp_path / "w.bin", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError, match=r"w\.bin: the pickle asks for (posix|nt)\.mkdir.*refused"):
        read_weights(tmp_path / "w.bin")
    assert not trap.exists()


def test_foreign_class_in_a_torch_pickle_is_refused_by_name(tmp_path):
    torch.save({"w": torch.ones(1), "config": Settings()}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"asks for .*Settings.*\.ckpt"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"these are not weights\nreally\n", "text that begins with 'these are not weights'"),
        (b"  \n", "blank text"),
        (b'{"d_model": 4}', "text that begins with '{\"d_model\": 4}'"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"<html><head></head></html>", "an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "a git-lfs pointer"),
        (b"\x1f\x8b\x08\x00rest", "a gzip archive"),
        (b"\x00\x01\x02\xff\xfe\xfd\xfc\xfb\xfa", "unknown bytes 00 01 02"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "last.ckpt"])
def test_a_file_that_holds_no_weights_is_named_with_what_was_found(tmp_path, name, content, found):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_weights(tmp_path / name)
    message = str(caught.value)
    assert name in message
    assert found in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin", "w.ckpt"])
def test_truncation_anywhere_is_noticed(tmp_path, name):
    path = tmp_path / name
    if name.endswith(".safetensors"):
        save_file(STATE, path)
    else:
        torch.save(STATE, path)
    whole = path.read_bytes()
    for kept in sorted({1, 5, 9, 40, len(whole) // 3, len(whole) // 2, len(whole) - 10, len(whole) - 1}):
        path.write_bytes(whole[:kept])
        with pytest.raises(CheckpointError, match=name):
            read_weights(path)


@pytest.mark.parametrize("name", ["w.bin", "w.ckpt"])
def test_noise_in_the_pickle_gives_one_error_and_no_crash(tmp_path, name):
    torch.save(STATE, tmp_path / "whole")
    with zipfile.ZipFile(tmp_path / "whole") as file:
        pickled = file.read("whole/data.pkl")
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        data = bytearray(pickled)
        for place in torch.randint(len(data), (3,), generator=generator).tolist():
            data[place] = int(torch.randint(256, (), generator=generator))
        archive(tmp_path / name, bytes(data), **{str(i): bytes(96) for i in range(2)})
        try:
            read_weights(tmp_path / name)
        except CheckpointError:
            continue


def test_truncated_safetensors_says_how_much_is_there(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[:-7])
    with pytest.raises(CheckpointError, match=f"truncated: {len(whole) - 7} bytes, its header says {len(whole)}"):
        read_weights(tmp_path / "w.safetensors")


def test_absent_file(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_weights(tmp_path / "w.safetensors")


def test_foreign_zip_archive(tmp_path):
    for name in ("w.bin", "w.ckpt"):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr("array.npy", b"123")
        with pytest.raises(CheckpointError, match="a zip archive that torch"):
            read_weights(tmp_path / name)


def test_torchscript_program_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as file:
        file.writestr("x/data.pkl", b"")
        file.writestr("x/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(("content", "found"), [([1, 2], "list"), ({}, "dict"), (torch.ones(2), "Tensor")])
def test_something_else_than_named_tensors(tmp_path, content, found):
    torch.save(content, tmp_path / "w.bin")
    with pytest.raises(CheckpointError, match=f"expected names and tensors, found {found}"):
        read_weights(tmp_path / "w.bin")


def test_a_number_among_the_tensors(tmp_path):
    torch.save({"w": torch.ones(1), "epoch": 3}, tmp_path / "w.bin")
    with pytest.raises(CheckpointError, match="'epoch' is int, expected a tensor"):
        read_weights(tmp_path / "w.bin")


# shards


@pytest.fixture
def sharded(tmp_path) -> Path:
    files = {"a.weight": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for name, file in files.items():
        save_file({name: STATE[name]}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 64}, "weight_map": files}))
    return index


def rewrite(index: Path, **weight_map: str) -> None:
    content = json.loads(index.read_text())
    content["weight_map"].update(weight_map)
    index.write_text(json.dumps(content))


def test_shards_are_put_together(sharded):
    assert_same(read_weights(sharded))
    assert [path.name[:11] for path in shards_of(sharded)] == ["model-00001", "model-00002"]


def test_missing_shard_is_named(sharded):
    (sharded.parent / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 2 files are missing \(model-00002-of-00002.safetensors\)"):
        read_weights(sharded)


def test_half_downloaded_shard_is_named(sharded):
    path = sharded.parent / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=r"model-00001-of-00002\.safetensors: truncated"):
        read_weights(sharded)


def test_tensor_that_no_shard_holds(sharded):
    rewrite(sharded, c="model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"1 tensors are in none of its files \(c\)"):
        read_weights(sharded)


def test_tensor_in_another_shard_than_the_index_says(sharded):
    rewrite(sharded, b="model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="in none of its files"):
        read_weights(sharded)


def test_tensor_that_the_index_does_not_know(sharded):
    save_file({"b": STATE["b"], "z": torch.ones(1)}, sharded.parent / "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="holds 'z', which"):
        read_weights(sharded)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors"])
def test_index_may_not_leave_its_folder(sharded, name):
    rewrite(sharded, b=name)
    with pytest.raises(CheckpointError, match="not a file beside it"):
        read_weights(sharded)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', "<html>"])
def test_malformed_index(sharded, text):
    sharded.write_text(text)
    with pytest.raises(CheckpointError, match="not an index of weight files"):
        read_weights(sharded)
