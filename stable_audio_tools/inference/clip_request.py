"""What a user asks to be generated into files, and whether a model can do it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from stable_audio_tools.config.model import ConditioningModel, DiffusionCondInpaintConfig, ModelConfig
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.conditioners.base import as_number

logger = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class LoadedModel(NamedTuple):
    """A model with its weights, ready to run.

    Attributes:
        module: The model, on its device and in its data type.
        identity: `weights_hash` of its weights.
    """

    module: torch.nn.Module
    identity: str


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What to generate, with what.

    Attributes:
        model_config: JSON file.
        ckpt_path: Unwrapped model, or training checkpoint. None only for a pretrained MusicGen.
        model: A model that is loaded already, instead of ``ckpt_path``, ``adapters``, ``device`` and ``precision``.
        adapters: Adapter files and strengths.
        prompts: Texts. An unconditional model has none.
        negative_prompt: What guidance pushes away from.
        seconds: Length of each clip; None is the model's ``sample_size``.
        num_variations: Clips per prompt.
        conditions: Further conditions by id, the same for all clips.
        steps: Sampler steps.
        cfg_scale: Guidance scale; 1 is none; None is 6, or 3 for a language model.
        sampler: None is the objective's usual one.
        sigma_min: Last noise level of exponential schedules.
        sigma_max: First noise level.
        seed: Of the first clip; the next ones count up. -1 draws one.
        init_audio: Audio file to vary; a language model continues it.
        init_noise_level: How much noise is mixed into it: a noise level, or a time from 0 to 1 for samplers that go through times. None is
            1 and 0.7.
        inpaint_audio: Audio file of which an inpainting model keeps all but a gap.
        mask_start: Where the gap begins, in seconds; None is the beginning.
        mask_end: Where it ends; None is the end of the clip.
        temp: Temperature of a language model; None is 1.
        top_k: A language model draws among so many likeliest tokens; None is 250.
        top_p: A language model draws among the likeliest tokens of this probability; None is no limit.
        output: Folder.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        precision: Name of a data type.
    """

    model_config: Path
    ckpt_path: Path | None = None
    model: LoadedModel | None = None
    adapters: Sequence[tuple[Path, float]] = ()
    prompts: Sequence[str] = ()
    negative_prompt: str | None = None
    seconds: float | None = None
    num_variations: int = 1
    conditions: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 100
    cfg_scale: float | None = None
    sampler: str | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    seed: int = -1
    init_audio: Path | None = None
    init_noise_level: float | None = None
    inpaint_audio: Path | None = None
    mask_start: float | None = None
    mask_end: float | None = None
    temp: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    output: Path = Path("outputs/generated")
    device: str = "auto"
    precision: str = "float32"


def check_request(request: GenerationRequest, sampler: str, *, in_time: bool) -> None:
    """Refuse what cannot work, or would have no effect, before the model is built."""
    check_common(request)
    if request.ckpt_path is None and request.model is None:
        raise ConfigError("--ckpt-path: required, except for a pretrained MusicGen")
    if in_time and request.sigma_min is not None:
        raise ConfigError(f"--sigma-min has no effect with sampler {sampler!r}, which goes through times from 1 to 0; leave it out")
    level, flag = (request.sigma_max, "--sigma-max") if request.init_audio is None else (request.init_noise_level, "--init-noise-level")
    if request.init_audio is None and request.init_noise_level is not None:
        raise ConfigError("--init-noise-level has no effect without --init-audio")
    if request.init_audio is not None and request.sigma_max is not None:
        raise ConfigError("--sigma-max has no effect with --init-audio, whose first noise level is --init-noise-level")
    if level is not None and (level < 0 or (in_time and level > 1)):
        allowed = "a time from 0 to 1" if in_time else "a level of at least 0"
        raise ConfigError(f"{flag} is {allowed} with sampler {sampler!r}, got {level:g}")
    first = (100.0 if request.init_audio is None else 1.0) if level is None else level
    last = 0.01 if request.sigma_min is None else request.sigma_min
    if not in_time and not 0 < last <= first and not (first == 0 and request.init_audio is not None):
        raise ConfigError(f"noise levels go from {flag} down to --sigma-min, which is above 0; got {first:g} and {last:g}")
    if request.negative_prompt is not None and request.cfg_scale == 1:
        raise ConfigError("--negative-prompt has no effect with --cfg-scale 1, which is no guidance")


def check_gap(request: GenerationRequest, config: ModelConfig, seconds: float) -> None:
    """Refuse a gap that is none, or where the model cannot fill it."""
    flags = {"--inpaint-audio": request.inpaint_audio, "--mask-start": request.mask_start, "--mask-end": request.mask_end}
    if not isinstance(config, DiffusionCondInpaintConfig):
        refuse(flags, config, "which fills no gaps (diffusion_cond_inpaint does)")
        return
    if request.inpaint_audio is None:
        for flag in ("--mask-start", "--mask-end"):
            if flags[flag] is not None:
                raise ConfigError(f"{flag} has no effect without --inpaint-audio")
        return
    if request.mask_start is None and request.mask_end is None:
        raise ConfigError("--inpaint-audio wants to know what to make anew: give --mask-start, --mask-end or both, in seconds")
    start, end = request.mask_start or 0.0, seconds if request.mask_end is None else request.mask_end
    if not 0 <= start < min(end, seconds):
        raise ConfigError(f"the gap goes from --mask-start to --mask-end, within the clip of {seconds:g} s; got {start:g} to {end:g}")


def refuse(flags: Mapping[str, Any], config: ModelConfig, why: str) -> None:
    """Refuse what was given, but has no effect."""
    for flag, value in flags.items():
        if value is not None:
            raise ConfigError(f"{flag} has no effect with model_type {config.model_type!r}, {why}; leave it out")


def check_common(request: GenerationRequest) -> None:
    """Refuse what no model can do."""
    if not request.prompts:
        raise ConfigError("nothing to generate: give at least one --prompt")
    if request.precision not in DTYPES:
        raise ConfigError(f"--precision {request.precision!r}: one of {', '.join(DTYPES)}")
    if not -1 <= request.seed < 2**63:
        raise ConfigError(f"--seed is at least 0 and below {2**63}, or -1 to draw one, got {request.seed}")
    numbers = {"--seconds": request.seconds, "--cfg-scale": request.cfg_scale, "--sigma-min": request.sigma_min}
    numbers |= {"--sigma-max": request.sigma_max, "--init-noise-level": request.init_noise_level}
    numbers |= {"--mask-start": request.mask_start, "--mask-end": request.mask_end}
    for flag, number in numbers.items():
        if number is not None and not math.isfinite(number):
            raise ConfigError(f"{flag} is a finite number, got {number}")
    for path, strength in request.adapters:
        if not math.isfinite(strength):
            raise ConfigError(f"--lora {path}: its strength is a finite number, got {strength}")
    if request.output.exists() and not request.output.is_dir():
        raise ConfigError(f"--output {request.output}: is a file; name a folder")


def condition_ids(conditioning: ConditioningModel | None) -> list[str]:
    """Names of a model's conditions."""
    return [block.id for block in conditioning.configs] if conditioning is not None else []


def check_ranges(conditioning: ConditioningModel | None, metadata: Mapping[str, Any]) -> None:
    """Refuse what is no number where one is wanted, and say so where the model takes another one."""
    for block in conditioning.configs if conditioning is not None else []:
        lowest, highest = block.value("min_val"), block.value("max_val")
        if block.id in metadata and highest is not None:
            number, lowest = as_number(metadata[block.id], block.type), lowest or 0
            if not lowest <= number <= highest:
                logger.warning("%s %g: the model knows %g to %g, and takes the nearest of these", block.id, number, lowest, highest)


def metadata_of(request: GenerationRequest, ids: Sequence[str], seconds: float) -> dict[str, Any]:
    """Values of all conditions but the prompt."""
    known: dict[str, Any] = {"seconds_start": 0, "seconds_total": seconds, **request.conditions}
    unknown = [name for name in request.conditions if name not in ids]
    if unknown:
        raise ConfigError(f"--cond {unknown[0]}: the model has no such condition; it has: {', '.join(ids) or 'none'}")
    if "prompt" not in ids:
        raise ConfigError(f"the model has no condition 'prompt'; it has: {', '.join(ids) or 'none'}")
    if "prompt" in request.conditions:
        raise ConfigError("--cond prompt: write it as --prompt")
    missing = [name for name in ids if name not in known and name != "prompt"]
    if missing:
        raise ConfigError(f"the model also wants {', '.join(missing)}: give each as --cond id=value")
    return {name: known[name] for name in ids if name != "prompt"}
