"""AudioLanguageModelTrainingWrapper: trains language models on the tokens of audio.

Letters: B batch, K codebooks, T tokens per codebook, V codebook size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.config.model import LMConfig, MusicgenConfig
from stable_audio_tools.config.training.lm import LMTraining
from stable_audio_tools.errors import DataError
from stable_audio_tools.families import WRAPPERS
from stable_audio_tools.models.lm.model import LMOutput
from stable_audio_tools.models.lm.wrapper import AudioLanguageModelWrapper
from stable_audio_tools.training.base import TrainingWrapper, padding_mask_of, unbatch
from stable_audio_tools.training.ema import EMA
from stable_audio_tools.training.schedulers import optimizer_and_schedule
from stable_audio_tools.training.sections import takes_keys_of


class TokenLoss(NamedTuple):
    """The cross-entropy of predicted tokens.

    Attributes:
        loss: Mean of the codebooks'.
        per_codebook: (K,)
    """

    loss: Tensor
    per_codebook: Tensor


def token_loss(output: LMOutput, codes: Tensor, mask: Tensor | None = None) -> TokenLoss:
    """How surprised a model is by tokens, in nats per token.

    Args:
        output: What it says about them.
        codes: (B, K, T)
        mask: (B, T), False on padding; tokens that the pattern does not predict are left out anyway.
    """
    counted = _counted(output, mask)
    logits = torch.where(counted[..., None], output.logits, 0.0).float()  # undefined ones are NaN
    surprise = F.cross_entropy(logits.flatten(0, 2), codes.flatten(), reduction="none").view_as(codes)
    per_codebook = (surprise * counted).sum(dim=(0, 2)) / counted.sum(dim=(0, 2)).clamp(min=1)  # (K,)
    return TokenLoss(per_codebook.mean(), per_codebook)


def _counted(output: LMOutput, mask: Tensor | None) -> Tensor:
    """Which tokens count, (B, K, T)."""
    return output.mask if mask is None else output.mask & mask[:, None]


@takes_keys_of(LMTraining, "training", renamed={"lr": "learning_rate"}, ignored=("ema_copy",))
class AudioLanguageModelTrainingWrapper(TrainingWrapper):
    """Trains an `AudioLanguageModelWrapper`: language model and conditioners. Its codec is frozen.

    Args:
        model: The model.
        training: The ``training`` section of its config. Its keys may be given as keywords instead, ``learning_rate`` as ``lr`` too;
            ``ema_copy`` has no effect: the average starts as a copy of ``model``.
    """

    model_prefix = "model"
    reproduced = "the batch's tokens (the share that the model does not predict)"

    def __init__(self, model: AudioLanguageModelWrapper, training: LMTraining) -> None:
        super().__init__()
        nn.Module.__setattr__(self, "model", model)  # checkpoints call it so, as does the base class its property
        self.training_config = training
        if training.use_ema:
            self.ema_prefix = "model_ema"
            self.model_ema = EMA(model, beta=0.99, power=2 / 3, update_every=10, update_after_step=100)

    @property
    def model(self) -> AudioLanguageModelWrapper:
        """The model that is trained."""
        model = self._modules["model"]
        assert isinstance(model, AudioLanguageModelWrapper)
        return model

    def frozen_modules(self) -> Iterator[nn.Module]:
        yield self.model.pretransform

    def configure_optimizers(self) -> Any:
        """As configured, or AdamW at ``learning_rate``."""
        configs = self.training_config.optimizer_configs
        options = {"lr": self.training_config.learning_rate, "betas": [0.9, 0.95], "weight_decay": 0.1}
        chosen = configs.lm.model_dump() if configs else {"optimizer": {"type": "AdamW", "config": options}}
        return optimizer_and_schedule(chosen, self.model)

    def tokens_of(self, reals: Tensor) -> Tensor:
        """Audio (B, C, T'), or tokens if the data is pre-encoded -> tokens (B, K, T)."""
        model, pre_encoded = self.model, self.training_config.pre_encoded
        wanted = model.num_quantizers if pre_encoded else model.io_channels
        what = (
            f"tokens (pre_encoded is true) of {wanted} codebooks" if pre_encoded else f"audio (pre_encoded is false) of {wanted} channels"
        )
        if reals.shape[1] != wanted:
            raise DataError(
                f"the model expects {what}, but the dataset gives {reals.shape[1]}; does training.pre_encoded agree with the dataset_type, "
                "and audio_channels with the model?"
            )
        return reals.long() if pre_encoded else model.tokenize(reals)

    def predict(self, batch: Any, cfg_dropout_prob: float) -> tuple[LMOutput, Tensor, Tensor | None]:
        """What the model says about a batch, its tokens (B, K, T), and which are not padding, (B, T)."""
        reals, metadata = unbatch(batch)
        codes = self.tokens_of(reals)
        conditioner = self.model.conditioner
        conditions = conditioner(metadata, self.device) if conditioner is not None else None
        output = self.model.compute_logits(codes, conditions, cfg_dropout_prob=cfg_dropout_prob)
        return output, codes, padding_mask_of(metadata, codes.shape[-1], codes.device)

    def compute_loss(self, batch: Any, cfg_dropout_prob: float) -> TokenLoss:
        """The loss of one batch."""
        return token_loss(*self.predict(batch, cfg_dropout_prob))

    def reproduction_error(self, batch: Any) -> Tensor:
        output, codes, mask = self.predict(batch, self.training_config.cfg_dropout_prob)
        return (output.logits.argmax(dim=-1) != codes)[_counted(output, mask)].float().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        result = self.compute_loss(batch, self.training_config.cfg_dropout_prob)
        loss, per_codebook = result.loss.detach(), result.per_codebook.detach()
        logs = {"train/loss": loss, "train/cross_entropy": loss, "train/perplexity": loss.exp()}
        for index, value in enumerate(per_codebook):
            logs |= {f"cross_entropy_q{index + 1}": value, f"perplexity_q{index + 1}": value.exp()}
        optimizers = self.trainer.optimizers
        if optimizers:
            logs["train/lr"] = torch.tensor(optimizers[0].param_groups[0]["lr"])
        self.log_dict(logs, on_step=True)
        self.log("loss", loss, prog_bar=True, logger=False)
        return result.loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss, with all conditions."""
        loss = self.compute_loss(batch, cfg_dropout_prob=0.0).loss
        self.log_dict(
            {"val/loss": loss, "val/perplexity": loss.exp()}, on_epoch=True, sync_dist=True, batch_size=unbatch(batch)[0].shape[0]
        )

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Follow the weights before they are updated, as published runs did."""
        if self.ema_prefix:
            self.model_ema.update()


@WRAPPERS.register("lm")
def wrap_lm(model: AudioLanguageModelWrapper, config: LMConfig) -> AudioLanguageModelTrainingWrapper:
    """The training wrapper of a language model."""
    assert config.training is not None
    return AudioLanguageModelTrainingWrapper(model, config.training)


@WRAPPERS.register("musicgen")
def wrap_musicgen(model: AudioLanguageModelWrapper, config: MusicgenConfig) -> AudioLanguageModelTrainingWrapper:
    """The training wrapper of a pretrained MusicGen."""
    assert config.training is not None
    return AudioLanguageModelTrainingWrapper(model, config.training)
