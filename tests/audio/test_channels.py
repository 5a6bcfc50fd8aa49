import pytest
import torch

from stable_audio_tools.audio import force_channels, set_audio_channels, to_mono, to_stereo
from stable_audio_tools.errors import AudioError


def ramp(*shape):
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


def test_mono_is_the_mean_of_all_channels():
    audio = ramp(2, 6, 5)
    assert to_mono(audio).equal(audio.mean(dim=1, keepdim=True))


def test_stereo_repeats_one_and_keeps_the_first_two():
    assert to_stereo(ramp(4, 1, 5)).equal(ramp(4, 1, 5).expand(4, 2, 5))
    assert to_stereo(ramp(2, 5)).equal(ramp(2, 5))
    assert to_stereo(ramp(3, 6, 5)).equal(ramp(3, 6, 5)[:, :2])


@pytest.mark.parametrize("held", [1, 2, 3, 6])
def test_set_audio_channels_follows_upstream(held):
    audio = ramp(2, held, 5)
    assert set_audio_channels(audio, 1).equal(to_mono(audio))
    assert set_audio_channels(audio, 2).equal(to_stereo(audio))
    assert set_audio_channels(audio, 4).equal(audio)  # any other number changes nothing


def test_two_dimensions_are_a_batch_of_mono_clips():
    audio = ramp(3, 5)
    assert set_audio_channels(audio, 1).equal(audio[:, None])
    assert set_audio_channels(audio, 2).equal(audio[:, None].expand(3, 2, 5))
    assert set_audio_channels(audio, 8).equal(audio[:, None])


@pytest.mark.parametrize(("held", "wanted"), [(1, 1), (1, 2), (1, 5), (2, 1), (2, 2), (6, 1), (6, 2), (6, 4), (6, 6)])
def test_force_channels_gives_exactly_that_many(held, wanted):
    for leading in ((), (2,), (2, 3)):
        assert force_channels(ramp(*leading, held, 5), wanted).shape == (*leading, wanted, 5)


def test_forcing_what_is_there_already_changes_nothing():
    audio = ramp(2, 4, 5)
    assert force_channels(audio, 4).equal(audio)
    assert force_channels(audio, 3).equal(audio[:, :3])


@pytest.mark.parametrize(("held", "wanted"), [(2, 3), (4, 6), (2, 0)])
def test_channels_that_nothing_could_fill_are_refused(held, wanted):
    with pytest.raises(AudioError, match=rf"force_channels: cannot make {wanted} channels of {held}; allowed are 1, 2 and up to"):
        force_channels(ramp(held, 5), wanted)


@pytest.mark.parametrize("function", [to_mono, to_stereo, lambda audio: force_channels(audio, 3)])
@pytest.mark.parametrize("shape", [(5,), (0, 5)])
def test_audio_without_channels_is_refused(function, shape):
    with pytest.raises(AudioError, match=r"expected \(\.\.\., channels, samples\), got shape \(.*\); unsqueeze\(0\) makes"):
        function(torch.zeros(shape))


def test_set_audio_channels_refuses_other_dimensions():
    with pytest.raises(AudioError, match=r"set_audio_channels: expected \(B, C, T\) or \(B, T\), got shape \(5,\); add or remove"):
        set_audio_channels(torch.zeros(5), 2)
