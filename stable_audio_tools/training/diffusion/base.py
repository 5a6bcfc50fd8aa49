"""DiffusionTrainingWrapper: what training shares between all models that denoise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio_tools.errors import DataError
from stable_audio_tools.families import TIMESTEPS
from stable_audio_tools.models.pretransforms.base import Pretransform
from stable_audio_tools.sampling.timesteps import TimestepSampler
from stable_audio_tools.training.base import RunningMeans, TrainingWrapper, of_every_process, of_this_process
from stable_audio_tools.training.diffusion.loss import DiffusionLoss
from stable_audio_tools.training.randomness import isolated_randomness, item_seeds
from stable_audio_tools.training.schedulers import optimizer_and_schedule

VALIDATION_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
NUM_BUCKETS = 10  # of times


class DiffusionTrainingWrapper(TrainingWrapper):
    """Times, latents, the average of the weights, and losses at fixed times.

    Subclasses set ``training_config``. The average covers the network ``model.model``.

    Args:
        timestep_sampler: Name of the timestep sampler.
        timestep_sampler_options: Its options.
    """

    training_config: Any
    timestep_sampler: TimestepSampler
    default_optimizer = "Adam"
    reproduced = "what is left of the noise in the batch"

    def __init__(self, timestep_sampler: str = "uniform", timestep_sampler_options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._timesteps: dict[str, tuple[str, dict[str, Any]]] = {}
        self._means, self._by_time = RunningMeans(), RunningMeans()
        self.add_timesteps("timestep_sampler", timestep_sampler, timestep_sampler_options)

    def add_timesteps(self, attribute: str, name: str, options: Mapping[str, Any] | None = None) -> None:
        """Make a timestep sampler an attribute. Its state travels in checkpoints under the same name."""
        self._timesteps[attribute] = name, dict(options or {})
        setattr(self, attribute, TIMESTEPS.build(*self._timesteps[attribute]))

    @property
    def pretransform(self) -> Pretransform | None:
        """Between audio and what is denoised."""
        return self.model.pretransform  # type: ignore[return-value]

    def frozen_modules(self) -> Iterator[nn.Module]:
        if self.pretransform is not None and not self.pretransform.enable_grad:
            yield self.pretransform

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        if self.ema is not None and self.ema.on_cpu:
            with super().averaged() as model:
                yield model
            return
        online = self.model.model
        try:
            if self.ema is not None:
                self.model.model = self.ema.ema_model
            yield self.model.eval()
        finally:
            self.model.model = online
            self.train(self.training)

    def configure_optimizers(self) -> Any:
        """As configured, or `default_optimizer` at ``learning_rate``."""
        configs = self.training_config.optimizer_configs
        default = {"optimizer": {"type": self.default_optimizer, "config": {"lr": self.training_config.learning_rate}}}
        return optimizer_and_schedule(configs.diffusion.model_dump() if configs else default, self.model)

    def latents_of(self, reals: Tensor) -> Tensor:
        """Audio (B, C, T), or latents if the data is pre-encoded -> what the model denoises, (B, D, L)."""
        pretransform = self.pretransform
        if pretransform is None:
            return reals
        pre_encoded = getattr(self.training_config, "pre_encoded", None)
        if pre_encoded:
            self._check_channels(reals, pretransform.encoded_channels, "latents (pre_encoded is true)")
            scale = getattr(pretransform, "scale", 1.0)
            return reals / scale if scale != 1.0 else reals
        self._check_channels(reals, pretransform.io_channels, "audio" if pre_encoded is None else "audio (pre_encoded is false)")
        with torch.set_grad_enabled(torch.is_grad_enabled() and pretransform.enable_grad):
            return pretransform.encode(reals)

    def _check_channels(self, reals: Tensor, channels: int, what: str) -> None:
        if reals.shape[1] == channels:
            return
        pretransform, pre_encoded = self.pretransform, getattr(self.training_config, "pre_encoded", None)
        given = reals.shape[1]
        agree = "training.pre_encoded agree with the dataset_type, and audio_channels with the model"
        fix = f"does {'audio_channels agree with the model' if pre_encoded is None else agree}?"
        if pre_encoded and pretransform is not None and given == pretransform.io_channels:
            fix = 'these look like audio: set "pre_encoded": false in training, or train on what sat pre-encode wrote'
        elif pre_encoded is False and pretransform is not None and given == pretransform.encoded_channels:
            fix = 'these look like latents: set "pre_encoded": true in training'
        raise DataError(f"the model expects {what} with {channels} channels, but the dataset gives {given}; {fix}")

    def seeds_of(self, metadata: Sequence[Mapping[str, Any]], batch_idx: int) -> list[int]:
        """Seeds of what a step draws by item: others in every pass, but the same while one batch is learnt by heart."""
        if self.repeats_batch:
            return item_seeds(metadata, 0)
        return item_seeds(metadata, self.current_epoch, position=batch_idx * len(metadata))

    def latents_of_items(self, reals: Tensor, seeds: Sequence[int]) -> Tensor:
        """`latents_of`, item by item, each with its own random numbers: what a VAE draws does not depend on the rest of the batch."""
        latents: list[Tensor] = []
        for item, seed in zip(reals.split(1), seeds, strict=True):
            with isolated_randomness(seed):
                latents.append(self.latents_of(item))
        return torch.cat(latents)

    def times_of_items(self, seeds: Sequence[int]) -> Tensor:
        """Times (B,) of which each depends on its seed only."""
        times: list[Tensor] = []
        for seed in seeds:
            with isolated_randomness(seed):
                times.append(TIMESTEPS.build(*self._timesteps["timestep_sampler"])(1))
        return torch.cat(times).to(self.device)

    @property
    def _logged_every(self) -> int:
        return self.logged_every(getattr(self.training_config, "log_every_n_steps", 1))

    def log_training(self, loss: Tensor, terms: Mapping[str, Tensor], data: Tensor) -> None:
        """Log what a step was about, as means over ``log_every_n_steps`` batches.

        Args:
            loss: What is minimised.
            terms: What it consists of, and other numbers, by name.
            data: What was denoised, (B, D, L).
        """
        logs: dict[str, Any] = {"train/loss": loss.detach(), "train/std_data": data.detach().std()}
        logs |= {f"train/{name}": term.detach() for name, term in terms.items()}
        optimizers = self.trainer.optimizers
        if optimizers:
            logs["train/lr"] = optimizers[0].param_groups[0]["lr"]
        means = self._means.add(logs, self._logged_every)
        if means is not None:
            self.log_dict(means, on_step=True)
        self.log("loss", loss.detach(), prog_bar=True, logger=False)

    def log_by_time(self, result: DiffusionLoss) -> None:
        """Log means of the loss over items of a tenth of the times each, over ``log_every_n_steps`` batches, unless the config says no."""
        if not self.training_config.log_loss_info:
            return
        bucket = (result.t * NUM_BUCKETS).long().clamp(0, NUM_BUCKETS - 1)
        entries = torch.stack([result.per_item.float(), torch.ones_like(result.per_item, dtype=torch.float32)])  # (2, B)
        sums = entries.new_zeros(2, NUM_BUCKETS).index_add(1, bucket, entries)
        means = self._by_time.add({"sums": sums}, self._logged_every)
        if means is not None:  # read from the device at once
            rows = zip(*means["sums"].tolist(), strict=True)
            by_time = {f"model/loss_all_{index / 10:.1f}": loss / count for index, (loss, count) in enumerate(rows) if count}
            for sink in self.loggers:  # past Lightning, which repeats a number at every step until there is another
                sink.log_metrics(by_time, self.global_step)

    def log_validation(self, latents: Tensor, seeds: Sequence[int], loss_of: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Log losses at fixed times with noise fixed per item, so that the numbers move only when the model does.

        Args:
            latents: (B, D, L)
            seeds: Of the items' noise.
            loss_of: From times (B,) and noise (B, D, L) to the loss.
        """
        losses: list[Tensor] = []
        for time in VALIDATION_TIMES:
            noise = noise_of_items(latents, [seed + int(1000 * time) for seed in seeds])
            losses.append(loss_of(latents.new_full((latents.shape[0],), time), noise))
            self.log(f"val/loss_{time}", losses[-1], on_epoch=True, sync_dist=True, batch_size=latents.shape[0])
        self.log("val/avg_loss", torch.stack(losses).mean(), on_epoch=True, sync_dist=True, batch_size=latents.shape[0])

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Follow the weights before they are updated, as published runs did."""
        if self.ema is not None:
            self.ema.update()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        for attribute in self._timesteps:
            checkpoint[attribute] = of_every_process(getattr(self, attribute).state_dict())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        for attribute in self._timesteps:
            getattr(self, attribute).load_state_dict(of_this_process(checkpoint.get(attribute)) or {})

    def renew_streams(self) -> None:
        for attribute, (name, options) in self._timesteps.items():
            setattr(self, attribute, TIMESTEPS.build(name, options))


def noise_of_items(latents: Tensor, seeds: Sequence[int]) -> Tensor:
    """Noise like ``latents`` (B, D, L), of which each item depends on its seed only."""
    drawn = [torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).to(latents)
