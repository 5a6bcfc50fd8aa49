"""What holds for every discriminator, and for the games they play."""

import pytest
import torch

from stable_audio_tools.families import DISCRIMINATORS
from stable_audio_tools.training.discriminators.base import GAMES

SMALL = {
    "encodec": {"filters": 2, "n_ffts": [64, 32], "hop_lengths": [16, 8], "win_lengths": [64, 32]},
    "oobleck": {},
    "dac": {"rates": [1, 2], "periods": [3], "fft_sizes": [64]},
    "big_vgan": {"periods": [3], "hop_lengths": [16], "bins_per_octaves": [4], "n_octaves": 3, "filters": 2},
}
EVERY = [pytest.param(name, {}, id=name) for name in SMALL] + [
    pytest.param("encodec", {"loss_type": "rpgan"}, id="encodec-rpgan"),
    pytest.param("dac", {"use_hinge": True}, id="dac-hinge"),
]


def make(name, options, channels=1):
    torch.manual_seed(0)
    return DISCRIMINATORS.build(name, SMALL[name] | options, in_channels=channels, sample_rate=8000)


def test_every_discriminator_is_listed_here():
    assert sorted(SMALL) == DISCRIMINATORS.names()


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_neither_player_computes_the_others_gradients(audio, name, options):
    reals, fakes = audio
    fakes.requires_grad_()
    model = make(name, options)
    model.discriminator_loss(reals, fakes).backward()
    assert fakes.grad is None
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.requires_grad_(False)
    adversarial, matching = model.generator_losses(reals, fakes)
    (adversarial + matching).backward()
    assert fakes.grad is not None and float(fakes.grad.abs().max()) > 0
    assert torch.isfinite(fakes.grad).all()


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_equal_signals_match_in_every_feature(audio, name, options):
    reals, fakes = audio
    model = make(name, options)
    assert float(model.generator_losses(reals, reals)[1].detach()) == 0
    assert float(model.generator_losses(reals, fakes)[1].detach()) > 0


@pytest.mark.parametrize("name", SMALL)
def test_stereo_and_odd_lengths(name):
    model = make(name, {}, channels=2)
    for length in (509, 510):
        losses = model.loss(torch.randn(2, 2, length), torch.randn(2, 2, length))
        assert all(torch.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("name", SMALL)
def test_silence_gives_finite_losses_and_gradients(name):
    model = make(name, {})
    fakes = torch.zeros(1, 1, 512, requires_grad=True)
    losses = model.loss(torch.zeros(1, 1, 512), fakes)
    sum(losses).backward()
    assert torch.isfinite(fakes.grad).all() and all(torch.isfinite(loss) for loss in losses)


@pytest.mark.parametrize(("name", "options"), [case for case in EVERY if case.id != "oobleck"])  # which is hinge too, and large
def test_a_few_steps_teach_it_to_tell_noise_from_a_tone(name, options):
    model = make(name, options)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2 if name in ("encodec", "big_vgan") else 2e-3)
    tone = 0.3 * torch.sin(torch.arange(512) / 3).expand(2, 1, -1)
    losses = []
    for _ in range(40):  # at most
        loss = model.discriminator_loss(tone, 0.3 * torch.randn(2, 1, 512))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.9 * losses[0]:
            return
    raise AssertionError(losses)


@pytest.mark.parametrize("name", GAMES)
def test_games_are_won_by_the_right_scores(name):
    """Each player's loss falls when scores move the way it wants, beginning where nobody knows anything."""
    game = GAMES[name]
    low, high = torch.full((4,), 0.1), torch.full((4,), 0.9)
    assert game.discriminator(high, low) < game.discriminator(low, low) < game.discriminator(low, high)
    assert game.generator(low, high) < game.generator(low, low)


def test_the_relativistic_game_compares_each_fake_with_its_real():
    game = GAMES["rpgan"]
    real, fake = torch.tensor([5.0, -5.0]), torch.tensor([4.0, -6.0])
    expected = torch.log1p(torch.exp(torch.tensor(-1.0)))
    torch.testing.assert_close(game.discriminator(real, fake), expected)
    torch.testing.assert_close(game.discriminator(real + 100, fake + 100), expected)
