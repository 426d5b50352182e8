"""Folders of JAX models with batch norms: params.joblib, state.joblib, and no description."""

import shutil
from pathlib import Path

import pytest
import torch

import chargaff
from chargaff.errors import CheckpointError, ConfigError

GOLDENS = Path(__file__).resolve().parent.parent / "goldens" / "data"
FOLDER = GOLDENS / "segment" / "jax_ckpt_segment_enformer_tiny"
ELEMENTS = [f"element {number}" for number in range(14)]
CONFIG = {
    "dim": 24,
    "depth": 2,
    "heads": 2,
    "attn_dim_key": 7,
    "output_heads": {"human": 5, "mouse": 3},
    "target_length": 4,
    "num_downsamples": 3,
    "dim_divisible_by": 8,
    "features": ELEMENTS,
}


def copy(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        shutil.copy(FOLDER / name, folder / name)
    return folder


def test_the_modules_tell_the_family_and_every_head_can_be_had():
    tokens = torch.randint(2, 6, (1, 64))
    shapes = {"segmentation": (1, 64, 14, 2), "tracks": (1, 4, 8)}
    for head, shape in shapes.items():
        model = chargaff.load(FOLDER, head=head, config=CONFIG, device="cpu")
        assert model.spec.family == "enformer"
        assert model(tokens).logits.shape == shape
    assert chargaff.load(FOLDER, config=CONFIG, device="cpu").spec.head == "segmentation"
    assert list(chargaff.load(FOLDER, config=CONFIG, device="cpu").spec.labels) == ELEMENTS
    assert chargaff.load(FOLDER, head="none", config=CONFIG, device="cpu").head is None


def test_averages_of_the_norms_come_from_the_second_file():
    model = chargaff.load(FOLDER, config=CONFIG, device="cpu")
    norm = model.backbone.stem[1].fn[0]
    assert norm.running_mean.any()
    assert norm.num_batches_tracked > 0


def test_sizes_that_are_not_the_published_ones_must_be_told():
    with pytest.raises(CheckpointError, match="do not match the model"):
        chargaff.load(FOLDER, device="cpu")
    with pytest.raises(ConfigError, match=r"config\.dims: unknown key, did you mean 'dim'"):
        chargaff.load(FOLDER, config={"dims": 24}, device="cpu")


def test_a_missing_second_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"state\.joblib: no such file; .*averages"):
        chargaff.load(copy(tmp_path / "half", "params.joblib"), config=CONFIG, device="cpu")


def test_an_archive_of_another_model_is_refused(tmp_path):
    folder = copy(tmp_path / "other", "state.joblib")
    shutil.copy(GOLDENS / "nt" / "jax_ckpt_v2_tiny" / "pytree_ckpt.joblib", folder / "params.joblib")
    with pytest.raises(CheckpointError, match="of no family known here"):
        chargaff.load(folder, device="cpu")
