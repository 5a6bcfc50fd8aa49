"""The web page: one for each model type, whose functions make sound and whose errors are messages."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio_tools.audio import load, read_metadata, save
from stable_audio_tools.checkpoint import save_model_weights
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.adapters import choose_layers, save_adapter
from stable_audio_tools.models.factory import create_model_from_config

gr = pytest.importorskip("gradio")
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def without_leftovers() -> Iterator[None]:
    """Gradio leaves event loops to the garbage collector, which complains about them: let it do so now, unheard."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture
def files(tmp_path: Path, randomise: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """``files(config)``: a model with random weights, as arguments of ``create_ui``."""

    def write(config: dict[str, Any]) -> dict[str, Any]:
        (tmp_path / "m.json").write_text(json.dumps(config))
        torch.manual_seed(0)
        model = randomise(create_model_from_config(config), std=0.1)
        return {"model_config_path": tmp_path / "m.json", "ckpt_path": save_model_weights(model.state_dict(), tmp_path / "m.safetensors")}

    return write


def labels(page: Any) -> list[str]:
    return [block.label for block in page.blocks.values() if getattr(block, "label", None)]


def call(page: Any, name: str = "generate", **values: Any) -> tuple[str, str, str]:
    """Call a page's function as the page does: with its controls' values, some of which are others (by label)."""
    (function,) = [found for found in page.fns.values() if found.api_name == name]
    known = {block.label: block.value for block in function.inputs}
    unknown = set(values) - set(known)
    assert not unknown, (unknown, known)
    return function.fn(*{**known, **values}.values())


@pytest.fixture
def noise(tmp_path: Path) -> str:
    path = tmp_path / "noise.wav"
    save(path, 0.1 * torch.randn(2, 6000), 12000)
    return str(path)


SHORT = {"Seconds": 0.1, "Seed (-1 draws one)": 3, "Steps": 2}


def test_text_to_audio(tiny_diffusion: Callable[..., Any], files: Callable[..., dict[str, Any]], noise: str) -> None:
    from stable_audio_tools.interface import gradio as interface

    page = interface.create_ui(**files(tiny_diffusion()), gradio_title="Kicks", default_prompt="a kick")
    assert interface.model is not None and page.title == "Kicks"
    assert "Audio to fill a gap in" not in labels(page)
    audio, picture, words = call(page, **SHORT, **{"Negative prompt": "noise"})
    assert load(audio).samples.shape == (1, 800) and words == "seed 3" and Path(picture).read_bytes()[:4] == b"\x89PNG"
    told = read_metadata(audio)
    assert (told["prompt"], told["negative_prompt"], told["steps"]) == ("a kick", "noise", "2")
    again = call(page, **SHORT, **{"Negative prompt": "noise"})[0]
    assert again != audio and torch.equal(load(again).samples, load(audio).samples)
    varied = call(page, **SHORT, **{"Audio to vary": noise, "Strength of the variation (0 keeps the audio)": 0.5})[0]
    assert read_metadata(varied)["init_noise_level"] == "0.5"
    with pytest.raises(gr.Error, match="--seconds is a finite number, got nan"):
        call(page, **{**SHORT, "Seconds": float("nan")})
    with pytest.raises(gr.Error, match="a time from 0 to 1 with sampler 'euler', got 3"):
        call(page, **SHORT, **{"Audio to vary": noise, "Strength of the variation (0 keeps the audio)": 3})


def test_inpainting(dit_config: Callable[..., Any], files: Callable[..., dict[str, Any]], noise: str) -> None:
    from stable_audio_tools.interface.gradio import create_ui

    config = dit_config(objective="rectified_flow", input_concat_dim=9)
    config["model_type"] = "diffusion_cond_inpaint"
    config["model"]["diffusion"]["input_concat_ids"] = ["inpaint_mask", "inpaint_masked_input"]
    page = create_ui(**files(config))
    gap = {"Audio to fill a gap in": noise, "The gap begins (seconds)": 0.02, "The gap ends (seconds)": 0.04}
    audio = call(page, **{**SHORT, "Seconds": 0.064}, **gap)[0]
    assert (read_metadata(audio)["mask_start"], read_metadata(audio)["mask_end"]) == ("0.02", "0.04")
    with pytest.raises(gr.Error, match="the gap goes from --mask-start to --mask-end, within the clip"):
        call(page, **{**SHORT, "Seconds": 0.064}, **{**gap, "The gap begins (seconds)": 0.05})


def test_without_conditions(tiny_uncond: Callable[..., Any], files: Callable[..., dict[str, Any]]) -> None:
    from stable_audio_tools.interface.gradio import create_ui

    page = create_ui(**files(tiny_uncond()))
    assert "Prompt" not in labels(page) and "Guidance" not in labels(page)
    assert load(call(page, **{**SHORT, "Seconds": 0.032})[0]).samples.shape == (1, 256)


def test_language_models(lm_page_config: dict[str, Any], files: Callable[..., dict[str, Any]]) -> None:
    from stable_audio_tools.interface.gradio import create_ui

    page = create_ui(**files(lm_page_config))
    assert "Steps" not in labels(page) and "Temperature" in labels(page)
    told = read_metadata(call(page, Prompt="rain", Temperature=0.5, **{"Seconds": 0.05, "Seed (-1 draws one)": 3})[0])
    assert (told["prompt"], told["temp"], told["top_k"]) == ("rain", "0.5", "250")


@pytest.fixture
def lm_page_config(shared: Path) -> dict[str, Any]:
    text = {"embed_dim": 16, "depth": 1, "num_heads": 2, "max_length": 24}
    codec = {
        "encoder": {"type": "oobleck", "config": {"in_channels": 1, "channels": 4, "c_mults": [1], "strides": [16], "latent_dim": 4}},
        "decoder": {"type": "oobleck", "config": {"out_channels": 1, "channels": 4, "c_mults": [1], "strides": [16], "latent_dim": 4}},
        "bottleneck": {"type": "rvq", "config": {"dim": 4, "codebook_size": 8, "num_quantizers": 2}},
        "latent_dim": 4, "downsampling_ratio": 16, "io_channels": 1,
    }  # fmt: skip
    return {
        "model_type": "lm", "sample_rate": 8000, "sample_size": 800, "audio_channels": 1,
        "model": {
            "pretransform": {"type": "autoencoder", "config": codec},
            "conditioning": {"cond_dim": 16, "configs": [{"id": "prompt", "type": "byte_text", "config": text}]},
            "lm": {
                "type": "continuous_transformer", "codebook_pattern": "delay", "cross_attention_cond_ids": ["prompt"],
                "config": {"embed_dim": 16, "depth": 1, "dim_heads": 8, "cross_attn_cond_dim": 16},
            },
        },
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["tiny_autoencoder", "tiny_diffae"])
def test_encode_and_decode(kind: str, request: pytest.FixtureRequest, files: Callable[..., dict[str, Any]], noise: str) -> None:
    from stable_audio_tools.interface.gradio import create_ui

    page = create_ui(**files(request.getfixturevalue(kind)()))
    values: dict[str, Any] = {"Steps": 2} if kind == "tiny_diffae" else {}
    audio, _, words = call(page, "reconstruct", Audio=noise, **values)
    assert load(audio).samples.shape == (1, 4000) and words.startswith("latents 4 x ")
    with pytest.raises(gr.Error, match="choose an audio file first"):
        call(page, "reconstruct", **values)


def test_adapters_have_sliders(tiny_diffusion: Callable[..., Any], files: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    from stable_audio_tools.interface.gradio import create_ui

    given = files(tiny_diffusion())
    layers: dict[str, Any] = choose_layers(create_model_from_config(tiny_diffusion()), "lora", ["self_attn"])
    ones = {"lora_A.weight": torch.ones, "lora_B.weight": torch.ones}
    sizes = {name: {"lora_A.weight": (1, layer.in_features), "lora_B.weight": (layer.out_features, 1)} for name, layer in layers.items()}
    tensors = {name: {key: ones[key](size) for key, size in named.items()} for name, named in sizes.items()}
    path = save_adapter(tmp_path / "warm.safetensors", tensors, kind="lora", config={"rank": 1}, base_hash=None)
    plain = load(call(create_ui(**given), **SHORT, Prompt="a")[0]).samples
    page = create_ui(**given, lora_ckpt_paths=[path])
    assert not torch.equal(load(call(page, **SHORT, Prompt="a")[0]).samples, plain)
    without = call(page, **SHORT, Prompt="a", **{"Adapter warm: strength": 0})[0]
    assert torch.equal(load(without).samples, plain)


def test_exactly_one_model(files: Callable[..., dict[str, Any]], tiny_diffusion: Callable[..., Any], tmp_path: Path) -> None:
    from stable_audio_tools.interface.gradio import create_ui, load_model

    given = files(tiny_diffusion())
    with pytest.raises(ConfigError, match="either by a model config"):
        create_ui()
    with pytest.raises(ConfigError, match="not both"):
        create_ui(**given, pretrained_name="x")
    with pytest.raises(ConfigError, match="a model config needs a checkpoint"):
        create_ui(model_config_path=given["model_config_path"])
    model, config = load_model(model_config=tiny_diffusion(), model_ckpt_path=given["ckpt_path"], device="cpu", model_half=True)
    assert next(model.parameters()).dtype == torch.float16 and config["model_type"] == "diffusion_cond"
    (tmp_path / "model_config.json").write_text(json.dumps(tiny_diffusion()))
    os.replace(given["ckpt_path"], tmp_path / "model.safetensors")
    model, _ = load_model(pretrained_name=str(tmp_path), device="cpu")
    assert next(model.parameters()).dtype == torch.float32


def test_pictures() -> None:
    from stable_audio_tools.interface.aeiou import audio_spectrogram_image

    picture = audio_spectrogram_image(torch.randn(2, 8000), sample_rate=8000)
    assert picture.size == (500, 400) and picture.mode == "RGB"


@pytest.fixture
def launched(files: Callable[..., dict[str, Any]], tiny_diffusion: Callable[..., Any]) -> Iterator[str]:
    """The address of a page that ``run_gradio.py`` shows."""
    import socket

    given = files(tiny_diffusion())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    flags = ["--model-config", given["model_config_path"], "--ckpt-path", given["ckpt_path"], "--port", port]
    command = [sys.executable, str(ROOT / "run_gradio.py"), *map(str, flags)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.mark.slow
def test_a_launched_page_answers(launched: str) -> None:
    from urllib.error import URLError
    from urllib.request import urlopen

    from gradio_client import Client

    deadline = time.monotonic() + 240
    while True:
        try:
            with urlopen(launched, timeout=5) as answer:
                assert answer.status == 200 and b"gradio" in answer.read().lower()
            break
        except (URLError, ConnectionError):
            assert time.monotonic() < deadline
            time.sleep(0.5)
    client = Client(launched, verbose=False)
    audio, picture, words = client.predict("a kick", "", 0.1, 3, 2, "euler", 1, None, None, api_name="/generate")
    assert words == "seed 3" and load(audio).samples.shape[-1] == 800 and Path(picture).stat().st_size > 1000
    with pytest.raises(Exception, match="seed is at least 0"):
        client.predict("a kick", "", 0.1, 2**64, 2, "euler", 1, None, None, api_name="/generate")
