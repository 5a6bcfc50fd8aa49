"""One step of training lowers the loss of the batch it was made on, whatever the model, and what is saved makes the same as before.

Language models: see lm/test_wrapper.py, lm/test_musicgen.py and models/lm/.
"""

import random

import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools.checkpoint import save_model_weights
from stable_audio_tools.families import MODELS
from stable_audio_tools.inference.generation import generate_diffusion_cond, generate_diffusion_uncond
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.autoencoders import AudioAutoencoder
from stable_audio_tools.models.diffusion import DiffusionModelWrapper
from stable_audio_tools.models.utils import load_ckpt_state_dict
from stable_audio_tools.training import create_training_wrapper_from_config


@pytest.fixture
def configs(tiny_autoencoder, tiny_diffusion, tiny_uncond, tiny_diffae, tiny_inpaint):
    return {
        "autoencoder": tiny_autoencoder(),
        "diffusion_cond": tiny_diffusion(),
        "diffusion_cond_inpaint": tiny_inpaint(),
        "diffusion_uncond": tiny_uncond(),
        "diffusion_autoencoder": tiny_diffae(),
    }


METADATA = [{"prompt": "noise", "seconds_start": 0, "seconds_total": 1}] * 4
SAMPLING = {"steps": 2, "batch_size": 4, "seed": 0, "disable_tqdm": True}


@torch.no_grad()
def output(model, audio):
    """What the model makes, with all that is random the same every time."""
    model.eval()
    torch.manual_seed(0)
    if isinstance(model, AudioAutoencoder):
        return model.decode_audio(model.encode_audio(audio))
    if isinstance(model, DiffusionModelWrapper):
        return generate_diffusion_uncond(model, sample_size=audio.shape[-1], **SAMPLING)
    return generate_diffusion_cond(model, conditioning=METADATA, sample_size=audio.shape[-1], **SAMPLING)


class Repeat(pl.Callback):
    """The same random numbers for every batch; keeps its loss."""

    def __init__(self):
        self.losses = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        torch.manual_seed(0)
        random.seed(0)
        if hasattr(pl_module, "timestep_sampler"):
            pl_module.timestep_sampler.load_state_dict({"seed": 0, "drawn": 0})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


@pytest.mark.filterwarnings("ignore::lightning_fabric.utilities.warnings.PossibleUserWarning", "ignore:.*in eval mode")
@pytest.mark.parametrize(
    "model_type", ["autoencoder", "diffusion_cond", "diffusion_cond_inpaint", "diffusion_uncond", "diffusion_autoencoder"]
)
def test_one_step_lowers_the_loss_of_a_repeated_batch_and_saving_changes_nothing(configs, tmp_path, model_type):
    config = configs[model_type]
    torch.manual_seed(0)
    wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
    audio = 0.3 * torch.randn(4, 1, config["sample_size"], generator=torch.Generator().manual_seed(0))
    batch = (audio, METADATA)
    before = output(wrapper.model, audio)
    wrapper.model.train()
    repeat = Repeat()
    trainer = pl.Trainer(
        max_steps=2, accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[repeat],
    )  # fmt: skip
    trainer.fit(wrapper, torch.utils.data.DataLoader([batch] * 2, batch_size=None))
    first, second = repeat.losses
    assert second < first
    made = output(wrapper.model, audio)
    assert not torch.equal(made, before)  # it is the trained one that is saved
    save_model_weights(wrapper.model.state_dict(), tmp_path / "model.safetensors")
    again = create_model_from_config(config)
    again.load_state_dict(load_ckpt_state_dict(tmp_path / "model.safetensors"), strict=True)
    assert torch.equal(output(again, audio), made)


def test_no_model_type_is_left_out(configs):
    assert {*configs, "lm", "musicgen"} == set(MODELS.names())
