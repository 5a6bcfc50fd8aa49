"""Files from language models: the same requests as for diffusion models, as far as they mean something."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from stable_audio_tools import create_model_from_config
from stable_audio_tools.audio import read_metadata
from stable_audio_tools.checkpoint import save_model_weights
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.inference.files import GenerationRequest, generate_files

MODELS = Path(__file__).parents[1] / "models" / "lm"


def config() -> dict[str, Any]:
    sizes: dict[str, Any] = {"channels": 4, "c_mults": [1, 2], "strides": [2, 4], "latent_dim": 8}
    codec = {
        "encoder": {"type": "oobleck", "config": {"in_channels": 1, **sizes}},
        "decoder": {"type": "oobleck", "config": {"out_channels": 1, **sizes}},
        "bottleneck": {"type": "dac_rvq", "config": {"input_dim": 8, "n_codebooks": 2, "codebook_dim": 4, "codebook_size": 16}},
        "latent_dim": 8,
        "downsampling_ratio": 8,
        "io_channels": 1,
    }
    text = {"embed_dim": 16, "depth": 1, "num_heads": 2, "max_length": 16}
    return {
        "model_type": "lm",
        "sample_rate": 8000,
        "sample_size": 200,
        "audio_channels": 1,
        "model": {
            "pretransform": {"type": "autoencoder", "config": codec},
            "conditioning": {
                "cond_dim": 16,
                "configs": [
                    {"id": "prompt", "type": "byte_text", "config": text},
                    {"id": "seconds_total", "type": "number", "config": {"min_val": 0, "max_val": 10}},
                ],
            },
            "lm": {
                "type": "continuous_transformer",
                "cross_attention_cond_ids": ["prompt"],
                "prepend_cond_ids": ["seconds_total"],
                "config": {"embed_dim": 32, "depth": 1, "dim_heads": 16, "cross_attn_cond_dim": 16, "prepend_cond_dim": 16},
            },
        },
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: Any, randomise: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lm")
    torch.manual_seed(0)
    model: Any = create_model_from_config(config())
    randomise(model.lm, std=0.3)
    (folder / "c.json").write_text(json.dumps(config()))
    return {"model_config": folder / "c.json", "ckpt_path": save_model_weights(model.state_dict(), folder / "m.safetensors")}


def samples(path: Path) -> np.ndarray:
    return soundfile.read(path)[0]


def test_prompts_become_files_that_say_how_they_were_made(files: Any, tmp_path: Path) -> None:
    request = GenerationRequest(**files, prompts=["rain", "wind"], seconds=0.02, seed=4, top_p=0.9, temp=0.5, output=tmp_path, device="cpu")
    made = list(generate_files(request))
    assert [path.name for path in made] == ["rain_4.wav", "wind_5.wav"]
    assert len(samples(made[0])) == 160
    told = read_metadata(made[0])
    wanted = {"prompt": "rain", "seed": "4", "cfg_scale": "3.0", "top_p": "0.9", "temp": "0.5", "model_config": "c.json"}
    assert {key: told.get(key) for key in wanted} == wanted
    (again,) = generate_files(
        GenerationRequest(**files, prompts=["wind"], seconds=0.02, seed=5, top_p=0.9, temp=0.5, output=tmp_path / "2", device="cpu")
    )
    assert np.array_equal(samples(again), samples(made[1]))


def test_audio_is_continued(files: Any, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 0.3 * np.random.default_rng(0).standard_normal(80).clip(-1, 1), 8000)
    (path,) = generate_files(GenerationRequest(**files, prompts=["rain"], init_audio=tmp_path / "a.wav", output=tmp_path, device="cpu"))
    assert len(samples(path)) == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "euler"}, "--sampler has no effect with model_type 'lm', which draws tokens; leave it out"),
        ({"negative_prompt": "x"}, "--negative-prompt has no effect with model_type 'lm'"),
        ({"sigma_max": 1.0}, "--sigma-max has no effect with model_type 'lm'"),
        ({"temp": -1.0}, "need temp >= 0"),
        ({"ckpt_path": None}, "--ckpt-path: required, except for a pretrained MusicGen"),
        ({"precision": "int8"}, "--precision 'int8': one of float32"),
    ],
)
def test_requests_that_make_no_sense(files: Any, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list(generate_files(GenerationRequest(**{**files, "prompts": ["x"], "output": tmp_path, "device": "cpu", **options})))


def test_token_options_do_not_fit_diffusion_models(dit_config: Any, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(dit_config()))
    with pytest.raises(ConfigError, match="--top-k has no effect with model_type 'diffusion_cond', which draws no tokens; leave it out"):
        list(generate_files(GenerationRequest(model_config=tmp_path / "c.json", ckpt_path=tmp_path / "m", prompts=["x"], top_k=3)))


def test_a_pretrained_musicgen_needs_no_checkpoint(save_tiny_musicgen: Any, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("tiny_musicgen", MODELS / "test_musicgen.py")
    assert spec is not None and spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    save_tiny_musicgen(tmp_path / "base")
    (tmp_path / "c.json").write_text(json.dumps(tiny.config_of(tmp_path / "base")))
    (path,) = generate_files(GenerationRequest(model_config=tmp_path / "c.json", prompts=["wind"], output=tmp_path, device="cpu"))
    assert len(samples(path)) == 128
