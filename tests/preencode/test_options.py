"""What is taken if nobody says."""

import os

import pytest

from stable_audio_tools.preencode.options import PreEncodeOptions, default_workers


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 2), (4, 4), (64, 4)])
@pytest.mark.parametrize("has_affinity", [True, False])
def test_no_more_workers_than_cores_and_no_more_than_four(monkeypatch, cores, expected, has_affinity):
    monkeypatch.setattr(os, "cpu_count", lambda: cores if not has_affinity else 99)
    if has_affinity:
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    else:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert default_workers() == expected
    assert PreEncodeOptions(dataset_config={}, output_path="x").num_workers == expected
    assert PreEncodeOptions(dataset_config={}, output_path="x", num_workers=7).num_workers == 7, "who asks for more gets more"
