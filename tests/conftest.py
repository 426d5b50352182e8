"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def shared_data(relative: str) -> Path:
    """A file or folder of the project's shared data (`../shared`, or $CHARGAFF_TEST_DATA); skips the test if absent."""
    root = Path(os.environ.get("CHARGAFF_TEST_DATA", REPOSITORY.parent / "shared"))
    path = root / relative
    if not path.exists():
        pytest.skip(f"shared data not here: {path} (set CHARGAFF_TEST_DATA to the folder that holds it)")
    return path
