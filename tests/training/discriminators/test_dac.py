"""The DAC discriminator: the reference's numbers, bands and rates."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.training.discriminators.dac import BandDiscriminator, DACDiscriminator, RateDiscriminator, band_pairs


def test_values_and_state_dict_equal_the_reference(assert_golden):
    assert_golden("dac")


def test_gain_and_offset_do_not_matter(audio):
    model = DACDiscriminator(periods=[2], fft_sizes=[64])
    with torch.no_grad():
        for ours, theirs in zip(model.judge(audio[0]), model.judge(0.1 * audio[0] + 0.5), strict=True):
            torch.testing.assert_close(ours.score, theirs.score, atol=1e-4, rtol=1e-4)


def test_spectrograms_have_a_frame_per_hop():
    for length in (512, 513, 528):
        assert BandDiscriminator(64, [(0.0, 1.0)]).spectrogram(torch.randn(1, 2, length)).shape == (2, 2, -(-length // 16), 33)


def test_a_lower_rate_hears_only_low_frequencies():
    t = torch.arange(4096)
    low, high = (torch.sin(2 * torch.pi * frequency * t).view(1, 1, -1) for frequency in (0.02, 0.4))
    resample = RateDiscriminator(4).resample
    middle = slice(100, -100)
    torch.testing.assert_close(resample(low)[..., middle], low[..., ::4][..., middle], atol=2e-3, rtol=0)
    assert float(resample(high)[..., middle].abs().max()) < 2e-3


def test_bands_may_be_edges_or_pairs():
    assert band_pairs([0.0, 0.25, 1.0]) == band_pairs([[0.0, 0.25], [0.25, 1.0]]) == [(0.0, 0.25), (0.25, 1.0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bands": [0.5, 0.5]}, r"bands are rising edges, or pairs of them, of shares in \[0, 1\], got \[0.5, 0.5\]$"),
        ({"fft_sizes": [16], "bands": [0.0, 0.01]}, r"bands: \(0.0, 0.01\) holds no frequency of fft_sizes 16; widen it$"),
        ({"periods": [], "fft_sizes": []}, r"rates, periods and fft_sizes are all empty; give at least one of them$"),
    ],
)
def test_impossible_members(options, message):
    with pytest.raises(ConfigError, match=message):
        DACDiscriminator(**options)
