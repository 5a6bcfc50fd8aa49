"""CLAP: text and audio encoders that share a space, read from Hugging Face folders and from LAION's checkpoints.

Source: Wu et al. 2022, "Large-scale contrastive language-audio pretraining with feature fusion and keyword-to-caption augmentation",
arXiv:2211.06687. The networks are those of ``transformers``; LAION's checkpoints hold the same weights under other names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.checkpoint import StateDict, read_checkpoint
from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.models.conditioners.pretrained import Source, fetch
from stable_audio_tools.models.layers.parameters import is_without_weights, without_weights

SAMPLE_RATE = 48_000
CLIP_SAMPLES = 480_000  # what the audio encoder sees: 10 s
N_FFT, HOP_SAMPLES, NUM_MELS = 1024, 480, 64
MAX_TOKENS = 77
TEXT_WIDTH, EMBEDDING_WIDTH = 768, 512
AUDIO_MODELS = {"HTSAT-tiny": (96, (2, 2, 6, 2)), "HTSAT-base": (128, (2, 2, 12, 2)), "HTSAT-large": (256, (2, 2, 12, 2))}  # width, depths


class ClapSource(NamedTuple):
    """A CLAP and where it comes from; hashable.

    Attributes:
        path: A checkpoint file of LAION, a folder in Hugging Face layout, or a Hugging Face id.
        audio_model_type: Size of the audio encoder, for checkpoint files: a key of `AUDIO_MODELS`.
        enable_fusion: Whether the audio encoder fuses several views of long clips, for checkpoint files.
    """

    path: str
    audio_model_type: str
    enable_fusion: bool

    @property
    def is_file(self) -> bool:
        """Whether it is a checkpoint file of LAION."""
        return Path(self.path).is_file() or Path(self.path).suffix in (".pt", ".pth", ".ckpt", ".bin", ".safetensors")

    @property
    def hub(self) -> Source:
        """The Hugging Face folder or id."""
        return Source.given(clap_ckpt_path=self.path)

    @property
    def tokenizer(self) -> Source:
        """Where its tokenizer comes from: the folder of a checkpoint file, if there is one, else the published tokenizer of RoBERTa."""
        if not self.is_file:
            return self.hub
        folder = Path(self.path).resolve().parent
        if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            return Source.given(clap_ckpt_path=str(folder))
        return Source("roberta-base", f"put its tokenizer.json and tokenizer_config.json beside {self.path}")


class ClapText(nn.Module):
    """The text half. Its keys are those of LAION's checkpoints.

    Args:
        text_branch: Encoder: tokens to hidden states and a pooled vector.
        text_projection: Pooled vector to the shared space.
    """

    UNUSED = (
        "text_transform",
        "audio_transform",
        "audio_projection",
        "logit_scale_a",
        "logit_scale_t",
    )  # stored beside a trained text half

    def __init__(self, text_branch: nn.Module, text_projection: nn.Module) -> None:
        super().__init__()
        self.text_branch = text_branch
        self.text_projection = nn.Sequential(text_projection.get_submodule("linear1"), nn.ReLU(), text_projection.get_submodule("linear2"))
        embeddings = text_branch.get_submodule("embeddings")
        for name, buffer in list(embeddings.named_buffers(recurse=False)):  # counters; LAION's checkpoints do not have them
            embeddings.register_buffer(name, buffer, persistent=False)

    def hidden_states(self, ids: Tensor, mask: Tensor, layer: int) -> Tensor:
        """Tokens (B, S) -> output of a layer (B, S, 768); layer 0 is the embedding of tokens, -1 the last."""
        return self.text_branch(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[layer]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, S) -> embedding (B, 512) of length 1."""
        pooled = self.text_branch(input_ids=ids, attention_mask=mask).pooler_output
        return F.normalize(self.text_projection(pooled), dim=-1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in [key for key in state_dict if key.removeprefix(prefix).split(".")[0] in self.UNUSED or key.endswith(".position_ids")]:
            del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)


class ClapAudio(nn.Module):
    """The audio half.

    Args:
        model: ``transformers.ClapAudioModelWithProjection``.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.enable_fusion = bool(model.config.enable_fusion)

    def forward(self, audio: Tensor) -> Tensor:
        """Clips (B, T) at 48 kHz, of any length -> embedding (B, 512) of length 1.

        Shorter clips are repeated to 10 s, as LAION does. Of longer ones, a model without fusion hears the first 10 s, one with fusion
        hears all, shrunk, and three pieces of 10 s; LAION chooses at random which, here they are evenly spread, so that the same clip
        always has the same embedding.
        """
        features = self.features(audio)
        is_longer = torch.ones(len(features), 1, dtype=torch.bool, device=features.device) if self.enable_fusion else None
        # With fusion every clip takes the fused path, as a short clip does in LAION's code when it is alone in its batch.
        pooled = self.model.audio_model(input_features=features, is_longer=is_longer).pooler_output
        return F.normalize(self.model.audio_projection(pooled), dim=-1)

    def features(self, audio: Tensor) -> Tensor:
        """Clips (B, T) -> log-mel spectrograms (B, 1, 1001, 64); with fusion four views each (B, 4, 1001, 64)."""
        if audio.shape[-1] < CLIP_SAMPLES:
            audio = audio.repeat(1, CLIP_SAMPLES // audio.shape[-1])
            audio = F.pad(audio, (0, CLIP_SAMPLES - audio.shape[-1]))  # (B, 480000)
        if not self.enable_fusion:
            return log_mel(audio[:, :CLIP_SAMPLES], slaney=True)[:, None]  # (B, 1, 1001, 64)
        mel = log_mel(audio, slaney=False)[:, None]  # (B, 1, N, 64)
        frames = CLIP_SAMPLES // HOP_SAMPLES + 1
        if mel.shape[2] == frames:
            return mel.expand(-1, 4, -1, -1)
        shrunk = F.interpolate(mel, size=(frames, NUM_MELS), mode="bilinear", align_corners=False)
        latest = mel.shape[2] - frames
        pieces = [mel[:, :, start : start + frames] for start in (latest // 6, latest // 2, latest - latest // 6)]
        return torch.cat([shrunk, *pieces], dim=1)  # (B, 4, 1001, 64)


def log_mel(audio: Tensor, *, slaney: bool) -> Tensor:
    """Power in decibels over time and mel frequency: (B, T) -> (B, T // 480 + 1, 64).

    Args:
        audio: (B, T) at 48 kHz.
        slaney: Bands as librosa makes them (models without fusion), instead of torchaudio's (with fusion).
    """
    window = torch.hann_window(N_FFT, dtype=audio.dtype, device=audio.device)
    spectrum = torch.stft(audio, N_FFT, HOP_SAMPLES, window=window, center=True, pad_mode="reflect", return_complex=True)  # (B, F, N)
    power = spectrum.abs().square().transpose(1, 2) @ _mel_bands(slaney).to(audio)  # (B, N, 64)
    return 10 * power.clamp(min=1e-10).log10()


@lru_cache(maxsize=2)
def _mel_bands(slaney: bool) -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    kind: Any = {"norm": "slaney", "mel_scale": "slaney"} if slaney else {"norm": None, "mel_scale": "htk"}
    bands = mel_filter_bank(
        num_frequency_bins=N_FFT // 2 + 1,
        num_mel_filters=NUM_MELS,
        min_frequency=50,
        max_frequency=14_000,
        sampling_rate=SAMPLE_RATE,
        **kind,
    )
    return torch.from_numpy(bands).float()  # (F, 64)


# ---- loading ------------------------------------------------------------------------------------------------------------------------


def load_clap_text(source: ClapSource) -> ClapText:
    """A new copy of the text half.

    Raises:
        CheckpointError: If there is none, or it lacks a tensor.
    """
    from transformers import ClapTextConfig, ClapTextModelWithProjection

    if source.is_file or is_without_weights():
        with without_weights():
            model = ClapTextModelWithProjection(ClapTextConfig(layer_norm_eps=1e-5))
        if not is_without_weights():
            _fill(model, _laion_tensors(source, "text_"), source)
    else:
        model = _from_folder(ClapTextModelWithProjection, source)
    return ClapText(model.text_model, model.text_projection)


def load_clap_audio(source: ClapSource) -> ClapAudio:
    """A new copy of the audio half.

    Raises:
        CheckpointError: If there is none, it lacks a tensor, or it is of another size than the source says.
    """
    from transformers import ClapAudioConfig, ClapAudioModelWithProjection

    if not source.is_file and not is_without_weights():
        return ClapAudio(_from_folder(ClapAudioModelWithProjection, source))
    width, depths = AUDIO_MODELS[source.audio_model_type]
    config: Any = ClapAudioConfig(
        patch_embeds_hidden_size=width, depths=list(depths), hidden_size=8 * width, enable_fusion=source.enable_fusion
    )
    with without_weights():
        model = ClapAudioModelWithProjection(config)
    if not is_without_weights():
        tensors = _laion_tensors(source, "audio_")
        _require_size(tensors, source)
        _fill(model, tensors, source)
    return ClapAudio(model)


def _from_folder(loader: Any, source: ClapSource) -> Any:
    model, info = fetch(loader, source.hub, what="CLAP", output_loading_info=True)
    if info["missing_keys"]:
        raise CheckpointError(f"{source.path}: is no CLAP in Hugging Face layout: it lacks {_some(info['missing_keys'])}")
    return model


def _laion_tensors(source: ClapSource, half: str) -> StateDict:
    """One half of a checkpoint file under the names of ``transformers``."""
    stored = read_checkpoint(source.path).state_dict
    tensors = {key.removeprefix("module."): tensor for key, tensor in stored.items()}
    return convert_laion({key: tensor for key, tensor in tensors.items() if key.startswith(half)})


# Tables that the networks compute themselves, a classifier that the embedding does not use, and heads that only LAION's training used.
DROPPED = re.compile(
    r"audio_branch\.(spectrogram_extractor|logmel_extractor|tscam_conv|head)\.|\.(attn_mask|relative_position_index)$"
    r"|^(text|audio)_transform\.|embeddings\.(position|token_type)_ids$"
)
RENAMED = (
    (r"^text_branch\.", "text_model."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
    (r"_projection\.0\.", "_projection.linear1."),
    (r"_projection\.2\.", "_projection.linear2."),
    (r"\.bn0\.", ".batch_norm."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention.self."),
)


def convert_laion(tensors: Mapping[str, Tensor]) -> StateDict:
    """LAION's names (without ``module.``) to those of ``transformers``; what `DROPPED` matches is left out.

    >>> convert_laion({"text_projection.0.bias": torch.zeros(2), "audio_branch.head.bias": torch.zeros(2)})
    {'text_projection.linear1.bias': tensor([0., 0.])}
    """
    converted: StateDict = {}
    for key, tensor in tensors.items():
        if DROPPED.search(key):
            continue
        for pattern, replacement in RENAMED:
            key = re.sub(pattern, replacement, key)
        if ".self.qkv." in key:
            for name, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                converted[key.replace("qkv", name)] = part
        else:
            converted[key] = tensor
    return converted


def _require_size(tensors: StateDict, source: ClapSource) -> None:
    """Say what a checkpoint is when the config says another size."""
    encoder = "audio_model.audio_encoder."
    weight = tensors.get(f"{encoder}patch_embed.proj.weight")
    if weight is None:
        raise CheckpointError(f"{source.path}: holds no HTSAT audio encoder; is it a CLAP of LAION?")
    depth = 1 + max(
        (int(found[1]) for key in tensors if (found := re.match(rf"{re.escape(encoder)}layers\.2\.blocks\.(\d+)\.", key))), default=0
    )
    has_fusion = f"{encoder}patch_embed.mel_conv2d.weight" in tensors
    names = [name for name, (width, depths) in AUDIO_MODELS.items() if (width, depths[2]) == (weight.shape[0], depth)]
    found = names[0] if names else f"an HTSAT of width {weight.shape[0]} and depth {depth}"
    if (found, has_fusion) != (source.audio_model_type, source.enable_fusion):
        raise CheckpointError(
            f"{source.path}: is {found} {'with' if has_fusion else 'without'} fusion, but the config says audio_model_type "
            f"{source.audio_model_type!r} and enable_fusion {str(source.enable_fusion).lower()}"
        )


def _fill(model: nn.Module, tensors: StateDict, source: ClapSource) -> None:
    """Load completely. Buffers that the network computes itself may be missing."""
    buffers = {name for name, _ in model.named_buffers() if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    missing, unexpected = model.load_state_dict(tensors, strict=False, assign=True)
    missing = [name for name in missing if name not in buffers]
    if missing or unexpected:
        problems = [f"{what} {_some(names)}" for what, names in (("it lacks", missing), ("it has unknown", unexpected)) if names]
        raise CheckpointError(f"{source.path}: is no complete CLAP of LAION: {'; '.join(problems)}")


def _some(names: Iterable[str], limit: int = 4) -> str:
    names = sorted(names)
    return ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
