"""`chargaff generate` end to end."""

import json

import pytest

from chargaff.cli.main import main
from chargaff.hub.save import save
from chargaff.io.records import read_records
from tests.contract.tiny import tiny_model


@pytest.fixture
def folder(tmp_path):
    save(tiny_model("mamba", "tied"), tmp_path / "model")
    return tmp_path


def run(folder, *words):
    out = folder / "out.fa"
    return main(["generate", str(folder / "model"), "--prompt", "acgt", "--length", "100", "-o", str(out), *words]), out


def test_sequences_and_where_they_come_from_are_written(folder):
    code, out = run(folder, "--num", "3", "--seed", "5", "--top-k", "3")
    assert code == 0
    records = list(read_records(out))
    assert [record.id for record in records] == ["generated_0", "generated_1", "generated_2"]
    assert all(len(record.sequence) == 100 for record in records)
    assert len(out.read_text().splitlines()[1]) == 80
    about = json.loads((folder / "out.fa.json").read_text())
    assert about["options"] == {
        "prompt": "acgt", "length": 100, "temperature": 1.0, "top_k": 3, "top_p": None, "seed": 5, "num": 3,
        "include_prompt": False,
    }  # fmt: skip
    assert about["model"]["family"] == "mamba"


def test_the_prompt_comes_first_when_asked_for(folder):
    _, out = run(folder)
    plain = out.read_text()
    _, out = run(folder, "--include-prompt", "--overwrite")
    (record,) = read_records(out)
    assert bytes(record.sequence[:4]) == b"ACGT"
    assert bytes(record.sequence[4:84]).decode() == plain.splitlines()[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--temperature", "-1"], "temperature: expected at least 0"), (["--num", "0"], "at least 1, got 100 and 0")],
)
def test_a_wrong_option_is_one_line(folder, capsys, words, message):
    code, out = run(folder, *words)
    assert code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_an_existing_file_and_another_format_are_refused_before_the_model_is_loaded(folder, capsys):
    assert run(folder)[0] == 0
    assert run(folder)[0] == 2
    assert "exists already" in capsys.readouterr().err
    words = ["generate", "nowhere", "--prompt", "A", "--length", "3", "-o", str(folder / "out.tsv")]
    assert main(words) == 2
    assert "expected .fa" in capsys.readouterr().err
