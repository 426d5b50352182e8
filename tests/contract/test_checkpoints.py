"""Every row of every checkpoints.toml: its config parses, and the model it describes has the stated size."""

import pytest
import torch

from chargaff.families import get_family, list_families
from chargaff.hub.catalog import Checkpoint, get_checkpoint, list_checkpoints
from chargaff.hub.heads import build_head
from chargaff.nn.pooling import POOLINGS

CHECKPOINTS = list_checkpoints()


@pytest.fixture(params=CHECKPOINTS, ids=[row.name for row in CHECKPOINTS])
def row(request: pytest.FixtureRequest) -> Checkpoint:
    found: Checkpoint = request.param
    return found


def test_names_are_unique_and_found_again():
    names = [row.name for row in CHECKPOINTS]
    assert len(names) == len(set(names))
    assert [get_checkpoint(name) for name in names] == list(CHECKPOINTS)


def test_row_names_things_that_exist(row):
    family = get_family(row.family)
    assert row.family in list_families()
    assert row.layout in family.layouts
    assert row.head in {"lm", "none", "token", *family.extra_heads}
    assert row.head != "lm" or family.lm_head is not None
    assert row.pooling in POOLINGS
    kind, _, rest = row.source.partition(":")
    assert kind in ("hub", "package", "none")
    assert rest, "where the weights are, or why there are none"


def test_row_states_licence_paper_and_context(row):
    assert row.licence or row.source.startswith("none:")
    assert row.paper
    assert row.context_bp > 0


def test_config_parses_strictly_and_parameter_count_is_exact(row):
    family = get_family(row.family)
    config = family.config.from_json(row.config, strict=True)
    with torch.device("meta"):
        backbone = family.backbone(config)
        head, _ = build_head(family, row.head, config, backbone, {"num_outputs": len(row.labels)})
    unique = {id(p): p.numel() for module in (backbone, head) if module is not None for p in module.parameters()}
    assert sum(unique.values()) == row.params
