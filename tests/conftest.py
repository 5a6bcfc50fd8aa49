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
def tiny_lm() -> Callable[..., dict[str, Any]]:
    """``tiny_lm(**training)``: a language model of 8 kHz mono audio in two codebooks of eight tokens, told a prompt."""

    def config(**training: Any) -> dict[str, Any]:
        text = {"embed_dim": 16, "depth": 1, "num_heads": 2, "max_length": 24}
        sizes = {"channels": 4, "c_mults": [1], "strides": [16], "latent_dim": 4}
        codec = {
            "encoder": {"type": "oobleck", "config": {"in_channels": 1, **sizes}},
            "decoder": {"type": "oobleck", "config": {"out_channels": 1, **sizes}},
            "bottleneck": {"type": "rvq", "config": {"dim": 4, "codebook_size": 8, "num_quantizers": 2}},
            "latent_dim": 4, "downsampling_ratio": 16, "io_channels": 1,
        }  # fmt: skip
        network = {"embed_dim": 16, "depth": 1, "dim_heads": 8, "cross_attn_cond_dim": 16}
        lm = {"type": "continuous_transformer", "codebook_pattern": "delay", "cross_attention_cond_ids": ["prompt"], "config": network}
        conditioning = {"cond_dim": 16, "configs": [{"id": "prompt", "type": "byte_text", "config": text}]}
        pretransform = {"type": "autoencoder", "config": codec}
        return {
            "model_type": "lm", "sample_rate": 8000, "sample_size": 800, "audio_channels": 1,
            "model": {"pretransform": pretransform, "conditioning": conditioning, "lm": lm},
            "training": {"learning_rate": 1e-3, **training},
        }  # fmt: skip

    return config


@pytest.fixture(scope="session")
def save_tiny_musicgen(shared: Path) -> Callable[..., Path]:
    """``save_tiny_musicgen(folder, channels=1)``: a MusicGen of 8 kHz audio with random weights, as transformers saves it."""

    def save(folder: Path, channels: int = 1) -> Path:
        from transformers import (
            AutoConfig,
            AutoTokenizer,
            EncodecConfig,
            MusicgenConfig,
            MusicgenDecoderConfig,
            MusicgenForConditionalGeneration,
        )

        torch.manual_seed(0)
        text = shared / "fixtures" / "t5-tiny"
        codec = EncodecConfig(
            sampling_rate=8000, num_filters=4, hidden_size=8, codebook_size=16, codebook_dim=8, upsampling_ratios=[4, 2],
            num_residual_layers=1, num_lstm_layers=1, norm_type="weight_norm",
        )  # fmt: skip
        codec.target_bandwidths = [2 * 4 * codec.frame_rate / 1000]  # two codebooks of four bits
        decoder = MusicgenDecoderConfig(
            vocab_size=16, num_hidden_layers=2, ffn_dim=32, num_attention_heads=2, hidden_size=16, num_codebooks=2 * channels, dropout=0.0,
            audio_channels=channels, pad_token_id=16, bos_token_id=16, initializer_factor=0.5,
        )  # fmt: skip
        config = MusicgenConfig(text_encoder=AutoConfig.from_pretrained(text), audio_encoder=codec, decoder=decoder)
        model = MusicgenForConditionalGeneration(config)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                if (name.startswith(("decoder.", "enc_to_dec")) and tensor.dim() > 1) or name.endswith("codebook.embed"):
                    scale = (
                        4.0 if "embed" in name else 0.1 if name.startswith("enc_to_dec") else 0.4
                    )  # tokens must say more than the prompt
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(text).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def tiny_inpaint() -> Callable[..., dict[str, Any]]:
    """``tiny_inpaint(**training)``: a DiT on patches of eight samples that is told a part of them, and the prompt."""

    def config(**training: Any) -> dict[str, Any]:
        made = dit_config(objective="rectified_flow", input_concat_dim=9)
        made["model_type"] = "diffusion_cond_inpaint"
        made["model"]["diffusion"]["input_concat_ids"] = ["inpaint_mask", "inpaint_masked_input"]
        return {**made, "training": {"learning_rate": 1e-3, **training}}

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
        settings.setdefault("save_dir", str(tmp_path_factory.mktemp("runs")))
        with isolated_randomness(0):  # a run seeds the global streams, which other tests have a right to
            return train(TrainOptions(model_config=model_config, **settings))

    return run


@pytest.fixture(scope="session")
def tiny_clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a tiny CLAP and a tokenizer of bytes."""
    from transformers import ClapAudioConfig, ClapConfig, ClapModel, ClapTextConfig, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-clap")
    torch.manual_seed(0)
    text = ClapTextConfig(vocab_size=300, hidden_size=768, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
    audio = ClapAudioConfig(patch_embeds_hidden_size=8, depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1], hidden_size=64)
    ClapModel(ClapConfig(text_config=text, audio_config=audio)).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(), bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    return folder


def byte_tokenizer() -> Any:
    """Like RoBERTa's, but with a vocabulary of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


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
