"""The multi-scale STFT discriminator: the reference's numbers, and who gets gradients."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.training.discriminators.encodec import EncodecDiscriminator

SMALL = {"filters": 2, "n_ffts": [64, 32], "hop_lengths": [16, 8], "win_lengths": [64, 32]}


def test_values_and_state_dict_equal_the_reference(assert_golden):
    assert_golden("encodec")


def test_neither_player_computes_the_others_gradients(audio):
    reals, fakes = audio
    fakes.requires_grad_()
    model = EncodecDiscriminator(**SMALL)
    model.discriminator_loss(reals, fakes).backward()
    assert fakes.grad is None
    assert all(parameter.grad is not None for parameter in model.parameters())
    adversarial, matching = model.generator_losses(reals, fakes)
    (adversarial + matching).backward()
    assert fakes.grad is not None and float(fakes.grad.abs().max()) > 0


def test_it_learns_to_tell_noise_from_a_tone_and_hinge_stops_at_the_margin():
    torch.manual_seed(0)
    model = EncodecDiscriminator(**SMALL)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    tone = 0.3 * torch.sin(torch.arange(512) / 3).expand(4, 1, -1)
    first = None
    for _ in range(40):
        loss = model.discriminator_loss(tone, 0.3 * torch.randn(4, 1, 512))
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first == pytest.approx(2, abs=0.2), "scores start near zero"
    assert 0 <= loss.item() < 0.3 * first


def test_equal_signals_match_in_every_feature_and_normalising_divides_by_them(audio):
    reals, fakes = audio
    model = EncodecDiscriminator(**SMALL)
    assert model.generator_losses(reals, reals)[1].item() == 0
    plain, normalised = EncodecDiscriminator(**SMALL), EncodecDiscriminator(**SMALL, normalize_losses=True)
    normalised.load_state_dict(plain.state_dict())
    distances = [model.generator_losses(reals, fakes)[1].item() for model in (plain, normalised)]
    assert distances[1] > 2 * distances[0], "features are smaller than 1 here"


def test_losses_are_means_over_resolutions(audio):
    torch.manual_seed(0)
    both = EncodecDiscriminator(**SMALL)
    expected = []
    for index in range(2):
        scale = {key: [value[index]] for key, value in SMALL.items() if key != "filters"}
        one = EncodecDiscriminator(2, **scale)
        one.discriminators.discriminators[0].load_state_dict(both.discriminators.discriminators[index].state_dict())
        expected.append(torch.stack(one.loss(*audio)))
    torch.testing.assert_close(torch.stack(both.loss(*audio)), torch.stack(expected).mean(0))


@pytest.mark.parametrize("options", [{"spec_scale_pow": -0.3}, {"filters_scale": 2, "max_filters": 6}, {"in_channels": 2}])
def test_options(options):
    model = EncodecDiscriminator(**SMALL, **options)
    channels = options.get("in_channels", 1)
    judgements = model.judge(torch.randn(3, channels, 256))
    assert [judgement.score.shape[:2] for judgement in judgements] == [(3, 1), (3, 1)]
    widths = [feature.shape[1] for feature in judgements[0].features]
    assert widths == ([2, 4, 6, 6, 6] if "max_filters" in options else [2] * 5)


def test_wrong_resolutions():
    with pytest.raises(ConfigError, match=r"n_ffts, hop_lengths and win_lengths must have the same length, got 1, 3 and 3$"):
        EncodecDiscriminator(n_ffts=[64])
