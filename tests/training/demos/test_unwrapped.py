"""A model that is taken out of a run generates what the run's demo of that step did, with the same seed, sample by sample."""

import json
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools.checkpoint import load_model_weights
from stable_audio_tools.cli.unwrap import unwrap
from stable_audio_tools.inference.generation import generate_diffusion_cond, generate_diffusion_cond_inpaint, generate_diffusion_uncond
from stable_audio_tools.inference.lm import generate_lm
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training.demos.base import DemoCallback
from stable_audio_tools.training.randomness import isolated_randomness

PROMPT = {"prompt": "a kick", "seconds_start": 0, "seconds_total": 1}
OPTIMIZER = {"optimizer": {"type": "AdamW", "config": {"lr": 0.01}}}


def conditional(model, config, seen):
    return generate_diffusion_cond(
        model, steps=2, cfg_scale=3.0, conditioning=[PROMPT], sample_size=config["sample_size"], seed=42, device="cpu"
    )[0]


def unconditional(model, config, seen):
    return generate_diffusion_uncond(
        model, steps=2, batch_size=1, sample_size=config["sample_size"], seed=42, device="cpu", sampler_type="v-ddim"
    )[0]


def language(model, config, seen):
    return generate_lm(model, conditioning=[PROMPT], batch_size=1, sample_size=config["sample_size"], seed=42, cfg_scale=3.0, top_p=0.95)[0]


def inpainting(model, config, seen):
    audio, metadata = seen.batch
    size = config["sample_size"]
    mask = torch.ones(1, size)
    mask[:, size // 2 :] = 0
    options = {"steps": 2, "cfg_scale": 3.0, "sample_size": size, "seed": 42, "device": "cpu", "inpaint_mask": mask}
    filled = generate_diffusion_cond_inpaint(model, conditioning=[dict(metadata[0])], inpaint_audio=(8000, audio[0]), **options)
    return filled[0]


def reconstruction(model, config, seen, **options):
    """Original and reconstruction in turn, of the clips in the demo itself."""
    originals = seen.audio.reshape(1, -1, 2, config["sample_size"])[:, :, 0].transpose(0, 1)  # (B, 1, T)
    with isolated_randomness(42), torch.no_grad():
        decoded = model.decode(model.encode(originals), **options)
    return torch.stack([originals, decoded], dim=1).flatten()[None]


def sampled_reconstruction(model, config, seen):
    return reconstruction(model, config, seen, steps=2)


class Seen(NamedTuple):
    """A demo, and the batch of its step."""

    audio: torch.Tensor
    batch: Any


PROMPTED = {"demo_cond": [PROMPT], "demo_cfg_scales": [3.0]}
STEPS = {"demo_steps": 2, "num_demos": 1}
CASES = [
    ("tiny_diffusion", {**STEPS, **PROMPTED}, OPTIMIZER, conditional),
    ("tiny_arc", {**STEPS, **PROMPTED}, None, conditional),
    ("tiny_inpaint", {**STEPS, "demo_cfg_scales": [3.0]}, OPTIMIZER, inpainting),
    ("tiny_uncond", STEPS, None, unconditional),
    ("tiny_autoencoder", {}, OPTIMIZER, reconstruction),
    ("tiny_diffae", {"demo_steps": 2, "num_demos": 2}, None, sampled_reconstruction),
    ("tiny_lm", PROMPTED, OPTIMIZER, language),
    ("musicgen", PROMPTED, OPTIMIZER, language),
]
PLAYERS = {"tiny_lm": "lm", "musicgen": "lm", "tiny_autoencoder": "autoencoder"}  # key of the optimizer; "diffusion" for the rest


@pytest.fixture
def config(request, tmp_path):
    """``config(kind, **training)``"""

    def made(kind, **training):
        if kind != "musicgen":
            return request.getfixturevalue(kind)(**training)
        folder = request.getfixturevalue("save_tiny_musicgen")(tmp_path / "musicgen")
        shape = {"sample_rate": 8000, "sample_size": 128, "audio_channels": 1}
        return {"model_type": "musicgen", **shape, "model": {"pretrained": str(folder)}, "training": training}

    return made


@pytest.fixture
def emitted(monkeypatch):
    """Audio of demos by step, before it is written to a file."""
    kept = {}
    emit = DemoCallback.emit

    def keep(self, name, audio, sample_rate, step):
        kept[step] = audio.clone()
        return emit(self, name, audio, sample_rate, step)

    monkeypatch.setattr(DemoCallback, "emit", keep)
    return kept


class Batches(pl.Callback):
    """Keeps the batch of every step."""

    def __init__(self):
        self.by_step = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.by_step[trainer.global_step] = batch


@pytest.mark.parametrize(("kind", "demo", "optimizer", "generate"), CASES, ids=[case[0] for case in CASES])
def test_an_unwrapped_model_makes_the_demo_of_its_step(config, train_briefly, emitted, tmp_path, kind, demo, optimizer, generate):
    training = {} if optimizer is None else {"optimizer_configs": {PLAYERS.get(kind, "diffusion"): optimizer}, "use_ema": True}
    made = config(kind, **training)
    made["training"]["demo"] = {"demo_every": 4, **demo}
    batches = Batches()
    run = train_briefly(made, max_steps=8, checkpoint_every=4, demos=True, callbacks=[batches])
    (tmp_path / "model.json").write_text(json.dumps(made))
    again = {}
    for step in (4, 8):
        for online in (False, True):
            (path,) = (run.folder / "checkpoints").glob(f"*-step={step}.ckpt")
            name = str(tmp_path / f"{step}-{online}")
            unwrap(tmp_path / "model.json", path, name=name, use_safetensors=True, online=online)
            model = create_model_from_config(made)
            load_model_weights(model, f"{name}.safetensors")
            again[step, online] = generate(model.eval(), made, Seen(emitted[step], batches.by_step[step]))
    assert sorted(emitted) == [0, 4, 8]
    for step in (4, 8):
        assert torch.equal(again[step, False], emitted[step]), float((again[step, False] - emitted[step]).abs().max())
    assert kind in PLAYERS or not torch.equal(emitted[4], emitted[8])
    assert torch.equal(again[8, True], emitted[8]) is (run.wrapper.ema is None), "online weights are others"
