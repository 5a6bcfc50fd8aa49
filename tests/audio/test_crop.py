import math
import random

import pytest
import torch

from stable_audio_tools.audio import apply_crop, load, normalized_crop, pad_crop, plan_crop, random_crop_start
from stable_audio_tools.errors import AudioError


@pytest.mark.parametrize("total", [0, 1, 99, 100, 101, 1000, 44100])
@pytest.mark.parametrize("num_samples", [1, 100, 30_000])
@pytest.mark.parametrize("randomize", [False, True])
def test_the_arithmetic_is_upstreams(total, num_samples, randomize):
    """Reference arithmetic: U = max(0, n - S), offset in [0, U], times relative to U + S, floor and ceiling of seconds."""
    upper = max(0, total - num_samples)
    plan = plan_crop(total, num_samples, 100, randomize=randomize, rng=random.Random(7))
    offset = random.Random(7).randint(0, upper) if randomize and total > num_samples else 0
    assert plan.start == offset
    assert plan.t_start == offset / (upper + num_samples)
    assert plan.t_end == (offset + num_samples) / (upper + num_samples)
    assert plan.seconds_start == math.floor(offset / 100)
    assert plan.seconds_total == math.ceil(total / 100)


def test_starts_are_uniform_and_include_both_ends():
    rng = random.Random(0)
    starts = [random_crop_start(12, 10, rng) for _ in range(600)]
    assert {start: starts.count(start) > 150 for start in starts} == {0: True, 1: True, 2: True}


def test_short_clips_draw_nothing():
    rng = random.Random(3)
    state = rng.getstate()
    assert random_crop_start(10, 10, rng) == 0
    plan_crop(10, 20, 100, randomize=True, rng=rng)
    plan_crop(100, 20, 100, randomize=False, rng=rng)
    assert rng.getstate() == state


def test_the_module_random_is_the_default_source():
    random.seed(5)
    plan = plan_crop(10_000, 100, 100, randomize=True)
    random.seed(5)
    assert plan.start == random.randint(0, 9_900)


@pytest.mark.parametrize("num_samples", [10, 300, 400])
def test_planning_first_and_decoding_the_crop_is_cropping_the_whole(encoded, num_samples):
    whole, rate = load(encoded["pcm16.wav"])
    num_samples *= 1000
    expected = normalized_crop(whole, num_samples, rate, randomize=True, rng=random.Random(1))
    plan = plan_crop(whole.shape[-1], num_samples, rate, randomize=True, rng=random.Random(1))
    span = load(encoded["pcm16.wav"], start=plan.start, num_frames=plan.num_samples).samples
    for mine, theirs in zip(apply_crop(span, plan), expected, strict=True):
        assert torch.equal(torch.as_tensor(mine), torch.as_tensor(theirs))


def test_padding_is_silent_masked_and_at_the_end():
    crop = normalized_crop(torch.ones(2, 3, 5), 8, 10, randomize=True)
    assert crop.audio.equal(torch.ones(2, 3, 8) * torch.tensor([1, 1, 1, 1, 1, 0, 0, 0]))
    assert crop.padding_mask.dtype == torch.float32
    assert crop.padding_mask.tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert (crop.t_start, crop.t_end, crop.seconds_start, crop.seconds_total) == (0, 1, 0, 1)


def test_pad_crop_keeps_the_start_and_pads_the_end():
    audio = torch.arange(10.0)[None]
    assert pad_crop(audio, 4).audio.tolist() == [[0, 1, 2, 3]]
    assert pad_crop(audio, 4, start=8).audio.tolist() == [[8, 9, 0, 0]]
    assert pad_crop(audio, 2, start=10).padding_mask.tolist() == [0, 0]
    assert pad_crop(audio, 4, start=5, sample_rate=4)[1:6] == (5, 0.5, 0.9, 1, 3)
    assert pad_crop(audio, 10).audio.equal(audio)


@pytest.mark.parametrize("start", [-1, 11])
def test_starts_outside_the_clip_are_refused(start):
    with pytest.raises(AudioError, match=rf"crop: cannot start at sample {start} of a clip of 10; allowed are 0 to 10"):
        pad_crop(torch.zeros(1, 10), 4, start=start)


@pytest.mark.parametrize(("total", "num_samples", "rate"), [(-1, 10, 100), (10, 0, 100), (10, 10, 0)])
def test_impossible_lengths_are_refused(total, num_samples, rate):
    message = rf"crop: cannot take {num_samples} samples of {total} at {rate} Hz; the crop and the rate must be at least 1"
    with pytest.raises(AudioError, match=message):
        plan_crop(total, num_samples, rate, randomize=False)
