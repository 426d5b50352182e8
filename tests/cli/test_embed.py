"""`chargaff embed` as a user meets it: results, exit codes, and one line for everything that is wrong."""

import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pysam
import pytest
from safetensors.torch import load_file, save_file

from chargaff.cli.main import ExitCode, main
from chargaff.io.atomic import claim
from tests.conftest import shared_data
from tests.workflows.toy import CONTEXT_BP, random_bases, saved_model, write_fasta

RECORDS = {"long": random_bases(300, seed=1), "one-base": "A", "n": "ACGTNNNN", "soft": "acgtACGT"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(saved_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def fasta(tmp_path) -> Path:
    return write_fasta(tmp_path / "x.fa", RECORDS)


def run(capsys, *words) -> tuple[int, str, str]:
    code = main(["embed", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def process(*words, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "chargaff", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def vectors(path: Path) -> np.ndarray:
    return np.load(path)


def test_a_fasta_file_becomes_a_table(capsys, tmp_path, model, fasta):
    output = tmp_path / "x.parquet"
    code, out, err = run(capsys, model, fasta, "-o", output)
    assert (code, out) == (ExitCode.DONE, "")
    assert "records: 4 (317 bp; 4 in lower case, read as upper case; 4 N), windows: 8" in err
    assert f"wrote {output}" in err
    table = pq.read_table(output)
    assert table["id"].to_pylist() == list(RECORDS)
    assert table["length_bp"].to_pylist() == [300, 1, 8, 8]
    options = json.loads(table.schema.metadata[b"options"])
    assert (options["window_bp"], options["strands"], options["pooling"]) == (CONTEXT_BP, "both", "mean")
    inputs = json.loads(table.schema.metadata[b"inputs"])
    assert inputs[0]["name"] == "x.fa"


def test_every_kind_of_input_gives_the_same_vectors(capsys, tmp_path, model, fasta):
    run(capsys, model, fasta, "-o", tmp_path / "fa.npy")
    wanted = vectors(tmp_path / "fa.npy")
    (tmp_path / "crlf.fa").write_bytes(fasta.read_bytes().replace(b"\n", b"\r\n"))
    (tmp_path / "x.fa.gz").write_bytes(gzip.compress(fasta.read_bytes()))
    pysam.tabix_compress(str(fasta), str(tmp_path / "bgzip.fa.gz"))
    (tmp_path / "x.fq").write_text("".join(f"@{n}\n{s}\n+\n{'I' * len(s)}\n" for n, s in RECORDS.items()))
    (tmp_path / "x.csv").write_text("id,seq\n" + "".join(f"{n},{s}\n" for n, s in RECORDS.items()))
    (tmp_path / "x.bed").write_text("".join(f"{n}\t0\t{len(s)}\n" for n, s in RECORDS.items()))
    cases = {"crlf.fa": [], "x.fa.gz": [], "bgzip.fa.gz": [], "x.fq": []}
    cases |= {"x.csv": ["--column", "seq"], "x.bed": ["--genome", fasta]}
    for name, flags in cases.items():
        code, _, err = run(capsys, model, tmp_path / name, "-o", tmp_path / f"{name}.npy", *flags)
        assert code == ExitCode.DONE, err
        assert np.array_equal(vectors(tmp_path / f"{name}.npy"), wanted), name
    with (tmp_path / "x.fa.gz").open("rb") as file:
        found = process("embed", model, "-", "-o", tmp_path / "stdin.npy", stdin=file)
    assert found.returncode == ExitCode.DONE, found.stderr
    assert np.array_equal(vectors(tmp_path / "stdin.npy"), wanted)
    assert json.loads((tmp_path / "stdin.npy.json").read_text())["metadata"]["inputs"][1]["records"] == len(RECORDS)


def test_flags_reach_the_computation(capsys, tmp_path, model, fasta):
    flags = {
        "plain": [],
        "max": ["--pool", "max"],
        "layer": ["--layer", "2"],
        "forward": ["--strands", "forward"],
        "window": ["--window-bp", "40"],
        "overlap": ["--overlap-bp", "20"],
        "pad": ["--n-as-pad"],
        "special": ["--special-tokens"],
        "bf16": ["--dtype", "bfloat16"],
    }
    found = {}
    for name, words in flags.items():
        output = tmp_path / f"{name}.npy"
        assert run(capsys, model, fasta, "-o", output, *words)[0] == ExitCode.DONE
        found[name] = vectors(output)
    assert all(array.shape == found["plain"].shape for array in found.values())
    different = {name for name, array in found.items() if np.abs(array - found["plain"]).max() > 1e-5}
    assert different == set(flags) - {"plain"}
    same = ["--layer", "last", "--workers", "3", "--device", "cpu", "--no-resume", "--window-bp", CONTEXT_BP]
    assert run(capsys, model, fasta, "-o", tmp_path / "same.npy", *same)[0] == ExitCode.DONE
    assert np.array_equal(vectors(tmp_path / "same.npy"), found["plain"])


def test_one_vector_a_base(capsys, tmp_path, model, fasta):
    zarr = pytest.importorskip("zarr")
    assert run(capsys, model, fasta, "-o", tmp_path / "x.zarr", "--pool", "none")[0] == ExitCode.DONE
    group = zarr.open_group(tmp_path / "x.zarr", mode="r")
    assert group["embedding"].shape[0] == 317
    assert group["offset_bp"][:].tolist() == [0, 300, 301, 309, 317]


def test_a_dry_run_prints_the_cost_and_writes_nothing(capsys, tmp_path, model, fasta):
    code, out, _ = run(capsys, model, fasta, "-o", tmp_path / "y.npy", "--dry-run")
    assert code == ExitCode.DONE
    for words in ("records: 4", "GFLOP", "time about", "peak memory about", "disk about"):
        assert words in out
    assert sorted(os.listdir(tmp_path)) == ["x.fa"]


def test_rejected_records_are_listed_and_give_their_own_code(capsys, tmp_path, model):
    fasta = write_fasta(tmp_path / "x.fa", {"good": "ACGT", "protein": "MKLVEEEPPP", "rest": "ACGT"})
    with fasta.open("a") as file:
        file.write(">empty\n>iupac\nACGTRACGTACGTACGTACGTACGT\n")
    code, _, err = run(capsys, model, fasta, "-o", tmp_path / "x.tsv")
    assert code == ExitCode.PARTIAL
    assert "rejected: 2" in err
    assert "1 other letters, read as unknown" in err
    assert f"2 records were rejected, see {tmp_path / 'x.tsv.rejected.tsv'}" in err
    listed = [line.split("\t") for line in (tmp_path / "x.tsv.rejected.tsv").read_text().splitlines()]
    assert [line[:2] for line in listed[1:]] == [["1", "protein"], ["3", "empty"]]
    assert "the first 'M' at offset 0" in listed[1][2]


BAD = [
    ("no-such-model", "x.fa", ">a\nACGT\n", [], "no checkpoint is called 'no-such-model'"),
    ("caduceus-ps-1k-257", "x.fa", ">a\nACGT\n", [], "did you mean 'caduceus-ps-1k-256'"),
    (None, "missing.fa", None, [], "missing.fa: no such file"),
    (None, "x.fa", "ACGT\n", [], "x.fa:1: expected a header line beginning with '>' (FASTA) or '@' (FASTQ)"),
    (None, "x.fa", "", [], "x.fa: the file is empty"),
    (None, "x.fa", ">a\n", [], "record 'a': the sequence is empty"),
    (None, "x.fa", ">a\nAC\n>a\nGT\n", [], "x.fa:3: record name 'a' was already used at line 1"),
    (None, "x.fa", ">p\nMKLVEEEPPP\n", [], "record 'p': 10 unexpected letters ('E' 3x, 'P' 3x,"),
    (None, "x.fa", ">p\nMKLVEEEPPP\n", [], "the first 'M' at offset 0"),
    (None, "x.fa", ">a\nAC!T\n", [], "x.fa:2: '!'"),
    (None, "x.csv", "id,seq\na,ACGT\n", [], "--column: which column of"),
    (None, "x.csv", "id,seq\na,ACGT\n", ["--column", "sec"], "no column 'sec'; did you mean 'seq'"),
    (None, "x.bed", "chr1\t0\t5\n", [], "--genome: "),
    (None, "x.fa", ">a\nACGT\n", ["--layer", "12"], "layer: expected 0 (the embedding) to 3 (the last block)"),
    (None, "x.fa", ">a\nACGT\n", ["--window-bp", "0"], "window_bp: expected at least 1, got 0"),
    (None, "x.fa", ">a\nACGT\n", ["--overlap-bp", "64"], "overlap_bp: expected 0 to 63 (less than window_bp), got 64"),
    (None, "x.fa", ">a\nACGT\n", ["--device", "cuda:99"], "CUDA devices; use 'cpu'"),
    (None, "x.fa", ">a\nACGT\n", ["--device", "gpu"], "device: expected auto, cpu, cuda or cuda:<number>, got 'gpu'"),
    (None, "x.fa", ">a\nACGT\n", ["--pool", "none"], "one vector a base (pooling 'none') needs .zarr"),
]


@pytest.mark.parametrize(("name", "file", "text", "flags", "message"), BAD)
def test_bad_input_is_one_line_and_code_2(capsys, tmp_path, model, name, file, text, flags, message):
    if text is not None:
        (tmp_path / file).write_text(text)
    code, out, err = run(capsys, name or model, tmp_path / file, "-o", tmp_path / "out.npy", *flags)
    assert (code, out) == (ExitCode.USER_ERROR, "")
    assert err.startswith("chargaff: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "out.npy").exists()


def test_a_region_past_its_contig_is_named_with_its_line(capsys, tmp_path, model, fasta):
    bed = tmp_path / "x.bed"
    bed.write_text("long\t0\t10\nlong\t290\t301\n")
    code, _, err = run(capsys, model, bed, "-o", tmp_path / "x.npy", "--genome", fasta)
    assert code == ExitCode.USER_ERROR
    assert "x.bed:2: end 301 is past the end of long (300 bp)" in err


def test_truncated_compressed_files_are_named(capsys, tmp_path, model):
    whole = write_fasta(tmp_path / "x.fa", {"a": random_bases(5000)}).read_bytes()
    (tmp_path / "cut.fa.gz").write_bytes(gzip.compress(whole)[:-200])
    pysam.tabix_compress(str(tmp_path / "x.fa"), str(tmp_path / "b.fa.gz"))
    (tmp_path / "cutb.fa.gz").write_bytes((tmp_path / "b.fa.gz").read_bytes()[:-28])
    for name in ("cut.fa.gz", "cutb.fa.gz"):
        code, _, err = run(capsys, model, tmp_path / name, "-o", tmp_path / "x.npy")
        assert code == ExitCode.USER_ERROR
        assert f"{name}: " in err
        assert "truncated" in err


def write_text(weights: Path) -> None:
    weights.write_text("these are no weights\n")


def rename_a_tensor(weights: Path) -> None:
    tensors = load_file(weights)
    tensors["backbone.strange"] = tensors.pop(next(iter(tensors)))
    save_file(tensors, weights)


def add_a_tensor(weights: Path) -> None:
    tensors = load_file(weights)
    save_file({**tensors, "backbone.strange": next(iter(tensors.values())).clone()}, weights)


@pytest.mark.parametrize(
    ("spoil", "messages"),
    [
        (write_text, ["expected weights", "found text that begins with 'these are no weights'"]),
        (rename_a_tensor, ["1 missing", "1 unexpected", "backbone.strange"]),
        (add_a_tensor, ["1 unexpected", "backbone.strange"]),
    ],
)
def test_weights_that_are_not_the_models_are_one_line(capsys, tmp_path, model, fasta, spoil, messages):
    folder = tmp_path / "spoilt"
    shutil.copytree(model, folder)
    spoil(folder / "model.safetensors")
    code, _, err = run(capsys, folder, fasta, "-o", tmp_path / "x.npy")
    assert code == ExitCode.USER_ERROR
    (line,) = err.splitlines()
    assert line.startswith(f"chargaff: {folder}")
    assert not [message for message in messages if message not in line]
    assert not (tmp_path / "x.npy").exists()


def test_an_output_that_is_there_stays(capsys, tmp_path, model, fasta):
    output = tmp_path / "x.npy"
    assert run(capsys, model, fasta, "-o", output)[0] == ExitCode.DONE
    first = output.read_bytes()
    code, _, err = run(capsys, model, fasta, "-o", output, "--pool", "max")
    assert code == ExitCode.USER_ERROR
    assert "x.npy: exists already; choose another path or allow overwriting (--overwrite)" in err
    assert output.read_bytes() == first
    assert run(capsys, model, fasta, "-o", output, "--pool", "max", "--overwrite")[0] == ExitCode.DONE
    assert output.read_bytes() != first


def test_a_second_process_does_not_write_the_same_output(tmp_path, model, fasta):
    with claim(tmp_path / "x.npy.unfinished"):  # what a running process holds
        found = process("embed", model, fasta, "-o", tmp_path / "x.npy")
    assert found.returncode == ExitCode.USER_ERROR
    assert f"x.npy.unfinished: is being written by another process (number {os.getpid()})" in found.stderr


def test_a_disk_that_fills_up_is_one_line_and_the_run_goes_on_later(tmp_path, model):
    """A limit on the size of files: the system call fails as it does on a full disk."""
    fasta = write_fasta(tmp_path / "x.fa", {f"r{i}": random_bases(8, seed=i) for i in range(400)})

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))

    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}  # not to leave torn kernels behind
    words = ["embed", model, fasta, "-o", tmp_path / "x.npy", "--batch-tokens", "64"]
    found = process(*words, preexec_fn=limit, env={**environment, "CHARGAFF_BACKEND": "reference"})
    assert found.returncode == ExitCode.USER_ERROR, found.stderr
    last = found.stderr.splitlines()[-1]
    assert last.startswith("chargaff: ")
    assert "cannot be written (File too large)" in last
    assert "run the same command again" in last
    assert process(*words).returncode == ExitCode.DONE
    assert vectors(tmp_path / "x.npy").shape == (400, 16)


def heed_interrupts():
    """Jobs that a shell starts in the background ignore them, and so would their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_keeps_what_was_computed_and_says_so(tmp_path, model):
    fasta = write_fasta(tmp_path / "x.fa", {f"r{i}": random_bases(300, seed=i) for i in range(900)})
    words = ["embed", model, fasta, "-o", tmp_path / "x.npy", "--batch-tokens", "300"]
    command = [sys.executable, "-m", "chargaff", *map(str, words)]
    rows = tmp_path / "x.npy.unfinished" / "rows.f32"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts) as running:
        while running.poll() is None and not (rows.exists() and rows.stat().st_size):
            time.sleep(0.005)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=120)
    assert running.returncode == ExitCode.INTERRUPTED, err
    assert "Traceback" not in err
    assert "of 1125 batches are kept in" in err.splitlines()[-1]
    assert "the same command continues there" in err.splitlines()[-1]
    again = process(*words)
    assert again.returncode == ExitCode.DONE
    assert "continuing: " in again.stderr
    assert process(*words[:-3], tmp_path / "whole.npy", *words[-2:]).returncode == ExitCode.DONE
    assert (tmp_path / "whole.npy").read_bytes() == (tmp_path / "x.npy").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["six_bacteria.fa.gz", "lambda_phage.fa.gz"])
def test_real_genomes_are_embedded(capsys, tmp_path, model, name):
    source = shared_data(f"data/demo/{name}")
    code, _, err = run(capsys, model, source, "-o", tmp_path / "x.parquet", "--window-bp", "1024", "--overlap-bp", "64")
    assert code == ExitCode.DONE, err
    table = pq.read_table(tmp_path / "x.parquet")
    values = np.array(table["embedding"].to_pylist())
    assert np.isfinite(values).all()
    assert len(set(table["id"].to_pylist())) == len(table)
    assert (values.std(1) > 1e-3).all()
