"""A model that is taken out of a run generates what the run's demo of that step did, with the same seed, sample by sample."""

import json

import pytest
import torch

from stable_audio_tools.checkpoint import load_model_weights
from stable_audio_tools.cli.unwrap import unwrap
from stable_audio_tools.inference.generation import generate_diffusion_cond, generate_diffusion_uncond
from stable_audio_tools.inference.lm import generate_lm
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training.demos.base import DemoCallback

PROMPT = {"prompt": "a kick", "seconds_start": 0, "seconds_total": 1}
OPTIMIZER = {"optimizer": {"type": "AdamW", "config": {"lr": 0.01}}}


def conditional(model, config):
    return generate_diffusion_cond(
        model, steps=2, cfg_scale=3.0, conditioning=[PROMPT], sample_size=config["sample_size"], seed=42, device="cpu"
    )


def unconditional(model, config):
    return generate_diffusion_uncond(
        model, steps=2, batch_size=1, sample_size=config["sample_size"], seed=42, device="cpu", sampler_type="v-ddim"
    )


def language(model, config):
    return generate_lm(model, conditioning=[PROMPT], batch_size=1, sample_size=config["sample_size"], seed=42, cfg_scale=3.0, top_p=0.95)


CASES = [
    ("tiny_diffusion", {"demo_steps": 2, "num_demos": 1, "demo_cond": [PROMPT], "demo_cfg_scales": [3.0]}, OPTIMIZER, conditional),
    ("tiny_arc", {"demo_steps": 2, "num_demos": 1, "demo_cond": [PROMPT], "demo_cfg_scales": [3.0]}, None, conditional),
    ("tiny_uncond", {"demo_steps": 2, "num_demos": 1}, None, unconditional),
    ("tiny_lm", {"demo_cond": [PROMPT], "demo_cfg_scales": [3.0]}, OPTIMIZER, language),
]


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


@pytest.mark.parametrize(("kind", "demo", "optimizer", "generate"), CASES, ids=[case[0] for case in CASES])
def test_an_unwrapped_model_makes_the_demo_of_its_step(request, train_briefly, emitted, tmp_path, kind, demo, optimizer, generate):
    key = "lm" if kind == "tiny_lm" else "diffusion"
    training = {} if optimizer is None else {"optimizer_configs": {key: optimizer}, "use_ema": True}
    config = request.getfixturevalue(kind)(**training)
    config["training"]["demo"] = {"demo_every": 4, **demo}
    run = train_briefly(config, max_steps=8, checkpoint_every=4, demos=True)
    (tmp_path / "model.json").write_text(json.dumps(config))
    made = {}
    for step in (4, 8):
        for online in (False, True):
            (path,) = (run.folder / "checkpoints").glob(f"*-step={step}.ckpt")
            name = str(tmp_path / f"{step}-{online}")
            unwrap(tmp_path / "model.json", path, name=name, use_safetensors=True, online=online)
            model = create_model_from_config(config)
            load_model_weights(model, f"{name}.safetensors")
            made[step, online] = generate(model.eval(), config)[0]
    assert sorted(emitted) == [0, 4, 8]
    for step in (4, 8):
        assert torch.equal(made[step, False], emitted[step]), float((made[step, False] - emitted[step]).abs().max())
    assert kind == "tiny_lm" or not torch.equal(emitted[4], emitted[8])
    assert torch.equal(made[8, True], emitted[8]) is (run.wrapper.ema is None), "online weights are others"


def test_an_unwrapped_autoencoder_makes_the_demo_of_its_step(train_briefly, tiny_autoencoder, emitted, tmp_path):
    config = tiny_autoencoder(learning_rate=0.01)
    del config["model"]["bottleneck"]  # it draws noise
    config["model"]["encoder"]["config"]["latent_dim"] = 4
    config["training"]["demo"]["demo_every"] = 8
    run = train_briefly(config, max_steps=8, demos=True)
    (tmp_path / "model.json").write_text(json.dumps(config))
    unwrap(tmp_path / "model.json", run.checkpoint, name=str(tmp_path / "model"), use_safetensors=True, online=False)
    model = create_model_from_config(config)
    load_model_weights(model, tmp_path / "model.safetensors")
    reals, decoded = emitted[8].reshape(2, 2, 1, -1).unbind(dim=1)  # (B, 1, T) each
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(reals)[..., : decoded.shape[-1]], decoded, atol=1e-6, rtol=0)
