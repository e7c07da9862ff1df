"""Shared by all tests: where the real data are, and one thread so that tests can run side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

PROJECT = Path(__file__).resolve().parent.parent
REAL_DATA = PROJECT.parent / "shared" / "data"

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def project() -> Path:
    return PROJECT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The two chest X-ray sets as they unpack; the test is skipped where they are absent."""
    if not (REAL_DATA / "chest_xray").is_dir():
        pytest.skip(f"the chest X-rays are not at {REAL_DATA}")
    return REAL_DATA
