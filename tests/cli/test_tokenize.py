"""`chargaff tokenize` and the attention maps of `chargaff embed`, as a user meets them."""

import json

import numpy as np
import pytest

from chargaff.cli.main import ExitCode, main
from chargaff.hub.save import save
from tests.workflows.toy import tiny_model, write_fasta


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", ["50M_multi_species_v2", "nucleotide-transformer-v2-50m-multi-species"])
def test_tokens_ids_and_spans_of_a_sequence(name, capsys):
    code, out, _ = run(capsys, "tokenize", name, "ATCCCGGNNtcgacacN")
    assert code == ExitCode.DONE
    header, *lines = (line.split("\t") for line in out.splitlines())
    assert header == ["record", "index", "token", "id", "start", "end"]
    assert [line[2] for line in lines] == ["<cls>", "ATCCCG", "G", "N", "N", "TCGACA", "C", "N"]
    assert [line[4:] for line in lines][:3] == [["0", "0"], ["0", "6"], ["6", "7"]]
    assert lines[-1][4:] == ["16", "17"]


def test_records_of_a_file_as_json(capsys, tmp_path):
    path = write_fasta(tmp_path / "in.fa", {"a": "ACGTNA", "b": "AC"})
    found = json.loads(run(capsys, "tokenize", "caduceus-ps-131k", path, "--json", "--no-special")[1])
    assert [record["id"] for record in found] == ["a", "b"]
    assert found[0] == {
        "id": "a",
        "length_bp": 6,
        "tokens": ["A", "C", "G", "T", "N", "A"],
        "ids": [7, 8, 9, 10, 11, 7],
        "span_bp": [[i, i + 1] for i in range(6)],
    }


def test_a_saved_model_is_read_without_its_weights(capsys, tmp_path):
    save(tiny_model("v2", family="nucleotide_transformer"), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    found = json.loads(run(capsys, "tokenize", tmp_path / "model", "ACGTG", "--json")[1])
    assert found[0]["tokens"] == ["<cls>", "ACG", "T", "G"]


def test_case_is_kept_where_asked(capsys):
    out = run(capsys, "tokenize", "hyenadna-tiny-1k", "ac", "--keep-case", "--no-special", "--json")[1]
    assert json.loads(out)[0]["tokens"] == ["[UNK]", "[UNK]"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["50M_multi_species_v2", "missing.fa"], "missing.fa: no such file, nor a sequence"),
        (["50M_multi_species", "ACGT"], "did you mean"),
    ],
)
def test_bad_input(words, message, capsys):
    code, out, err = run(capsys, "tokenize", *words)
    assert (code, out) == (ExitCode.USER_ERROR, "")
    assert message in err


def test_attention_maps_are_written_beside_the_vectors(capsys, tmp_path):
    save(tiny_model("v2", family="nucleotide_transformer"), tmp_path / "model")
    path = write_fasta(tmp_path / "in.fa", {"a": "ACGTNA", "b": "AC"})
    words = ["embed", tmp_path / "model", path, "-o", tmp_path / "out.npy", "--device", "cpu", "--layer", "1"]
    code, _, err = run(capsys, *words, "--attention", "1:0,2:1", "--attention-output", tmp_path / "maps.npz")
    assert code == ExitCode.DONE, err
    assert np.load(tmp_path / "out.npy").shape == (2, 16)
    assert np.load(tmp_path / "maps.npz")["maps/0"].shape == (2, 5, 5)
    code, _, err = run(capsys, *words, "--attention", "1:0", "--overwrite")
    assert code == ExitCode.DONE, err
    assert (tmp_path / "out.attention.zarr").is_dir()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attention", "9:0"], "no map 9:0"),
        (["--attention", "x"], "layer:head"),
        (["--attention-output", "maps.npz"], "no use without --attention"),
    ],
)
def test_maps_that_are_not_there(options, message, capsys, tmp_path):
    save(tiny_model("v2", family="nucleotide_transformer"), tmp_path / "model")
    path = write_fasta(tmp_path / "in.fa", {"a": "ACGTNA"})
    code, _, err = run(capsys, "embed", tmp_path / "model", path, "-o", tmp_path / "out.npy", *options)
    assert code == ExitCode.USER_ERROR
    assert message in err
    assert not (tmp_path / "out.npy").exists()


def test_a_model_without_maps_says_so(capsys, tmp_path):
    save(tiny_model("ps"), tmp_path / "model")
    path = write_fasta(tmp_path / "in.fa", {"a": "ACGTNA"})
    words = ["embed", tmp_path / "model", path, "-o", tmp_path / "out.npy", "--attention", "1:0"]
    code, _, err = run(capsys, *words)
    assert code == ExitCode.USER_ERROR
    assert "caduceus has no attention maps" in err
