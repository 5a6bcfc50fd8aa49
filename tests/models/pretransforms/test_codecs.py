"""Pretrained codecs, on tiny ones of the same classes in local folders."""

import logging
import math

import pytest
import torch

from stable_audio_tools.errors import AudioError, CheckpointError, ConfigError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.factory import create_pretransform_from_config


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of a DAC, an EnCodec, one that normalises, and a model of another kind."""
    from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel, T5Config
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("codecs")
    dac = DacModel(
        DacConfig(
            encoder_hidden_size=4, decoder_hidden_size=16, downsampling_ratios=[2, 5], n_codebooks=3, codebook_size=16, codebook_dim=4,
            sampling_rate=8000,
        )
    )  # fmt: skip
    sizes = {"hidden_size": 8, "num_filters": 2, "upsampling_ratios": [4, 2], "codebook_size": 16, "num_lstm_layers": 1}
    rates = {"sampling_rate": 8000, "target_bandwidths": [12.0]}
    encodec = EncodecModel(EncodecConfig(**sizes, **rates, audio_channels=2))
    latents = encodec.encoder(torch.randn(1, 2, 800)).detach()[0]  # (D, L)
    for index, layer in enumerate(encodec.quantizer.layers):  # zeros in a new one
        layer.codebook.embed.copy_(torch.randn(16, 8) * latents.std(dim=1) / 2**index + (latents.mean(dim=1) if index == 0 else 0))
    dac.save_pretrained(root / "dac")
    encodec.save_pretrained(root / "encodec")
    EncodecModel(EncodecConfig(**sizes, **rates, normalize=True)).save_pretrained(root / "loud")
    T5Config(d_model=8).save_pretrained(root / "t5")
    transformers_logging.enable_progress_bar()
    return root


@pytest.fixture
def build(folders):
    def make(name, **config):
        block = {
            "dac": {"type": "dac_pretrained", "config": {"model_path": str(folders / "dac"), **config}},
            "encodec": {"type": "audiocraft_pretrained", "config": {"model_type": str(folders / "encodec"), **config}},
        }[name]
        return create_pretransform_from_config(block, 8000)

    return make


FACTS = {"dac": (10, 16, 1), "encodec": (8, 8, 2)}  # ratio, width, audio channels


@pytest.mark.parametrize("name", FACTS)
def test_it_reports_its_facts_and_stays_frozen(build, name):
    pretransform = build(name)
    assert (pretransform.downsampling_ratio, pretransform.encoded_channels, pretransform.io_channels) == FACTS[name]
    assert (pretransform.num_quantizers, pretransform.codebook_size, pretransform.sample_rate) == (3, 16, 8000)
    assert pretransform.is_discrete and not any(parameter.requires_grad for parameter in pretransform.parameters())
    assert not any(module.training for module in torch.nn.ModuleList([pretransform]).train()[0].modules())
    assert all(key.startswith("model.") for key in pretransform.state_dict())


@pytest.mark.parametrize("name", FACTS)
@pytest.mark.parametrize("length", [1, 40, 41, 99])
def test_shapes_for_every_length(build, name, length):
    pretransform = build(name)
    ratio, width, channels = FACTS[name]
    frames = math.ceil(length / ratio)
    latents = pretransform.encode(torch.randn(2, channels, length))
    assert latents.shape == (2, width, frames)
    assert pretransform.decode(latents).shape == (2, channels, frames * ratio)
    tokens = pretransform.tokenize(torch.randn(2, channels, length))
    assert tokens.shape == (2, 3, frames) and tokens.dtype == torch.int64 and 0 <= tokens.min() <= tokens.max() < 16


@pytest.mark.parametrize("name", FACTS)
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_quantising_early_or_late_gives_the_same_audio(build, name, scale):
    late, early = build(name, scale=scale), build(name, scale=scale, quantize_on_decode=False)
    audio = torch.randn(2, FACTS[name][2], 80)
    assert not torch.allclose(late.encode(audio), early.encode(audio))
    torch.testing.assert_close(late.decode(late.encode(audio)), early.decode(early.encode(audio)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(late.encode(audio) * scale, build(name).encode(audio))


@pytest.mark.parametrize("name", FACTS)
def test_tokens_are_what_decoding_quantises_to(build, name):
    pretransform = build(name)
    audio = torch.randn(2, FACTS[name][2], 80)
    tokens = pretransform.tokenize(audio)
    assert len(tokens.unique()) > 4
    assert torch.equal(pretransform.decode_tokens(tokens), pretransform.decode(pretransform.encode(audio)))
    torch.testing.assert_close(pretransform.decode_tokens(tokens[1:]), pretransform.decode_tokens(tokens)[1:], atol=1e-5, rtol=1e-5)


def test_it_is_the_model_of_the_folder(build, folders):
    from transformers import DacModel, EncodecModel

    audio = torch.randn(1, 1, 80)
    assert torch.equal(build("dac").tokenize(audio), DacModel.from_pretrained(folders / "dac").encode(audio).audio_codes)
    stereo = torch.randn(1, 2, 80)
    codes = EncodecModel.from_pretrained(folders / "encodec").encode(stereo, bandwidth=12.0).audio_codes
    assert torch.equal(build("encodec").tokenize(stereo), codes[0])


def test_fewer_codebooks_are_the_first_ones(build):
    audio = torch.randn(1, 2, 80)
    few = build("encodec", num_quantizers=2)
    assert few.num_quantizers == 2 and torch.equal(few.tokenize(audio), build("encodec").tokenize(audio)[:, :2])
    with pytest.raises(ConfigError, match=r"num_quantizers must be from 1 to 3 for .*, got 4"):
        build("encodec", num_quantizers=4)


@pytest.mark.parametrize("name", FACTS)
def test_it_works_under_a_diffusion_model(folders, name):
    _, width, channels = FACTS[name]
    path = {"dac": "model_path", "encodec": "model_type"}[name]
    part = {"dac": "dac_pretrained", "encodec": "audiocraft_pretrained"}[name]
    config = {
        "model_type": "diffusion_uncond",
        "sample_rate": 8000,
        "model": {
            "type": "dit",
            "config": {"in_channels": width, "embed_dim": 16, "depth": 1, "num_heads": 2},
            "pretransform": {"type": part, "config": {path: str(folders / name)}},
        },
    }
    model = create_model_from_config(config)
    init = (8000, torch.randn(1, 300))
    audio = model.generate(steps=2, sample_size=160, seed=0, init_audio=init, init_noise_level=0.5, sampler_type="v-ddim")
    assert audio.shape == (1, channels, 160) and audio.isfinite().all()
    again = create_model_from_config(config)
    again.load_state_dict(model.state_dict(), strict=True)


# ---- mistakes ------------------------------------------------------------------------------------------------------------------------


def test_another_rate_is_told(folders, caplog):
    with caplog.at_level(logging.WARNING):
        create_pretransform_from_config({"type": "dac_pretrained", "config": {"model_path": str(folders / "dac")}}, 44100)
    assert "was trained on 8000 Hz, but the model has 44100 Hz" in caplog.text


def test_a_key_that_never_did_anything_is_told(build, caplog):
    with caplog.at_level(logging.WARNING):
        build("dac", chunked=True)
    assert "chunked: ignored: has never had an effect" in caplog.text


@pytest.mark.parametrize(
    ("block", "error", "message"),
    [
        (("audiocraft_pretrained", {"model_type": "loud"}), ConfigError, "normalises the loudness of every chunk"),
        (("audiocraft_pretrained", {"model_type": "t5"}), CheckpointError, "holds a 't5' model, but must hold one of dac, encodec"),
        (("dac_pretrained", {"model_path": "nothing"}), CheckpointError, "neither a local folder nor .* or set model_path to a folder"),
        (("audiocraft_pretrained", {"model_type": "nothing"}), CheckpointError, "or set model_type to a folder that holds it"),
        (("dac_pretrained", {"model_bitrate": "16kbps"}), ConfigError, "no download of the 16kbps weights .* set model_path"),
        (("dac_pretrained", {"model_type": "48khz"}), ConfigError, "config.model_type: .*'44khz', '24khz' or '16khz', got '48khz'"),
    ],
)
def test_mistakes(folders, monkeypatch, block, error, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kind, config = block
    config = {
        key: str(folders / value) if key in ("model_type", "model_path") and "khz" not in value else value for key, value in config.items()
    }
    with pytest.raises(error, match=message):
        create_pretransform_from_config({"type": kind, "config": config}, 8000)


def test_wrong_channels(build):
    with pytest.raises(AudioError, match=r"'dac_pretrained' takes audio of 1 channel\(s\), got 2"):
        build("dac").encode(torch.zeros(1, 2, 80))
