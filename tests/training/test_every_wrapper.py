"""Every wrapper on real sounds: its loss falls; killed without warning and recovered, a run ends as one that nobody stops."""

import random
import shutil

import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools.checkpoint import read_checkpoint, save_model_weights, weights_hash
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config
from stable_audio_tools.training.checkpointing import find_checkpoints

STEPS, EVERY = 60, 10  # three batches make a pass, so that checkpoints lie within one


def optimizer(rate):
    return {"optimizer": {"type": "AdamW", "config": {"lr": rate}}}


@pytest.fixture(scope="session")
def sounds(shared, tmp_path_factory):
    """``sounds(count)``: a folder of real drum sounds."""
    found = sorted((shared / "data" / "real-oneshots" / "drum-machines").rglob("*.ogg"))

    def folder(count):
        made = tmp_path_factory.mktemp("sounds")
        if len(found) < count:
            pytest.skip(f"the shared data have {len(found)} drum sounds, and {count} are needed")
        for index, path in enumerate(found[:: len(found) // count][:count]):
            shutil.copy(path, made / f"{index}{path.suffix}")
        return made

    return folder


@pytest.fixture
def config(request, tmp_path):
    """``config(name)``: a model of every kind that can be trained."""

    def made(name):
        fixture = request.getfixturevalue
        if name == "autoencoder":
            players = {"autoencoder": optimizer(6e-3), "discriminator": optimizer(1e-3)}
            return fixture("tiny_autoencoder")(adversary=True, optimizer_configs=players, warmup_steps=6)
        if name == "musicgen":
            folder = fixture("save_tiny_musicgen")(tmp_path / "musicgen")
            shape = {"sample_rate": 8000, "sample_size": 128, "audio_channels": 1}
            return {"model_type": "musicgen", **shape, "model": {"pretrained": str(folder)}, "training": {"learning_rate": 1e-2}}
        if name == "arc":
            players = {"diffusion": optimizer(1e-2), "discriminator": optimizer(1e-3)}
            warmup = {"warmup_steps": 48, "refresh_rate": 4, "sampling_steps": 3, "cfg": 2.0}
            return fixture("tiny_arc")(
                {"use_model_as_teacher": True, "ode_warmup": warmup}, {"contrastive": True}, optimizer_configs=players
            )
        if name in ("diffusion_cond", "adapter"):
            return fixture("tiny_diffusion")(pretransform=False, learning_rate=1e-2)
        fixtures = {"diffusion_uncond": "tiny_uncond", "diffusion_cond_inpaint": "tiny_inpaint", "diffusion_autoencoder": "tiny_diffae"}
        return fixture(fixtures.get(name, "tiny_lm"))(learning_rate=1e-2)

    return made


WRAPPERS = [
    "autoencoder", "diffusion_cond", "diffusion_cond_inpaint", "diffusion_autoencoder", "lm", "musicgen", "arc", "adapter",
]  # fmt: skip


@pytest.mark.parametrize("name", ["diffusion_uncond", *(pytest.param(name, marks=pytest.mark.slow) for name in WRAPPERS)])
def test_a_killed_and_recovered_run_learns_and_ends_like_one_that_nobody_stops(scripts, sounds, config, tmp_path, name):
    made, flags = config(name), ()
    if name == "adapter":
        torch.manual_seed(1)
        base = save_model_weights(create_model_from_config(made).state_dict(), tmp_path / "base.safetensors")
        flags = ("--pretrained-ckpt-path", str(base), "--adapter", "lora")
    assert_recovers_and_learns(scripts(made, sounds(6), "--num-workers", "0", *flags, random_crop=False), name)


@pytest.mark.slow
def test_two_processes_that_are_killed_and_recovered_end_like_two_that_nobody_stops(scripts, sounds, config):
    flags = ("--num-workers", "0", "--devices", "2", "--strategy", "ddp")
    assert_recovers_and_learns(scripts(config("diffusion_cond"), sounds(12), *flags, random_crop=False), "diffusion_cond")


# ---- what holds for every wrapper without a run ------------------------------------------------------------------------------------------

KINDS = ["diffusion_uncond", *(name for name in WRAPPERS if name != "adapter")]


def build(config):
    torch.manual_seed(0)
    return create_training_wrapper_from_config(config, create_model_from_config(config))


def optimizers_of(wrapper):
    made = wrapper.configure_optimizers()
    made = made[0] if isinstance(made, tuple) else made
    return made if isinstance(made, list) else [made]


@pytest.mark.parametrize("name", KINDS)
def test_optimizers_have_all_that_is_trained_and_what_is_frozen_stays_in_eval_mode(config, name):
    wrapper = build(config(name))
    wrapper.train()
    chosen = [parameter for optimizer in optimizers_of(wrapper) for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in chosen} == {id(parameter) for parameter in wrapper.parameters() if parameter.requires_grad}
    assert len({id(parameter) for parameter in chosen}) == len(chosen) > 0
    for path, module in wrapper.named_modules():
        parameters = [*module.parameters()]
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            assert not module.training, path
    pretransform = getattr(wrapper.model, "pretransform", None)
    assert pretransform is None or not any(parameter.requires_grad for parameter in pretransform.parameters())


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
@pytest.mark.parametrize("name", KINDS)
def test_validation_says_the_same_twice(config, name):
    made = config(name)
    wrapper = build(made)
    items = [{"prompt": "a kick", "seconds_start": 0, "seconds_total": 1, "path": f"{index}.wav"} for index in range(2)]
    audio = 0.3 * torch.randn(2, 1, made["sample_size"], generator=torch.Generator().manual_seed(0))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", **quiet)
    logged = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        logged.append(trainer.validate(wrapper, torch.utils.data.DataLoader([(audio, items)], batch_size=None), verbose=False)[0])
        assert torch.initial_seed() == seed, "training has its random numbers back"
    assert logged[0] == logged[1] and any(key.startswith("val/") for key in logged[0])


# ---- runs that are killed ---------------------------------------------------------------------------------------------------------------


def assert_recovers_and_learns(script, name):
    steps = ("--max-steps", str(STEPS), "--checkpoint-every", str(EVERY))
    whole = script.start(*steps, save_dir="whole")
    killed = script.start(*steps, data="slow")
    script.wait_for_step(killed, EVERY)
    script.kill_without_warning(killed)
    left = find_checkpoints(script.folder / "runs")
    assert left and all(f"step={STEPS}." not in path.name for path in left), "killed before its end"
    assert script.start(*steps, "--recover").wait(timeout=120) == 0, script.log()
    assert whole.wait(timeout=120) == 0, script.log()
    assert f"recovering from {left[-1].relative_to(script.folder)}" in script.log()
    ends = [find_checkpoints(script.folder / folder)[-1] for folder in ("whole", "runs")]
    assert all(path.name.endswith(f"step={STEPS}.ckpt") for path in ends)
    expected, found = (weights_hash(read_checkpoint(path).state_dict) for path in ends)
    assert found == expected
    key = "train/ode_mse_loss" if name == "arc" else "train/loss"
    losses = torch.tensor([float(row[key]) for row in script.rows("whole") if row.get(key)])
    assert losses[-9:].mean() < 0.9 * losses[:9].mean()
