"""Fixtures for all tests."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data: ``SAT_SHARED``, or ``shared`` beside the checkout or above it."""
    named = os.environ.get("SAT_SHARED")
    candidates = [Path(named)] if named else [parent / "shared" for parent in Path(__file__).resolve().parents]
    for candidate in candidates:
        if (candidate / "data").is_dir():
            return candidate
    pytest.skip(f"no shared data: {'SAT_SHARED is ' + named if named else 'no folder shared/data above this checkout'}")


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    """A GPU; tests that want one are skipped where there is none, and carry the mark ``gpu``."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda")


# ---- tiny models and folders: what training, checkpoints and scripts are tested on ----------------------------------------------


def _autoencoder_model(channels: int, latent_dim: int) -> dict[str, Any]:
    sizes: dict[str, Any] = {"channels": 8, "c_mults": [1, 2], "strides": [4, 4]}
    return {
        "encoder": {"type": "oobleck", "config": {"in_channels": channels, "latent_dim": 2 * latent_dim, **sizes}},
        "decoder": {"type": "oobleck", "config": {"out_channels": channels, "latent_dim": latent_dim, **sizes}},
        "bottleneck": {"type": "vae"},
        "latent_dim": latent_dim,
        "downsampling_ratio": 16,
        "io_channels": channels,
    }


@pytest.fixture(scope="session")
def tiny_autoencoder() -> Callable[..., dict[str, Any]]:
    """``tiny_autoencoder(channels=1, adversary=False, **training)``: the config of a VAE of 16 samples per frame, at 8 kHz."""

    def config(channels: int = 1, *, adversary: bool = False, losses: dict[str, Any] | None = None, **training: Any) -> dict[str, Any]:
        loss_configs: dict[str, Any] = {
            "spectral": {"config": {"fft_sizes": [64, 32], "hop_sizes": [16, 8], "win_lengths": [64, 32]}, "weights": {"mrstft": 1.0}},
            "time": {"weights": {"l1": 1.0}},
        }
        if adversary:
            loss_configs["discriminator"] = {
                "type": "encodec",
                "config": {"filters": 2, "n_ffts": [64], "hop_lengths": [16], "win_lengths": [64]},
                "weights": {"adversarial": 0.1, "feature_matching": 5.0},
            }
        return {
            "model_type": "autoencoder",
            "sample_size": 1024,
            "sample_rate": 8000,
            "audio_channels": channels,
            "model": _autoencoder_model(channels, latent_dim=4),
            "training": {
                "learning_rate": 1e-3,
                "use_ema": True,
                "loss_configs": loss_configs | (losses or {}),
                "demo": {"demo_every": 1000},
                **training,
            },
        }

    return config


@pytest.fixture(scope="session")
def tiny_diffusion() -> Callable[..., dict[str, Any]]:
    """``tiny_diffusion(pretransform=True, **training)``: a DiT on the latents of `tiny_autoencoder`, or on 8 kHz mono audio itself."""

    def config(pretransform: bool = True, *, objective: str = "rectified_flow", **training: Any) -> dict[str, Any]:
        width = 4 if pretransform else 1
        names = ["seconds_start", "seconds_total"]
        model: dict[str, Any] = {
            "conditioning": {
                "cond_dim": 8,
                "configs": [
                    {"id": "prompt", "type": "byte_text", "config": {"max_length": 16, "embed_dim": 8, "depth": 1, "num_heads": 2}},
                    *({"id": name, "type": "number", "config": {"min_val": 0, "max_val": 10}} for name in names),
                ],
            },
            "diffusion": {
                "type": "dit",
                "diffusion_objective": objective,
                "cross_attention_cond_ids": ["prompt", *names],
                "global_cond_ids": names,
                "config": {"io_channels": width, "embed_dim": 16, "depth": 1, "num_heads": 2, "cond_token_dim": 8, "global_cond_dim": 16},
            },
            "io_channels": width,
        }
        if pretransform:
            model["pretransform"] = {"type": "autoencoder", "config": _autoencoder_model(1, latent_dim=4)}
        demo = {
            "demo_every": 1000,
            "demo_steps": 2,
            "num_demos": 1,
            "demo_cond": [{"prompt": "a kick", "seconds_start": 0, "seconds_total": 1}],
            "demo_cfg_scales": [1],
        }
        return {
            "model_type": "diffusion_cond",
            "sample_size": 1024 if pretransform else 128,
            "sample_rate": 8000,
            "audio_channels": 1,
            "model": model,
            "training": {"learning_rate": 1e-3, "demo": demo, **training},
        }

    return config


@pytest.fixture(scope="session")
def tiny_arc(tiny_diffusion: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """``tiny_arc(arc={}, head={}, **training)``: `tiny_diffusion` that is post-trained; ``head`` is of ``training.arc.discriminator``."""

    def config(arc: dict[str, Any] | None = None, head: dict[str, Any] | None = None, **training: Any) -> dict[str, Any]:
        sizes: dict[str, Any] = {"channels": 4, "latent_dim": 2, "c_mults": [1, 2], "strides": [1, 2], "num_blocks": [1, 1]}
        discriminator = {"type": "convnext", "config": sizes, "dit_hidden_layer": 0, **(head or {})}
        players = {name: {"optimizer": {"type": "AdamW", "config": {"lr": 1e-3}}} for name in ("diffusion", "discriminator")}
        options = {"optimizer_configs": players, **training}
        options["arc"] = {"use_model_as_discriminator": True, "discriminator": discriminator, **(arc or {})}
        made = tiny_diffusion(objective="rf_denoiser", **options)
        del made["training"]["learning_rate"]
        return made

    return config


PATCHES: dict[str, Any] = {"type": "patched", "config": {"channels": 1, "patch_size": 4}}


@pytest.fixture(scope="session")
def tiny_uncond() -> Callable[..., dict[str, Any]]:
    """``tiny_uncond(**training)``: a DiT without conditions, on patches of four samples of 8 kHz mono audio."""

    def config(**training: Any) -> dict[str, Any]:
        backbone = {"in_channels": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
        return {
            "model_type": "diffusion_uncond",
            "sample_size": 256,
            "sample_rate": 8000,
            "audio_channels": 1,
            "model": {"type": "dit", "config": backbone, "pretransform": PATCHES},
            "training": {"learning_rate": 1e-3, **training},
        }

    return config


@pytest.fixture(scope="session")
def tiny_diffae() -> Callable[..., dict[str, Any]]:
    """``tiny_diffae(**training)``: VAE latents, four patches each, that tell a DiT on patches of four samples what to make."""

    def config(**training: Any) -> dict[str, Any]:
        sizes: dict[str, Any] = {"channels": 4, "c_mults": [1], "strides": [4]}
        return {
            "model_type": "diffusion_autoencoder",
            "sample_size": 256,
            "sample_rate": 8000,
            "audio_channels": 1,
            "model": {
                "encoder": {"type": "oobleck", "config": {"in_channels": 4, "latent_dim": 8, **sizes}},
                "decoder": {"type": "oobleck", "config": {"out_channels": 3, "latent_dim": 4, **sizes}},
                "bottleneck": {"type": "vae"},
                "pretransform": PATCHES,
                "diffusion": {
                    "type": "dit",
                    "config": {
                        "io_channels": 4, "input_concat_dim": 3, "embed_dim": 16, "depth": 1, "num_heads": 2, "diffusion_objective": "v",
                    },
                },
                "latent_dim": 4,
                "downsampling_ratio": 4,
                "io_channels": 4,
            },
            "training": {"learning_rate": 1e-3, **training},
        }  # fmt: skip

    return config


@pytest.fixture(scope="session")
def write_noises() -> Callable[..., Path]:
    """``write_noises(folder, count=10)``: WAV files ``00.wav`` ... of half a second of noise at 8 kHz; returns the folder."""

    def write(folder: Path, count: int = 10, *, seconds: float = 0.5, channels: int = 1) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        for index in range(count):
            noise = 0.2 * rng.standard_normal((int(8000 * seconds), channels))
            soundfile.write(folder / f"{index:02}.wav", noise.clip(-1, 1), 8000)
        return folder

    return write


@pytest.fixture(scope="session")
def noises(tmp_path_factory: pytest.TempPathFactory, write_noises: Callable[..., Path]) -> dict[str, Any]:
    """A dataset config of ten noises with one caption: five batches of two per pass."""
    folder = write_noises(tmp_path_factory.mktemp("noises"))
    return {"dataset_type": "audio_dir", "datasets": [{"id": "noises", "path": str(folder), "caption": "noise"}]}


@pytest.fixture(scope="session")
def train_briefly(tmp_path_factory: pytest.TempPathFactory, noises: dict[str, Any]) -> Callable[..., Any]:
    """``train_briefly(model_config, max_steps=3, **options)``: a real run on `noises`, in this process; returns its `TrainResult`."""

    def run(model_config: dict[str, Any], **options: Any) -> Any:
        from stable_audio_tools.training.randomness import isolated_randomness
        from stable_audio_tools.training.run import TrainOptions, train

        quiet = {"logger": "none", "demos": False, "show_progress": False, "accelerator": "cpu", "num_workers": 0}
        settings = {"dataset_config": noises, "batch_size": 2, "max_steps": 3, **quiet, **options}
        if "ckpt_path" not in settings and "recover" not in settings:
            settings.setdefault("run_folder", tmp_path_factory.mktemp("run"))
        with isolated_randomness(0):  # a run seeds the global streams, which other tests have a right to
            return train(TrainOptions(model_config=model_config, **settings))

    return run


# ---- configs of small networks, for tests of the networks themselves; every call returns a new dictionary ---------------------


def oobleck_config(
    *, bottleneck: str | None = "vae", strides=(2, 4), latent_dim: int = 4, channels: int = 4, audio_channels: int = 1, **model: Any
) -> dict[str, Any]:
    parts = {"channels": channels, "c_mults": [1, 2, 3][: len(strides)], "strides": list(strides), "use_snake": True}
    width = latent_dim * (2 if bottleneck == "vae" else 1)
    return {
        "model_type": "autoencoder",
        "sample_rate": 8000,
        "sample_size": 512,
        "audio_channels": audio_channels,
        "model": {
            "encoder": {"type": "oobleck", "config": {**parts, "in_channels": audio_channels, "latent_dim": width}},
            "decoder": {"type": "oobleck", "config": {**parts, "out_channels": audio_channels, "latent_dim": latent_dim}},
            **({"bottleneck": {"type": bottleneck}} if bottleneck else {}),
            "latent_dim": latent_dim,
            "downsampling_ratio": math.prod(strides),
            "io_channels": audio_channels,
            **model,
        },
    }


def dit_config(*, objective: str = "v", pretransform: dict[str, Any] | None = None, io_channels: int = 8, **dit: Any) -> dict[str, Any]:
    """Conditions ``prompt`` (cross-attention) and ``seconds_total`` (global). The default pretransform is patches of 8 samples."""
    text = {"embed_dim": 16, "depth": 1, "num_heads": 2, "max_length": 24}
    return {
        "model_type": "diffusion_cond",
        "sample_rate": 8000,
        "sample_size": 512,
        "audio_channels": 1,
        "model": {
            "pretransform": pretransform or {"type": "patched", "config": {"channels": 1, "patch_size": io_channels}},
            "io_channels": io_channels,
            "conditioning": {
                "cond_dim": 16,
                "configs": [
                    {"id": "prompt", "type": "byte_text", "config": text},
                    {"id": "seconds_total", "type": "number", "config": {"min_val": 0, "max_val": 10}},
                ],
            },
            "diffusion": {
                "type": "dit",
                "diffusion_objective": objective,
                "cross_attention_cond_ids": ["prompt"],
                "global_cond_ids": ["seconds_total"],
                "config": {
                    "io_channels": io_channels,
                    "embed_dim": 32,
                    "depth": 2,
                    "num_heads": 2,
                    "cond_token_dim": 16,
                    "global_cond_dim": 16,
                    **dit,
                },
            },
        },
    }


def randomise(model: torch.nn.Module, seed: int = 0, std: float = 0.2) -> torch.nn.Module:
    """Give every matrix random weights, so that branches that start at zero have a say."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model


@pytest.fixture(name="oobleck_config", scope="session")
def _oobleck_config() -> Callable[..., dict[str, Any]]:
    return oobleck_config


@pytest.fixture(name="dit_config", scope="session")
def _dit_config() -> Callable[..., dict[str, Any]]:
    return dit_config


@pytest.fixture(name="randomise", scope="session")
def _randomise() -> Callable[..., torch.nn.Module]:
    return randomise
