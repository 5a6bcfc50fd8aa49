import math

import pytest
import torch

from stable_audio_tools.audio import resample
from stable_audio_tools.audio.resample import is_shift_invariant
from stable_audio_tools.errors import AudioError


def sine(frequency_hz, rate, seconds=1.0):
    return torch.sin(2 * math.pi * frequency_hz * torch.arange(int(rate * seconds), dtype=torch.float64) / rate).float()


@pytest.mark.parametrize("num_frames", [0, 1, 2, 99, 44099, 44100])
@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 48000), (48000, 44100), (44100, 44101), (96000, 8000), (11127, 44100)])
def test_the_length_is_the_ceiling(num_frames, from_rate, to_rate):
    assert resample(torch.zeros(2, num_frames), from_rate, to_rate).shape == (2, -(-num_frames * to_rate // from_rate))


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 48000), (48000, 16000), (22050, 44100), (44100, 44101)])
def test_a_sine_stays_the_same_sine(from_rate, to_rate):
    """Amplitude and phase: the error is below -90 dB away from the edges."""
    resampled = resample(sine(997, from_rate), from_rate, to_rate)
    expected = sine(997, to_rate)[: len(resampled)]
    inner = slice(to_rate // 10, -to_rate // 10)
    assert (resampled[: len(expected)] - expected)[inner].abs().max() < 3e-5


def test_what_the_new_rate_cannot_hold_is_removed():
    assert resample(sine(9000, 44100), 44100, 16000)[1000:-1000].abs().max() < 1e-5


def test_up_and_down_again_is_the_identity_for_band_limited_sound():
    audio = sine(500, 44100) * 0.3 + sine(5000, 44100) * 0.2
    back = resample(resample(audio, 44100, 48000), 48000, 44100)
    assert (back - audio)[2000:-2000].abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(100,), (3, 100), (2, 3, 100), (0, 100)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_leading_dimensions_and_dtype_are_kept(shape, dtype):
    resampled = resample(torch.ones(shape, dtype=dtype), 100, 250)
    assert resampled.shape == (*shape[:-1], 250)
    assert resampled.dtype == dtype


def test_a_batch_is_its_clips_one_by_one(noise):
    batch = torch.stack([noise, noise.flip(-1)])
    alone = torch.stack([resample(clip, 44100, 32000) for clip in batch])
    torch.testing.assert_close(resample(batch, 44100, 32000), alone, atol=1e-7, rtol=0)


def test_equal_rates_change_nothing(noise):
    assert resample(noise, 44100, 44100) is noise


def test_common_rates_are_shift_invariant():
    rates = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000)
    assert all(is_shift_invariant(a, b) for a in rates for b in rates)
    assert not is_shift_invariant(11127, 44100)


@pytest.mark.parametrize("rates", [(0, 44100), (44100, -1)])
def test_impossible_rates_are_refused(rates):
    with pytest.raises(AudioError, match=r"resample: cannot go from -?\d+ Hz to -?\d+ Hz; rates must be at least 1"):
        resample(torch.zeros(3), *rates)


def test_integers_are_refused():
    with pytest.raises(AudioError, match=r"resample: expected a float tensor, got torch\.int16; convert it with from_int16"):
        resample(torch.zeros(3, dtype=torch.int16), 44100, 48000)
