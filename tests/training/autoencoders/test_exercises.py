"""Steps that are harder than others: other strides, missing ends."""

import copy

import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools.config.check import check_model_config
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config
from stable_audio_tools.training.autoencoders.exercises import CURRICULUM_PERIOD, curriculum, patch_of, without_tails


@pytest.fixture
def same(tiny_autoencoder):
    """A small SAME, whose strides are 4 and 2, on patches of two samples."""

    def config(*, variable_stride=True, **training):
        made = tiny_autoencoder(**training)
        sizes = {
            "channels": 8, "c_mults": [1, 1], "strides": [4, 2], "transformer_depths": [1, 1], "latent_dim": 4, "dim_heads": 8,
            "sliding_window": [1, 1], "variable_stride": variable_stride,
        }  # fmt: skip
        made["model"] = {
            "encoder": {"type": "same", "config": {"in_channels": 2, **sizes}},
            "decoder": {"type": "same", "config": {"out_channels": 2, **sizes}},
            "pretransform": {"type": "patched", "config": {"channels": 1, "patch_size": 2}},
            "bottleneck": {"type": "softnorm", "config": {"dim": 4}},
            "latent_dim": 4, "downsampling_ratio": 16, "io_channels": 1,
        }  # fmt: skip
        return made

    return config


class Lengths(pl.Callback):
    """Latent frames of every step."""

    def on_train_start(self, trainer, pl_module):
        self.seen, plain = [], pl_module.autoencoder.encode

        def encode(audio, **options):
            found = plain(audio, **options)
            self.seen.append(found[0].shape[-1])
            return found

        pl_module.autoencoder.encode = encode


def test_every_ninth_step_has_another_stride(train_briefly, same):
    lengths = Lengths()
    train_briefly(same(stride_curriculum=[2, 0.5]), max_steps=2 * CURRICULUM_PERIOD, callbacks=[lengths])
    usual, other = 1024 // 16, 1024 // 32
    assert lengths.seen == ([usual] * (CURRICULUM_PERIOD - 1) + [other]) * 2
    plain = Lengths()
    train_briefly(same(), max_steps=CURRICULUM_PERIOD, callbacks=[plain])
    assert plain.seen == [usual] * CURRICULUM_PERIOD


def test_stages_follow_each_other_and_validation_is_as_usual(same):
    config = same(stride_curriculum=[2, 0.5])
    wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
    wrapper._trainer = type("Trainer", (), {"global_step": 0})()
    for step, strides in ((8, [4, 4]), (1997, [4, 4]), (2006, [4, 1]), (4004, [4, 4]), (9, None)):
        wrapper._trainer.global_step = step - (step % 9) + 8 if strides else step
        assert wrapper._strides().encoder.get("override_stride") == strides
        assert wrapper._strides().decoder.get("override_stride") == (strides and strides[::-1])
    wrapper._trainer.global_step = 8
    assert wrapper.eval()._strides().encoder == {}


@pytest.mark.parametrize(
    ("variable_stride", "factors", "message"),
    [
        (False, [2], "needs a model of type 'same' with variable_stride, which its encoder is not"),
        (True, [0.3], "2, the innermost stride, times 0.3 is no whole number above 0"),
    ],
)
def test_strides_that_cannot_be_are_refused(same, variable_stride, factors, message):
    model = create_model_from_config(same(variable_stride=variable_stride))
    with pytest.raises(ConfigError, match=f"^training.stride_curriculum: {message}"):
        list(curriculum(model, factors))


def test_other_models_have_one_stride(tiny_autoencoder):
    config = tiny_autoencoder(stride_curriculum=[2])
    with pytest.raises(ConfigError, match="needs a model of type 'same'"):
        create_training_wrapper_from_config(config, create_model_from_config(config))


# ---- missing ends ------------------------------------------------------------------------------------------------------------------------


def test_one_item_in_twenty_ends_early_by_whole_patches():
    torch.manual_seed(0)
    audio = torch.ones(4000, 2, 64)
    masked = without_tails(audio, 3, 8)
    lost = (masked == 0).sum(dim=-1)[:, 0]
    assert torch.equal(lost, (masked == 0).sum(dim=-1)[:, 1]) and set(lost.tolist()) == {0, 8, 16, 24}
    assert 0.035 < float((lost > 0).float().mean()) < 0.065
    assert all(bool((item[:, : 64 - count] == 1).all()) for item, count in zip(masked, lost.tolist(), strict=True))


def test_a_patch_is_a_step_of_the_pretransform(same, tiny_autoencoder):
    assert patch_of(create_model_from_config(same())) == 2
    assert patch_of(create_model_from_config(tiny_autoencoder())) == 16


def test_tails_are_masked_in_training_only_if_asked(tiny_autoencoder):
    heard = {}
    for patches in (0, 4):
        config = tiny_autoencoder(tail_masking_max_patches=patches)
        torch.manual_seed(0)
        wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
        wrapper.play = lambda player, batch_idx, terms_of, patches=patches: heard.setdefault(patches, terms_of.args[0])
        wrapper.training_step((torch.ones(200, 1, 256), [{}] * 200), 0)
    assert bool((heard[0] == 1).all()) and bool((heard[4][..., -1] == 0).any()) and bool((heard[4][..., :192] == 1).all())


def test_logs_are_means_over_so_many_steps(train_briefly, tiny_autoencoder):
    class Watch(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            self.logs = []
            pl_module.log_dict = lambda values, **kwargs: self.logs.append({key: float(value) for key, value in values.items()})

    every, third = Watch(), Watch()
    train_briefly(tiny_autoencoder(adversary=True), max_steps=6, callbacks=[every])
    train_briefly(tiny_autoencoder(adversary=True, log_every_n_steps=3), max_steps=6, callbacks=[third])
    assert len(every.logs) == 6 and len(third.logs) == 2, "three steps of each player"
    losses = [log["train/loss"] for log in every.logs if "train/loss" in log]
    assert third.logs[0]["train/loss"] == pytest.approx(sum(losses) / 3, rel=1e-5)


# ---- keys that are not taken -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "path", "reason"),
    [
        ({"decoder_finetune": True}, "training.decoder_finetune", 'write "train": "decoder" instead'),
        ({"num_synthetic_chirps": 2}, "training.num_synthetic_chirps", "sounds are not made up in training"),
        ({"decoder_loss": {}}, "training.decoder_loss", "no decoder has a loss of its own"),
        *(
            ({"losses": {name: {}}}, f"training.loss_configs.{name}", reason)
            for name, reason in {
                "contrastive": "there is no critic", "jepa": "there is no loss that predicts", "generative": "there is no diffusion model",
                "semantic_regressors": "there are no regressors", "clap": "there is no loss of CLAP", "latent_distillation": "a teacher",
            }.items()
        ),
        ({"losses": {"time": {"weights": {"mmd": 1.0}}}}, "training.loss_configs.time.weights.mmd", "there is no such distance"),
        *(
            (
                {"losses": {"discriminator": {"type": name, "weights": {"adversarial": 1.0, "feature_matching": 1.0}}}},
                "training.loss_configs.discriminator.type",
                f"'{name}': there is no adversary",
            )
            for name in ("transformer", "hil")
        ),
        ({"stride_curriculum": [2], "teacher_model": {}}, "training.stride_curriculum", "contradicts teacher_model"),
    ],
)  # fmt: skip
def test_keys_of_other_programs_are_refused_with_the_reason(tiny_autoencoder, options, path, reason):
    found = {mistake.path: mistake.message for mistake in check_model_config(tiny_autoencoder(**options)) if mistake.kind != "warning"}
    assert found[path].startswith(reason if "contradicts" in reason else f"not supported: {reason}")


def test_with_the_value_that_changes_nothing_they_are_taken(tiny_autoencoder):
    config = tiny_autoencoder(decoder_finetune=False, num_synthetic_chirps=0, tail_masking_max_patches=0, quantize_dropout=False)
    before = copy.deepcopy(config)
    assert check_model_config(config) == [] and config == before
