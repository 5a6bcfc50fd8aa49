"""The A-weighting filter, against the curve that IEC 61672 tabulates."""

import pytest
import torch

from stable_audio_tools.training.losses.weighting import AWeighting, a_weighting_taps

TABLE = {100: -19.1, 200: -10.9, 500: -3.2, 1000: 0.0, 2000: 1.2, 4000: 1.0, 8000: -1.1}  # Hz -> dB


def gain_db(frequency, sample_rate):
    t = torch.arange(sample_rate // 2, dtype=torch.float64) / sample_rate
    tone = torch.sin(2 * torch.pi * frequency * t).float()[None, None]
    filtered = AWeighting(sample_rate)(tone)
    assert filtered.shape == tone.shape
    return float(20 * torch.log10(filtered[..., 200:-200].norm() / tone[..., 200:-200].norm()))


@pytest.mark.parametrize("sample_rate", [44100, 48000])
def test_gains_are_those_of_the_standard(sample_rate):
    """101 taps at 44.1 kHz resolve 440 Hz, so the steep slope below is only followed roughly; the bilinear transform bends the top."""
    for frequency, expected in TABLE.items():
        tolerance = 0.4 if 500 <= frequency <= 4000 else 0.8 if frequency > 4000 else 4
        assert gain_db(frequency, sample_rate) == pytest.approx(expected, abs=tolerance), frequency


def test_channels_and_items_are_filtered_alike_without_delay():
    weighting = AWeighting(44100)
    audio = torch.randn(2, 3, 500, generator=torch.Generator().manual_seed(0))
    filtered = weighting(audio)
    torch.testing.assert_close(filtered[1, 2], weighting(audio[1, 2][None, None])[0, 0])
    click = torch.zeros(1, 1, 301)
    click[..., 150] = 1
    response = weighting(click)[0, 0]
    torch.testing.assert_close(response, response.flip(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(response[100:201], a_weighting_taps(44100))
