"""CLAP: LAION's checkpoints and Hugging Face folders, against recorded numbers."""

import importlib.util
import json
from functools import cache

import pytest
import torch

from stable_audio_tools.errors import CheckpointError, DataError
from stable_audio_tools.models.conditioners import CLAPAudioConditioner, CLAPTextConditioner
from stable_audio_tools.models.conditioners.clap import (
    CLIP_SAMPLES,
    ClapAudio,
    ClapSource,
    convert_laion,
    load_clap_audio,
    load_clap_text,
    log_mel,
)
from stable_audio_tools.models.conditioners.pretrained import frozen

WORDS = ["a kick drum", "birds in a wood at dawn", ""]


@pytest.fixture(scope="module")
def fill(shared):
    spec = importlib.util.spec_from_file_location("clap_fill", shared / "goldens" / "clap" / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.fill = cache(lambda name, shape, dtype, make=module.fill: make(name, torch.zeros(shape, dtype=dtype)))
    return module


@pytest.fixture(scope="module")
def write_laion(shared, fill, tmp_path_factory):
    """``write(name)``: a checkpoint as LAION writes it; returns what it is and the recorded numbers. Big files, deleted at the end."""
    reference = json.loads((shared / "goldens" / "clap" / "reference.json").read_text())["models"]
    folder = tmp_path_factory.mktemp("clap")

    @cache
    def write(name):
        recorded = reference[name]
        tensors = {}
        for key, shape in recorded["state_dict"].items():
            is_integer = key.endswith(("num_batches_tracked", "relative_position_index"))
            tensors[f"module.{key}"] = fill.fill(key, tuple(shape), torch.int64 if is_integer else torch.float32)
        path = folder / f"{name}.pt"
        torch.save({"epoch": 1, "name": name, "state_dict": tensors}, path)
        return ClapSource(str(path), recorded["audio_model_type"], recorded["enable_fusion"]), recorded

    yield write
    frozen.cache_clear()
    for path in folder.glob("*.pt"):
        path.unlink()


@pytest.fixture(scope="module")
def tiny(tiny_clap):
    return tiny_clap


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


# ---- recorded numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["HTSAT-base", "HTSAT-tiny-fusion", "HTSAT-base-fusion"])
def test_laion_checkpoints_give_the_recorded_numbers(write_laion, fill, name):
    """Whole checkpoints load completely, and agree within 1e-4."""
    source, recorded = write_laion(name)
    tokens = [{"input_ids": ids, "attention_mask": mask} for ids, mask in zip(fill.TOKENS, fill.MASK, strict=True)]
    embedding, mask = CLAPTextConditioner(512, *source[:1])(tokens, "cpu")
    torch.testing.assert_close(embedding[:, 0], torch.tensor(recorded["text_embedding"]), atol=1e-4, rtol=0)
    assert embedding.shape == (2, 1, 512) and torch.equal(mask, torch.ones(2, 1))
    for layer, expected in recorded["text_hidden_states"].items():
        conditioner = CLAPTextConditioner(768, source.path, use_text_features=True, feature_layer_ix=int(layer))
        hidden, mask = conditioner(tokens, "cpu")
        assert hidden.shape == (2, 12, 768) and torch.equal(mask, fill.MASK)
        torch.testing.assert_close(hidden[0, 0, :8], torch.tensor(expected["first_token_first_8"]), atol=1e-4, rtol=0)
        assert float(hidden.mean()) == pytest.approx(expected["mean"], abs=1e-4)
        assert float(hidden.std()) == pytest.approx(expected["std"], abs=1e-4)
    audio = CLAPAudioConditioner(512, *source)
    heard = audio([fill.waveform()], "cpu").embedding[:, 0]
    assert heard.norm(dim=-1).item() == pytest.approx(1, abs=1e-5)
    if "audio_embedding" in recorded:
        torch.testing.assert_close(heard, torch.tensor(recorded["audio_embedding"]), atol=1e-4, rtol=0)
        stereo = audio([fill.waveform().repeat(2, 1)], "cpu").embedding[:, 0]
        torch.testing.assert_close(stereo, heard, atol=1e-4, rtol=0)
    else:
        assert (heard @ audio([torch.randn(1, 48_000)], "cpu").embedding[0, 0]).item() < 0.999


def test_a_file_of_another_size_than_the_config_says(write_laion):
    source, _ = write_laion("HTSAT-tiny-fusion")
    with pytest.raises(CheckpointError, match=r"is HTSAT-tiny with fusion, but the config says audio_model_type 'HTSAT-base' and enable_"):
        load_clap_audio(source._replace(audio_model_type="HTSAT-base"))
    with pytest.raises(CheckpointError, match=r"is HTSAT-tiny with fusion, but .* enable_fusion false"):
        load_clap_audio(source._replace(enable_fusion=False))


def test_an_incomplete_file(write_laion, tmp_path):
    source, recorded = write_laion("HTSAT-tiny-fusion")
    stored = torch.load(source.path, mmap=True)["state_dict"]
    small = {key: value for key, value in stored.items() if "text_projection" in key}
    torch.save({"state_dict": small}, tmp_path / "clap.pt")
    with pytest.raises(CheckpointError, match=r"no complete CLAP of LAION: it lacks text_model\.embeddings.*in all"):
        load_clap_text(source._replace(path=str(tmp_path / "clap.pt")))
    with pytest.raises(CheckpointError, match="holds no HTSAT audio encoder"):
        load_clap_audio(source._replace(path=str(tmp_path / "clap.pt")))
    assert len(recorded["state_dict"]) == len(stored)


def test_trained_text_encoder_is_saved_under_the_names_of_published_checkpoints(write_laion):
    source, recorded = write_laion("HTSAT-tiny-fusion")
    with torch.device("meta"):
        conditioner = CLAPTextConditioner(512, source.path, finetune=True)
    keys = {key.removeprefix("model.model.") for key in conditioner.state_dict()}
    assert keys == {key for key in recorded["state_dict"] if key.startswith(("text_branch.", "text_projection."))}
    with_leftovers = {
        f"model.model.{key}": torch.zeros(shape) for key, shape in recorded["state_dict"].items() if "audio_branch" not in key
    }
    conditioner.load_state_dict(with_leftovers, assign=True)  # strictly: what CLAP holds beside its text half is left out
    trained = {key for key, parameter in conditioner.named_parameters() if parameter.requires_grad}
    assert trained and all(key.startswith("model.model.text_branch.") for key in trained)


# ---- tokenizers, folders, and what is missing --------------------------------------------------------------------------------------


def test_hugging_face_folder(tiny, offline):
    from transformers import AutoTokenizer, ClapModel

    embedding, mask = CLAPTextConditioner(512, str(tiny))(WORDS, "cpu")
    tokens = AutoTokenizer.from_pretrained(tiny)(WORDS, padding="max_length", max_length=77, return_tensors="pt")
    model = ClapModel.from_pretrained(tiny).eval()
    with torch.no_grad():
        expected = model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
    torch.testing.assert_close(embedding[:, 0], expected, atol=1e-5, rtol=0)
    assert mask.shape == (3, 1)
    audio = CLAPAudioConditioner(512, str(tiny), enable_fusion=False)
    clip = 0.1 * torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = ClapAudio.features(load_clap_audio(audio.source), clip.mean(0, keepdim=True))
        expected = model.get_audio_features(features).pooler_output
    torch.testing.assert_close(audio([clip], "cpu").embedding[:, 0], expected, atol=1e-5, rtol=0)


def test_hidden_states_of_text(tiny):
    conditioner = CLAPTextConditioner(768, str(tiny), use_text_features=True, feature_layer_ix=-2)
    embedding, mask = conditioner(WORDS, "cpu")
    assert embedding.shape == (3, 77, 768) and mask.shape == (3, 77) and mask.dtype == torch.int64
    assert mask.sum(dim=1).tolist() == [len(text) + 2 for text in WORDS]
    assert embedding[mask == 0].any()  # padding is left as CLAP makes it
    alone = conditioner(WORDS[1:2], "cpu").embedding
    torch.testing.assert_close(alone[0], embedding[1], atol=1e-5, rtol=0)
    silenced = CLAPTextConditioner(8, str(tiny), use_text_features=True, padding_mode="zero")(WORDS, "cpu")
    assert not silenced.embedding[silenced.mask == 0].any()
    learned = CLAPTextConditioner(8, str(tiny), use_text_features=True, padding_mode="learned")
    assert torch.equal(learned(WORDS, "cpu").embedding[2, 5], learned.padding_embedding)


def test_frozen_clap_is_not_part_of_the_model_and_loaded_once(tiny, monkeypatch):
    conditioner = CLAPTextConditioner(8, str(tiny))
    conditioner(["a"], "cpu")
    assert set(conditioner.state_dict()) == {"proj_out.weight", "proj_out.bias"}
    monkeypatch.setattr("transformers.ClapTextModelWithProjection.from_pretrained", lambda *_, **__: pytest.fail("loaded again"))
    CLAPTextConditioner(16, str(tiny))(["b"], "cpu")


def test_tokenizer_beside_a_checkpoint_file(write_laion, tiny, offline, tmp_path):
    source, _ = write_laion("HTSAT-tiny-fusion")
    path = tmp_path / "clap.pt"
    path.symlink_to(source.path)
    assert source._replace(path=str(path)).tokenizer.name == "roberta-base"  # beside the link's target there is none
    with pytest.raises(CheckpointError, match=r"text encoder 'roberta-base': it is neither .* or put its tokenizer\.json and .* beside"):
        CLAPTextConditioner(512, str(path))(["a"], "cpu")
    hard = tmp_path / "other.pt"
    hard.hardlink_to(source.path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    assert CLAPTextConditioner(512, str(hard))(WORDS, "cpu").embedding.isfinite().all()


def test_without_network(offline):
    conditioner = CLAPTextConditioner(8, "nobody/no-such-clap")  # builds: nothing is loaded before it is used
    with pytest.raises(CheckpointError, match=r"'nobody/no-such-clap': it is neither a local folder.*or set clap_ckpt_path to a folder"):
        conditioner(["a"], "cpu")
    tokens = {"input_ids": torch.tensor([0, 2]), "attention_mask": torch.tensor([1, 1])}
    with pytest.raises(CheckpointError, match=r"CLAP 'nobody/no-such-clap': it is neither a local folder"):
        conditioner([tokens], "cpu")
    with pytest.raises(CheckpointError, match=r"/nowhere/clap\.pt: no such file"):
        CLAPTextConditioner(8, "/nowhere/clap.pt")([tokens], "cpu")
    with pytest.raises(CheckpointError, match=r"/nowhere/clap\.pt: no such file"):
        CLAPAudioConditioner(8, "/nowhere/clap.pt")([torch.zeros(1, 8)], "cpu")


# ---- audio -----------------------------------------------------------------------------------------------------------------------


def test_log_mel_is_that_of_the_published_extractor(fill):
    from transformers import ClapFeatureExtractor

    clip = fill.waveform()
    for slaney, truncation in ((True, "rand_trunc"), (False, "fusion")):
        extractor = ClapFeatureExtractor(frequency_min=50, frequency_max=14_000, truncation=truncation)
        expected = torch.as_tensor(extractor(clip[0].numpy(), sampling_rate=48_000, return_tensors="pt")["input_features"])[0, 0].float()
        ours, is_loud = log_mel(clip, slaney=slaney)[0], expected > expected.max() - 80  # below, float32 has no digits left
        assert is_loud.float().mean() > 0.1
        torch.testing.assert_close(ours[is_loud], expected[is_loud], atol=0.01, rtol=0)


@pytest.mark.parametrize("seconds", [0.5, 3, 10, 10.005, 12, 45])
def test_clips_of_any_length(seconds):
    clip = torch.randn(1, int(48_000 * seconds), generator=torch.Generator().manual_seed(0))
    for fusion, views in ((False, 1), (True, 4)):
        audio = ClapAudio.__new__(ClapAudio)
        torch.nn.Module.__init__(audio)
        audio.enable_fusion = fusion
        features = audio.features(clip)
        assert features.shape == (1, views, CLIP_SAMPLES // 480 + 1, 64)
        assert torch.equal(features, audio.features(clip))


def test_a_short_clip_is_repeated(tiny):
    conditioner = CLAPAudioConditioner(8, str(tiny), enable_fusion=False)
    clip = torch.randn(1, 48_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(conditioner([clip], "cpu").embedding, conditioner([clip.repeat(1, 5)], "cpu").embedding)


def test_audio_of_another_rate_is_resampled(tiny):
    conditioner = CLAPAudioConditioner(8, str(tiny), enable_fusion=False, sample_rate=24_000)
    t = torch.arange(240_000) / 24_000
    slow = torch.sin(2 * torch.pi * 440 * t)[None]
    fast = torch.sin(2 * torch.pi * 440 * torch.arange(480_000) / 48_000)[None]
    expected = CLAPAudioConditioner(8, str(tiny), enable_fusion=False)
    expected.load_state_dict(conditioner.state_dict())
    torch.testing.assert_close(conditioner([slow], "cpu").embedding, expected([fast], "cpu").embedding, atol=0.02, rtol=0)


@pytest.mark.parametrize("value", ["a.wav", torch.zeros(8), torch.zeros(2, 1, 8), torch.zeros(1, 0)])
def test_what_is_no_clip(tiny, value):
    with pytest.raises(DataError, match=r"conditioner 'clap_audio': expected a tensor \(channels, samples\) per item, got"):
        CLAPAudioConditioner(8, str(tiny))([value], "cpu")


def test_gradient_reaches_a_trained_audio_encoder(tiny):
    conditioner = CLAPAudioConditioner(8, str(tiny), finetune=True)
    assert any(key.startswith("model.") for key in conditioner.state_dict())
    conditioner([torch.randn(1, 4800)], "cpu").embedding.sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in conditioner.model.parameters())


def test_conversion_splits_query_key_and_value():
    weight = torch.arange(12.0).view(6, 2)
    converted = convert_laion({"audio_branch.layers.1.blocks.0.attn.qkv.weight": weight})
    prefix = "audio_model.audio_encoder.layers.1.blocks.0.attention.self."
    assert set(converted) == {f"{prefix}{name}.weight" for name in ("query", "key", "value")}
    assert torch.equal(torch.cat([converted[f"{prefix}{name}.weight"] for name in ("query", "key", "value")]), weight)
