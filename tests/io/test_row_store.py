"""Rows of a resumable run: in place whatever the order, kept across processes, never another run's."""

import contextlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from chargaff.errors import InputError
from chargaff.io import row_store
from chargaff.io.row_store import RowStore

WIDTH = 3


def values(first: int, count: int) -> np.ndarray:
    return np.arange(first * WIDTH, (first + count) * WIDTH, dtype=np.float32).reshape(count, WIDTH)


def test_rows_lie_where_they_belong_whatever_the_order(tmp_path):
    with RowStore(tmp_path / "rows", key="a", num_rows=9, width=WIDTH) as store:
        store.write(1, [6, 2], [values(6, 3), values(2, 1)])
        store.write(0, [0], [values(0, 2)])
        assert np.array_equal(store.read(6, 9), values(6, 3))
        assert np.array_equal(store.read(0, 3), values(0, 3))
        assert not store.read(3, 6).any()
        assert store.read(9, 9).shape == (0, WIDTH)


def test_finished_batches_are_known_when_the_folder_is_opened_again(tmp_path):
    for batch in range(3):
        with RowStore(tmp_path / "rows", key="a", num_rows=9, width=WIDTH) as store:
            assert store.done == set(range(batch))
            store.write(batch, [batch * 3], [values(batch * 3, 3)])
    with RowStore(tmp_path / "rows", key="a", num_rows=9, width=WIDTH) as store:
        assert store.done == {0, 1, 2}
        assert np.array_equal(store.read(0, 9), values(0, 9))
        store.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("key", "resume"), [("b", True), ("a", False)])
def test_rows_of_another_key_are_discarded(tmp_path, key, resume):
    with RowStore(tmp_path / "rows", key="a", num_rows=9, width=WIDTH) as store:
        store.write(0, [0], [values(0, 9)])
    with RowStore(tmp_path / "rows", key=key, num_rows=9, width=WIDTH, resume=resume) as store:
        assert store.done == set()
        assert not store.read(0, 9).any()
    with RowStore(tmp_path / "rows", key=key, num_rows=9, width=WIDTH) as store:
        assert store.done == set()


def test_an_error_in_the_block_keeps_what_was_written(tmp_path):
    store = RowStore(tmp_path / "rows", key="a", num_rows=3, width=WIDTH)
    with contextlib.suppress(ZeroDivisionError), store:
        store.write(5, [0], [values(0, 3)])
        raise ZeroDivisionError
    with RowStore(tmp_path / "rows", key="a", num_rows=3, width=WIDTH) as store:
        assert store.done == {5}


KILLED = """
import os, signal, sys
import numpy as np
from chargaff.io import row_store
row_store.SYNC_INTERVAL_S = float(sys.argv[2])
with row_store.RowStore(sys.argv[1], key="a", num_rows=100, width=3) as store:
    for batch in range(100):
        if batch == 60:
            os.kill(os.getpid(), signal.SIGKILL)
        store.write(batch, [batch], [np.full((1, 3), batch + 1, np.float32)])
"""


@pytest.mark.parametrize(("interval", "fewest"), [(0.0, 60), (3600.0, 0)])
def test_a_killed_process_leaves_only_batches_that_are_complete(tmp_path, interval, fewest):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "rows"), str(interval)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with RowStore(tmp_path / "rows", key="a", num_rows=100, width=WIDTH) as store:
        assert fewest <= len(store.done) <= 60
        for batch in store.done:
            assert (store.read(batch, batch + 1) == batch + 1).all()


def test_a_torn_journal_entry_does_not_count(tmp_path):
    with RowStore(tmp_path / "rows", key="a", num_rows=3, width=WIDTH) as store:
        store.write(7, [0], [values(0, 3)])
    journal = tmp_path / "rows" / "done.i64"
    journal.write_bytes(journal.read_bytes() + b"\1\0\0")
    with RowStore(tmp_path / "rows", key="a", num_rows=3, width=WIDTH) as store:
        assert store.done == {7}
        store.write(8, [0], [values(0, 3)])
    with RowStore(tmp_path / "rows", key="a", num_rows=3, width=WIDTH) as store:
        assert store.done == {7, 8}


def test_one_process_at_a_time(tmp_path):
    with RowStore(tmp_path / "rows", key="a", num_rows=3, width=WIDTH):
        message = rf"rows: is being written by another process \(number {os.getpid()}\)"
        with pytest.raises(InputError, match=message), RowStore(tmp_path / "rows", key="a", num_rows=3, width=WIDTH):
            pass


def test_a_table_larger_than_the_disk_is_refused_at_once(tmp_path):
    with pytest.raises(InputError, match=r"bytes are needed here and .* are free"):  # noqa: SIM117
        with RowStore(tmp_path / "rows", key="a", num_rows=10**15, width=WIDTH):
            pass


def test_a_disk_that_fills_up_keeps_what_there_is(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with RowStore(tmp_path / "rows", key="a", num_rows=3, width=WIDTH) as store:
        store.write(0, [0], [values(0, 1)])
        store.sync()
        monkeypatch.setattr(row_store.os, "pwrite", full)
        with pytest.raises(InputError, match=r"No space left on device.*is kept there: make room and run"):
            store.write(1, [1], [values(1, 1)])
        monkeypatch.undo()
    with RowStore(tmp_path / "rows", key="a", num_rows=3, width=WIDTH) as store:
        assert store.done == {0}
