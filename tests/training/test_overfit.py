"""Whether a set-up can learn: one batch."""

import math
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from stable_audio_tools.errors import ConfigError, TrainingError
from stable_audio_tools.training import overfit as overfitting
from stable_audio_tools.training.diffusion.loss import unexplained
from stable_audio_tools.training.options import TrainOptions
from stable_audio_tools.training.overfit import Verdict, overfit
from stable_audio_tools.training.randomness import isolated_randomness


@pytest.fixture(scope="session")
def tones(tmp_path_factory):
    """A dataset config of four chords, which small models can learn."""
    folder, times = tmp_path_factory.mktemp("tones"), np.arange(4000) / 8000
    for index in range(4):
        chord = sum(np.sin(2 * np.pi * 110 * (index + 2) * partial * times) / partial for partial in (1, 2, 3))
        soundfile.write(folder / f"{index}.wav", 0.2 * chord, 8000)
    return {"dataset_type": "audio_dir", "random_crop": False, "datasets": [{"id": "tones", "path": str(folder), "caption": "a chord"}]}


@pytest.fixture
def verdict(tones):
    def run(config, **options):
        settings = {"batch_size": 2, "num_workers": 0, "accelerator": "cpu", "max_steps": 60, **options}
        with isolated_randomness(0):
            return overfit(TrainOptions(model_config=config, **{"dataset_config": tones, **settings}))

    return run


@pytest.fixture
def config(request, tmp_path):
    """``config(kind, rate)``: a small model of every kind that can be trained, at a learning rate."""

    def made(kind, rate):
        fixture = request.getfixturevalue
        optimizer = {"optimizer": {"type": "AdamW", "config": {"lr": rate}}}
        players = {"optimizer_configs": {"diffusion": optimizer, "discriminator": optimizer}}
        match kind:
            case "autoencoder" | "autoencoder and adversary":
                return fixture("tiny_autoencoder")(adversary="adversary" in kind, learning_rate=rate)
            case "diffusion_cond":
                return fixture("tiny_diffusion")(learning_rate=rate)
            case "arc":
                return fixture("tiny_arc")(**players)
            case "arc and teacher":
                return fixture("tiny_arc")({"use_model_as_teacher": True, "ode_warmup": {"sampling_steps": 3}}, **players)
            case "musicgen":
                folder = fixture("save_tiny_musicgen")(tmp_path / "musicgen")
                shape = {"sample_rate": 8000, "sample_size": 128, "audio_channels": 1}
                return {"model_type": "musicgen", **shape, "model": {"pretrained": str(folder)}, "training": {"learning_rate": rate}}
        names = {"diffusion_uncond": "tiny_uncond", "diffusion_cond_inpaint": "tiny_inpaint", "diffusion_autoencoder": "tiny_diffae"}
        return fixture(names.get(kind, "tiny_lm"))(learning_rate=rate)

    return made


KINDS = [
    "autoencoder", "autoencoder and adversary", "diffusion_uncond", "diffusion_cond", "diffusion_cond_inpaint", "diffusion_autoencoder",
    "lm", "musicgen", "arc", "arc and teacher",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_up_that_can_learn_is_told_so(verdict, config, tmp_path, monkeypatch, kind):
    made = config(kind, 0.01)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = verdict(made, max_steps=600)
    assert found.can_learn and found.last < 0.5 and found.last < found.first, str(found)
    assert str(found).startswith("this set-up can learn: the error of ") and 5 < found.steps < 600, str(found)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_up_that_changes_nothing_is_found_out(verdict, config, kind):
    found = verdict(config(kind, 0.0), max_steps=4)
    assert not found.can_learn and "does NOT learn" in str(found) and "look at the learning rate" in str(found)
    assert found.last == pytest.approx(found.first, rel=1e-5) and found.steps == 4, "every step is the same but for the weights"
    assert found.losses[1] == pytest.approx(found.losses[0], rel=1e-4) or "adversary" in kind


@pytest.mark.parametrize(("kind", "rate"), [("autoencoder", 3.0), ("diffusion_cond", 1.0), ("arc", 1.0), ("lm", 10.0)])
def test_a_learning_rate_that_is_too_high_is_found_out(verdict, config, kind, rate):
    found = verdict(config(kind, rate), max_steps=12, on_nan="skip")
    assert not found.can_learn and "look at the learning rate" in str(found), str(found)


def test_gradients_that_are_not_finite_are_told(verdict, config):
    with pytest.raises(
        TrainingError, match=r"the loss is finite, but the gradients of .* are not: .*; its batch: .*try a lower learning rate"
    ):
        verdict(config("arc", 30.0), max_steps=12)


def test_an_error_leaves_no_processes_for_which_the_program_would_wait(verdict, config):
    before = set(multiprocessing.active_children())  # of other tests
    with pytest.raises(TrainingError) as told:
        verdict(config("diffusion_cond", 1e30), max_steps=12, num_workers=1)
    assert set(multiprocessing.active_children()) <= before and told.tb is not None


@pytest.mark.parametrize(
    ("kind", "part"), [("autoencoder", "bottleneck"), ("diffusion_cond", "pretransform"), ("lm", "pretransform"), ("arc", "pretransform")]
)
def test_nothing_to_train_is_refused_at_once(verdict, config, kind, part):
    made = config(kind, 0.01)
    made["training"]["train"] = part
    with pytest.raises(ConfigError, match=r"^training\.train: ('\w+' (leaves nothing to train|fits no parameter)|.*)"):
        verdict(made)


def test_the_wrong_part_that_is_trained_is_found_out(verdict, config):
    made = config("diffusion_cond", 0.01)
    made["training"]["train"] = "conditioner"
    found = verdict(made, max_steps=60)
    assert not found.can_learn and "what is frozen" in str(found), str(found)


# ---- losses that fall while the batch is not learnt --------------------------------------------------------------------------------


def test_a_loss_without_the_batch_in_it_is_found_out(verdict, config):
    made = config("autoencoder", 0.01)
    made["training"]["loss_configs"]["spectral"]["weights"]["mrstft"] = 0.0
    made["training"]["loss_configs"]["time"]["weights"]["l1"] = 0.0
    found = verdict(made, max_steps=100)
    assert found.losses[1] < 0.5 * found.losses[0], "the bottleneck's term falls"
    assert not found.can_learn and "the loss falls, but not for this: look at the weights of its terms" in str(found), str(found)


PADDING = """import torch

def get_custom_metadata(info, audio):
    return {"prompt": "a chord", "seconds_start": 0, "seconds_total": 1, "padding_mask": torch.zeros(audio.shape[-1], dtype=torch.bool)}
"""


@pytest.mark.parametrize("kind", ["diffusion_cond", "lm"])
def test_labels_that_call_everything_padding_are_found_out(verdict, config, tones, tmp_path, kind):
    made = config(kind, 0.01)
    if kind == "diffusion_cond":
        made["training"]["mask_padding"] = True
    (tmp_path / "padding.py").write_text(PADDING)
    entry = {**tones["datasets"][0], "custom_metadata_module": str(tmp_path / "padding.py")}
    found = verdict(made, max_steps=20, dataset_config={**tones, "datasets": [entry]})
    assert not found.can_learn and math.isnan(found.last)
    assert "nothing of this batch counts: is it silent, or is all of it padding?" in str(found)


def test_a_wrapper_that_does_not_say_is_refused_at_once(verdict, config, monkeypatch):
    from stable_audio_tools.training.base import TrainingWrapper
    from stable_audio_tools.training.diffusion.uncond import DiffusionUncondTrainingWrapper

    monkeypatch.setattr(DiffusionUncondTrainingWrapper, "reproduction_error", TrainingWrapper.reproduction_error)
    with pytest.raises(
        ConfigError, match=r"does not say how near its model is to a batch; give it a method reproduction_error\(\), or train"
    ):
        verdict(config("diffusion_uncond", 0.01))


# ---- numbers -----------------------------------------------------------------------------------------------------------------------


def test_what_is_reached_depends_on_where_it_began():
    losses, what = (1.0, 0.9), "it"
    assert not Verdict(1.0, 0.8, 10, losses, what).can_learn and Verdict(1.0, 0.49, 10, losses, what).can_learn
    assert not Verdict(30.0, 1.0, 10, losses, what).can_learn, "learnt to be as quiet as the batch"
    assert not Verdict(0.4, 0.39, 10, losses, what).can_learn and Verdict(0.4, 0.3, 10, losses, what).can_learn
    assert "it falls, but slowly" in str(Verdict(1.0, 0.8, 10, losses, what)) and "look at" in str(Verdict(1.0, 0.99, 10, losses, what))
    assert not Verdict(1.0, math.nan, 10, losses, what).can_learn


@pytest.mark.parametrize("objective", ["v", "rectified_flow"])
def test_who_knows_only_the_level_explains_nothing(objective):
    from stable_audio_tools.sampling.objectives import objective as find

    torch.manual_seed(0)
    latents, noise, t = 0.2 * torch.randn(64, 8, 64), torch.randn(64, 8, 64), torch.rand(64)
    alpha, sigma = (weight[:, None, None] for weight in find(objective).alpha_sigma(t))
    guess = 0.04 * alpha * (alpha * latents + sigma * noise) / (0.04 * alpha**2 + sigma**2)  # the best linear one
    assert float(unexplained(guess, latents, t, objective)) == pytest.approx(1, rel=0.02)
    assert float(unexplained(latents, latents, t, objective)) == 0
    assert float(unexplained(0.5 * (guess + latents), latents, t, objective)) == pytest.approx(0.25, rel=0.02)


def test_an_adapter_is_judged_like_its_model(verdict, config):
    made = config("diffusion_cond", 0.02)
    made["training"]["adapter"] = {"type": "lora", "config": {"rank": 8}}
    found = verdict(made, max_steps=600)
    assert found.can_learn, str(found)


# ---- every step is the same, and looked at -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["autoencoder", "autoencoder and adversary", "diffusion_uncond", "diffusion_cond", "arc"])
def test_losses_are_those_of_every_step_however_seldom_they_are_logged(verdict, config, kind):
    made = config(kind, 0.01)
    often = verdict(made, max_steps=7)
    made["training"]["log_every_n_steps"] = 50
    seldom = verdict(made, max_steps=7)
    assert all(map(math.isfinite, often.losses)) and seldom == often


NAMELESS = """def get_custom_metadata(info, audio):
    del info["path"], info["relpath"]
    return {"prompt": "a chord", "seconds_start": 0, "seconds_total": 1}
"""


@pytest.mark.parametrize("kind", ["diffusion_uncond", "diffusion_cond", "diffusion_cond_inpaint"])
def test_noise_of_items_is_the_same_in_every_step(verdict, config, tones, tmp_path, kind):
    made = config(kind, 0.0)
    made["training"]["noise_by_item"] = True
    (tmp_path / "nameless.py").write_text(NAMELESS)
    entry = {**tones["datasets"][0], "custom_metadata_module": str(tmp_path / "nameless.py")}
    found = verdict(made, max_steps=4, dataset_config={**tones, "datasets": [entry]})
    assert found.losses[1] == pytest.approx(found.losses[0], rel=1e-5), str(found)


# ---- as a run would do it ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["diffusion_cond", "autoencoder and adversary", "arc"])
def test_several_batches_make_a_step_if_asked(verdict, config, kind, monkeypatch):
    batches = []
    monkeypatch.setattr(overfitting._SameStep, "on_train_batch_start", counted(overfitting._SameStep.on_train_batch_start, batches))
    found = verdict(config(kind, 0.01), max_steps=4, accum_batches=3)
    assert (found.steps, len(batches)) == (4, 12)


def counted(function, calls):
    """A function that also notes that it is called."""

    def wrapped(*args):
        calls.append(args)
        return function(*args)

    return wrapped


@pytest.mark.parametrize("kind", ["diffusion_cond", "autoencoder"])
def test_gradients_are_clipped_if_asked(verdict, config, kind):
    made = config(kind, 0.0)
    optimizer = {"optimizer": {"type": "SGD", "config": {"lr": 1.0}}}
    made["training"]["optimizer_configs"] = {"autoencoder" if kind == "autoencoder" else "diffusion": optimizer}
    found = verdict(made, max_steps=4, gradient_clip_val=1e-9)
    assert found.last == pytest.approx(found.first, rel=1e-4), "steps that are as good as none"


def test_the_strategy_is_that_of_a_run(config):
    from stable_audio_tools.models import create_model_from_config
    from stable_audio_tools.training import create_training_wrapper_from_config
    from stable_audio_tools.training.trainer import bare_trainer, steps_of

    made = config("autoencoder and adversary", 0.01)
    wrapper = create_training_wrapper_from_config(made, create_model_from_config(made))
    options = TrainOptions(model_config=made, dataset_config={}, accelerator="cpu", devices=2, strategy="ddp")
    strategy = bare_trainer(options, **steps_of(options, wrapper)).strategy
    assert strategy._ddp_kwargs["find_unused_parameters"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["autoencoder and adversary", "arc"])
def test_two_processes_learn_a_batch(scripts, config, tones, kind):
    run = scripts(config(kind, 0.01), tones["datasets"][0]["path"], "--overfit", "--max-steps", "12", "--devices", "2")
    assert run.start("--accum-batches", "2").wait(timeout=300) in (0, 3), run.log()
    assert "this set-up " in run.log() and "steps on one batch" in run.log(), run.log()
