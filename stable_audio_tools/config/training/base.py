"""What every ``training`` section may say."""

from __future__ import annotations

from stable_audio_tools.config.base import NonNegativeInt, PositiveFloat, PositiveInt, Probability, Strict


class EMAOptions(Strict):
    """How the moving average of the weights is kept. What is not given is as in published runs of the model type."""

    beta: Probability | None = None
    power: PositiveFloat | None = None
    inv_gamma: PositiveFloat | None = None
    update_every: PositiveInt | None = None
    update_after_step: NonNegativeInt | None = None
    on_cpu: bool = False  # keep the average in the machine's memory; best with update_every


class TrainingConfig(Strict):
    """What every ``training`` section may say."""

    train: str | list[str] = "all"  # what is trained: all, diffusion, decoder or another part by name, or patterns of names
    ema: EMAOptions | None = None
