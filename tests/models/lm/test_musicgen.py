"""MusicGen through transformers: tiny models of the real classes, saved to a folder and loaded from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio_tools import create_model_from_config
from stable_audio_tools.errors import CheckpointError, ConfigError
from stable_audio_tools.models.lm import AudioLanguageModelWrapper

PROMPTS = ["a kick drum", "wind"]


@pytest.fixture(scope="module", params=[1, 2], ids=["mono", "stereo"])
def channels(request: Any) -> int:
    return request.param


@pytest.fixture(scope="module")
def folder(save_tiny_musicgen: Callable[..., Path], channels: int, tmp_path_factory: Any) -> Path:
    return save_tiny_musicgen(tmp_path_factory.mktemp(f"musicgen{channels}"), channels)


def config_of(folder: Path | str, channels: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "model_type": "musicgen",
        "sample_rate": 8000,
        "sample_size": 128,
        "audio_channels": channels,
        "model": {"pretrained": str(folder)},
        **changes,
    }


@pytest.fixture(scope="module")
def model(folder: Path, channels: int) -> AudioLanguageModelWrapper:
    model = create_model_from_config(config_of(folder, channels)).eval()
    assert isinstance(model, AudioLanguageModelWrapper)
    return model


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    from transformers import MusicgenForConditionalGeneration

    return MusicgenForConditionalGeneration.from_pretrained(folder).eval()


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_tokens_are_those_of_transformers(model: AudioLanguageModelWrapper, theirs: Any, folder: Path, scale: float) -> None:
    from transformers import AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)(PROMPTS, padding=True, return_tensors="pt")
    audio = theirs.generate(**inputs, do_sample=False, guidance_scale=scale, max_new_tokens=12)
    made = model.generate_audio(conditioning=[{"prompt": prompt} for prompt in PROMPTS], cfg_scale=scale, temp=0.0, max_gen_len=10)
    assert made.shape[:2] == audio.shape[:2] == (2, model.io_channels)
    assert made.shape[-1] == 10 * model.downsampling_ratio
    assert len(model.generate(conditioning=[{"prompt": "wind"}], temp=0.0, max_gen_len=10).unique()) > 3  # tokens that tell something
    shared_length = 8 * model.downsampling_ratio  # the codec's decoder is causal
    torch.testing.assert_close(made[..., :shared_length], audio[..., :shared_length], atol=1e-5, rtol=0)


def test_logits_are_those_of_transformers(model: AudioLanguageModelWrapper, theirs: Any, folder: Path) -> None:
    from transformers import AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)(PROMPTS, padding=True, return_tensors="pt")
    codes = torch.randint(0, 16, (2, model.num_quantizers, 6), generator=torch.Generator().manual_seed(0))
    sequence, _ = model.lm.pattern_provider.get_pattern(6).build_pattern_sequence(codes, 16)
    assert model.conditioner is not None
    conditions = model.conditioner([{"prompt": prompt} for prompt in PROMPTS], "cpu")
    with torch.no_grad():
        wanted = theirs(**inputs, decoder_input_ids=sequence.flatten(0, 1)).logits.unflatten(0, (2, -1))
        got = model.compute_logits(codes, conditions)
    for codebook in range(model.num_quantizers):
        delay = codebook // model.io_channels
        length = 6 - delay
        torch.testing.assert_close(got.logits[:, codebook, :length], wanted[:, codebook, delay : delay + length])
        assert got.mask[:, codebook].sum(dim=-1).tolist() == [length, length]


def test_cached_is_uncached(model: AudioLanguageModelWrapper) -> None:
    made = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        made.append(model.generate(12, conditioning=[{"prompt": "wind"}], cfg_scale=2.0, use_cache=use_cache))
    assert torch.equal(*made)


def test_tokens_of_audio_are_those_of_transformers(model: AudioLanguageModelWrapper, theirs: Any) -> None:
    audio = 0.3 * torch.randn(2, model.io_channels, 128, generator=torch.Generator().manual_seed(3))
    tokens = model.tokenize(audio)
    assert tokens.shape == (2, model.num_quantizers, 128 // model.downsampling_ratio)
    for channel in range(model.io_channels):
        codes = theirs.audio_encoder.encode(audio[:, channel : channel + 1]).audio_codes[0]
        assert torch.equal(tokens[:, channel :: model.io_channels], codes[:, : model.num_quantizers // model.io_channels])
    assert model.tokenize(audio[..., :121]).shape == tokens.shape  # padded to whole frames


def test_audio_is_continued(model: AudioLanguageModelWrapper) -> None:
    given = model.tokenize(0.3 * torch.randn(1, model.io_channels, 64, generator=torch.Generator().manual_seed(3)))
    made = model.generate(12, init_data=given, conditioning=[{"prompt": "wind"}])
    assert torch.equal(made[..., : given.shape[-1]], given)
    assert made.shape[-1] == 12


def test_what_is_saved_loads_and_the_text_encoder_stays_where_it_came_from(
    model: AudioLanguageModelWrapper, folder: Path, channels: int, tmp_path: Path
) -> None:
    from stable_audio_tools.checkpoint import load_model_weights, save_model_weights

    assert {key.split(".")[0] for key in model.state_dict()} == {"pretransform", "conditioner", "lm"}
    assert not [key for key in model.state_dict() if "encoder.block" in key or "shared" in key]
    trained = create_model_from_config(config_of(folder, channels)).eval()
    with torch.no_grad():
        for parameter in trained.lm.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    path = save_model_weights(trained.state_dict(), tmp_path / "m.safetensors")
    fresh = create_model_from_config(config_of(folder, channels)).eval()
    load_model_weights(fresh, path)
    request: dict[str, Any] = {"conditioning": [{"prompt": "wind"}], "temp": 0.0, "max_gen_len": 8}
    assert torch.equal(fresh.generate_audio(**request), trained.generate_audio(**request))


def test_only_the_decoder_and_its_projection_are_trained(model: AudioLanguageModelWrapper) -> None:
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"lm", "conditioner"}
    assert not any(parameter.requires_grad for parameter in model.pretransform.parameters())


def test_rates_and_channels_must_agree(folder: Path, channels: int) -> None:
    with pytest.raises(ConfigError, match=r"sample_rate: is 44100, but MusicGen '.*' has 8000"):
        create_model_from_config(config_of(folder, channels, sample_rate=44100))
    with pytest.raises(ConfigError, match=rf"audio_channels: is 6, but MusicGen '.*' has {channels}"):
        create_model_from_config(config_of(folder, 6))


def test_other_models_are_refused(shared: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a 't5' model; only 'musicgen' models, conditioned on text alone, are known"):
        create_model_from_config(config_of(shared / "fixtures" / "t5-tiny"))


def test_a_name_that_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="MusicGen 'facebook/musicgen-huge': it is neither a local folder nor in the local cache"):
        create_model_from_config(config_of("huge"))
