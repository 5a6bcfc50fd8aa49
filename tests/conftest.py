"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data: ``SAT_SHARED``, or ``shared`` beside the checkout or above it."""
    named = os.environ.get("SAT_SHARED")
    candidates = [Path(named)] if named else [parent / "shared" for parent in Path(__file__).resolve().parents]
    for candidate in candidates:
        if (candidate / "data").is_dir():
            return candidate
    pytest.skip(f"no shared data: {'SAT_SHARED is ' + named if named else 'no folder shared/data above this checkout'}")
