"""`models`, `download`, `export` and `doctor` as a user meets them."""

import json
from pathlib import Path

import huggingface_hub.constants  # reads the environment once: before a test changes it
import numpy as np
import pytest
import torch

from chargaff.cli.main import ExitCode, main
from chargaff.hub.catalog import list_checkpoints
from chargaff.hub.load import load
from chargaff.hub.save import save
from chargaff.workflows.doctor import check_strands
from chargaff.workflows.embed import embed
from tests.hub.hub_stub import NEW, Hub, running
from tests.workflows.toy import random_bases, saved_model, tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return saved_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_table_has_a_line_for_every_checkpoint(capsys):
    code, out, _ = run(capsys, "models")
    assert code == ExitCode.DONE
    header, *lines = out.splitlines()
    names = ["name", "family", "head", "context_bp", "params", "strands", "licence", "paper", "here"]
    assert header.split() == names
    assert [line.split()[0] for line in lines] == [row.name for row in list_checkpoints()]
    found = json.loads(run(capsys, "models", "--json")[1])
    assert [row["params"] for row in found] == [row.params for row in list_checkpoints()]
    assert {row["here"] for row in found} == {"no", "no weights", "yes"}
    packaged = [row.name for row in list_checkpoints() if row.package_folder is not None]
    assert [row["name"] for row in found if row["here"] == "yes"] == packaged


def test_the_table_tells_context_size_licence_and_paper_in_aligned_columns(capsys):
    header, *lines = run(capsys, "models")[1].splitlines()
    row = next(line for line in lines if line.startswith("caduceus-ps-131k "))
    assert row.split()[3:] == ["131,072", "7,725,312", "equivariant", "Apache-2.0", "arXiv:2403.03234", "no"]
    end = header.index("params") + len("params")
    assert {line[end - 1].isdigit() for line in lines} == {True}


def test_one_checkpoint_is_shown_whole(capsys):
    code, out, _ = run(capsys, "models", "caduceus-ps-131k")
    assert code == ExitCode.DONE
    for words in ("context_bp: 131,072", "params: 7,725,312", "licence: Apache-2.0", "  d_model: 256"):
        assert words in out
    assert "model.safetensors: not downloaded" in out
    found = json.loads(run(capsys, "models", "caduceus-ps-131k", "--json")[1])
    assert found["config"]["rcps"] is True


def test_a_model_on_this_machine_is_shown_too(capsys, model):
    found = json.loads(run(capsys, "models", model, "--json")[1])
    assert (found["family"], found["strands"], found["head"]) == ("caduceus", "equivariant", "lm")
    assert found["files"]["model.safetensors"] == str(model / "model.safetensors")
    assert found["config"]["d_model"] == 16


@pytest.mark.parametrize("verb", ["models", "download"])
def test_a_mistyped_name_gets_the_nearest(capsys, verb):
    code, out, err = run(capsys, verb, "caduceus-ps-131")
    assert (code, out) == (ExitCode.USER_ERROR, "")
    assert "did you mean 'caduceus-ps-131k'" in err
    assert err.count("\n") == 1


def test_a_download_without_a_network_says_what_to_do(capsys):
    code, _, err = run(capsys, "download", "caduceus-ps-1k-118")
    assert code == ExitCode.USER_ERROR
    assert err.count("\n") == 1
    assert "not in the cache, and the network is ruled out" in err


def test_a_download_prints_the_folder(capsys, model):
    assert run(capsys, "download", model) == (ExitCode.DONE, f"{model}\n", "")


def test_what_was_downloaded_loads_without_the_network(capsys, tmp_path, monkeypatch):
    golden = Path(__file__).parent.parent / "goldens" / "data" / "caduceus" / "hub_ps_tiny"
    files = {path.name: path.read_bytes() for path in golden.iterdir()}
    with running(Hub({"some-lab/tiny-ps": {NEW: files}})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        code, out, _ = run(capsys, "download", "some-lab/tiny-ps")
    assert code == ExitCode.DONE
    assert sorted(path.name for path in Path(out.strip()).iterdir()) == sorted(files)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fasta = tmp_path / "x.fa"
    fasta.write_text(">a\nACGTACGT\n")
    assert run(capsys, "embed", "some-lab/tiny-ps", fasta, "-o", tmp_path / "x.npy")[0] == ExitCode.DONE
    wanted = embed(load(golden, device="cpu"), ["ACGTACGT"]).vectors
    assert np.array_equal(np.load(tmp_path / "x.npy"), wanted)


def test_an_export_loads_and_gives_the_same_vectors(capsys, tmp_path, model):
    code, _, err = run(capsys, "export", model, "-o", tmp_path / "hub")
    assert code == ExitCode.DONE, err
    assert (tmp_path / "hub" / "config.json").exists()
    assert run(capsys, "export", tmp_path / "hub", "-o", tmp_path / "own", "--layout", "chargaff")[0] == ExitCode.DONE
    assert (tmp_path / "own" / "model.json").exists()
    sequences = [random_bases(50)]
    wanted = embed(load(model, device="cpu"), sequences).vectors
    for folder in ("hub", "own"):
        assert np.array_equal(embed(load(tmp_path / folder, device="cpu"), sequences).vectors, wanted)


def test_an_export_overwrites_only_on_request_and_knows_its_layouts(capsys, tmp_path, model):
    code, _, err = run(capsys, "export", model, "-o", tmp_path / "x", "--layout", "hob")
    assert code == ExitCode.USER_ERROR
    assert "layout: caduceus can be written in hub, got 'hob'" in err
    assert run(capsys, "export", model, "-o", tmp_path / "x")[0] == ExitCode.DONE
    assert run(capsys, "export", model, "-o", tmp_path / "x")[0] == ExitCode.USER_ERROR
    assert run(capsys, "export", model, "-o", tmp_path / "x", "--overwrite")[0] == ExitCode.DONE


def test_the_doctor_reports_machine_and_kernels(capsys):
    code, out, _ = run(capsys, "doctor")
    assert code == ExitCode.DONE
    assert f"torch {torch.__version__}" in out
    assert "threads of torch" in out
    found = json.loads(run(capsys, "doctor", "--json")[1])
    by_op: dict[str, list[str]] = {}
    for row in found["backends"]:
        if row["device"] == "cpu":
            by_op.setdefault(row["op"], []).append(row["refusal"])
    assert {"selective_scan", "causal_conv1d"} <= set(by_op)
    assert all("" in refusals for refusals in by_op.values())  # something takes every op


def test_the_doctor_measures_the_strand_contract(capsys, tmp_path, model):
    code, out, _ = run(capsys, "doctor", model, "--strands")
    assert code == ExitCode.DONE
    assert out.count(": kept") == 3
    code, out, _ = run(capsys, "doctor", saved_model(tmp_path, "ph"), "--strands")
    assert code == ExitCode.DONE
    assert out.count("not promised") == 2
    entries = json.loads(run(capsys, "doctor", tmp_path / "tiny-ph", "--strands", "--json")[1])
    assert [entry["is_promised"] for entry in entries] == [False, True, False]
    assert entries[0]["error"] > 0.1


def test_a_broken_strand_contract_is_found(capsys, tmp_path):
    broken = tiny_model("ps")
    with torch.no_grad():
        table = broken.backbone.embeddings.word_embeddings.complement_map
        table[[7, 8]] = table[[8, 7]]
    save(broken, tmp_path / "broken")
    code, out, _ = run(capsys, "doctor", tmp_path / "broken", "--strands")
    assert code == ExitCode.USER_ERROR
    assert "BROKEN" in out


def test_a_classifier_is_judged_by_its_outputs():
    checks = check_strands(tiny_model("ps", head="sequence"))
    assert [check.what for check in checks][-1] == "outputs of the sequence head"
    assert not any(check.is_broken for check in checks)
    assert check_strands(tiny_model("ph", head="sequence"))[-1].error > 1e-3


def test_the_doctor_asks_what_to_test_of_a_model(capsys):
    code, _, err = run(capsys, "doctor", "some-model")
    assert code == ExitCode.USER_ERROR
    assert "a model is tested with --strands" in err
