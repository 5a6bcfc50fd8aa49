"""Fixtures of registries."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture
def library_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What the library logs, also after a command has set up logging in this process."""
    library = logging.getLogger("stable_audio_tools")
    monkeypatch.setattr(library, "propagate", True)
    monkeypatch.setattr(library, "level", logging.NOTSET)
    return caplog
