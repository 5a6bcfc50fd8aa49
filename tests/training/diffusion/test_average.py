"""Losses per item: what counts, how much, and in which unit; and noise that is coupled with data."""

from itertools import permutations

import pytest
import torch

from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config
from stable_audio_tools.training.diffusion.average import FrameWeights, coupled_noise


@pytest.fixture
def error():
    return torch.rand(3, 4, 10, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def target():
    return torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 3.0, 0.1])[:, None, None] + 5


def prefix(*lengths, total=10):
    return torch.arange(total) < torch.tensor(lengths)[:, None]


def test_every_item_weighs_the_same_however_long_it_is(error, target):
    content = prefix(10, 4, 1)
    expected = torch.stack([error[0].mean(), error[1, :, :4].mean(), error[2, :, :1].mean()])
    torch.testing.assert_close(FrameWeights(content)(error, target), expected)


def test_the_rest_counts_as_much_as_it_should(error, target):
    content = prefix(10, 4, 1)
    kept = torch.zeros(3, 10, dtype=torch.bool)
    kept[:, 0] = True
    torch.testing.assert_close(FrameWeights(content, kept, 1.0)(error, target), error.mean(dim=(1, 2)))
    half = FrameWeights(content, kept, 0.5)(error, target)
    frames = error.mean(dim=1)[1]
    signal = frames[1:4].sum()
    assert float(half[1]) == pytest.approx(float((signal + 0.5 * (frames.sum() - signal)) / (3 + 0.5 * 7)))
    assert float(FrameWeights(content, kept, 0.0)(error, target)[2]) == 0, "nothing is left of an item that is kept whole"


def test_hidden_padding_never_counts(error, target):
    content = prefix(10, 4, 1)
    kept = torch.zeros(3, 10, dtype=torch.bool)
    kept[:, :2] = True
    frames = error.mean(dim=1)[1]
    weighed = FrameWeights(content, kept, 0.5, hides_padding=True)(error, target)
    assert float(weighed[1]) == pytest.approx(float(frames[2:4].mean() + 0.5 * frames[:2].mean()))
    louder = error.clone()
    louder[~content[:, None].expand_as(error)] = 1e6
    torch.testing.assert_close(FrameWeights(content, kept, 0.5, hides_padding=True)(louder, target), weighed)


@pytest.mark.parametrize("how", ["timestep", "sample", "sample_channel"])
def test_normalised_losses_do_not_depend_on_how_loud_the_target_is(error, target, how):
    content = prefix(10, 4, 7)
    plain = FrameWeights(content, normalization=how, eps=0.0)(error, target)
    louder = FrameWeights(content, normalization=how, eps=0.0)(error * 9, target * 3 + 1)
    torch.testing.assert_close(louder, plain, rtol=1e-5, atol=0)


def test_units_of_normalisation(error, target):
    content = prefix(10, 10, 10)

    def loss(how):
        return FrameWeights(content, normalization=how, eps=1e-6)(error, target)

    for how, dims in (("timestep", 1), ("sample", (1, 2)), ("sample_channel", 2)):
        variance = target.var(dim=dims, keepdim=True, unbiased=False)
        torch.testing.assert_close(loss(how), (error / (variance + 1e-6)).mean(dim=(1, 2)))
    torch.testing.assert_close(loss("none"), error.mean(dim=(1, 2)))


def test_padding_has_no_part_in_the_variance(error, target):
    content = prefix(6, 6, 6)
    changed = target.clone()
    changed[..., 6:] = 1e3
    for how in ("sample", "sample_channel"):
        one, other = (FrameWeights(content, normalization=how)(error, x) for x in (target, changed))
        torch.testing.assert_close(one, other)


def test_coupled_noise_is_the_same_noise_closer_to_the_data():
    torch.manual_seed(0)
    distances = []
    for _ in range(20):
        latents, noise = torch.randn(4, 2, 8), torch.randn(4, 2, 8)
        coupled = coupled_noise(latents, noise)
        assert sorted(coupled.flatten(1).sum(dim=1).tolist()) == sorted(noise.flatten(1).sum(dim=1).tolist())
        every = [float((latents - noise[list(order)]).square().sum()) for order in permutations(range(4))]
        distances.append([float((latents - coupled).square().sum()), sum(every) / len(every), min(every)])
    found, average, best = torch.tensor(distances).mean(dim=0).tolist()
    assert found < average - 0.7 * (average - best)


def test_one_item_has_one_noise():
    noise = torch.randn(1, 2, 8)
    assert torch.equal(coupled_noise(torch.randn(1, 2, 8), noise), noise)


def test_noise_that_is_the_data_finds_it():
    torch.manual_seed(0)
    data = torch.randn(5, 3, 16)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.equal(coupled_noise(data, data[order]), data)


# ---- in the wrapper -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def wrap(tiny_diffusion):
    def make(hides=False, **training):
        config = tiny_diffusion(False, **training)
        config["model"]["diffusion"]["mask_padding_attention"] = hides
        return create_training_wrapper_from_config(config, create_model_from_config(config))

    return make


METADATA = [{"padding_mask": (torch.arange(128) < length)} for length in (128, 40)]


def averaging(wrapper):
    latents = torch.zeros(2, 1, 128)
    return wrapper._average(wrapper.example_of(METADATA, latents))


def test_what_counts_by_default(wrap):
    """Everything, as in version 0.0.19, unless the model does not see padding, or the config says what it counts."""
    assert averaging(wrap()) is None and averaging(wrap(mask_padding=True)) is None
    hidden = averaging(wrap(hides=True))
    assert hidden.rest_weight == 0 and hidden.hides_padding and hidden.content.sum(dim=1).tolist() == [128, 40]
    told = averaging(wrap(mask_loss_weight=0.5))
    assert told.rest_weight == 0.5 and not told.hides_padding
    assert averaging(wrap(loss_normalization="sample")).rest_weight == 1
    assert averaging(wrap(loss_normalization="sample", mask_padding=True)).rest_weight == 0


def test_silence_after_an_item_is_seen_for_a_while(wrap):
    """2 ms at 8 kHz: 16 frames in the mean, rounded down; an item that is full stays so."""
    torch.manual_seed(0)
    wrapper = wrap(hides=True, silence_extension_scale_seconds=0.002)
    content = torch.stack([torch.arange(1000) < 100] * 400)
    frames = wrapper._extended(content).sum(dim=1).float() - 100
    assert frames.min() >= 0 and float(frames.mean()) == pytest.approx(16 - 0.5, rel=0.2)
    assert wrapper._extended(torch.ones(2, 10, dtype=torch.bool)).all()
    assert wrap(silence_extension_scale_seconds=0.002)._extended(content) is content, "only if the model hides padding"


def test_noise_is_coupled_in_training_if_asked(wrap):
    latents = torch.randn(6, 1, 128, generator=torch.Generator().manual_seed(0))
    drawn = {}
    for is_coupled in (False, True):
        torch.manual_seed(1)
        drawn[is_coupled] = wrap(ot_coupling=is_coupled)._noise(latents, None)
    assert torch.equal(drawn[True], coupled_noise(latents, drawn[False])) and not torch.equal(drawn[True], drawn[False])


def test_keys_of_the_model_are_taken_from_training_too(wrap):
    wrapper = wrap(mask_padding_attention=True, use_effective_length_for_schedule=True)
    assert wrapper.diffusion.mask_padding_attention and wrapper.diffusion.use_effective_length_for_schedule
