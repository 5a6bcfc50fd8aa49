"""What an autoencoder is trained with: the list of loss terms that its config asks for, in the order of published checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from stable_audio_tools.config.training.autoencoder import AutoencoderLosses
from stable_audio_tools.families import LOSSES
from stable_audio_tools.models.autoencoders.autoencoder import AudioAutoencoder
from stable_audio_tools.training.losses.bottleneck import create_loss_modules_from_bottleneck
from stable_audio_tools.training.losses.modules import AuralossLoss, L1Loss, LossModule, LossWithTarget, MSELoss, MultiLoss, ValueLoss

SCALES = (2048, 1024, 512, 256, 128, 64, 32)
DEFAULT_LOSSES: dict[str, Any] = {
    "discriminator": {
        "type": "encodec",
        "config": {"filters": 32, "n_ffts": list(SCALES), "hop_lengths": [n // 4 for n in SCALES], "win_lengths": list(SCALES)},
        "weights": {"adversarial": 0.1, "feature_matching": 5.0},
    },
    "spectral": {
        "config": {
            "fft_sizes": list(SCALES), "hop_sizes": [n // 4 for n in SCALES], "win_lengths": list(SCALES), "perceptual_weighting": True,
        },
        "weights": {"mrstft": 1.0},
    },
    "time": {"weights": {"l1": 0.0}},
}  # fmt: skip
DISTILLED = {  # term -> what is compared with what; the teacher decodes the student's latents, and the student the teacher's
    "mrstft_loss": ("decoded", "reals"),
    "mrstft_loss_distill": ("decoded", "teacher_decoded"),
    "mrstft_loss_own_latents_teacher": ("own_latents_teacher_decoded", "reals"),
    "mrstft_loss_teacher_latents_own": ("teacher_latents_own_decoded", "reals"),
}


def generator_losses(
    losses: AutoencoderLosses, autoencoder: AudioAutoencoder, *, whole: nn.Module, each: nn.Module, has_teacher: bool
) -> MultiLoss:
    """The autoencoder's terms. They read ``reals`` and ``decoded``, ``loss_adv`` and ``feature_matching_distance``, and the bottleneck's.

    With two channels also ``reals_left`` and so on; with a teacher also ``latents``, ``teacher_latents`` and what `DISTILLED` names.

    Args:
        losses: What the config asks for.
        autoencoder: The model.
        whole: Spectral distance of all channels together.
        each: Spectral distance of one channel.
        has_teacher: Whether there is a teacher, which replaces the comparison of single channels.
    """
    terms: list[LossModule] = []
    if losses.discriminator is not None:
        weights = losses.discriminator.weights
        terms.append(ValueLoss("loss_adv", "loss_adv", weights.adversarial))
        terms.append(ValueLoss("feature_matching_distance", "feature_matching_loss", weights.feature_matching))
    weight, decay = losses.spectral.weights.mrstft, losses.spectral.decay
    if has_teacher:
        weight /= 4
        terms.append(MSELoss("teacher_latents", "latents", weight, name="latent_distill_loss"))
        terms += [AuralossLoss(whole, target, mine, name, weight, decay) for name, (mine, target) in DISTILLED.items()]
    else:
        terms.append(AuralossLoss(whole, "reals", "decoded", "mrstft_loss", weight, decay))
        if autoencoder.out_channels == 2:
            for side in ("left", "right"):
                terms.append(AuralossLoss(each, f"reals_{side}", f"decoded_{side}", f"stft_loss_{side}", weight / 2, decay))
    terms += _further(losses, autoencoder.sample_rate)
    configured = losses.model_dump(include={"bottleneck"}, exclude_none=True)
    return MultiLoss([*terms, *create_loss_modules_from_bottleneck(autoencoder.bottleneck, configured)])


def _further(losses: AutoencoderLosses, sample_rate: int) -> Iterator[LossModule]:
    """Mel, semantic and time terms."""
    if losses.mrmel is not None and losses.mrmel.weights.mrmel > 0:
        mel = LOSSES.build("mel", losses.mrmel.config, sample_rate=sample_rate)
        yield LossWithTarget(mel, "reals", "decoded", "mrmel_loss", losses.mrmel.weights.mrmel, losses.mrmel.decay)
    if losses.hubert is not None and losses.hubert.weights.hubert > 0:
        hubert = LOSSES.build("hubert", losses.hubert.config, sample_rate=sample_rate)
        yield LossWithTarget(hubert, "decoded", "reals", "hubert_loss", losses.hubert.weights.hubert, losses.hubert.decay)
    if losses.time is not None:
        weights, decay = losses.time.weights, losses.time.decay
        if weights.l1 > 0:
            yield L1Loss("reals", "decoded", weights.l1, name="l1_time_loss", decay=decay)
        if weights.l2 > 0:
            yield MSELoss("reals", "decoded", weights.l2, name="l2_time_loss", decay=decay)
