"""The bundled model on a published benchmark: GUE's core promoters with a TATA box, beside the published values."""

import pytest
from conftest import REPOSITORY, shared_data

from chargaff.train.runs import FinetuneRun, load_run
from chargaff.workflows.finetune import finetune

PUBLISHED = {"DNABERT-2": 0.7417, "NT-2500M-multi": 0.7297, "NT-500M-human": 0.7134, "DNABERT (3-mer)": 0.7815}
"""MCC on prom_core_tata, DNABERT-2 paper, Table 4."""
KMERS = 0.517
"""Logistic regression on 3- to 6-mers, measured on the same files (the data's README)."""


@pytest.mark.slow
def test_core_promoters_with_a_tata_box(tmp_path, capsys):
    folder = shared_data("data/gue/prom/prom_core_tata")
    files = {"train": "train", "valid": "dev", "test": "test"}
    words = [f"data.{split}={folder / name}.csv.gz" for split, name in files.items()]
    words += ["train.seeds=1", f"out.folder={tmp_path}"]
    run = load_run(FinetuneRun, REPOSITORY / "examples" / "runs" / "promoter_tata.toml", words)
    found = finetune(run).summary["test_mcc"]
    with capsys.disabled():
        for name, value in [("chargaff-caduceus-ps-mini", found), *PUBLISHED.items(), ("k-mers", KMERS)]:
            print(f"{name:28}{value:.3f}")
    assert found > max(PUBLISHED.values())
