import pytest
import torch

from stable_audio_tools.audio import peak_normalize, prepare_audio, resample, to_stereo
from stable_audio_tools.errors import AudioError


@pytest.mark.parametrize(("shape", "batch"), [((500,), 1), ((1, 500), 1), ((2, 500), 1), ((6, 500), 1), ((3, 2, 500), 3), ((3, 1, 500), 3)])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("length", [100, 500, 900])
def test_any_audio_becomes_a_batch_of_the_asked_shape(shape, batch, channels, length):
    assert prepare_audio(torch.ones(shape), 100, 100, length, channels, "cpu").shape == (batch, channels, length)


def test_the_steps_are_resampling_padding_and_channels(noise):
    prepared = prepare_audio(noise[:1], 44100, 48000, 60_000, 2, torch.device("cpu"))
    assert prepared[0, :, :48000].equal(to_stereo(resample(noise[:1], 44100, 48000)))
    assert not prepared[0, :, 48000:].any()


def test_a_batch_is_its_clips_one_by_one(noise):
    batch = torch.stack([noise, noise.flip(-1)])
    alone = torch.cat([prepare_audio(clip, 44100, 32000, 40_000, 1, "cpu") for clip in batch])
    torch.testing.assert_close(prepare_audio(batch, 44100, 32000, 40_000, 1, "cpu"), alone, atol=1e-7, rtol=0)


def test_other_shapes_and_dtypes_are_refused():
    with pytest.raises(AudioError, match=r"prepare_audio: expected \(T,\), \(C, T\) or \(B, C, T\), got shape \(1, 1, 1, 5\); reshape it"):
        prepare_audio(torch.zeros(1, 1, 1, 5), 100, 100, 5, 2, "cpu")
    with pytest.raises(AudioError, match=r"prepare_audio: expected a float tensor, got torch\.int16; convert it with from_int16"):
        prepare_audio(torch.zeros(5, dtype=torch.int16), 100, 100, 5, 2, "cpu")


def test_normalized_peaks_are_one_per_clip_and_balance_is_kept():
    audio = torch.tensor([[[0.1, -0.2], [0.05, 0.0]], [[3.0, 0.0], [-6.0, 0.0]]])
    normalized = peak_normalize(audio)
    torch.testing.assert_close(normalized.abs().amax(dim=(1, 2)), torch.ones(2))
    torch.testing.assert_close(normalized[0], audio[0] * 5)
    assert peak_normalize(normalized).equal(normalized)


@pytest.mark.parametrize("shape", [(5,), (2, 5), (3, 2, 5), (2, 0), (0,)])
def test_silence_stays_silence(shape):
    assert peak_normalize(torch.zeros(shape)).equal(torch.zeros(shape))


def test_the_faintest_sound_reaches_full_scale():
    assert peak_normalize(torch.tensor([1e-40, -5e-41])).abs().max() == 1
