"""Wavelets: filters that are what their names say, and audio that comes back exactly."""

import numpy as np
import pytest
import torch

from stable_audio_tools.errors import AudioError, ConfigError
from stable_audio_tools.models.pretransforms.wavelet import WAVELETS, WaveletPretransform, biorthogonal_filters


def response(taps, omega, *, derivative=0):
    """The ``derivative``-th derivative of a filter's frequency response, about its middle tap, up to a power of i."""
    time = np.arange(len(taps)) - len(taps) // 2
    return (taps * time**derivative * np.exp(-1j * omega * time)).sum()


@pytest.mark.parametrize("name", WAVELETS)
def test_low_passes_keep_polynomials_and_high_passes_remove_them(name):
    low_analysis, high_analysis, low_synthesis, high_synthesis = biorthogonal_filters(name)
    synthesis, analysis = WAVELETS[name][:2]
    assert low_analysis.sum() == pytest.approx(2**0.5) and low_synthesis.sum() == pytest.approx(2**0.5)
    for order in range(synthesis):
        assert abs(response(low_synthesis, np.pi, derivative=order)) < 1e-8 and abs(response(high_analysis, 0, derivative=order)) < 1e-8
    for order in range(analysis):
        assert abs(response(low_analysis, np.pi, derivative=order)) < 1e-6 and abs(response(high_synthesis, 0, derivative=order)) < 1e-6
    assert abs(response(low_synthesis, np.pi, derivative=synthesis)) > 0.1


@pytest.mark.parametrize("name", WAVELETS)
def test_filters_are_symmetric_and_of_the_length_in_their_name(name):
    low_analysis, high_analysis, low_synthesis, high_synthesis = biorthogonal_filters(name)
    lengths = {"bior2.2": (5, 3), "bior2.4": (9, 3), "bior2.6": (13, 3), "bior2.8": (17, 3), "bior4.4": (9, 7), "bior6.8": (17, 11)}
    for taps, length in zip((low_analysis, high_synthesis, low_synthesis, high_analysis), np.repeat(lengths[name], 2), strict=True):
        kept = np.trim_zeros(taps)
        assert len(kept) == length
        np.testing.assert_allclose(kept, kept[::-1], atol=1e-12)


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("bior2.4", [0.03314563, -0.06629126, -0.17677670, 0.41984465, 0.99436891]),
        ("bior4.4", [0.03782846, -0.02384947, -0.11062440, 0.37740286, 0.85269868]),
        ("bior6.8", [0.00190883, -0.00191429, -0.01699064, 0.01193457, 0.04973290, -0.07726317, -0.09405921, 0.42079628, 0.82592300]),
    ],
)
def test_published_numbers(name, taps):
    """Daubechies, Ten Lectures on Wavelets, table 8.3, and PyWavelets; of 6.8 because its factors can be divided in several ways."""
    np.testing.assert_allclose(biorthogonal_filters(name)[0][: len(taps)], taps, atol=1e-7)


@pytest.mark.parametrize("name", WAVELETS)
@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_audio_comes_back_exactly(name, levels, channels):
    pretransform = WaveletPretransform(channels, levels, name)
    for frames in (pretransform.min_frames, 31):
        audio = torch.randn(2, channels, frames * 2**levels)
        bands = pretransform.encode(audio)
        assert bands.shape == (2, channels * 2**levels, frames)
        torch.testing.assert_close(pretransform.decode(bands), audio, atol=2e-6, rtol=0)  # float32 rounding, borders included


def test_any_length_is_padded_with_silence():
    pretransform = WaveletPretransform(1, 2, "bior4.4")
    audio = torch.randn(1, 1, 101)
    decoded = pretransform.decode(pretransform.encode(audio))
    assert decoded.shape == (1, 1, 104)
    torch.testing.assert_close(decoded[..., :101], audio, atol=2e-6, rtol=0)
    assert decoded[..., 101:].abs().max() < 2e-6


def test_the_first_channels_are_the_lowest_band():
    pretransform = WaveletPretransform(2, 3, "bior4.4")
    time = torch.arange(4096) / 4096
    slow = torch.stack([torch.sin(2 * torch.pi * 5 * time), torch.cos(2 * torch.pi * 7 * time)])[None]
    power = pretransform.encode(slow).square().sum(dim=(0, 2))
    assert power[:2].sum() / power.sum() > 0.999
    fast = torch.stack([torch.cos(torch.pi * torch.arange(4096.0))] * 2)[None]
    power = pretransform.encode(fast).square().sum(dim=(0, 2))
    assert power[:4].sum() / power.sum() < 0.001


def test_channels_do_not_mix_and_the_transform_is_linear():
    pretransform = WaveletPretransform(2, 2, "bior2.4")
    a, b = torch.randn(2, 1, 2, 64).unbind()
    torch.testing.assert_close(pretransform.encode(a + 2 * b), pretransform.encode(a) + 2 * pretransform.encode(b), atol=1e-5, rtol=0)
    a[:, 1] = 0
    assert not pretransform.encode(a)[:, 1::2].any() and pretransform.encode(a)[:, ::2].any()


def test_half_precision_follows_the_input():
    pretransform = WaveletPretransform(1, 2, "bior2.2")
    audio = torch.randn(1, 1, 64)
    bands = pretransform.encode(audio.bfloat16())
    assert bands.dtype == torch.bfloat16
    torch.testing.assert_close(pretransform.decode(bands).float(), audio, atol=0.1, rtol=0)


def test_too_short():
    pretransform = WaveletPretransform(1, 3, "bior6.8")
    with pytest.raises(AudioError, match="needs at least 48 samples, got 40"):
        pretransform.encode(torch.zeros(1, 1, 40))
    with pytest.raises(AudioError, match="needs at least 48 samples, got 32"):
        pretransform.decode(torch.zeros(1, 8, 4))
    assert pretransform.encode(torch.zeros(1, 1, 48)).shape == (1, 8, 6)


@pytest.mark.parametrize("name", ["bior1.3", "bior5.5", "db4", "haar"])
def test_other_wavelets(name):
    with pytest.raises(ConfigError, match=rf"must be one of bior2.2, .*bior6.8 \(biorthogonal, of odd length\), got '{name}'"):
        WaveletPretransform(1, 1, name)


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0)])
def test_sizes(sizes):
    with pytest.raises(ConfigError, match="channels and levels must be at least 1"):
        WaveletPretransform(*sizes, "bior2.2")
