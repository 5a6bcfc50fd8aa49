import math

import numpy as np
import pytest
import torch

from stable_audio_tools.audio.loudness import LoudnessMeter, k_weighting, loudness_lufs
from stable_audio_tools.errors import AudioError


def tone(level_db, *, seconds=5.0, hertz=997.0, rate=48000):
    time = torch.arange(int(seconds * rate), dtype=torch.float64) / rate
    return 10 ** (level_db / 20) * torch.sin(2 * torch.pi * hertz * time)


def test_the_filters_at_48_khz_are_the_standards_tables():
    """ITU-R BS.1770-5, tables 1 and 2."""
    expected = [
        [1.53512485958697, -2.69169618940638, 1.19839281085285, 1, -1.69065929318241, 0.73248077421585],
        [1, -2, 1, 1, -1.99004745483398, 0.99007225036621],
    ]
    np.testing.assert_allclose(k_weighting(48000), expected, atol=1e-8)


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000, 96000])
def test_a_full_scale_tone_in_one_channel_reads_minus_3_in_two_0(rate):
    """The standard's own example, -3.01 LKFS at 997 Hz; a second channel adds 3 dB."""
    audio = tone(0, rate=rate)[None]
    assert loudness_lufs(audio, rate) == pytest.approx(-3.01, abs=0.06)
    assert loudness_lufs(audio.repeat(2, 1), rate) == pytest.approx(0.0, abs=0.06)


def test_a_stereo_tone_at_minus_23_db_is_minus_23_lufs():
    """EBU Tech 3341, test cases 1 and 2."""
    for level in (-23, -33):
        assert loudness_lufs(tone(level, hertz=1000, seconds=20).repeat(2, 1), 48000) == pytest.approx(level, abs=0.1)


def test_quiet_parts_are_gated():
    """EBU Tech 3341, test cases 3 and 4: -36 and -72 dB around 60 s of -23 dB do not count."""
    loud, quiet, faint = tone(-23, hertz=1000, seconds=60), tone(-36, hertz=1000, seconds=10), tone(-72, hertz=1000, seconds=10)
    assert loudness_lufs(torch.cat([quiet, loud, quiet]).repeat(2, 1), 48000) == pytest.approx(-23, abs=0.1)
    assert loudness_lufs(torch.cat([faint, quiet, loud, quiet, faint]).repeat(2, 1), 48000) == pytest.approx(-23, abs=0.1)


def test_surround_channels_are_weighted():
    """EBU Tech 3341, test case 6: 5.0, -28 dB in the front, -24 dB in the centre, -30 dB in the rear."""
    channels = [tone(level, hertz=1000, seconds=20) for level in (-28, -28, -24, -30, -30)]
    assert loudness_lufs(torch.stack(channels), 48000) == pytest.approx(-23, abs=0.1)
    with_low = [*channels[:3], tone(0, hertz=1000, seconds=20), *channels[3:]]
    assert loudness_lufs(torch.stack(with_low), 48000) == pytest.approx(-23, abs=0.1)


def test_blocks_of_any_length_measure_the_same():
    rng = np.random.default_rng(0)
    audio = rng.standard_normal((2, 50_000)) * np.linspace(0.01, 0.3, 50_000)
    whole = LoudnessMeter(16000, 2)
    whole.add(audio)
    pieces = LoudnessMeter(16000, 2)
    for part in np.split(audio, [1, 7, 1600, 3200, 3201, 30_000], axis=1):
        pieces.add(part)
    assert pieces.integrated() == pytest.approx(whole.integrated(), abs=1e-9)


def test_gain_moves_loudness_by_as_much():
    audio = tone(-20)[None] + 0.01 * torch.randn(240_000, generator=torch.Generator().manual_seed(0))
    assert loudness_lufs(audio * 0.5, 48000) == pytest.approx(loudness_lufs(audio, 48000) - 6.02, abs=0.01)


def test_clips_shorter_than_a_block_and_silence_have_a_value():
    assert loudness_lufs(tone(-23, seconds=0.2)[None].repeat(2, 1), 48000) == pytest.approx(-23, abs=0.5)
    assert math.isfinite(loudness_lufs(tone(0, seconds=0.001)[None], 48000))
    assert loudness_lufs(torch.zeros(1, 48000), 48000) == -math.inf
    assert loudness_lufs(torch.zeros(1, 0), 48000) == -math.inf


def test_audio_without_channels_is_refused():
    with pytest.raises(AudioError, match=r"loudness: expected \(channels, samples\), got shape \(100,\)"):
        loudness_lufs(torch.zeros(100), 48000)
