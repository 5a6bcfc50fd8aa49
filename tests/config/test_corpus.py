"""Every model config that was found in public: it builds, or is refused with one line per wrong key, for a reason that is listed here."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio_tools import create_model_from_config
from stable_audio_tools.config.check import check_source
from stable_audio_tools.config.source import read_source
from stable_audio_tools.errors import CheckpointError, ConfigError
from stable_audio_tools.models.layers.parameters import without_weights

NAMES = [
    "AmandineBtto__FLAC__src-configs-model_configs-FLAC-AR-FLAC_AR_VAECtxt",
    "AmandineBtto__FLAC__src-configs-model_configs-VAE-VAE",
    "Ceaglex__stable-v2a__stable_audio_tools-configs-model_config_cc",
    "Ceaglex__stable-v2a__stable_audio_tools-configs-model_config_gc16000",
    "FunAudioLLM__ThinkSound__PrismAudio-configs-model_configs-prismaudio",
    "FunAudioLLM__ThinkSound__PrismAudio-configs-model_configs-thinksound",
    "Gab404__my-LoRAW__examples-model_config",
    "IshaanGakhar__stable-audio-tools__stable_audio_tools-configs-model_configs-txt2audio-stable_audio_2_0",
    "MAz-Codes__Fragmenta__models-config-model_config_small",
    "SaiThanhma__Controllable-Audio-Generation-from-Sonic-Imitations__stable_audio_tools-configs-model_configs-sketch2sound-s2s_impl",
    "SelenaGeRuiqi__stable-audio-tools__configs-corrected_model_config",
    "SelenaGeRuiqi__stable-audio-tools__configs-model_config",
    "Stability-AI__stable-audio-tools__harmonai_tools-configs-model_configs-autoencoders-dac_128_32_rvq",
    "Stability-AI__stable-audio-tools__harmonai_tools-configs-model_configs-autoencoders-dac_512_32_vae_stereo_44k",
    "Stability-AI__stable-audio-tools__harmonai_tools-configs-model_configs-autoencoders-dac_512_64_stereoizer_vae_48k",
    "Stability-AI__stable-audio-tools__harmonai_tools-configs-model_configs-autoencoders-encodec_musicgen_memcodes",
    "Stability-AI__stable-audio-tools__harmonai_tools-configs-model_configs-dance_diffusion-dance_diffusion_base_fast_snake",
    "Stability-AI__stable-audio-tools__harmonai_tools-configs-model_configs-txt2audio-32k_vae_640_64_adp_t5_prompts_timing_30s",
    "Stability-AI__stable-audio-tools__harmonai_tools-configs-model_configs-txt2audio-44k_rvq_128_32_adp_t5_prompts",
    "Stability-AI__stable-audio-tools__sao_small-base_model_config",
    "Stability-AI__stable-audio-tools__stable_audio_tools-configs-model_configs-autoencoders-dac_1024_64_stereo_vae_44k_ft_dec",
    "Stability-AI__stable-audio-tools__stable_audio_tools-configs-model_configs-autoencoders-dac_2048_32_vae",
    "Stability-AI__stable-audio-tools__stable_audio_tools-configs-model_configs-autoencoders-encodec_musicgen_rvq",
    "Stability-AI__stable-audio-tools__stable_audio_tools-configs-model_configs-autoencoders-stable_audio_2_0_vae",
    "Stability-AI__stable-audio-tools__stable_audio_tools-configs-model_configs-latent_dance_diffusion-seanet_32_32_tanh_48k_ldd",
    "Stability-AI__stable-audio-tools__stable_audio_tools-configs-model_configs-test-FSQ_no_tan_w_CE",
    "Stability-AI__stable-audio-tools__stable_audio_tools-configs-model_configs-test-withTanh-oobleck-RVQ_config",
    "Stability-AI__stable-audio-tools__stable_audio_tools-configs-model_configs-test-withTanh-oobleck-ditheredFSQ_config",
    "Stability-AI__stable-audio-tools__stable_audio_tools-configs-model_configs-txt2audio-44k_vae_1024_64_stereo_adp_t5_prompts_12s_inpaint",
    "Stability-AI__stable-audio-tools__stable_audio_tools-configs-model_configs-txt2audio-musicgen_small_finetune",
    "Stability-AI__stable-audio-tools__stable_audio_tools-configs-model_configs-txt2audio-stable_audio_2_0",
    "Stability-AI__stable-audio-tools__stable_open_model_files-model_config",
    "Stability-AI__stable-audio-tools__vae_model_config",
    "Taikakim__stable-audio-tools-avp__configs-finetune-small_stage2_model_config",
    "Taikakim__stable-audio-tools-avp__models-checkpoints-small-base_model_config",
    "ZacharyNovack__flash-foley__stable_audio_tools-configs-model_configs-txt2audio-saos_base_rms2_pitch_centroid_inpaint_arc",
    "anonymous-project-code__lungtta_code__model_config",
    "askrbayern__stable-audio-codec__stable_audio_tools-configs-model_configs-test-OldRoundFSQ-withLM-ditheredFSQ128_config",
    "dada-bots__underfit__dashboard-models-sa3-medium-training_template",
    "dada-bots__underfit__dashboard-models-sa3-sm-music-training_template",
    "eduardo-escoto__audio-hyperencoder__configs-models-hyperencoder",
    "jnwnlee__stable-audio-tools__checkpoints-sao_small-model_config-original",
    "jxbb824__stable-audio-tools__model_config_freeze_vae",
    "lixinghe1999__stable-audio-tools__stable_audio_tools-configs-model_configs-txt2audio-stable_audio_3_0_master",
    "lucystrauss__MLMLMLM__stable_audio_tools-configs-model_configs-txt2audio-stable_audio_open_inpaint_config",
    "nazar12314__StableAudio__stable_audio_tools-configs-model_configs-autoencoders-stable_audio_2_0_vae",
    "ndrw1221__stable-audio-tools__stable_audio_tools-configs-model_configs-txt2audio-sao_pili-stable_audio_open_1_0_pili",
    "roibenita__Stable_Audio_ControlNet__stable_audio_tools-csa-old_config-csa_model_config_controlnet_encoder_outside",
    "sakemin__stable-audio-cvae__stable_audio_tools-configs-model_configs-autoencoders-stable_audio_1_0_conditional_vae",
    "sekstini__stable-audio-tools__stable_audio_tools-configs-model_configs-txt2audio-mamba_dac_44khz_1536d_24l_cond",
    "sekstini__stable-audio-tools__stable_audio_tools-configs-model_configs-txt2audio-mamba_vocos_24khz_1024d_48l",
    "sekstini__stable-audio-tools__stable_audio_tools-configs-model_configs-txt2audio-transformer",
    "yukara-ikemiya__friendly-stable-audio-tools__stable_audio_tools-configs-model_configs-txt2audio-stable_audio_open_1_0",
    "yynil__stable-audio-tools-rwkv__stable_audio_tools-configs-model_configs-txt2audio-stable_audio_2_0_rwkv",
    "zxxwxyyy__sonique__best_model",
]

# Configs with a type or key that no version of the reference knows, or that lack a required one; by the beginning of their name, with
# every place that is named when a model of them is asked for.
REFUSED = {
    "AmandineBtto__FLAC__src-configs-model_configs-FLAC": (
        "a fork's conditioners for images and distances",
        {f"conditioning.configs[{i}].type" for i in range(4)} | {"conditioning.configs[4].config.sample_size"},
    ),
    "Ceaglex__stable-v2a__stable_audio_tools-configs-model_config_cc": (
        "a fork's conditioners for video",
        {"diffusion.config.rotary_cond_emb", "conditioning.configs[0].type", "conditioning.configs[1].type"},
    ),
    "Ceaglex__stable-v2a__stable_audio_tools-configs-model_config_gc16000": (
        "a fork's conditioner for video",
        {"diffusion.config.rotary_cond_emb", "conditioning.configs[0].type"},
    ),
    "FunAudioLLM__ThinkSound__PrismAudio-configs-model_configs-prismaudio": (
        "a fork's transformer and conditioners for video",
        {f"diffusion.config.{key}" for key in ("attn_kwargs.qk_norm", "add_token_dim", "sync_token_dim", "use_gated", "use_sync_gated")}
        | {f"conditioning.configs[{i}].type" for i in range(3)},
    ),
    "FunAudioLLM__ThinkSound__PrismAudio-configs-model_configs-thinksound": ("a fork's model type", {"model_type"}),
    "IshaanGakhar": ("a fork's conditioners for lyrics and voices", {"conditioning.configs[3].type", "conditioning.configs[4].type"}),
    "SaiThanhma": ("no model_type", {"model_type"}),
    "SelenaGeRuiqi__stable-audio-tools__configs-corrected": ("keys in the wrong place", {"diffusion", "io_channels"}),
    "SelenaGeRuiqi__stable-audio-tools__configs-model_config": (
        "keys of another library",
        {"diffusion.config.adm_in_channels", "diffusion.config.context_embedder_config"},
    ),
    "Stability-AI__stable-audio-tools__harmonai_tools-configs-model_configs-autoencoders-encodec_musicgen_memcodes": (
        "a bottleneck from before the first version",
        {"bottleneck.type"},
    ),
    "ZacharyNovack": (
        "a fork's conditions added to the input",
        {"diffusion.config.input_add_dims"} | {f"conditioning.configs[{i}].type" for i in range(2, 5)},
    ),
    "anonymous-project-code": (
        "a fork's memory",
        {"diffusion.cross_attention_cond_ids[3]", "diffusion.config.gating", "diffusion.config.se"},
    ),
    "askrbayern": ("a fork's bottleneck", {"bottleneck.type"}),
    "eduardo-escoto": ("a fork's model type", {"model_type"}),
    "roibenita": ("a fork's model type", {"model_type"}),
    "sakemin": ("a fork's model type", {"model_type"}),
    "sekstini__stable-audio-tools__stable_audio_tools-configs-model_configs-txt2audio-mamba_dac": (
        "a fork's language model",
        {"lm.type"},
    ),
    "sekstini__stable-audio-tools__stable_audio_tools-configs-model_configs-txt2audio-mamba_vocos": (
        "a fork's language model and codec",
        {"pretransform.type", "lm.type"},
    ),
    "sekstini__stable-audio-tools__stable_audio_tools-configs-model_configs-txt2audio-transformer": (
        "a type of language model that no factory of the reference takes",
        {"lm.type"},
    ),
    "yynil": ("a fork's backbone and pretransform", {"diffusion.type", "pretransform.type"}),
}
DOWNLOADS = {"txt2audio-musicgen_small_finetune": "facebook/musicgen-small"}  # end of the name -> what the message names

# What building a model leaves out with a warning, and checking it calls a mistake: keys of forks, and notes, that the reference ignores.
FOREIGN = re.compile(
    r"^(lora|variable_length|fps|training\.(batch_size|model_type|rate_loss_weight|lm_config|metrics\.(eval_\w+|dataset_name|ref_audios_path)|song_describer_eval|logging|"
    r"eval_loss_configs\.metrics|"
    r"checkpoint|tqdm|demo\.enabled|demo\.log_duration|loss_configs\.spectral\.config\.w_ed|validation_timesteps))(\.|$)"
)


def short(name: str) -> str:
    return f"{name.split('__')[0]}-{name.rpartition('-configs-')[2].rpartition('__')[2]}"


def by_prefix(table: dict[str, Any], name: str) -> Any:
    matches = [key for key in table if name.startswith(key)]
    return table[max(matches, key=len)] if matches else None


@pytest.fixture
def folder(shared: Path) -> Path:
    return shared / "corpus" / "model_configs"


@pytest.fixture
def offline(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


def build(path: Path) -> torch.nn.Module:
    with without_weights():
        return create_model_from_config(json.loads(path.read_text(encoding="utf-8")))


def attempt(path: Path) -> tuple[torch.nn.Module | None, ConfigError | CheckpointError | None]:
    try:
        return build(path), None
    except (ConfigError, CheckpointError) as error:
        return None, error


def test_the_list_is_complete(folder: Path) -> None:
    assert sorted(path.stem for path in folder.glob("*.json")) == sorted(NAMES)
    assert all(sum(name.startswith(key) for name in NAMES) for key in REFUSED)


@pytest.mark.parametrize("name", NAMES, ids=short)
@pytest.mark.usefixtures("offline")
def test_builds_or_is_refused_for_the_listed_reason(folder: Path, name: str) -> None:
    path = folder / f"{name}.json"
    refused = by_prefix(REFUSED, name)
    download = next((wanted for end, wanted in DOWNLOADS.items() if name.endswith(end)), None)
    model, failure = attempt(path)
    if isinstance(failure, CheckpointError):
        assert download is not None and repr(download) in str(failure)
        return
    if failure is not None:
        lines = str(failure).splitlines()
        assert refused is not None, str(failure)
        places = [line.removeprefix("model config: ").split(": ")[0].removeprefix("model.") for line in lines]
        assert sorted(places) == sorted(refused[1]), refused[0]
        return
    assert refused is None, f"builds, but is listed as refused: {refused}"
    assert download is None, f"builds without {download}"
    assert model is not None
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {buffer.device.type for buffer in model.buffers()} <= {"cpu"}  # tables that no checkpoint holds are real


@pytest.mark.parametrize("name", [name for name in NAMES if by_prefix(REFUSED, name) is None], ids=short)
def test_check_objects_only_to_what_no_version_knows(folder: Path, name: str) -> None:
    source = read_source(folder / f"{name}.json")
    mistakes = [mistake for mistake in check_source(source) if mistake.kind != "warning"]
    unexplained = [m for m in mistakes if not FOREIGN.match(m.path)]
    assert unexplained == []
    lines = source.report(mistakes)
    assert all(sum(f" {mistake.path}: " in line for line in lines) == 1 for mistake in mistakes)  # one line each, which names the key


# ---- released models ---------------------------------------------------------------------------------------------------------------


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "name",
    [
        "Stability-AI__stable-audio-tools__sao_small-base_model_config",
        "jnwnlee__stable-audio-tools__checkpoints-sao_small-model_config-original",
    ],
    ids=short,
)
def test_open_small_has_the_released_tensors(shared: Path, folder: Path, name: str) -> None:
    with (shared / "corpus" / "state-dict-keys-stable-audio-open-small.csv").open(encoding="utf-8") as file:
        released = {row["key"]: tuple(int(size) for size in row["shape"].split("x") if size) for row in csv.DictReader(file)}
    assert shapes(build(folder / f"{name}.json")) == released


def test_open_1_0_has_the_released_tensors(folder: Path) -> None:
    """Names and shapes that public converters of the released file state."""
    built = shapes(build(folder / "Stability-AI__stable-audio-tools__stable_open_model_files-model_config.json"))
    dit, layer = "model.model.", "model.model.transformer.layers.23."
    expected = {
        f"{dit}timestep_features.weight": (128, 1),
        f"{dit}to_timestep_embed.0.weight": (1536, 256),
        f"{dit}to_cond_embed.0.weight": (768, 768),
        f"{dit}to_cond_embed.2.weight": (768, 768),
        f"{dit}to_global_embed.0.weight": (1536, 1536),
        f"{dit}preprocess_conv.weight": (64, 64, 1),
        f"{dit}postprocess_conv.weight": (64, 64, 1),
        f"{dit}transformer.project_in.weight": (1536, 64),
        f"{dit}transformer.project_out.weight": (64, 1536),
        f"{dit}transformer.rotary_pos_emb.inv_freq": (16,),
        f"{layer}pre_norm.gamma": (1536,),
        f"{layer}pre_norm.beta": (1536,),
        f"{layer}cross_attend_norm.beta": (1536,),
        f"{layer}ff_norm.beta": (1536,),
        f"{layer}self_attn.to_qkv.weight": (4608, 1536),
        f"{layer}self_attn.to_out.weight": (1536, 1536),
        f"{layer}cross_attn.to_q.weight": (1536, 1536),
        f"{layer}cross_attn.to_kv.weight": (1536, 768),
        f"{layer}cross_attn.to_out.weight": (1536, 1536),
        f"{layer}ff.ff.0.proj.weight": (12288, 1536),
        f"{layer}ff.ff.0.proj.bias": (12288,),
        f"{layer}ff.ff.2.weight": (1536, 6144),
        "pretransform.model.encoder.layers.0.weight_g": (128, 1, 1),
        "pretransform.model.encoder.layers.7.weight_v": (128, 2048, 3),
        "pretransform.model.encoder.layers.5.layers.2.layers.3.weight_v": (1024, 1024, 1),
        "pretransform.model.decoder.layers.1.layers.1.weight_g": (2048, 1, 1),
        "pretransform.model.decoder.layers.1.layers.0.alpha": (2048,),
        "pretransform.model.decoder.layers.7.weight_v": (2, 128, 7),
    }
    assert {key: built.get(key) for key in expected} == expected
    assert not [key for key in built if "q_norm" in key or "k_norm" in key]
    assert "pretransform.model.decoder.layers.7.bias" not in built
    assert not [key for key in built if key.startswith(f"{dit}transformer.layers.24.")]
    numbers = {}
    for name in ("seconds_start", "seconds_total"):
        prefix = f"conditioner.conditioners.{name}.embedder.embedding."
        numbers |= {f"{prefix}0.weights": (128,), f"{prefix}1.weight": (768, 257), f"{prefix}1.bias": (768,)}
    assert {key: shape for key, shape in built.items() if key.startswith("conditioner.")} == numbers  # and no text encoder
    autoencoder = {key for key in built if key.startswith("pretransform.")}
    assert len(autoencoder) == 365
    alone = shapes(build(folder / "Stability-AI__stable-audio-tools__vae_model_config.json"))
    assert autoencoder == {f"pretransform.model.{key}" for key in alone}
    assert {key.split(".")[0] for key in built} == {"model", "conditioner", "pretransform"}


def test_stable_audio_3_conditions_have_the_released_tensors(folder: Path) -> None:
    built = shapes(build(folder / "dada-bots__underfit__dashboard-models-sa3-medium-training_template.json"))
    prefix = "conditioner.conditioners."
    assert {key.removeprefix(prefix): shape for key, shape in built.items() if key.startswith(prefix)} == {
        "prompt.padding_embedding": (768,),
        "seconds_total.embedder.embedding.1.weight": (768, 256),
        "seconds_total.embedder.embedding.1.bias": (768,),
    }
