"""Autoencoders give the recorded numbers, with the recorded state dicts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

CASES = [
    "ae-oobleck-vae", "ae-oobleck-elu-tanh-mono", "ae-oobleck-antialias", "ae-oobleck-nearest", "ae-oobleck-chunked",
    "ae-softclip-wasserstein", "ae-rvq", "ae-dac-rvq", "ae-dac-vae", "ae-dac-rvq-vae", "ae-fsq", "ae-dithered-fsq", "ae-seanet-rvq",
    "ae-taae", "sa3-same-chunked", "sa3-same-window",
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_recorded(shared: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(shared / "goldens"))
    import cases  # pyright: ignore[reportMissingImports]
    import goldens  # pyright: ignore[reportMissingImports]

    try:
        (case,) = [case for case in cases.CASES if case["name"] == name]
        error = goldens.check(case, shared / "goldens" / name)
        assert isinstance(error, float), error
        assert error < 1e-5  # ten times nearer than the recording asks for: the same operations in the same order
    finally:
        for module in ("goldens", "cases"):
            sys.modules.pop(module, None)
