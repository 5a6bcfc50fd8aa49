"""Arguments of the generation functions, checked before anything is computed."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio_tools.errors import AudioError, ConfigError
from stable_audio_tools.registry import closest

logger = logging.getLogger(__name__)
NUMBERS = ("sigma_min", "sigma_max", "rho", "scale_phi")
FOR_EVERY_MODEL = ("scale_phi", "cfg_interval")  # published scripts pass these whatever the backbone is
NOT_FOR_CALLERS = frozenset({"x", "t", "cfg_scale", "batch_cfg", "rescale_cfg", "return_info", "exit_layer_ix", "keys_values"})


def check_arguments(
    *,
    steps: Any,
    batch_size: Any,
    sample_size: Any,
    seed: Any,
    audio: Mapping[str, Any],
    sampler_kwargs: Mapping[str, Any],
    known: Iterable[str],
    backbone: Any,
) -> None:
    """Refuse what no generation function can use.

    Args:
        steps: A whole number of at least 1, like the next two.
        batch_size: Number of clips.
        sample_size: Samples per clip.
        seed: A whole number.
        audio: By argument: None, or (sample rate, audio (C, T)).
        sampler_kwargs: What was given by name and has no parameter of its own.
        known: Which of these the generation function takes.
        backbone: The network, which takes the rest.

    Raises:
        ConfigError: With the argument's name, what was given, and what it should be.
        AudioError: If ``audio`` is something else, or holds NaN.
    """
    for name, value, least in (("steps", steps, 1), ("batch_size", batch_size, 1), ("sample_size", sample_size, 1), ("seed", seed, None)):
        if not isinstance(value, Integral) or (least is not None and value < least):
            allowed = "a whole number, or -1 to draw one" if least is None else f"a whole number and at least {least}"
            raise ConfigError(f"{name} must be {allowed}, got {value!r:.60}")
    _check_options(sampler_kwargs, known, backbone)
    for name, given in audio.items():
        if given is not None:
            _check_audio(name, given)
    if audio.get("init_audio") is not None and sampler_kwargs.get("sigma_max") is not None:
        logger.warning("sigma_max has no effect with init_audio: init_noise_level is the first noise level")


def _check_audio(name: str, audio: Any) -> None:
    parts = tuple(audio) if isinstance(audio, (tuple, list)) else (audio,)
    if len(parts) != 2 or not isinstance(parts[0], Integral) or not isinstance(parts[1], Tensor):
        given = ", ".join(type(part).__name__ for part in parts)
        raise AudioError(f"{name} is a pair (sample rate in Hz, audio (C, T)), got {given}")
    samples = parts[1]
    if samples.dim() == 3 and samples.shape[0] != 1:
        raise AudioError(f"{name} is one clip (C, T) for the whole batch, got shape {tuple(samples.shape)}")
    if not torch.isfinite(samples).all():
        raise AudioError(f"{name} holds NaN or infinite samples")


def _check_options(options: Mapping[str, Any], known: Iterable[str], backbone: Any) -> None:
    rest = _options_of(backbone)
    takes = [*known, *FOR_EVERY_MODEL, *(rest or [])]
    for name, value in options.items():
        if rest is not None and name not in takes:
            guess = "sampler_type" if name == "sampler" else closest(name, takes)
            raise ConfigError(
                f"unknown option {name!r}; {f'did you mean {guess!r}?' if guess else 'known: ' + ', '.join(sorted(set(takes)))}"
            )
        if value is None:
            continue
        if name in NUMBERS and not isinstance(value, Real):
            raise ConfigError(f"{name} must be a number, got {value!r:.60}")
        if name == "sampler_type" and not isinstance(value, str):
            raise ConfigError(f"sampler_type must be the name of a sampler, got {value!r:.60}")
        if name == "cfg_interval" and not _is_interval(value):
            raise ConfigError(f"cfg_interval must be a pair of noise levels (low, high), got {value!r:.60}")


def _is_interval(value: Any) -> bool:
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not all(isinstance(end, Real) for end in value):
        return False
    return value[0] <= value[1]


def takes_option(backbone: Any, name: str) -> bool:
    """Whether a network's ``forward`` takes an option, as far as that can be known."""
    names = _options_of(backbone)
    return names is None or name in names


def _options_of(backbone: Any) -> list[str] | None:
    """What callers may pass on to a network: parameters of its ``forward``, and of the ``model`` in it that gets the rest.

    None if that cannot be known: something else gets the rest.
    """
    names: list[str] = []
    while isinstance(backbone, nn.Module):
        parameters = inspect.signature(backbone.forward).parameters.values()
        names += [parameter.name for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            return [name for name in names if name not in NOT_FOR_CALLERS and not any(word in name for word in ("cond", "embed", "mask"))]
        backbone = getattr(backbone, "model", None)
    return None
