"""The demo's training ends when its time is over, whatever its steps."""

import time
from types import SimpleNamespace

from stable_audio_tools.demo.training import TimeLimit
from stable_audio_tools.training.checkpointing import find_checkpoints


def test_training_ends_when_time_is_over(train_briefly, tiny_diffusion):
    said = []
    started = time.perf_counter()
    result = train_briefly(tiny_diffusion(), max_steps=100_000, callbacks=[TimeLimit(0.5, 100_000, said.append)])
    assert 0.5 < time.perf_counter() - started < 20
    assert 1 < result.step < 100_000 and result.stop_signal is None
    assert find_checkpoints(result.folder) == [result.checkpoint], "it ends with a checkpoint, from which it can go on"


def test_steps_may_be_over_before_the_time(train_briefly, tiny_diffusion):
    assert train_briefly(tiny_diffusion(), callbacks=[TimeLimit(100, 3, print)]).step == 3


def test_progress_is_said_early_and_then_every_20_seconds(train_briefly, tiny_diffusion, monkeypatch):
    """With a clock on which every step takes 3 s: the first step starts it."""
    ticks = iter(range(0, 10_000, 3))
    monkeypatch.setattr("stable_audio_tools.demo.training.time", SimpleNamespace(perf_counter=lambda: 1000 + next(ticks)))
    said = []
    result = train_briefly(tiny_diffusion(), max_steps=100, callbacks=[TimeLimit(60, 100, said.append)])
    steps = [int(line.split()[1].rstrip(",")) for line in said]
    assert steps == [3, 10, 17]
    assert "3.00 s per step, 0.9 minutes left" in said[0] and "loss " in said[0]
    assert result.step == 22, "the first step over 60 s"
