"""The filter bank: near-perfect reconstruction, separated bands, every sample rate the same."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.pretransforms.pqmf import PQMFPretransform, design_prototype


def snr_db(signal, restored):
    return float(10 * torch.log10(signal.square().mean() / (restored - signal).square().mean()))


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("attenuation", "level_db"), [(60, 45), (80, 52), (100, 55)])
@pytest.mark.parametrize("num_bands", [2, 4, 16, 32])
def test_audio_comes_back_at_the_stated_level(attenuation, level_db, num_bands):
    """55 to 60 dB below the signal for an attenuation of 100 dB, away from the ends; without delay."""
    pretransform = PQMFPretransform(attenuation, num_bands, 2)
    audio = noise(1, 2, num_bands * 400)
    bands = pretransform.encode(audio)
    assert bands.shape == (1, 2 * num_bands, 400)
    decoded = pretransform.decode(bands)
    assert decoded.shape == audio.shape
    border = pretransform.pqmf.filter_bank.shape[1]
    assert snr_db(audio[..., border:-border], decoded[..., border:-border]) > level_db


@pytest.mark.parametrize("band", [0, 1, 5, 6, 15])
def test_a_tone_stays_in_its_band(band):
    """In the middle of band k; neighbours get what the filter's slope lets through, all others less than -60 dB."""
    pretransform = PQMFPretransform(100, 16, 1)
    tone = torch.sin(torch.pi * (band + 0.5) / 16 * torch.arange(16 * 512))[None, None]
    power = pretransform.encode(tone)[0, :, 64:-64].square().mean(dim=-1)
    assert power.argmax() == band
    others = torch.tensor([index for index in range(16) if abs(index - band) > 1])
    assert 10 * torch.log10(power[others].max() / power[band]) < -60


@pytest.mark.parametrize("band", [0, 1, 4, 7])
def test_bands_are_not_mirrored(band):
    """A higher tone within a band is a higher one in its output: odd bands, which subsampling mirrors, are turned round."""
    pretransform = PQMFPretransform(100, 8, 1)

    def frequency(offset):
        tone = torch.sin(torch.pi * (band + offset) / 8 * torch.arange(8 * 1024))[None, None]
        return int(torch.fft.rfft(pretransform.encode(tone)[0, band] * torch.hann_window(1024)).abs().argmax())

    assert frequency(0.7) > frequency(0.3) + 100


def test_the_power_of_noise_is_kept():
    pretransform = PQMFPretransform(100, 8, 1)
    audio = noise(1, 1, 8 * 4096)
    assert float(pretransform.encode(audio).square().mean() * 8 / audio.square().mean()) == pytest.approx(1.0, rel=0.03)


def test_channels_and_items_do_not_mix():
    pretransform = PQMFPretransform(60, 4, 2)
    audio = noise(3, 2, 512)
    whole = pretransform.encode(audio)
    for item in range(3):
        for channel in range(2):
            alone = PQMFPretransform(60, 4, 1).encode(audio[item : item + 1, channel : channel + 1])
            torch.testing.assert_close(whole[item : item + 1, 4 * channel : 4 * channel + 4], alone, atol=1e-5, rtol=0)


def test_any_length_is_padded_with_silence():
    pretransform = PQMFPretransform(60, 4, 1)
    audio = noise(1, 1, 402)
    padded = torch.nn.functional.pad(audio, (0, 2))
    assert torch.equal(pretransform.encode(audio), pretransform.encode(padded)) and pretransform.encode(audio).shape == (1, 4, 101)


def test_the_prototype_is_symmetric_and_grows_with_what_is_asked_of_it():
    taps = design_prototype(100, 4)
    assert len(taps) % 2 and abs(taps - taps[::-1]).max() < 1e-12
    assert len(design_prototype(60, 4)) < len(taps) < len(design_prototype(100, 8))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ((100, 3, 1), "num_bands must be a power of two, at least 2, got 3"),
        ((100, 1, 1), "num_bands must be a power of two, at least 2, got 1"),
        ((10, 4, 1), "attenuation >= 30 dB and channels >= 1, got 10 and 1"),
        ((100, 4, 0), "attenuation >= 30 dB and channels >= 1, got 100 and 0"),
    ],
)
def test_mistakes(config, message):
    with pytest.raises(ConfigError, match=message):
        PQMFPretransform(*config)
