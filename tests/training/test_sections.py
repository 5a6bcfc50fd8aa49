"""Wrappers that are made from keywords, as scripts make them, and scripts that train and unwrap with them."""

import inspect

import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools import create_model_from_config
from stable_audio_tools.checkpoint import weights_hash
from stable_audio_tools.config.training.diffusion import DiffusionCondTraining
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.training import create_training_wrapper_from_config
from stable_audio_tools.training.diffusion import (
    DiffusionAutoencoderTrainingWrapper,
    DiffusionCondDemoCallback,
    DiffusionCondInpaintTrainingWrapper,
    DiffusionCondTrainingWrapper,
    DiffusionUncondTrainingWrapper,
)

ADAM = {"diffusion": {"optimizer": {"type": "Adam", "config": {"lr": 2e-3}}}}


@pytest.fixture
def model(tiny_diffusion):
    return create_model_from_config(tiny_diffusion())


def test_keywords_are_the_keys_of_the_section(model):
    wrapper = DiffusionCondTrainingWrapper(
        model, use_ema=False, cfg_dropout_prob=0.2, optimizer_configs=ADAM, mask_padding=True, mask_padding_dropout=0.1,
        pre_encoded=True, log_loss_info=False, timestep_sampler="logit_normal", timestep_sampler_options=None,
    )  # fmt: skip
    section = {"use_ema": False, "cfg_dropout_prob": 0.2, "optimizer_configs": ADAM, "mask_padding": True, "mask_padding_dropout": 0.1}
    section |= {"pre_encoded": True, "log_loss_info": False, "timestep_sampler": "logit_normal"}
    assert wrapper.training_config == DiffusionCondTraining.model_validate(section)
    assert wrapper.ema is None
    optimizer = wrapper.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam) and optimizer.param_groups[0]["lr"] == 2e-3


def test_the_signature_shows_every_key(model):
    parameters = inspect.signature(DiffusionCondTrainingWrapper).parameters
    assert [*parameters][:2] == ["model", "training"]
    assert {*DiffusionCondTraining.model_fields, "lr"} <= parameters.keys()
    assert parameters["cfg_dropout_prob"].default == 0.1 and parameters["mask_padding"].kind is inspect.Parameter.KEYWORD_ONLY


def test_the_learning_rate_has_two_names_and_a_default(model):
    rates = [
        wrapper.configure_optimizers().param_groups[0]["lr"]
        for wrapper in (DiffusionCondTrainingWrapper(model, lr=3e-4), DiffusionCondTrainingWrapper(model, learning_rate=3e-4))
    ]
    assert rates == [3e-4, 3e-4]
    assert DiffusionCondTrainingWrapper(model, lr=None).training_config.learning_rate == 1e-4


def test_keywords_are_checked_like_a_config(model):
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'cfg_dropout'"):
        DiffusionCondTrainingWrapper(model, cfg_dropout=0.1)
    with pytest.raises(ConfigError) as caught:
        DiffusionCondTrainingWrapper(model, cfg_dropout_prob=2.0, use_ema="often")
    assert sorted(str(caught.value).splitlines()) == [
        "DiffusionCondTrainingWrapper: cfg_dropout_prob: input should be less than or equal to 1, got 2.0",
        "DiffusionCondTrainingWrapper: use_ema: input should be a valid boolean, got 'often'",
    ]
    with pytest.raises(ConfigError, match="timestep_sampler: unknown timestep sampler 'unifrom'; did you mean 'uniform'"):
        DiffusionCondTrainingWrapper(model, timestep_sampler="unifrom")
    section = DiffusionCondTraining(learning_rate=1e-4)
    with pytest.raises(
        TypeError, match=r"^DiffusionCondTrainingWrapper: training holds everything already, so use_ema cannot be given too$"
    ):
        DiffusionCondTrainingWrapper(model, section, use_ema=False)


def test_an_inpainting_wrapper_draws_masks_without_being_told(model):
    assert DiffusionCondInpaintTrainingWrapper(model, lr=1e-4).training_config.inpainting is not None
    assert DiffusionCondTrainingWrapper(model, lr=1e-4).training_config.inpainting is None


def test_demos_take_keywords_too():
    cond = [{"prompt": "rain"}]
    demo = DiffusionCondDemoCallback(
        demo_every=50, num_demos=1, sample_size=1024, demo_steps=5, sample_rate=8000, demo_conditioning=cond, demo_cfg_scales=[3]
    )
    assert (demo.demo_every, demo.sample_size, demo.config.demo_cond, demo.config.demo_steps) == (50, 1024, cond, 5)


# ---- scripts --------------------------------------------------------------------------------------------------------------------------


def fit(wrapper, loader, tmp_path, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_steps=3, accelerator="cpu", default_root_dir=tmp_path, **quiet, **options)
    trainer.fit(wrapper, loader)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert trainer.global_step == 3
    return tmp_path / "last.ckpt"


@pytest.fixture
def loader(noises):
    return create_dataloader_from_config(noises, batch_size=2, sample_size=1024, sample_rate=8000, audio_channels=1, num_workers=0)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_a_script_trains_a_wrapper_of_its_own_and_unwraps_it(tiny_diffusion, loader, tmp_path):
    config = tiny_diffusion()
    model = create_model_from_config(config)
    wrapper = DiffusionCondTrainingWrapper(model, lr=1e-3, use_ema=True, cfg_dropout_prob=0.1)
    path = fit(wrapper, loader, tmp_path, gradient_clip_val=1.0, accumulate_grad_batches=2)
    fresh = create_model_from_config(config)
    again = DiffusionCondTrainingWrapper.load_from_checkpoint(
        path, strict=False, model=fresh, use_ema=True, lr=1e-4, optimizer_configs=None, map_location="cpu"
    )
    assert again.diffusion is fresh
    assert weights_hash(again.state_dict()) == weights_hash(wrapper.state_dict())
    online = again.diffusion.model.state_dict()
    assert any(not torch.equal(online[key], value) for key, value in again.diffusion_ema.ema_model.state_dict().items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "wrapper_type", "keywords"),
    [
        ("tiny_uncond", DiffusionUncondTrainingWrapper, {}),
        ("tiny_diffae", DiffusionAutoencoderTrainingWrapper, {"ema_copy": torch.nn.Identity()}),
        ("tiny_arc", None, {}),
    ],
)
def test_other_wrappers_train_and_unwrap_in_scripts(request, kind, wrapper_type, keywords, loader, tmp_path):
    config = request.getfixturevalue(kind)()
    wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
    path = fit(wrapper, loader, tmp_path)
    if wrapper_type is not None:
        again = wrapper_type.load_from_checkpoint(path, strict=False, model=create_model_from_config(config), **keywords)
        assert weights_hash(again.state_dict()) == weights_hash(wrapper.state_dict())
