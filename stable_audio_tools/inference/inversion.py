"""From audio to the noise that a rectified flow makes it of: the flow backwards, drawn towards noise of one's own.

Source: Rout et al. 2024, "Semantic image inversion and editing using rectified stochastic differential equations", arXiv:2410.10792;
without its division by the time that is left, as published versions compute it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor
from tqdm.auto import tqdm

from stable_audio_tools.config.base import NonNegativeFloat, PositiveFloat, PositiveInt, Probability, Strict
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.registry.schema import mistakes_of
from stable_audio_tools.sampling import schedules


class InversionParams(Strict):
    """How audio is turned into noise.

    Attributes:
        inversion_steps: Steps; each calls the network once, or twice with guidance.
        inversion_gamma: Pull towards fresh noise: with 0 the noise is that of the flow alone, and sampling from it with the same conditions
            gives the audio back; more of it leaves more to the new prompt.
        inversion_sigma_max: Time in (0, 1] where the inversion ends and sampling begins.
        inversion_cfg_scale: Guidance scale on the way; 1 is none.
        inversion_unconditional: Leave out the conditions that training drops. Otherwise every ``prompt`` is empty.
    """

    inversion_steps: PositiveInt = 100
    inversion_gamma: Probability = 0.3
    inversion_sigma_max: PositiveFloat = 1.0
    inversion_cfg_scale: NonNegativeFloat = 1.0
    inversion_unconditional: bool = True

    @classmethod
    def of(cls, given: Mapping[str, Any] | InversionParams | None) -> InversionParams | None:
        """Read them.

        Raises:
            ConfigError: With every mistake, one per line.
        """
        if given is None or isinstance(given, InversionParams):
            return given
        try:
            params = cls.model_validate(dict(given))
        except ValidationError as error:
            found = mistakes_of(error, given, known=lambda location: list(cls.model_fields))
            raise ConfigError("\n".join(f"inversion_params: {mistake.path}: {mistake.message}" for mistake in found)) from error
        if params.inversion_sigma_max > 1:
            raise ConfigError(f"inversion_params: inversion_sigma_max: is a time in (0, 1], got {params.inversion_sigma_max}")
        if params.inversion_unconditional and params.inversion_cfg_scale != 1:
            raise ConfigError(
                f"inversion_params: inversion_cfg_scale: {params.inversion_cfg_scale} has nothing to guide by with inversion_unconditional"
            )
        return params

    def check(self, objective: str, init_audio: Any) -> None:
        """Refuse what cannot be inverted.

        Args:
            objective: What the network predicts.
            init_audio: What is to be inverted.

        Raises:
            ConfigError: If it is no rectified flow, or there is no audio.
        """
        if objective != "rectified_flow":
            raise ConfigError(f"inversion_params: only models of objective 'rectified_flow' can be inverted, this one has {objective!r}")
        if init_audio is None:
            raise ConfigError("inversion_params: needs init_audio, the audio to invert")


@torch.no_grad()
def invert_audio(
    model: Callable[..., Tensor],
    latents: Tensor,
    noise: Tensor | None = None,
    inversion_params: Mapping[str, Any] | InversionParams | None = None,
    device: torch.device | str | None = None,
    disable_tqdm: bool = False,
    **cond: Any,
) -> Tensor:
    """Follow a rectified flow from data to noise: ``y += (u + gamma ((noise - y) - u)) dt``, with ``u`` the network's velocity at ``y``.

    Args:
        model: The network: (y (B, D, L), t (B,), **cond) -> velocity (B, D, L).
        latents: Data (B, D, L).
        noise: What ``inversion_gamma`` draws towards, (B, D, L); None draws it from the global stream.
        inversion_params: Keys of `InversionParams`; those that are about conditions and guidance are the caller's business here.
        device: Where to compute; None is where the latents are.
        disable_tqdm: Show no progress.
        **cond: Conditions, for the network.

    Returns:
        Noise (B, D, L) at the time ``inversion_sigma_max``, for a sampler that starts there.

    Raises:
        ConfigError: If a parameter is wrong.
    """
    params = InversionParams.of({} if inversion_params is None else inversion_params)
    assert params is not None
    latents = latents.to(device)
    noise = torch.randn_like(latents) if noise is None else noise.to(latents)
    times = schedules.log_snr(params.inversion_steps, params.inversion_sigma_max).flip(0)  # from 0 upwards
    y = latents
    steps = pairwise(times)
    for t, t_next in tqdm(steps, total=params.inversion_steps, disable=disable_tqdm or None, leave=False, desc="inverting"):
        velocity = model(y, t.expand(len(y)), **cond).to(y.dtype)
        y = y + (velocity + params.inversion_gamma * ((noise - y) - velocity)) * float(t_next - t)
    return y


__all__ = ["InversionParams", "invert_audio"]
