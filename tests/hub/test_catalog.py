"""The catalogue: strict rows, sizes that are true, and sums that agree with what we would publish."""

import hashlib
import subprocess
import sys

import pytest
import torch

from chargaff.errors import ConfigError
from chargaff.families import get_family
from chargaff.hub import catalog
from chargaff.hub.catalog import get_checkpoint, list_checkpoints, parse_rows
from chargaff.hub.heads import build_head
from chargaff.nn.pooling import POOLINGS

ROWS = list_checkpoints()
NAMES = [row.name for row in ROWS]

ROW = """
[some-model]
source = "hub:some-lab/some-model"
layout = "hub"
head = "lm"
context_bp = 1_024
params = 10
licence = "MIT"
paper = "doi:0"
[some-model.files]
"model.safetensors" = ""
[some-model.config]
d_model = 4
"""


def with_line(old: str, new: str) -> str:
    assert old in ROW
    return ROW.replace(old, new)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_row_states_the_size_of_its_model(row):
    family = get_family(row.family)
    config = family.config.from_json(row.config, strict=True)
    with torch.device("meta"):
        backbone = family.backbone(config)
        head, _ = build_head(family, row.head, config, backbone, {"num_outputs": len(row.labels)})
    parts = [part for part in (backbone, head) if part is not None]
    assert sum({id(p): p.numel() for part in parts for p in part.parameters()}.values()) == row.params


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_row_agrees_with_its_family(row):
    family = get_family(row.family)
    config = family.config.from_json(row.config)
    assert row.layout in family.layouts
    assert row.strands == family.strands(config)
    assert row.context_bp >= 1024


@pytest.mark.parametrize("row", [row for row in ROWS if row.hub_id and row.layout == "hub"], ids=lambda row: row.name)
def test_recorded_sums_are_those_of_the_files_we_would_publish(row):
    family = get_family(row.family)
    texts = family.published_files(family.config.from_json(row.config), row.head, row.context_bp, row.labels)
    for name, text in texts.items():
        recorded = row.files.get(name, "")
        assert recorded in ("", hashlib.sha256(text.encode()).hexdigest()), name


def test_sums_of_published_files_are_recorded_where_they_are_known():
    recorded = {row.name: sum(map(bool, row.files.values())) for row in ROWS if row.hub_id}
    assert recorded["caduceus-ps-131k"] == recorded["caduceus-ph-1k-256"] == 4
    assert recorded["caduceus-ph-131k"] == 3


def test_all_six_published_caduceus_models_are_there():
    ids = [row.hub_id for row in ROWS if row.family == "caduceus" and row.hub_id]
    assert len(ids) == len(set(ids)) == 6
    assert all(identity.startswith("kuleshov-group/caduceus-p") for identity in ids)


def test_choices_are_those_of_the_model_code():
    assert catalog.POOLINGS == POOLINGS


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"'caduceus-ps-13k'.*did you mean 'caduceus-ps-131k'"):
        get_checkpoint("caduceus-ps-13k")


def test_hopeless_name_lists_all():
    with pytest.raises(ConfigError, match=r"known: .*caduceus-ps-131k, .*mamba-1k-128"):
        get_checkpoint("zzzzzz")


def test_reading_the_catalogue_does_not_import_torch():
    code = "import sys; from chargaff.hub import catalog; catalog.list_checkpoints(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_row_is_read():
    (row,) = parse_rows("toy", ROW)
    assert (row.name, row.family, row.hub_id) == ("some-model", "toy", "some-lab/some-model")
    assert row.context_bp == 1024
    assert dict(row.config) == {"d_model": 4}
    assert (row.labels, row.pooling, row.strands, row.revision) == ((), "mean", "forward-only", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (with_line("context_bp = 1_024", "contxt_bp = 1_024"), "some-model.contxt_bp: unknown key, .*'context_bp'"),
        (with_line("context_bp = 1_024", "wheel = 1"), "some-model.wheel: unknown key, known: source"),
        (with_line('head = "lm"\n', ""), "some-model: missing head"),
        (with_line('head = "lm"', 'head = "ml"'), "some-model.head: expected one of lm, .*got 'ml'"),
        (with_line("params = 10", 'params = "10"'), "some-model.params: expected int, got '10'"),
        (with_line("params = 10", "params = true"), "some-model.params: expected int, got True"),
        (with_line("params = 10", "params = 0"), "some-model.params: expected a positive integer, got 0"),
        (with_line("hub:some-lab/some-model", "ftp://there"), "some-model.source: expected 'hub:"),
        (with_line("hub:some-lab/some-model", "hub:some-model"), "some-model.source: expected 'hub:"),
        (with_line('licence = "MIT"', 'licence = ""'), "published weights need 'licence'"),
        (with_line('"model.safetensors" = ""', '"model.safetensors" = "12"'), "expected 64 hexadecimal digits"),
        (with_line('"model.safetensors" = ""', '"../x" = ""'), "leaves the repository's folder"),
        (with_line('paper = "doi:0"', 'paper = "doi:0"\nrevision = "main"'), "expected 40 hexadecimal digits"),
        (with_line('paper = "doi:0"', 'paper = "doi:0"\nlabels = [1]'), "some-model.labels: expected str, got 1"),
        ("[x", "families/toy/checkpoints.toml: "),
        ("x = 1", "x: expected a table, got 1"),
    ],
)
def test_a_malformed_row_is_refused_with_its_place(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_rows("toy", text)
