"""Embedding into files: order, formats, provenance, and runs that are stopped and go on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from chargaff.errors import ConfigError, InputError
from chargaff.workflows import windows
from chargaff.workflows.embed import EmbedOptions, embed, embed_to_file, plan_embedding
from tests.workflows.toy import random_bases, saved_model, tiny_model, write_fasta

RECORDS = {f"r{i}": random_bases(5 + 37 * i, seed=i) for i in range(8)}
OPTIONS = EmbedOptions(overlap_bp=8, batch_tokens=128)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def expected(model):
    return embed(model, RECORDS, OPTIONS)


def write(model, path: Path, options: EmbedOptions = OPTIONS, records=RECORDS, **more):
    return embed_to_file(plan_embedding(model, records, options), path, **more)


def contents(path: Path) -> dict[str, bytes]:
    """Every file of an output that is a file or a folder."""
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    return {str(item.relative_to(path.parent)): item.read_bytes() for item in files}


def test_parquet_holds_names_lengths_vectors_and_provenance_in_input_order(tmp_path, model, expected):
    assert write(model, tmp_path / "x.parquet") is None
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["id", "length_bp", "embedding"]
    assert table["id"].to_pylist() == list(RECORDS)
    assert table["length_bp"].to_pylist() == [len(sequence) for sequence in RECORDS.values()]
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), expected.vectors)
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert json.loads(metadata["options"]) == expected.provenance["options"]
    assert json.loads(metadata["model"])["weights_sha256"] == expected.provenance["model"]["weights_sha256"]
    assert os.listdir(tmp_path) == ["x.parquet"]


def test_npy_holds_the_vectors_and_names_lie_beside_it(tmp_path, model, expected):
    write(model, tmp_path / "x.npy")
    assert np.array_equal(np.load(tmp_path / "x.npy"), expected.vectors)
    beside = json.loads((tmp_path / "x.npy.json").read_text())
    assert beside["columns"]["id"] == list(RECORDS)
    assert beside["metadata"]["options"] == expected.provenance["options"]


def test_tsv_and_zarr_hold_the_same_numbers(tmp_path, model, expected):
    write(model, tmp_path / "x.tsv")
    lines = [line.split("\t") for line in (tmp_path / "x.tsv").read_text().splitlines() if not line.startswith("#")]
    assert lines[0][:3] == ["id", "length_bp", "embedding_0"]
    assert np.array_equal(np.array([line[2:] for line in lines[1:]], np.float32), expected.vectors)
    write(model, tmp_path / "x.zarr")
    group = zarr.open_group(tmp_path / "x.zarr", mode="r")
    assert np.array_equal(group["embedding"][:], expected.vectors)
    assert list(group["id"][:]) == list(RECORDS)


def test_one_vector_a_base_is_a_ragged_zarr_group(tmp_path, model):
    options = EmbedOptions(pooling="none", overlap_bp=8, batch_tokens=128)
    expected = embed(model, RECORDS, options)
    write(model, tmp_path / "x.zarr", options)
    group = zarr.open_group(tmp_path / "x.zarr", mode="r")
    assert np.array_equal(group["embedding"][:], expected.vectors)
    assert list(group["id"][:]) == list(RECORDS)
    offset = group["offset_bp"][:]
    assert offset.tolist() == np.cumsum([0, *map(len, RECORDS.values())]).tolist()
    assert dict(group.attrs)["options"]["pooling"] == "none"
    alone = embed(model, [RECORDS["r3"]], options).vectors
    np.testing.assert_allclose(group["embedding"][offset[3] : offset[4]], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "pooling", "message"),
    [
        ("x.parquet", "none", "needs .zarr"),
        ("x.bed", "mean", "BED holds no vectors"),
        ("x.xyz", "mean", "cannot tell the format from the ending"),
    ],
)
def test_an_output_that_cannot_hold_the_result_is_refused_first(tmp_path, model, name, pooling, message):
    with pytest.raises(ConfigError, match=message):
        write(model, tmp_path / name, EmbedOptions(pooling=pooling))
    assert os.listdir(tmp_path) == []


def test_an_existing_output_is_replaced_only_on_request(tmp_path, model):
    path = tmp_path / "x.npy"
    path.write_text("precious")
    with pytest.raises(InputError, match=r"x.npy: exists already.*--overwrite"):
        write(model, path)
    assert path.read_text() == "precious"
    write(model, path, overwrite=True)
    assert np.load(path).shape == (8, model.backbone.width)


def stop_after(monkeypatch, batches: int, error: type[BaseException]):
    """Lets `batches` batches through, then raises."""
    read, count = windows.read_batch, iter(range(10**6))

    def limited(model, batch, *, reading):
        if next(count) >= batches:
            raise error
        return read(model, batch, reading=reading)

    monkeypatch.setattr(windows, "read_batch", limited)
    return count


@pytest.mark.parametrize("name", ["x.parquet", "x.npy", "x.zarr", "x.tsv"])
def test_a_stopped_run_goes_on_and_ends_in_the_same_bytes(tmp_path, model, monkeypatch, name):
    write(model, tmp_path / "whole" / name)
    path = tmp_path / "stopped" / name
    num_batches = len(plan_embedding(model, RECORDS, OPTIONS).plan.batches)
    with monkeypatch.context() as patch:
        stop_after(patch, 2, KeyboardInterrupt)
        message = f"2 of {num_batches} batches are kept in .*{name}.unfinished; the same command continues there"
        with pytest.raises(KeyboardInterrupt, match=message):
            write(model, path)
    assert os.listdir(path.parent) == [f"{name}.unfinished"]
    with monkeypatch.context() as patch:
        count = stop_after(patch, 10**6, KeyboardInterrupt)
        write(model, path)
        assert next(count) == num_batches - 2
    assert contents(path) == contents(tmp_path / "whole" / name)
    assert not (path.parent / f"{name}.unfinished").exists()


def test_an_error_of_the_model_also_keeps_what_was_computed(tmp_path, model, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 3, RuntimeError)
        with pytest.raises(RuntimeError):
            write(model, tmp_path / "x.npy")
    with monkeypatch.context() as patch:
        count = stop_after(patch, 10**6, RuntimeError)
        write(model, tmp_path / "x.npy")
        assert next(count) == len(plan_embedding(model, RECORDS, OPTIONS).plan.batches) - 3


@pytest.mark.parametrize("change", ["model", "records", "options", "no resume"])
def test_what_was_computed_for_something_else_is_not_used(tmp_path, model, monkeypatch, change):
    with monkeypatch.context() as patch:
        stop_after(patch, 3, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            write(model, tmp_path / "x.npy")
    model = tiny_model("ps-even") if change == "model" else model
    records = {**RECORDS, "r0": "ACGTT"} if change == "records" else RECORDS
    options = EmbedOptions(batch_tokens=128) if change == "options" else OPTIONS
    write(model, tmp_path / "x.npy", options, records, resume=change != "no resume")
    assert np.array_equal(np.load(tmp_path / "x.npy"), embed(model, records, options).vectors)


KILLED = """
import os, signal, sys
from pathlib import Path
from chargaff.io import row_store
from chargaff.workflows import windows
from chargaff.workflows.embed import EmbedOptions, embed_to_file, plan_embedding

read, left = windows.read_batch, [int(sys.argv[4])]

def limited(*args, **options):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return read(*args, **options)

row_store.SYNC_INTERVAL_S = 0.0
windows.read_batch = limited
job = plan_embedding(sys.argv[1], sys.argv[2], EmbedOptions(overlap_bp=8, batch_tokens=128))
embed_to_file(job, sys.argv[3])
"""


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path):
    folder, fasta = saved_model(tmp_path), write_fasta(tmp_path / "x.fa", RECORDS)
    write(str(folder), tmp_path / "whole.parquet", records=str(fasta))
    path = tmp_path / "x.parquet"
    command = [sys.executable, "-c", KILLED, str(folder), str(fasta), str(path), "5"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert not path.exists()
    assert (tmp_path / "x.parquet.unfinished").is_dir()
    write(str(folder), path, records=str(fasta))
    assert path.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_progress_counts_every_token_once_also_when_continued(tmp_path, model, monkeypatch):
    total = int(plan_embedding(model, RECORDS, OPTIONS).plan.num_tokens.sum())
    with monkeypatch.context() as patch:
        stop_after(patch, 3, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            write(model, tmp_path / "x.npy")
    seen: list[int] = []
    write(model, tmp_path / "x.npy", on_progress=seen.append)
    assert sum(seen) == total
    assert seen[0] > max(seen[1:])


def test_rejected_records_are_listed_beside_the_output(tmp_path, model):
    listing = write(model, tmp_path / "x.npy", records={"a": "ACGT", "b": "", "c": "ACGT"})
    assert listing == tmp_path / "x.npy.rejected.tsv"
    assert listing.read_text() == "row\tid\treason\n1\tb\tthe sequence is empty\n"
    assert json.loads((tmp_path / "x.npy.json").read_text())["metadata"]["rejected"] == 1
    assert write(model, tmp_path / "x.npy", records={"a": "ACGT"}, overwrite=True) is None
    assert not listing.exists()


def test_a_failing_write_ends_the_run(tmp_path, model, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    job = plan_embedding(model, RECORDS, OPTIONS)
    from chargaff.io import row_store

    with monkeypatch.context() as patch:
        patch.setattr(row_store.RowStore, "_write_all", full)
        with pytest.raises(InputError, match=r"x.npy.unfinished: cannot be written .No space left on device"):
            embed_to_file(job, tmp_path / "x.npy")
    embed_to_file(job, tmp_path / "x.npy")
    assert np.array_equal(np.load(tmp_path / "x.npy"), embed(model, RECORDS, OPTIONS).vectors)
