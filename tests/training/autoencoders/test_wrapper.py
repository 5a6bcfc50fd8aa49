"""Training an autoencoder: whose turn it is, which losses count, what stands still."""

import copy

import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config

ADAM = {"optimizer": {"type": "Adam", "config": {"lr": 1e-3}}}


class Watch(pl.Callback):
    """Copies the state after every batch, and what was logged in it."""

    def __init__(self):
        self.states, self.logs = [], []

    def on_train_start(self, trainer, pl_module):
        self.states.append(copy.deepcopy(pl_module.state_dict()))
        pl_module.log_dict = lambda values, **kwargs: self.logs.append({key: float(value) for key, value in values.items()})

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.states.append(copy.deepcopy(pl_module.state_dict()))

    def moved(self, batch):
        before, after = self.states[batch], self.states[batch + 1]
        return {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}


@pytest.fixture
def wrap(tiny_autoencoder):
    def make(**options):
        config = tiny_autoencoder(**options)
        torch.manual_seed(0)
        return create_training_wrapper_from_config(config, create_model_from_config(config))

    return make


def watched(train_briefly, config, **options):
    watch = Watch()
    train_briefly(config, callbacks=[watch], **options)
    return watch


def test_players_take_turns_and_touch_nothing_of_each_other(train_briefly, tiny_autoencoder):
    watch = watched(train_briefly, tiny_autoencoder(adversary=True), max_steps=4)
    assert [watch.moved(batch) for batch in range(4)] == [
        {"autoencoder", "autoencoder_ema"}, {"discriminator"}, {"autoencoder", "autoencoder_ema"}, {"discriminator"},
    ]  # fmt: skip
    generator = {"mrstft_loss", "l1_time_loss", "kl_loss", "loss_adv", "feature_matching_loss", "loss", "gen_lr", "latent_std", "data_std"}
    assert {key.removeprefix("train/") for key in watch.logs[0]} == generator
    assert set(watch.logs[1]) == {"train/discriminator_loss", "train/disc_lr"}


def test_without_an_adversary_every_batch_trains_the_autoencoder(train_briefly, tiny_autoencoder):
    watch = watched(train_briefly, tiny_autoencoder(), max_steps=3)
    assert [watch.moved(batch) for batch in range(3)] == [{"autoencoder", "autoencoder_ema"}] * 3
    assert watch.logs[0].keys().isdisjoint({"train/loss_adv", "train/feature_matching_loss"})


def test_before_warm_up_there_is_no_adversary_in_the_loss(train_briefly, tiny_autoencoder):
    watch = watched(train_briefly, tiny_autoencoder(adversary=True, warmup_steps=3), max_steps=6)
    turns = [("train/loss_adv" in log) if "train/loss" in log else None for log in watch.logs]
    assert turns == [False, None, False, None, True, None]
    assert watch.moved(1) == {"discriminator"}, "it learns from the beginning"


def test_the_encoder_stands_still_after_warm_up_if_asked(train_briefly, tiny_autoencoder):
    watch = watched(train_briefly, tiny_autoencoder(warmup_steps=2, encoder_freeze_on_warmup=True), max_steps=4)

    def moved(batch, part):
        before, after = watch.states[batch], watch.states[batch + 1]
        return any(not torch.equal(before[key], after[key]) for key in before if key.startswith(f"autoencoder.{part}."))

    assert [moved(batch, "encoder") for batch in range(4)] == [True, True, False, False]
    assert [moved(batch, "decoder") for batch in range(4)] == [True] * 4


def test_losses_are_weighted_and_decay(train_briefly, tiny_autoencoder):
    """At learning rate 0, on one batch, only the decay of the weights is left."""
    still = {"autoencoder": {"optimizer": {"type": "SGD", "config": {"lr": 0.0}}}}
    spectral = {"config": {"fft_sizes": [64], "hop_sizes": [16], "win_lengths": [64]}, "weights": {"mrstft": 2.0}, "decay": 0.5}
    time = {"weights": {"l1": 3.0, "l2": 5.0}, "decay": 0.25}
    config = tiny_autoencoder(losses={"spectral": spectral, "time": time, "bottleneck": {"weights": {"kl": 7.0}}}, optimizer_configs=still)
    wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
    torch.manual_seed(0)
    reals, decoded = torch.randn(2, 1, 256), torch.randn(2, 1, 256)
    terms = wrapper.reconstruction_losses(reals, decoded, {"kl": torch.tensor(0.5)})
    assert float(terms["l1_time_loss"]) == pytest.approx(3 * 0.25 * float((reals - decoded).abs().mean()))
    assert float(terms["l2_time_loss"]) == pytest.approx(5 * 0.25 * float((reals - decoded).square().mean()))
    assert float(terms["mrstft_loss"]) == pytest.approx(2 * 0.5 * float(wrapper.lrstft(decoded, reals)), rel=1e-6)
    assert float(terms["kl_loss"]) == 3.5
    watch = watched(train_briefly, config, batch_size=10, max_steps=2)
    ratio = watch.logs[1]["train/l1_time_loss"] / watch.logs[0]["train/l1_time_loss"]
    assert ratio == pytest.approx(0.25, rel=0.2), "the crops and the latents' noise differ a little"


def test_the_bottlenecks_loss_has_a_default_weight(wrap):
    terms = wrap().reconstruction_losses(torch.zeros(1, 1, 256), torch.ones(1, 1, 256), {"kl": torch.tensor(1.0)})
    assert float(terms["kl_loss"]) == pytest.approx(1e-6)


def test_stereo_is_compared_as_sum_difference_left_and_right(wrap):
    wrapper = wrap(channels=2)
    torch.manual_seed(0)
    reals, decoded = torch.randn(2, 2, 256), torch.randn(2, 2, 256)
    terms = wrapper.reconstruction_losses(reals, decoded, {})
    torch.testing.assert_close(terms["mrstft_loss"], wrapper.sdstft(decoded, reals))
    torch.testing.assert_close(terms["stft_loss_left"], wrapper.lrstft(decoded[:, :1], reals[:, :1]) / 2)
    torch.testing.assert_close(terms["stft_loss_right"], wrapper.lrstft(decoded[:, 1:], reals[:, 1:]) / 2)
    assert set(wrap().reconstruction_losses(reals[:, :1], decoded[:, :1], {})) == {"mrstft_loss", "l1_time_loss"}


def test_the_default_losses_are_the_published_ones(wrap, tiny_autoencoder):
    config = tiny_autoencoder()
    del config["training"]["loss_configs"]
    losses = create_training_wrapper_from_config(config, create_model_from_config(config)).losses
    scales = [2048, 1024, 512, 256, 128, 64, 32]
    assert losses.discriminator.config["n_ffts"] == losses.spectral.config["fft_sizes"] == scales
    assert (losses.discriminator.weights.adversarial, losses.discriminator.weights.feature_matching) == (0.1, 5.0)
    assert losses.spectral.weights.mrstft == 1 and losses.spectral.config["perceptual_weighting"] and losses.time.weights.l1 == 0


def test_reconstruct_can_listen_to_the_mono_mix_and_hide_latents(wrap):
    reals = torch.randn(1, 2, 256)
    mixed, plain = wrap(channels=2, force_input_mono=True), wrap(channels=2)
    torch.manual_seed(1)
    target, decoded, _ = mixed.reconstruct(reals)
    assert torch.equal(target, reals), "the target stays stereo"
    torch.manual_seed(1)
    _, expected, _ = plain.reconstruct(reals.mean(1, keepdim=True).expand(1, 2, -1))
    assert torch.equal(decoded, expected)
    hidden = wrap(latent_mask_ratio=1.0)
    silence = hidden.autoencoder.decode(torch.zeros(1, 4, 16))
    torch.testing.assert_close(hidden.reconstruct(reals[:, :1])[1], silence)


def test_a_length_that_strides_do_not_divide_is_trimmed_to_a_common_one(wrap):
    target, decoded, _ = wrap().reconstruct(torch.randn(1, 1, 250))
    assert target.shape == decoded.shape and 230 < target.shape[-1] <= 250


@pytest.mark.parametrize("use_ema", [True, False])
def test_averaged_lends_the_average_in_eval_mode(wrap, use_ema):
    wrapper = wrap(use_ema=use_ema).train()
    with wrapper.averaged() as model:
        assert model is (wrapper.autoencoder_ema.ema_model if use_ema else wrapper.autoencoder)
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in wrapper.autoencoder.modules())
    assert wrapper.ema is None or not any(module.training for module in wrapper.ema.modules())


def test_state_dict_layout_is_the_published_one(wrap):
    tops = {key.split(".")[0] for key in wrap(adversary=True).state_dict()}
    assert tops == {"autoencoder", "autoencoder_ema", "discriminator"}
    assert not any(key.startswith("autoencoder_ema") for key in wrap(use_ema=False).state_dict())


def test_optimizers_and_schedules(wrap):
    generator, discriminator = wrap(adversary=True).configure_optimizers()
    assert generator.defaults["betas"] == discriminator.defaults["betas"] == (0.8, 0.99)
    scheduled = {**ADAM, "scheduler": {"type": "InverseLR", "config": {}}}
    optimizers, schedulers = wrap(
        adversary=True, optimizer_configs={"autoencoder": scheduled, "discriminator": scheduled}
    ).configure_optimizers()
    assert [scheduler.optimizer for scheduler in schedulers] == optimizers
    with pytest.raises(ConfigError, match=r"^training.optimizer_configs: give a scheduler to both optimizers or to none$"):
        wrap(adversary=True, optimizer_configs={"autoencoder": scheduled, "discriminator": ADAM}).configure_optimizers()


def test_each_schedule_advances_on_its_own_turns(train_briefly, tiny_autoencoder):
    halving = {**ADAM, "scheduler": {"type": "ExponentialLR", "config": {"gamma": 0.5}}}
    config = tiny_autoencoder(adversary=True, optimizer_configs={"autoencoder": halving, "discriminator": halving})
    logs = watched(train_briefly, config, max_steps=6).logs
    rates = [log.get("train/gen_lr") or log.get("train/disc_lr") for log in logs]
    assert rates == pytest.approx([5e-4, 5e-4, 2.5e-4, 2.5e-4, 1.25e-4, 1.25e-4])


@pytest.mark.parametrize("option", [{"accum_batches": 2}, {"gradient_clip_val": 1.0}])
def test_flags_without_effect_are_refused(train_briefly, tiny_autoencoder, option):
    with pytest.raises(ConfigError, match=r"have no effect on model_type 'autoencoder' yet; leave them out$"):
        train_briefly(tiny_autoencoder(), **option)
