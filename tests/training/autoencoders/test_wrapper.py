"""Training an autoencoder: whose turn it is, which losses count, what stands still."""

import copy
import math
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools.checkpoint import save_model_weights
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config
from stable_audio_tools.training.autoencoders import AutoencoderTrainingWrapper
from stable_audio_tools.training.losses import MelSpectrogramLoss

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


ADVERSARIES = {
    "encodec-rpgan": {"filters": 2, "n_ffts": [64], "hop_lengths": [16], "win_lengths": [64], "loss_type": "rpgan"},
    "oobleck": {},
    "dac": {"channels": 2, "sample_rate": 8000, "rates": [2], "periods": [3], "fft_sizes": [64]},
    "big_vgan": {"periods": [3], "hop_lengths": [16], "bins_per_octaves": [4], "n_octaves": 3, "filters": 2},
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name == "oobleck" else name for name in ADVERSARIES])
def test_every_adversary_plays_with_a_stereo_autoencoder(train_briefly, tiny_autoencoder, name):
    adversary = {"type": name.split("-")[0], "config": ADVERSARIES[name], "weights": {"adversarial": 0.1, "feature_matching": 5.0}}
    watch = watched(train_briefly, tiny_autoencoder(channels=2, losses={"discriminator": adversary}), max_steps=3)
    assert [watch.moved(batch) for batch in (0, 1)] == [{"autoencoder", "autoencoder_ema"}, {"discriminator"}]
    assert watch.logs[2]["train/feature_matching_loss"] > 0 and "train/loss_adv" in watch.logs[2]


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


def test_weights_decay_in_training_only_whatever_filters_a_loss_has(train_briefly, tiny_autoencoder, noises):
    spectral = {"config": {"fft_sizes": [64], "hop_sizes": [16], "win_lengths": [64], "perceptual_weighting": True}}
    config = tiny_autoencoder(losses={"spectral": {**spectral, "weights": {"mrstft": 2.0}, "decay": 0.5}})
    wrapper = train_briefly(config, max_steps=3, val_dataset_config=noises, val_every=1).wrapper
    assert float(wrapper.losses_gen.losses[0].weight) == 2 * 0.5**3


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


@pytest.fixture
def stereoizer(tiny_autoencoder):
    """``stereoizer(**training)``: one channel in, two out."""

    def config(**training):
        made = tiny_autoencoder(channels=2, force_input_mono=True, **training)
        made["model"] |= {"in_channels": 1, "out_channels": 2}
        made["model"]["encoder"]["config"]["in_channels"] = 1
        return made

    return config


def test_a_model_can_make_stereo_of_the_mono_mix(train_briefly, stereoizer, write_noises, tmp_path, caplog):
    """In training, validation, demos and metrics."""
    folder = write_noises(tmp_path / "stereo", channels=2)
    data = {"dataset_type": "audio_dir", "datasets": [{"id": "stereo", "path": str(folder)}]}
    config = stereoizer(metrics={"ref_audios_path": str(folder), "ref_audios_ext": ".wav", "metrics_every": 2, "max_samples": 2})
    options = {"dataset_config": data, "val_dataset_config": data, "val_every": 2, "max_steps": 2, "logger": "csv"}
    result = train_briefly(config, demos=True, **options)
    demos = [path.name for path in (result.folder / "demos").iterdir()]
    assert "recon_00000000.wav" in demos and "failed" not in caplog.text
    assert "metrics/latent_frechet_distance" in (result.folder / "metrics" / "metrics.csv").read_text()
    assert float(result.wrapper.trainer.callback_metrics["val/mrstft_loss"]) > 0
    reals = torch.randn(2, 2, 64)
    assert torch.equal(result.wrapper.heard(reals), reals.mean(dim=1, keepdim=True))


def test_validation_hides_no_latents(wrap):
    wrapper = wrap(latent_mask_ratio=0.5)
    reals = torch.randn(1, 1, 256)
    results = []
    for mode in (True, False):
        for ratio in (0.5, 0.0):
            wrapper.training_config = wrapper.training_config.model_copy(update={"latent_mask_ratio": ratio})
            torch.manual_seed(1)
            results.append(wrapper.train(mode).reconstruct(reals)[1])
    assert not torch.equal(results[0], results[1])
    assert torch.equal(results[2], results[3])


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
    assert tops == {"autoencoder", "autoencoder_ema", "discriminator", "losses_gen", "losses_disc"}
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


# ---- warm-up, freezing, gradients ---------------------------------------------------------------------------------------------------


def test_warm_up_can_hold_the_discriminator_back_too(train_briefly, tiny_autoencoder):
    watch = watched(train_briefly, tiny_autoencoder(adversary=True, warmup_steps=3, warmup_mode="full"), max_steps=6)
    players = ["generator" if "train/loss" in log else "discriminator" for log in watch.logs]
    assert players == ["generator"] * 3 + ["discriminator", "generator", "discriminator"]
    assert "train/loss_adv" not in watch.logs[2] and "train/loss_adv" in watch.logs[4]


def test_a_frozen_encoder_is_in_eval_mode_and_out_of_the_optimizers_step(train_briefly, tiny_autoencoder):
    """Weight decay and momentum would move it if the optimizer were told of it."""
    decaying = {"autoencoder": {"optimizer": {"type": "AdamW", "config": {"lr": 1e-2, "weight_decay": 0.5}}}}
    config = tiny_autoencoder(warmup_steps=2, encoder_freeze_on_warmup=True, optimizer_configs=decaying)
    watch = watched(train_briefly, config, max_steps=4)
    encoder = [key for key in watch.states[2] if key.startswith("autoencoder.encoder.")]
    assert all(torch.equal(watch.states[2][key], watch.states[4][key]) for key in encoder)
    assert not all(torch.equal(watch.states[1][key], watch.states[2][key]) for key in encoder)
    wrapper = train_briefly(config, max_steps=4).wrapper
    assert not wrapper.autoencoder.encoder.training and wrapper.autoencoder.decoder.training


def test_the_discriminators_step_builds_no_graph_of_the_autoencoder(wrap, monkeypatch):
    wrapper = wrap(adversary=True)
    grads = []
    decode = wrapper.autoencoder.decode
    monkeypatch.setattr(wrapper.autoencoder, "decode", lambda latents: grads.append(torch.is_grad_enabled()) or decode(latents))
    terms, _ = wrapper._discriminator_terms(torch.randn(1, 1, 256))
    sum(terms.values()).backward()
    assert grads == [False]
    assert all(parameter.grad is None for parameter in wrapper.autoencoder.parameters())
    assert all(parameter.grad is not None for parameter in wrapper.discriminator.parameters())
    wrapper.discriminator.zero_grad()
    terms, _ = wrapper._generator_terms(torch.randn(1, 1, 256))
    sum(terms.values()).backward()
    assert all(parameter.grad is None for parameter in wrapper.discriminator.parameters())
    assert all(parameter.requires_grad for parameter in wrapper.discriminator.parameters())
    assert all(parameter.grad is not None for parameter in wrapper.autoencoder.decoder.parameters())


@pytest.mark.parametrize("adversary", [False, True])
def test_accumulated_batches_make_one_step_of_their_mean_gradient(train_briefly, tiny_autoencoder, adversary):
    """Without randomness (a deterministic bottleneck, whole files), twice two items move the weights as four items do."""
    config = tiny_autoencoder(adversary=adversary, learning_rate=1e-2)
    config["model"]["bottleneck"] = {"type": "tanh"}
    config["model"]["encoder"]["config"]["latent_dim"] = 4
    config["sample_size"] = 4000 // 16 * 16
    sgd = {"optimizer": {"type": "SGD", "config": {"lr": 1e-2}}}
    config["training"]["optimizer_configs"] = {"autoencoder": sgd} | ({"discriminator": sgd} if adversary else {})
    big = train_briefly(config, batch_size=4, max_steps=2)
    small = train_briefly(config, batch_size=2, accum_batches=2, max_steps=2)
    assert small.step == big.step == 2
    for (name, ours), theirs in zip(small.wrapper.model.named_parameters(), big.wrapper.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_a_window_at_the_end_of_a_pass_is_a_step_too(train_briefly, tiny_autoencoder):
    """Five batches per pass, two per step."""
    watch = watched(train_briefly, tiny_autoencoder(adversary=True), accum_batches=2, max_steps=4)
    moved = [watch.moved(batch) for batch in range(6)]
    generator, discriminator, nothing = {"autoencoder", "autoencoder_ema"}, {"discriminator"}, set()
    assert moved == [nothing, generator, nothing, discriminator, generator, nothing]
    assert len(watch.logs) == 4, "one row per step"


@pytest.mark.parametrize("option", [{"gradient_clip_val": 1e-3}, {}])
def test_gradients_are_clipped_per_player(train_briefly, tiny_autoencoder, option):
    sgd = {"optimizer": {"type": "SGD", "config": {"lr": 1.0}}}
    config = tiny_autoencoder(adversary=True, clip_grad_norm=1e-2, optimizer_configs={"autoencoder": sgd, "discriminator": sgd})
    states = watched(train_briefly, config, max_steps=2, **option).states
    for batch, part in enumerate(("autoencoder", "discriminator")):
        keys = [key for key in states[0] if key.startswith(f"{part}.")]
        distance = torch.stack([(states[batch + 1][key] - states[batch][key]).norm() for key in keys]).norm()
        assert 0 < float(distance) <= 1.01 * (option.get("gradient_clip_val") or 1e-2)


def test_gradients_that_are_still_scaled_are_not_clipped(wrap):
    wrapper = wrap(clip_grad_norm=1.0)
    precision = SimpleNamespace(scaler=torch.amp.GradScaler("cpu"))
    wrapper._trainer = SimpleNamespace(world_size=1, strategy=None, precision_plugin=precision)
    plain, fused = (torch.optim.AdamW(wrapper.autoencoder.parameters(), fused=is_fused) for is_fused in (False, True))
    wrapper.on_before_optimizer_step(plain)
    with pytest.raises(
        ConfigError, match='a fused AdamW in half precision unscales gradients itself, too late to clip them: leave "fused"'
    ):
        wrapper.on_before_optimizer_step(fused)


def test_weights_that_decay_go_on_where_a_checkpoint_was_written(train_briefly, tiny_autoencoder):
    config = tiny_autoencoder(losses={"time": {"weights": {"l1": 1.0}, "decay": 0.5}})
    first = train_briefly(config, max_steps=2)
    resumed = train_briefly(config, max_steps=3, ckpt_path=first.checkpoint)
    weights = {loss.name: float(loss.weight) for loss in resumed.wrapper.losses_gen.losses}
    assert weights["l1_time_loss"] == 0.125 and weights["mrstft_loss"] == 1


# ---- further losses and metrics -----------------------------------------------------------------------------------------------------


def test_mel_losses_and_their_weights(wrap):
    mel = {"config": {"n_mels": [8], "window_lengths": [128]}, "weights": {"mrmel": 2.0}}
    wrapper = wrap(losses={"mrmel": mel})
    reals, decoded = torch.randn(2, 1, 256), torch.randn(2, 1, 256)
    expected = MelSpectrogramLoss(8000, [8], [128])(reals, decoded)
    torch.testing.assert_close(wrapper.reconstruction_losses(reals, decoded, {})["mrmel_loss"], 2 * expected)


def test_validation_measures_what_is_asked_for(train_briefly, tiny_autoencoder, noises):
    metrics = {"stft": {"fft_size": 64, "hop_size": 16, "win_length": 64}, "sisdr": {}, "mel": {"n_mels": 8, "fft_size": 256}}
    metrics["mel"] |= {"win_length": 256, "hop_size": 64}
    result = train_briefly(tiny_autoencoder(eval_loss_configs=metrics), max_steps=5, val_dataset_config=noises)
    values = {key: float(value) for key, value in result.wrapper.trainer.callback_metrics.items() if key.startswith("val/")}
    assert {"val/stft", "val/sisdr", "val/mel", "val/mrstft_loss"} <= set(values)
    assert values["val/stft"] > 0 and values["val/mel"] > 0
    assert values["val/sisdr"] < 0, "what a model makes after five steps has little to do with the original"


def test_validation_shows_what_is_not_a_number_and_leaves_out_what_nothing_can_be_said_of(train_briefly, tiny_autoencoder, noises):
    """A metric has nothing to say of one batch in five; a loss that is not a number is a loss that is not a number."""

    class Judge(torch.nn.Module):
        count = 0

        def forward(self, x, y):
            self.count += 1
            return torch.tensor(float("nan") if self.count % 5 == 1 else 3.0)

    class Replace(pl.Callback):
        def __init__(self, loss):
            self.loss = loss

        def on_validation_start(self, trainer, pl_module):
            pl_module.eval_losses["sisdr"] = Judge()
            if self.loss:
                pl_module.reconstruction_losses = lambda *_: {"mrstft_loss": torch.tensor(float("nan"))}

    for loss in (False, True):
        options = {"val_dataset_config": noises, "val_every": 1, "max_steps": 1, "callbacks": [Replace(loss)]}
        metrics = train_briefly(tiny_autoencoder(eval_loss_configs={"sisdr": {}}), **options).wrapper.trainer.callback_metrics
        assert float(metrics["val/sisdr"]) == -3
        assert bool(metrics["val/mrstft_loss"].isnan()) is loss


def test_all_published_losses_come_in_the_published_order(wrap):
    further = {
        "mrmel": {"config": {"n_mels": [8], "window_lengths": [128]}, "weights": {"mrmel": 1.0}},
        "hubert": {"config": {"feature_ids": [0]}, "weights": {"hubert": 1.0}},
        "time": {"weights": {"l1": 1.0, "l2": 1.0}},
    }
    losses = wrap(channels=2, adversary=True, losses=further).losses_gen.losses
    assert [loss.name for loss in losses] == [
        "loss_adv", "feature_matching_loss", "mrstft_loss", "stft_loss_left", "stft_loss_right", "mrmel_loss", "hubert_loss",
        "l1_time_loss", "l2_time_loss", "kl_loss",
    ]  # fmt: skip


# ---- a teacher ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def taught(tiny_autoencoder, tmp_path):
    """``taught(**changes of the teacher's model)``: the config of a student."""

    def make(**changes):
        teacher = tiny_autoencoder()
        teacher["model"] |= changes
        torch.manual_seed(5)
        save_model_weights(create_model_from_config(teacher).state_dict(), tmp_path / "teacher.ckpt")
        return tiny_autoencoder(teacher_model=teacher, teacher_model_ckpt=str(tmp_path / "teacher.ckpt"))

    return make


def test_every_loss_of_a_teacher_reaches_the_student(taught):
    config = taught()
    wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
    parts = {
        "latent_distill_loss": {"encoder"}, "mrstft_loss": {"encoder", "decoder"}, "mrstft_loss_distill": {"encoder", "decoder"},
        "mrstft_loss_own_latents_teacher": {"encoder"}, "mrstft_loss_teacher_latents_own": {"decoder"},
    }  # fmt: skip
    terms, _ = wrapper._generator_terms(torch.randn(2, 1, 250))
    assert set(terms) == {*parts, "l1_time_loss", "kl_loss"}
    for name, expected in parts.items():
        wrapper.autoencoder.zero_grad()
        terms[name].backward(retain_graph=True)
        reached = {
            key.split(".")[0] for key, p in wrapper.autoencoder.named_parameters() if p.grad is not None and float(p.grad.abs().sum())
        }
        assert reached == expected, name
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in wrapper.teacher_model.parameters())
    assert not wrapper.train().teacher_model.training


def test_the_adversarys_step_does_not_ask_the_teacher(taught, tiny_autoencoder, monkeypatch):
    config = taught()
    config["training"]["loss_configs"] = tiny_autoencoder(adversary=True)["training"]["loss_configs"]
    wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
    asked = []
    monkeypatch.setattr(wrapper.teacher_model, "decode", lambda latents: asked.append(latents) or torch.zeros(1, 1, 256))
    wrapper._discriminator_terms(torch.randn(1, 1, 256))
    assert not asked
    wrapper._generator_terms(torch.randn(1, 1, 256))
    assert len(asked) == 2


def test_a_teacher_stays_what_it_is_and_the_student_comes_nearer(train_briefly, taught):
    config = taught()
    config["training"] |= {"learning_rate": 5e-3}
    config["training"]["loss_configs"]["time"]["weights"]["l1"] = 0.0
    watch = watched(train_briefly, config, max_steps=12, batch_size=10)
    teacher = [key for key in watch.states[0] if key.startswith("teacher_model.")]
    assert teacher and all(torch.equal(watch.states[0][key], watch.states[-1][key]) for key in teacher)
    distances = [log["train/loss"] for log in watch.logs]
    assert distances[-1] < 0.9 * distances[0]


def test_a_teacher_must_have_the_same_latents(taught):
    config = taught(latent_dim=4)
    config["training"]["teacher_model"]["sample_rate"] = 16000
    with pytest.raises(
        ConfigError, match=r"^training.teacher_model: its sample_rate is 16000, but the model's is 8000; they must be equal$"
    ):
        create_training_wrapper_from_config(config, create_model_from_config(config))
    del config["training"]["teacher_model_ckpt"]
    with pytest.raises(ConfigError, match=r"training.teacher_model: needs teacher_model_ckpt too"):
        create_training_wrapper_from_config(config, create_model_from_config(config))


# ---- scripts ------------------------------------------------------------------------------------------------------------------------


def test_scripts_load_it_from_a_checkpoint_with_keywords(train_briefly, tiny_autoencoder):
    config = tiny_autoencoder(adversary=True)
    result = train_briefly(config, max_steps=3)
    model = create_model_from_config(config)
    loaded = AutoencoderTrainingWrapper.load_from_checkpoint(
        result.checkpoint,
        autoencoder=model,
        strict=False,
        loss_config=config["training"]["loss_configs"],
        use_ema=True,
        ema_copy=create_model_from_config(config),
        sample_rate=8000,
        optimizer_configs={"autoencoder": ADAM, "discriminator": ADAM},
    )
    expected, ours = result.wrapper.state_dict(), loaded.state_dict()
    assert set(expected) == set(ours) and all(torch.equal(expected[key], ours[key].cpu()) for key in expected)
    assert loaded.autoencoder is model


def test_a_metric_that_has_nothing_to_say_about_a_batch_does_not_count_but_a_loss_does(train_briefly, tiny_autoencoder, noises):
    class Spoken(torch.nn.Module):
        values = (float("nan"), 2.0, float("nan"), 4.0, 3.0)
        calls = 0

        def forward(self, decoded, reals):
            self.calls += 1
            return torch.tensor(self.values[(self.calls - 1) % 5])

    class Watch(pl.Callback):
        def on_validation_start(self, trainer, pl_module):
            pl_module.eval_losses["stft"] = Spoken()

        def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
            if batch_idx == 1:
                batch[0].fill_(float("nan"))

        def on_validation_end(self, trainer, pl_module):
            self.seen = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")}

    watch = Watch()
    train_briefly(tiny_autoencoder(eval_loss_configs={"stft": {}}), max_steps=1, val_dataset_config=noises, val_every=1, callbacks=[watch])
    assert watch.seen["val/stft"] == pytest.approx(3.0)
    assert math.isnan(watch.seen["val/l1_time_loss"]), "not hidden"
