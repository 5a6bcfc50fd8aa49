"""Training of language models: the loss, one step, checkpoints and demos."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools import create_model_from_config
from stable_audio_tools.checkpoint import kind_of, load_model_weights, read_checkpoint, save_model_weights, unwrap_state_dict
from stable_audio_tools.errors import DataError
from stable_audio_tools.models.lm import LMOutput
from stable_audio_tools.training import create_demo_callback_from_config, create_training_wrapper_from_config
from stable_audio_tools.training.lm import AudioLanguageModelTrainingWrapper
from stable_audio_tools.training.lm.wrapper import token_loss

pytestmark = pytest.mark.filterwarnings("ignore::lightning_fabric.utilities.warnings.PossibleUserWarning", "ignore:.*in eval mode")


def config_of(conditions: bool = True, **training: Any) -> dict[str, Any]:
    sizes: dict[str, Any] = {"channels": 4, "c_mults": [1, 2], "strides": [2, 4], "latent_dim": 8}
    rvq = {"input_dim": 8, "n_codebooks": 2, "codebook_dim": 4, "codebook_size": 16, "quantizer_dropout": 1.0}
    codec = {
        "encoder": {"type": "oobleck", "config": {"in_channels": 1, **sizes}},
        "decoder": {"type": "oobleck", "config": {"out_channels": 1, **sizes}},
        "bottleneck": {"type": "dac_rvq", "config": rvq},
        "latent_dim": 8, "downsampling_ratio": 8, "io_channels": 1,
    }  # fmt: skip
    number = {"id": "seconds", "type": "number", "config": {"min_val": 0, "max_val": 10}}
    return {
        "model_type": "lm",
        "sample_rate": 8000,
        "sample_size": 64,
        "audio_channels": 1,
        "model": {
            "pretransform": {"type": "autoencoder", "config": codec},
            **({"conditioning": {"cond_dim": 8, "configs": [number]}} if conditions else {}),
            "lm": {
                "type": "continuous_transformer",
                "prepend_cond_ids": ["seconds"] if conditions else [],
                "config": {"embed_dim": 32, "depth": 1, "dim_heads": 16, "prepend_cond_dim": 8 if conditions else 0},
            },
        },
        "training": {"learning_rate": 3e-3, **training},
    }


@pytest.fixture
def batch() -> tuple[torch.Tensor, list[dict[str, Any]]]:
    audio = 0.3 * torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0))
    return audio, [{"seconds": 1.0}, {"seconds": 4.0}]


def wrapper_of(config: dict[str, Any]) -> AudioLanguageModelTrainingWrapper:
    torch.manual_seed(0)
    wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
    assert isinstance(wrapper, AudioLanguageModelTrainingWrapper)
    return wrapper


def trainer_of(folder: Path, steps: int, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        max_steps=steps, accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, **options,
    )  # fmt: skip


def fit(wrapper: Any, batch: Any, folder: Path, steps: int, **options: Any) -> pl.Trainer:
    trainer = trainer_of(folder, steps, **options)
    loader = torch.utils.data.DataLoader([batch] * steps, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(wrapper, loader)
    return trainer


# ---- the loss --------------------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_surprise_of_counted_tokens() -> None:
    probabilities = torch.tensor([0.5, 0.25, 0.25])
    logits = probabilities.log().expand(2, 2, 3, 3).clone()  # two items, two codebooks, three tokens
    mask = torch.ones(2, 2, 3, dtype=torch.bool)
    mask[:, 1, 2] = False
    logits[:, 1, 2] = float("nan")
    codes = torch.tensor([[[0, 0, 0], [1, 1, 2]], [[0, 0, 1], [1, 2, 0]]])
    result = token_loss(LMOutput(logits, mask), codes)
    ln2 = math.log(2)
    torch.testing.assert_close(result.per_codebook, torch.tensor([(5 * ln2 + 2 * ln2) / 6, 2 * ln2]))
    torch.testing.assert_close(result.loss, result.per_codebook.mean())
    padding = torch.tensor([[True, True, True], [True, True, False]])
    torch.testing.assert_close(token_loss(LMOutput(logits, mask), codes, padding).per_codebook[0], torch.tensor(ln2))


def test_gradients_are_finite_where_the_pattern_predicts_nothing(batch: Any) -> None:
    wrapper = wrapper_of(config_of())
    wrapper.compute_loss(batch, 0.0).loss.backward()
    gradients = [p.grad for p in wrapper.model.lm.parameters() if p.grad is not None]
    assert gradients and all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_padding_does_not_count(batch: Any) -> None:
    audio, metadata = batch
    wrapper = wrapper_of(config_of(pre_encoded=True))
    codes = wrapper.model.tokenize(audio)
    mask = torch.ones(64)
    mask[40:] = 0  # five of eight tokens
    masked = [{**item, "padding_mask": [mask]} for item in metadata]  # in a list, as collation leaves it
    changed = codes.clone()
    changed[..., 5:] = (changed[..., 5:] + 1) % 16

    def loss(tokens: torch.Tensor, items: Any) -> torch.Tensor:
        return wrapper.compute_loss((tokens, items), 0.0).loss

    torch.testing.assert_close(loss(changed, masked), loss(codes, masked))
    assert not torch.allclose(loss(changed, metadata), loss(codes, metadata), atol=1e-4)


def test_pre_encoded_tokens_are_those_of_the_codec(batch: Any) -> None:
    audio, metadata = batch
    wrapper = wrapper_of(config_of(pre_encoded=True))
    from_audio = wrapper_of(config_of()).compute_loss(batch, 0.0).loss
    torch.testing.assert_close(wrapper.compute_loss((wrapper.model.tokenize(audio).float(), metadata), 0.0).loss, from_audio)


@pytest.mark.parametrize(
    ("pre_encoded", "message"),
    [(False, r"audio \(pre_encoded is false\) of 1 channels"), (True, r"tokens \(pre_encoded is true\) of 2 codebooks")],
)
def test_data_of_another_kind_is_refused(pre_encoded: bool, message: str) -> None:
    with pytest.raises(DataError, match=rf"the model expects {message}, but the dataset gives 3; does training"):
        wrapper_of(config_of(pre_encoded=pre_encoded)).compute_loss((torch.zeros(2, 3, 64), [{"seconds": 1}] * 2), 0.0)


# ---- training --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditions", [True, False])
def test_one_step_lowers_the_loss_of_a_repeated_batch(batch: Any, tmp_path: Path, conditions: bool) -> None:
    wrapper = wrapper_of(config_of(conditions, cfg_dropout_prob=0.0))
    before = wrapper.compute_loss(batch, 0.0).loss.item()
    fit(wrapper, batch, tmp_path, 1)
    after = wrapper.compute_loss(batch, 0.0).loss.item()
    assert after < before
    assert before == pytest.approx(math.log(16), abs=0.5)  # it knows nothing yet


def test_the_codec_is_frozen_and_in_eval_mode(batch: Any, tmp_path: Path) -> None:
    """Otherwise quantizer dropout would hide codebooks, and codebooks would move."""
    wrapper = wrapper_of(config_of())
    frozen = {name: value.clone() for name, value in wrapper.model.pretransform.state_dict().items()}
    fit(wrapper, batch, tmp_path, 2)
    assert wrapper.train().model.training and not any(module.training for module in wrapper.model.pretransform.modules())
    assert all(torch.equal(value, frozen[name]) for name, value in wrapper.model.pretransform.state_dict().items())


def test_logged_numbers(batch: Any, tmp_path: Path) -> None:
    trainer = fit(wrapper_of(config_of()), batch, tmp_path, 1, log_every_n_steps=1)
    logged = trainer.logged_metrics
    assert {"train/loss", "train/cross_entropy", "train/perplexity", "train/lr", "cross_entropy_q1", "perplexity_q2"} <= set(logged)
    assert float(logged["train/perplexity"]) == pytest.approx(math.exp(float(logged["train/loss"])), rel=1e-5)
    assert float(logged["train/lr"]) == pytest.approx(3e-3)


def test_the_default_optimizer_and_a_configured_one() -> None:
    optimizer = wrapper_of(config_of()).configure_optimizers()
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["betas"] == (0.9, 0.95) and optimizer.defaults["weight_decay"] == 0.1
    configs = {"lm": {"optimizer": {"type": "SGD", "config": {"lr": 0.1}}, "scheduler": {"type": "InverseLR"}}}
    (optimizer,), (scheduler,) = wrapper_of(config_of(optimizer_configs=configs)).configure_optimizers()
    assert type(optimizer) is torch.optim.SGD and scheduler["interval"] == "step"


@pytest.mark.parametrize("use_ema", [True, False])
def test_checkpoints_hold_the_published_keys_and_become_models(batch: Any, tmp_path: Path, use_ema: bool) -> None:
    config = config_of(use_ema=use_ema)
    wrapper = wrapper_of(config)
    trainer = fit(wrapper, batch, tmp_path, 2)
    if use_ema:  # an average that differs from the weights
        with torch.no_grad():
            wrapper.model_ema.ema_model.lm.embeds[0].weight.add_(1.0)  # type: ignore[union-attr, index]
    path = tmp_path / "m.ckpt"
    trainer.save_checkpoint(path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.kind == "wrapped"
    assert {key.split(".")[0] for key in checkpoint.state_dict} == {"model"} | ({"model_ema"} if use_ema else set())
    assert kind_of({key: value for key, value in checkpoint.state_dict.items() if key.startswith("model.")}) == "wrapped"
    unwrapped = unwrap_state_dict(checkpoint.state_dict)
    wanted = (wrapper.model_ema.ema_model if use_ema else wrapper.model).state_dict()
    assert set(unwrapped) == set(wanted) and all(torch.equal(unwrapped[name], wanted[name]) for name in wanted)
    saved = save_model_weights(unwrapped, tmp_path / "m.safetensors")
    assert read_checkpoint(saved).kind == "lm"
    fresh = create_model_from_config(config).eval()
    assert load_model_weights(fresh, saved).is_complete and load_model_weights(fresh, path).is_complete


def test_published_unwrapping_scripts_work(batch: Any, tmp_path: Path) -> None:
    config = config_of()
    wrapper = wrapper_of(config)
    fit(wrapper, batch, tmp_path, 1).save_checkpoint(tmp_path / "m.ckpt")
    loaded = AudioLanguageModelTrainingWrapper.load_from_checkpoint(
        tmp_path / "m.ckpt", model=create_model_from_config(config), strict=False, ema_copy=create_model_from_config(config),
        optimizer_configs=None,
    )  # fmt: skip
    own, theirs = wrapper.state_dict(), loaded.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in own)


def test_validation_is_the_loss_with_all_conditions(batch: Any, tmp_path: Path) -> None:
    wrapper = wrapper_of(config_of(cfg_dropout_prob=1.0))
    loader = torch.utils.data.DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    trainer = trainer_of(tmp_path, 1)
    (logged,) = trainer.validate(wrapper, loader, verbose=False)
    assert logged["val/loss"] == pytest.approx(wrapper.compute_loss(batch, 0.0).loss.item(), rel=1e-5)


def test_demos(batch: Any, tmp_path: Path) -> None:
    demo = {"demo_every": 1, "demo_cfg_scales": [1, 2.5], "demo_cond": [{"seconds": 1}, {"seconds": 2}]}
    config = config_of(demo=demo, use_ema=True)
    callback: Any = create_demo_callback_from_config(config)
    assert create_demo_callback_from_config(config_of()) is None
    callback.folder = tmp_path
    fit(wrapper_of(config), batch, tmp_path, 1, callbacks=[callback])
    assert callback.num_failed == 0
    names = sorted(path.name for path in tmp_path.glob("*.wav"))
    assert names == [f"demo_cfg_{scale}_{step:08d}.wav" for scale in ("1", "2.5") for step in (0, 1)]


def test_musicgen_is_trained_by_the_same_wrapper(save_tiny_musicgen: Callable[..., Path], tmp_path: Path) -> None:
    base = save_tiny_musicgen(tmp_path / "base")
    demo = {"demo_every": 1, "demo_cfg_scales": [3], "demo_cond": [{"prompt": "wind"}]}
    config = {
        "model_type": "musicgen", "sample_rate": 8000, "sample_size": 128, "audio_channels": 1, "model": {"pretrained": str(base)},
        "training": {"learning_rate": 1e-3, "use_ema": True, "demo": demo, "cfg_dropout_prob": 0.0},
    }  # fmt: skip
    wrapper = wrapper_of(config)
    batch = (0.3 * torch.randn(2, 1, 128, generator=torch.Generator().manual_seed(0)), [{"prompt": "a kick"}, {"prompt": "wind"}])
    callback: Any = create_demo_callback_from_config(config)
    callback.folder = tmp_path / "demos"
    before = wrapper.compute_loss(batch, 0.0).loss.item()
    fit(wrapper, batch, tmp_path, 1, callbacks=[callback])
    assert wrapper.compute_loss(batch, 0.0).loss.item() < before
    assert callback.num_failed == 0 and len(list((tmp_path / "demos").glob("demo_cfg_3_*.wav"))) == 2
