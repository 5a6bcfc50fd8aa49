"""Going on with training checkpoints that another program wrote: the steps that follow are those of a run that nobody stopped."""

import json
import random
import re
import shutil

import numpy as np
import pytest
import pytorch_lightning as pl
import soundfile
import torch
from typer.testing import CliRunner

from stable_audio_tools.checkpoint import (
    assign_weights,
    load_ckpt_state_dict,
    load_model_weights,
    read_checkpoint,
    save_model_weights,
    unwrap_state_dict,
)
from stable_audio_tools.cli.main import app
from stable_audio_tools.errors import CheckpointError, ConfigError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config
from stable_audio_tools.training.randomness import isolated_randomness
from tests.training.published import SCHEDULE, Run, draw_as_in

BEFORE, AFTER = 5, 4
ADAM = {"optimizer": {"type": "AdamW", "config": {"lr": 1e-3}}}
SCHEDULED = {**ADAM, "scheduler": {"type": "InverseLR", "config": SCHEDULE}}
KINDS = [
    "autoencoder", "adversary", "stereo", "teacher", "diffusion_uncond", "diffusion_cond", "diffusion_cond_inpaint", "arc",
    "diffusion_autoencoder", "lm",
]  # fmt: skip


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Two files that are the same: every batch is."""
    folder = tmp_path_factory.mktemp("same")
    rng = np.random.default_rng(0)
    noise = (0.2 * rng.standard_normal((1024, 2))).clip(-1, 1)
    for name in ("a", "b"):
        soundfile.write(folder / f"{name}.wav", noise, 8000)
    entry = {"id": "same", "path": str(folder), "caption": "noise"}
    return {"dataset_type": "audio_dir", "datasets": [entry], "random_crop": False, "augment_phase": False}


@pytest.fixture(scope="module")
def config(request, tmp_path_factory):
    """``config(kind)``: a model of every kind that can be trained."""

    def made(kind):
        fixture = request.getfixturevalue
        if kind in ("autoencoder", "adversary", "stereo", "teacher"):
            options = {"optimizer_configs": {"autoencoder": SCHEDULED}}
            if kind == "stereo":
                spectral = {"config": {"fft_sizes": [64], "hop_sizes": [16], "win_lengths": [64], "perceptual_weighting": True}}
                options |= {"channels": 2, "losses": {"spectral": {**spectral, "weights": {"mrstft": 1.0}, "decay": 0.9}}}
            if kind == "adversary":
                options |= {"adversary": True, "warmup_steps": 4, "encoder_freeze_on_warmup": True}
                options["optimizer_configs"]["discriminator"] = SCHEDULED
            if kind == "teacher":
                taught = fixture("tiny_autoencoder")()
                path = tmp_path_factory.mktemp("teacher") / "teacher.ckpt"
                torch.manual_seed(7)
                torch.save({"state_dict": create_model_from_config(taught).state_dict()}, path)
                options |= {"teacher_model": {**taught, "training": None}, "teacher_model_ckpt": str(path)}
                del options["teacher_model"]["training"]
            return fixture("tiny_autoencoder")(**options)
        if kind == "arc":
            return fixture("tiny_arc")(
                {"use_model_as_teacher": True}, {"contrastive": True, "include_grad_penalties": True},
                optimizer_configs={"diffusion": SCHEDULED, "discriminator": SCHEDULED},
            )  # fmt: skip
        if kind == "diffusion_cond":
            return fixture("tiny_diffusion")(optimizer_configs={"diffusion": SCHEDULED}, mask_padding=True)
        if kind == "lm":
            return fixture("tiny_lm")(use_ema=True, ema={"beta": 0.99, "power": 2 / 3, "update_every": 1, "update_after_step": 1})
        names = {"diffusion_uncond": "tiny_uncond", "diffusion_cond_inpaint": "tiny_inpaint", "diffusion_autoencoder": "tiny_diffae"}
        return fixture(names[kind])()

    return made


def is_scheduled(config):
    return "scheduler" in json.dumps(config["training"])


@pytest.fixture(scope="module")
def stopped(config, sounds, tmp_path_factory):
    """``stopped(kind)``: config, a run that goes on after it was saved, and its file."""
    made = {}

    def get(kind):
        if kind not in made:
            model_config = config(kind)
            run = Run(model_config, sounds, schedule=is_scheduled(model_config))
            run.train(BEFORE)
            path = run.save(tmp_path_factory.mktemp("theirs") / "epoch=3-step=5.ckpt")
            run.train(AFTER)
            made[kind] = model_config, run, path
        return made[kind]

    return get


class Repeat(pl.Callback):
    """Draws the same random numbers in a step as the other program, and keeps what the optimizers remember in the end."""

    def on_train_start(self, trainer, pl_module):
        self.began_at = trainer.global_step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        draw_as_in(trainer.global_step, pl_module)

    def on_train_batch_end(self, trainer, pl_module, *args):
        names = {id(parameter): name for name, parameter in pl_module.named_parameters()}
        self.remembered = {names[id(key)]: value for optimizer in trainer.optimizers for key, value in optimizer.state.items()}
        self.rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]


def go_on(train_briefly, config, path, sounds, steps=BEFORE + AFTER, **options):
    repeat = Repeat()
    before = random.getstate()
    try:
        result = train_briefly(
            config, dataset_config=sounds, ckpt_path=path, max_steps=steps, callbacks=[repeat], precision="32", **options
        )
    finally:
        random.setstate(before)
    return result, repeat


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    different = [key for key in expected if not torch.equal(torch.as_tensor(found[key]), torch.as_tensor(expected[key]))]
    assert different == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_steps_are_those_of_a_run_that_nobody_stopped(train_briefly, stopped, sounds, kind, caplog):
    model_config, run, path = stopped(kind)
    result, repeat = go_on(train_briefly, model_config, path, sounds)
    assert (repeat.began_at, result.step) == (BEFORE, BEFORE + AFTER)
    own, theirs = result.wrapper.state_dict(), run.state_dict(twice=False)
    theirs = {key: value for key, value in theirs.items() if key in own}
    assert {key for key in own if not key.startswith("losses_gen")} <= theirs.keys()
    assert_same({key: own[key] for key in theirs}, theirs)
    remembered = run.remembered()
    assert repeat.remembered.keys() == remembered.keys()
    for name, state in remembered.items():
        assert_same(repeat.remembered[name], state)
    assert repeat.rates == pytest.approx([optimizer.param_groups[0]["lr"] for optimizer in run.optimizers], rel=1e-6)
    averages = " and averages" if result.wrapper.ema is not None else ""
    assert (
        f": of another program: goes on from step 5 with its weights{averages} and optimizer states; the data begin anew; not used: "
        in caplog.text
    )
    assert "begins anew" not in caplog.text


@pytest.mark.parametrize("kind", ["adversary", "diffusion_cond", "arc", "lm"])
def test_optimizers_that_know_only_what_is_trained_go_on_too(train_briefly, stopped, sounds, tmp_path, kind):
    model_config, _, _ = stopped(kind)
    run = Run(model_config, sounds, schedule=is_scheduled(model_config))
    run.train(BEFORE)
    path = run.save(tmp_path / "epoch=3-step=5.ckpt", twice=False, leaves_out_frozen=True)
    run.train(AFTER)
    _, repeat = go_on(train_briefly, model_config, path, sounds)
    for name, state in run.remembered().items():
        assert_same(repeat.remembered[name], state)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
@pytest.mark.parametrize("kind", ["adversary", "diffusion_uncond"])
def test_a_plain_trainer_goes_on_too(stopped, kind):
    model_config, run, path = stopped(kind)
    repeat = Repeat()
    with isolated_randomness(1):
        wrapper = create_training_wrapper_from_config(model_config, create_model_from_config(model_config))
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(accelerator="cpu", max_steps=BEFORE + AFTER, callbacks=[repeat], **quiet)
        trainer.fit(wrapper, torch.utils.data.DataLoader([run.batch], batch_size=None), ckpt_path=path)
    assert (repeat.began_at, trainer.global_step) == (BEFORE, BEFORE + AFTER)
    assert_same(wrapper.model.state_dict(), run.model.state_dict())
    for name, state in run.remembered().items():
        assert_same(repeat.remembered[name], state)


# ---- models of such files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_both_weights_can_be_exported_and_loaded(stopped, tmp_path, kind, monkeypatch):
    model_config, run, path = stopped(kind)
    (tmp_path / "model.json").write_text(json.dumps(model_config))
    monkeypatch.chdir(tmp_path)
    content = torch.load(path, weights_only=True)["state_dict"]
    online = {key.removeprefix(f"{run.prefix}."): value for key, value in content.items() if key.startswith(f"{run.prefix}.")}
    covered = "model." if run.prefix == "diffusion" else ""
    at = f"{run.prefix}_ema.ema_model."
    averaged = {**online, **{covered + key.removeprefix(at): value for key, value in content.items() if key.startswith(at)}}
    has_average = run.wrapper.ema is not None
    assert any(not torch.equal(averaged[key], online[key]) for key in online) == has_average
    for name, expected, flags in (("averaged", averaged, ()), ("online", online, ("--online", "--use-safetensors"))):
        shutil.copy(path, "theirs.ckpt")
        command = ["unwrap", "--model-config", "model.json", "--ckpt-path", "theirs.ckpt", "--name", name, *flags]
        ran = CliRunner().invoke(app, command, catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        exported = tmp_path / f"{name}{'.safetensors' if flags else '.ckpt'}"
        model = create_model_from_config(model_config)
        assert load_model_weights(model, exported).is_complete
        assert_same(model.state_dict(), expected)
        model = create_model_from_config(model_config)
        assert load_model_weights(model, path, use_ema=not flags).is_complete
        assert_same(model.state_dict(), expected)
        assert_same(unwrap_state_dict(load_ckpt_state_dict(path), use_ema=not flags), expected)
    model = create_model_from_config(model_config)
    assign_weights(model, read_checkpoint(path))
    assert_same(model.state_dict(), averaged)


def test_a_model_can_be_exported_with_another_autoencoder(stopped, tiny_autoencoder, tiny_uncond, tmp_path):
    model_config, _, path = stopped("diffusion_cond")
    torch.manual_seed(3)
    autoencoder = create_model_from_config(tiny_autoencoder()).state_dict()
    save_model_weights(autoencoder, tmp_path / "vae.safetensors")
    (tmp_path / "model.json").write_text(json.dumps(model_config))
    command = ["unwrap", "--model-config", str(tmp_path / "model.json"), "--ckpt-path", str(path), "--name", str(tmp_path / "made")]
    ran = CliRunner().invoke(app, [*command, "--pretransform-ckpt-path", str(tmp_path / "vae.safetensors")], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    made, plain = load_ckpt_state_dict(tmp_path / "made.ckpt"), unwrap_state_dict(load_ckpt_state_dict(path))
    replaced = {f"pretransform.model.{key}": value for key, value in autoencoder.items()}
    assert_same(made, {**plain, **replaced})
    _, _, other = stopped("diffusion_uncond")
    (tmp_path / "model.json").write_text(json.dumps(tiny_uncond()))
    with pytest.raises(ConfigError, match="--pretransform-ckpt-path needs a model with an 'autoencoder' pretransform"):
        CliRunner().invoke(
            app, [*command[:4], str(other), *command[5:], "--pretransform-ckpt-path", str(tmp_path / "x")], catch_exceptions=False
        )


# ---- what does not fit -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def altered(stopped, tmp_path):
    """``altered(kind, change)``: the file after ``change(content)``."""

    def alter(kind, change):
        model_config, run, path = stopped(kind)
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, tmp_path / path.name)
        return model_config, run, tmp_path / path.name

    return alter


def test_a_plain_file_of_an_autoencoder_is_told_by_what_it_lacks(stopped):
    assert "random_state" not in read_checkpoint(stopped("autoencoder")[2]).extra


def test_optimizer_states_that_do_not_fit_are_left_and_said(train_briefly, altered, sounds, caplog):
    def change(content):
        content["optimizer_states"][1]["param_groups"][0]["params"].append(9999)

    model_config, _, path = altered("adversary", change)
    _, repeat = go_on(train_briefly, model_config, path, sounds, steps=BEFORE + 1)
    why = r"\(it updates \d+ parameters, this run \d+\) of discriminator;"
    assert re.search(rf"goes on from step 5 with its weights and averages, but not its optimizer states {why}", caplog.text)
    assert not any(name.startswith("discriminator") and int(state["step"]) > 1 for name, state in repeat.remembered.items())
    assert any(name.startswith("autoencoder") and int(state["step"]) >= 2 for name, state in repeat.remembered.items())
    assert repeat.rates[1] == pytest.approx((1 - 0.5 ** (3 + 1)) * 1e-3 * (1 + 3 / 10) ** -0.5), "its schedule goes on all the same"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda content: content["optimizer_states"].pop(),
            "but not its optimizer states (it has 1 optimizers, this run 2) of discriminator",
        ),
        (
            lambda content: content["lr_schedulers"].clear(),
            "but not its schedule (there is none) of autoencoder, but not its schedule (there",
        ),
        (lambda content: content["lr_schedulers"][0].pop("warmup"), "but not its schedule (it is of another kind) of autoencoder;"),
        (
            lambda content: content["optimizer_states"][0]["param_groups"][0].pop("betas"),
            "(they are of another kind of optimizer: without betas) of autoencoder",
        ),
        (
            lambda content: [content["state_dict"].pop(key) for key in list(content["state_dict"]) if key.startswith("discriminator.")],
            "begins anew, since the file has nothing that fits: discriminator.",
        ),
        (
            lambda content: [content["state_dict"].pop(key) for key in list(content["state_dict"]) if key.startswith("autoencoder_ema.")],
            "the data begin anew, and the average with these weights",
        ),
    ],
)
def test_whatever_cannot_be_used_is_said(train_briefly, altered, sounds, caplog, change, said):
    model_config, _, path = altered("adversary", change)
    result, _ = go_on(train_briefly, model_config, path, sounds, steps=BEFORE + 1)
    assert said in caplog.text and result.step == BEFORE + 1


def test_weights_of_losses_that_decay_are_of_the_same_terms(train_briefly, altered, sounds, caplog):
    key = "losses_gen.losses.0.weight"

    def change(content):
        del content["state_dict"]["losses_gen.losses.2.weight"]

    model_config, _, path = altered("stereo", change)
    result, _ = go_on(train_briefly, model_config, path, sounds, steps=BEFORE + 1)
    assert float(result.wrapper.state_dict()[key]) == pytest.approx(0.9), "one step from the beginning"
    assert "begins anew, since the file has nothing that fits: losses_gen.losses.0.weight, losses_gen.losses.1.weight" in caplog.text
    model_config, _, path = altered("stereo", lambda content: None)
    result, _ = go_on(train_briefly, model_config, path, sounds, steps=BEFORE + 1)
    assert float(result.wrapper.state_dict()[key]) == pytest.approx(0.9 ** (BEFORE + 1))


def test_another_model_is_refused(train_briefly, altered, sounds):
    def change(content):
        del content["state_dict"]["diffusion.model.model.to_timestep_embed.0.bias"]

    model_config, _, path = altered("diffusion_cond", change)
    with pytest.raises(
        CheckpointError, match=r"does not fit this run: its model lacks diffusion\.model\.model\.to_timestep_embed\.0\.bias"
    ):
        train_briefly(model_config, ckpt_path=path)


def test_another_optimizer_in_the_config_is_refused(train_briefly, altered, sounds):
    model_config, _, path = altered("diffusion_cond", lambda content: None)
    model_config = json.loads(json.dumps(model_config))
    model_config["training"]["optimizer_configs"]["diffusion"]["optimizer"]["config"]["lr"] = 0.5
    with pytest.raises(CheckpointError, match=r"optimizer\.config\.lr: 0\.001 -> 0\.5"):
        train_briefly(model_config, ckpt_path=path)
