"""A script of one's own around Lightning's trainer: train, checkpoint, resume, unwrap, and go on with ours."""

import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools.checkpoint import copy_state_dict, read_checkpoint, unwrap_state_dict, weights_hash
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_demo_callback_from_config, create_training_wrapper_from_config

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice
DEMO = {"demo": {"demo_every": 2, "demo_steps": 2, "num_demos": 1}}


@pytest.fixture(scope="module")
def configs(tiny_autoencoder, tiny_diffusion, tiny_uncond, tiny_diffae, tiny_inpaint, tiny_lm, tiny_arc):
    return {
        "autoencoder": tiny_autoencoder(adversary=True, demo={"demo_every": 2}),
        "diffusion_cond": tiny_diffusion(),
        "diffusion_uncond": tiny_uncond(**DEMO),
        "diffusion_autoencoder": tiny_diffae(**DEMO),
        "diffusion_cond_inpaint": tiny_inpaint(demo={**DEMO["demo"], "demo_cfg_scales": [1]}),
        "lm": tiny_lm(demo={"demo_every": 2, "num_demos": 1, "demo_cond": [{"prompt": "a kick"}]}),
        "arc": tiny_arc(),
    }


class ModelConfigEmbedder(pl.Callback):
    """As scripts have it."""

    def __init__(self, config):
        self.config = config

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        checkpoint["model_config"] = self.config


def fit(config, noises, folder, steps, ckpt_path=None):
    """What the train.py of many repositories does."""
    pl.seed_everything(42, workers=True, verbose=False)
    shape = {"sample_size": config["sample_size"], "sample_rate": config["sample_rate"], "audio_channels": config["audio_channels"]}
    loader = create_dataloader_from_config(noises, batch_size=2, num_workers=0, **shape)
    wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
    saver = pl.callbacks.ModelCheckpoint(every_n_train_steps=3, dirpath=folder / "checkpoints", save_top_k=-1)
    demo = create_demo_callback_from_config(config, demo_dl=loader)
    trainer = pl.Trainer(
        devices=1, accelerator="cpu", num_nodes=1, strategy="auto", precision="32-true", accumulate_grad_batches=1, max_steps=steps,
        callbacks=[callback for callback in (saver, demo, ModelConfigEmbedder(config)) if callback], logger=False, log_every_n_steps=1,
        max_epochs=10000000, default_root_dir=folder, gradient_clip_val=0.0, reload_dataloaders_every_n_epochs=0,
        num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(wrapper, loader, ckpt_path=ckpt_path)
    assert demo is None or demo.num_failed == 0
    return wrapper, next((folder / "checkpoints").glob("*step=3.ckpt"))


OTHERS = ["diffusion_cond", "diffusion_uncond", "diffusion_autoencoder", "diffusion_cond_inpaint", "lm", "arc"]


@pytest.mark.parametrize("name", ["autoencoder", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_a_script_trains_resumes_and_unwraps(configs, noises, train_briefly, tmp_path, name):
    config = configs[name]
    with torch.random.fork_rng():
        whole, _ = fit(config, noises, tmp_path / "whole", 6)
        _, path = fit(config, noises, tmp_path / "stopped", 3)
        resumed, _ = fit(config, noises, tmp_path / "stopped", 6, ckpt_path=path)
    assert weights_hash(resumed.state_dict()) == weights_hash(whole.state_dict())
    checkpoint = read_checkpoint(path)
    assert checkpoint.extra["model_config"] == config
    model = create_model_from_config(config)
    assert copy_state_dict(model, unwrap_state_dict(checkpoint.state_dict)).is_complete
    assert train_briefly(config, ckpt_path=path, max_steps=4).step == 4, "ours goes on with it"
