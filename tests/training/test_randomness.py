import random
from contextlib import suppress

import numpy as np
import torch

from stable_audio_tools.training.randomness import isolated_randomness, random_state, restore_random_state


def draw():
    return torch.rand(3).tolist(), random.random(), random.gauss(0, 1), np.random.rand(2).tolist(), np.random.randn()


def test_every_stream_goes_on_where_it_was_saved():
    draw()
    state = random_state()
    expected = [draw() for _ in range(3)]
    restore_random_state(state)
    assert [draw() for _ in range(3)] == expected


def test_the_state_is_plain_data(tmp_path):
    state = random_state()
    expected = draw()
    torch.save(state, tmp_path / "state")
    restore_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert draw() == expected


def test_what_is_isolated_draws_the_same_each_time_and_disturbs_nothing():
    state = random_state()
    expected = [draw(), draw()]
    restore_random_state(state)
    seen = [draw()]
    inside = []
    for seed in (1, 1, 2):
        with isolated_randomness(seed):
            inside.append(draw())
    with suppress(KeyError), isolated_randomness(3):
        raise KeyError(draw())
    seen.append(draw())
    assert seen == expected
    assert inside[0] == inside[1] != inside[2]
