import math

import pytest
import torch

from stable_audio_tools.audio.spectrogram import hz_to_mel, log_mel, mel_filterbank, stft_magnitude
from stable_audio_tools.errors import AudioError

SAMPLE_RATE = 22050


def sine(frequency_hz: float, num_samples: int = 8192) -> torch.Tensor:
    return torch.sin(2 * math.pi * frequency_hz / SAMPLE_RATE * torch.arange(num_samples))


def test_a_full_scale_sine_reads_one_at_its_bin():
    magnitude = stft_magnitude(sine(64 * SAMPLE_RATE / 1024), n_fft=1024, hop_samples=256)
    inner = magnitude[:, 4:-4]
    assert inner.argmax(dim=0).eq(64).all()
    torch.testing.assert_close(inner[64], torch.ones(inner.shape[1]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(1000,), (3, 1000), (2, 3, 1000)])
def test_leading_dimensions_are_kept_and_independent(shape: tuple[int, ...]):
    audio = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    magnitude = stft_magnitude(audio, n_fft=64, hop_samples=16)
    assert magnitude.shape == (*shape[:-1], 33, 1000 // 16 + 1)
    one = stft_magnitude(audio.reshape(-1, 1000)[-1], n_fft=64, hop_samples=16)
    torch.testing.assert_close(magnitude.reshape(-1, *one.shape)[-1], one)


def test_silence_after_a_clip_only_adds_silent_frames():
    audio = torch.randn(2048, generator=torch.Generator().manual_seed(0))
    padded = stft_magnitude(torch.nn.functional.pad(audio, (0, 4096)), n_fft=256, hop_samples=64)
    short = stft_magnitude(audio, n_fft=256, hop_samples=64)
    torch.testing.assert_close(padded[:, : short.shape[1]], short)
    assert padded[:, short.shape[1] + 4 :].abs().max() < 1e-6


def test_clips_shorter_than_the_window_are_welcome():
    assert log_mel(torch.ones(1, 10), SAMPLE_RATE).shape == (1, 128, 1)


def test_a_spectrogram_is_differentiable_and_keeps_the_dtype():
    audio = torch.randn(512, dtype=torch.float64, requires_grad=True)
    level = log_mel(audio, SAMPLE_RATE, n_fft=512, hop_samples=128, num_mels=20)
    level.sum().backward()
    assert level.dtype == torch.float64
    assert audio.grad is not None and audio.grad.isfinite().all()


def test_mel_bands_sum_to_one_between_the_first_and_the_last_centre():
    bank = mel_filterbank(SAMPLE_RATE, n_fft=2048, num_mels=64)
    covered = bank.sum(dim=0)
    first, last = int(bank[0].argmax()) + 1, int(bank[-1].argmax())
    torch.testing.assert_close(covered[first:last], torch.ones(last - first))
    assert bank.shape == (64, 1025)
    assert (bank >= 0).all() and (bank <= 1).all()
    assert (covered[1:-1] > 0).all()  # only 0 Hz and the Nyquist frequency lie on outer edges


def test_mel_centres_are_equally_spaced_on_the_mel_scale():
    bank = mel_filterbank(SAMPLE_RATE, n_fft=1 << 16, num_mels=10, min_hz=100, max_hz=8000).double()
    centres_hz = bank.argmax(dim=1) * SAMPLE_RATE / (1 << 16)
    mels = torch.tensor([hz_to_mel(hz) for hz in centres_hz.tolist()])
    step = (hz_to_mel(8000) - hz_to_mel(100)) / 11
    torch.testing.assert_close(mels.diff(), torch.full((9,), step), atol=1.0, rtol=0)  # a bin is up to 0.4 mel wide


def test_bands_outside_the_limits_are_empty():
    bank = mel_filterbank(SAMPLE_RATE, n_fft=1024, num_mels=16, min_hz=500, max_hz=4000)
    hz = torch.arange(513) * SAMPLE_RATE / 1024
    assert bank[:, (hz < 500) | (hz > 4000)].abs().max() == 0


def test_log_mel_shows_a_sine_in_the_right_band_at_its_level():
    level = log_mel(0.1 * sine(1000), SAMPLE_RATE, num_mels=40)[:, 4:-4].mean(dim=1)
    bank = mel_filterbank(SAMPLE_RATE, n_fft=2048, num_mels=40)
    nearest = round(1000 / SAMPLE_RATE * 2048)
    assert level.argmax() == bank[:, nearest].argmax()
    assert -24 < level.max() < -18  # -20 dB; the window spreads it over bins, triangles share it


def test_log_mel_of_silence_is_the_floor():
    assert log_mel(torch.zeros(2, 4096), SAMPLE_RATE, floor_db=-80.0).unique().tolist() == [-80.0]


def test_gain_shifts_every_level():
    audio = torch.randn(8192, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_mel(0.1 * audio, SAMPLE_RATE), log_mel(audio, SAMPLE_RATE) - 20, atol=1e-3, rtol=0)


@pytest.mark.parametrize("audio", [torch.zeros(2, 0), torch.tensor(1.0)])
def test_empty_audio_is_refused(audio: torch.Tensor):
    with pytest.raises(AudioError, match="at least one sample is needed"):
        stft_magnitude(audio, n_fft=64, hop_samples=16)


def test_bands_narrower_than_a_bin_are_refused():
    with pytest.raises(AudioError, match=r"of 128 mel bands contain no frequency bin: at 22050 Hz, n_fft = 256 has a bin every 86\.1 Hz"):
        mel_filterbank(SAMPLE_RATE, n_fft=256, num_mels=128)


def test_edges_beyond_the_nyquist_frequency_are_refused():
    with pytest.raises(AudioError, match="from 0 to 12000 Hz: the edges must lie in order between 0 and 11025 Hz"):
        mel_filterbank(SAMPLE_RATE, n_fft=1024, num_mels=20, max_hz=12000)
