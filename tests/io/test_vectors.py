"""Vectors come back as they were written, from every format of `chargaff embed`; anything else is named."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chargaff.errors import InputError
from chargaff.io.vectors import read_vectors
from chargaff.io.writers import Column, open_writer

IDS = ["a", "b b", "7"]
VECTORS = np.arange(15, dtype=np.float32).reshape(3, 5) / 7


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".zarr"])
def test_vectors_come_back(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    schema = [Column("id", "text"), Column("length_bp", "int64"), Column("embedding", "float32", (5,))]
    with open_writer(path, schema, num_rows=3) as writer:
        writer.write(np.arange(3), {"id": IDS, "length_bp": [1, 2, 3], "embedding": VECTORS})
    ids, vectors = read_vectors(path)
    assert ids == tuple(IDS)
    np.testing.assert_array_equal(vectors, VECTORS)


def test_what_is_no_table_of_vectors_is_named(tmp_path):
    cases = {
        "names.parquet": (
            {"id": IDS, "vector": [1, 2, 3]},
            r"no columns 'id' and 'embedding'.*: id, vector\)",
        ),
        "ragged.parquet": ({"id": IDS, "embedding": [[1.0], [1.0, 2.0], [1.0]]}, "differ in length"),
        "numbers.parquet": ({"id": IDS, "embedding": [1.0, 2.0, 3.0]}, "expected one vector for each"),
    }
    for name, (columns, message) in cases.items():
        pq.write_table(pa.table(columns), tmp_path / name)
        with pytest.raises(InputError, match=message):
            read_vectors(tmp_path / name)


def test_an_array_needs_its_ids(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, VECTORS)
    with pytest.raises(InputError, match=r"x\.npy\.json"):
        read_vectors(path)
    (tmp_path / "x.npy.json").write_text(json.dumps({"columns": {"id": IDS[:2]}}))
    with pytest.raises(InputError, match="one vector for each of 2 ids"):
        read_vectors(path)
    path.write_bytes(b"no array")
    with pytest.raises(InputError, match="is no npy file"):
        read_vectors(path)
    with pytest.raises(InputError, match="no such zarr group"):
        read_vectors(tmp_path / "none.zarr")
