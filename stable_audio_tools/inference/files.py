"""From prompts to audio files."""

from __future__ import annotations

import itertools
import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stable_audio_tools.audio import load, peak_normalize, save
from stable_audio_tools.checkpoint import load_model_weights, weights_hash
from stable_audio_tools.config.check import parse_model_config
from stable_audio_tools.config.model import (
    ConditioningModel,
    DiffusionCondConfig,
    DiffusionCondInpaintConfig,
    DiffusionUncondConfig,
    LMConfig,
    ModelConfig,
    MusicgenConfig,
)
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.inference.generation import (
    AnyDiffusionModel,
    generate_diffusion_cond,
    generate_diffusion_cond_inpaint,
    generate_diffusion_uncond,
)
from stable_audio_tools.inference.lm import generate_lm
from stable_audio_tools.models.adapters import stack_of
from stable_audio_tools.models.conditioners.base import as_number
from stable_audio_tools.models.diffusion.uncond import DiffusionModelWrapper
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper
from stable_audio_tools.models.factory import create_model_from_config_path
from stable_audio_tools.models.lm.wrapper import AudioLanguageModelWrapper
from stable_audio_tools.sampling.run import default_sampler, sampler_facts

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


def generate_files(request: GenerationRequest) -> Iterator[Path]:
    """Generate clip by clip, so that one clip's audio depends on its own seed alone, and write each as soon as it is made.

    Yields:
        WAV files, whose metadata says how they were made.

    Raises:
        ConfigError: If the request cannot be met by the model.
        CheckpointError: If the weights do not fit.
    """
    config = parse_model_config(request.model_config)
    if isinstance(config, (LMConfig, MusicgenConfig)):
        yield from _generate_with_lm(replace(request, cfg_scale=3.0) if request.cfg_scale is None else request, config)
    elif isinstance(config, DiffusionCondConfig):
        yield from _generate_with_diffusion(replace(request, cfg_scale=6.0) if request.cfg_scale is None else request, config)
    elif isinstance(config, DiffusionUncondConfig):
        prompts = {"--prompt": request.prompts or None, "--negative-prompt": request.negative_prompt}
        conditions = {"--cond": request.conditions or None, "--cfg-scale": request.cfg_scale}
        _refuse({**prompts, **conditions}, config, "which knows no conditions")
        yield from _generate_with_diffusion(replace(request, prompts=[""]), config)
    else:
        instead = ", or make it the pretransform of a model that generates" if config.model_type == "autoencoder" else ""
        raise ConfigError(
            f"{request.model_config}: cannot generate with model_type {config.model_type!r}, which only codes audio: use its encode_audio "
            f"and decode_audio in Python{instead}"
        )


def _generate_with_diffusion(request: GenerationRequest, config: DiffusionCondConfig | DiffusionUncondConfig) -> Iterator[Path]:
    objective = config.model.diffusion.diffusion_objective if isinstance(config, DiffusionCondConfig) else config.model.diffusion_objective
    sampler = request.sampler or default_sampler(objective)
    in_time = sampler_facts(sampler, objective).get("space") == "time"
    _check_request(request, sampler, in_time=in_time)
    drawing = {"--temp": request.temp, "--top-k": request.top_k, "--top-p": request.top_p}
    _refuse(drawing, config, "which draws no tokens")
    sample_size = _sample_size(request, config)
    _check_gap(request, config, sample_size / config.sample_rate)
    metadata: dict[str, Any] = {}
    if isinstance(config, DiffusionCondConfig):
        metadata = _metadata(request, _ids(config.model.conditioning), sample_size / config.sample_rate)
        _check_ranges(config.model.conditioning, metadata)
    init = _read(request.init_audio)
    kept = _read(request.inpaint_audio)
    init_noise_level = request.init_noise_level if request.init_noise_level is not None else 0.7 if in_time else 1.0
    device = _device(request)
    model, identity = _load_model(request, device)
    assert isinstance(model, (ConditionedDiffusionModelWrapper, DiffusionModelWrapper))
    multiple = model.min_input_length
    padded = -(-sample_size // multiple) * multiple
    sigmas = {"sigma_min": request.sigma_min, "sigma_max": request.sigma_max}
    options = {
        "steps": request.steps, "sample_size": padded, "device": device, "init_audio": init, "init_noise_level": init_noise_level,
        "sampler_type": sampler, **{key: value for key, value in sigmas.items() if value is not None},
    }  # fmt: skip
    made_with: dict[str, Any] = {
        "steps": request.steps, "sampler": sampler, **sigmas,
        "init_audio": str(request.init_audio) if init else None, "init_noise_level": init_noise_level if init else None,
        "model": identity, "model_config": request.model_config.name, "device": device.type, "precision": request.precision,
        **_adapters_used(request),
    }  # fmt: skip
    generate: Callable[..., Tensor] = generate_diffusion_uncond
    if isinstance(config, DiffusionCondConfig):
        generate = generate_diffusion_cond
        options["cfg_scale"] = request.cfg_scale
        made_with |= {"cfg_scale": request.cfg_scale, "negative_prompt": request.negative_prompt, "conditions": metadata}
    if kept is not None:
        generate = generate_diffusion_cond_inpaint
        gap = {"inpaint_mask_start_seconds": request.mask_start or 0.0}
        gap["inpaint_mask_end_seconds"] = request.mask_end if request.mask_end is not None else padded / config.sample_rate
        options |= {"inpaint_audio": kept, **gap}
        made_with |= {"inpaint_audio": str(request.inpaint_audio), "mask_start": request.mask_start, "mask_end": request.mask_end}
    for clip in _clips(request):
        if isinstance(config, DiffusionCondConfig):
            options["conditioning"] = [{**metadata, "prompt": clip.prompt}]
            negative = request.negative_prompt
            options["negative_conditioning"] = [{**metadata, "prompt": negative}] if negative is not None else None
            made_with["prompt"] = clip.prompt
        audio = _generate(generate, model, seed=clip.seed, **options)[0, :, :sample_size]
        yield write_clip(clip.path, audio, model.sample_rate, {**made_with, "seed": clip.seed})


def _generate_with_lm(request: GenerationRequest, config: LMConfig | MusicgenConfig) -> Iterator[Path]:
    _check_common(request)
    if request.ckpt_path is None and request.model is None and isinstance(config, LMConfig):
        raise ConfigError("--ckpt-path: required, except for a pretrained MusicGen")
    without_effect = {
        "--sampler": request.sampler, "--sigma-min": request.sigma_min, "--sigma-max": request.sigma_max,
        "--init-noise-level": request.init_noise_level, "--negative-prompt": request.negative_prompt,
        "--inpaint-audio": request.inpaint_audio, "--mask-start": request.mask_start, "--mask-end": request.mask_end,
    }  # fmt: skip
    _refuse(without_effect, config, "which draws tokens")
    sample_size = _sample_size(request, config)
    ids = _ids(config.model.conditioning) if isinstance(config, LMConfig) else ["prompt"]
    metadata = _metadata(request, ids, sample_size / config.sample_rate)
    init = _read(request.init_audio)
    drawing = {"temp": request.temp, "top_k": request.top_k, "top_p": request.top_p}
    drawing = {key: value for key, value in drawing.items() if value is not None}
    device = _device(request)
    model, identity = _load_model(request, device)
    assert isinstance(model, AudioLanguageModelWrapper)
    assert request.cfg_scale is not None
    for clip in _clips(request):
        audio = generate_lm(
            model,
            conditioning=[{**metadata, "prompt": clip.prompt}],
            sample_size=sample_size,
            seed=clip.seed,
            cfg_scale=request.cfg_scale,
            init_audio=init,
            **drawing,
        )[0]
        made_with = {
            "prompt": clip.prompt, "seed": clip.seed, "cfg_scale": request.cfg_scale, **drawing, "conditions": metadata,
            "init_audio": str(request.init_audio) if init else None, "model": identity, "model_config": request.model_config.name,
            "device": device.type, "precision": request.precision, **_adapters_used(request),
        }  # fmt: skip
        yield write_clip(clip.path, audio, model.sample_rate, made_with)


class _Clip(NamedTuple):
    """What to make: from which prompt and seed, and into which file."""

    prompt: str
    seed: int
    path: Path


def _clips(request: GenerationRequest) -> Iterator[_Clip]:
    first_seed = request.seed if request.seed != -1 else int(np.random.randint(0, 2**31 - 1))
    seeds = itertools.count(first_seed)
    for prompt in request.prompts:
        for variation in range(request.num_variations):
            seed = next(seeds)
            suffix = f"_{variation + 1}" if request.num_variations > 1 else ""
            yield _Clip(prompt, seed, request.output / f"{slug(prompt)}{suffix}_{seed}.wav")


def _read(path: Path | None) -> tuple[int, Tensor] | None:
    """A file as generation functions take it: (sample rate, audio (C, T))."""
    if path is None:
        return None
    clip = load(path)
    return clip.sample_rate, clip.samples


def _sample_size(request: GenerationRequest, config: ModelConfig) -> int:
    sample_size = round(request.seconds * config.sample_rate) if request.seconds is not None else config.sample_size
    if sample_size is None:
        raise ConfigError(f"{request.model_config}: has no sample_size: say how long with --seconds")
    if config.sample_size is not None and sample_size > config.sample_size:
        limit = config.sample_size / config.sample_rate
        text = "--seconds %g is longer than the %.3g s that the model was trained on, which can sound worse"
        logger.warning(text, request.seconds, limit)
    return sample_size


def _device(request: GenerationRequest) -> torch.device:
    return pick_device(request.device) if request.model is None else next(request.model.module.parameters()).device


def _load_model(request: GenerationRequest, device: torch.device) -> tuple[torch.nn.Module, str]:
    """The model with its weights, ready to run, and what identifies the weights."""
    if request.model is not None:
        return request.model
    model = create_model_from_config_path(request.model_config)
    if request.ckpt_path is not None:
        load_model_weights(model, request.ckpt_path)
    identity = weights_hash(model.state_dict())
    for index, (path, strength) in enumerate(request.adapters):
        stack_of(model).load(path, strength, name=f"{index} {path.stem}")
    if request.adapters:
        stack_of(model).merge()  # its strengths do not change any more: the memory of the weights from before is free
    return model.to(device=device, dtype=DTYPES[request.precision]).eval(), identity


def _adapters_used(request: GenerationRequest) -> dict[str, Any]:
    """For the story of a clip; nothing if there are none."""
    return {"adapters": [f"{path.name}:{strength:g}" for path, strength in request.adapters]} if request.adapters else {}


def _check_request(request: GenerationRequest, sampler: str, *, in_time: bool) -> None:
    """Refuse what cannot work, or would have no effect, before the model is built."""
    _check_common(request)
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


def _check_gap(request: GenerationRequest, config: ModelConfig, seconds: float) -> None:
    """Refuse a gap that is none, or where the model cannot fill it."""
    flags = {"--inpaint-audio": request.inpaint_audio, "--mask-start": request.mask_start, "--mask-end": request.mask_end}
    if not isinstance(config, DiffusionCondInpaintConfig):
        _refuse(flags, config, "which fills no gaps (diffusion_cond_inpaint does)")
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


def _refuse(flags: Mapping[str, Any], config: ModelConfig, why: str) -> None:
    """Refuse what was given, but has no effect."""
    for flag, value in flags.items():
        if value is not None:
            raise ConfigError(f"{flag} has no effect with model_type {config.model_type!r}, {why}; leave it out")


def _check_common(request: GenerationRequest) -> None:
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


def _generate(generate: Callable[..., Tensor], model: AnyDiffusionModel, **options: Any) -> Tensor:
    """Generate with a function, with one message when memory does not suffice."""
    try:
        return generate(model, **options)
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError; the CPU's allocator raises a plain one
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "allocate memory" not in str(error):
            raise
        seconds = options["sample_size"] / model.sample_rate
        reason = str(error).splitlines()[0] if str(error) else "out of memory"
        raise ConfigError(f"a clip of {seconds:g} s does not fit into memory ({reason}); ask for fewer --seconds") from error


def write_clip(path: Path, audio: Tensor, sample_rate: int, made_with: Mapping[str, Any]) -> Path:
    """Write audio (C, T) with the story of its making in the file's metadata. Turned down if it would clip, and checked for silence."""
    audio = audio.detach().float().cpu()
    if not torch.isfinite(audio).all():
        raise ConfigError(f"{path}: the model made NaN or infinite samples; try --precision float32, or another checkpoint")
    peak = float(audio.abs().max())
    if peak < 1e-4:
        logger.warning("%s: is almost silent (peak %.1e); is the model trained, and the prompt in its language?", path, peak)
    if peak > 1:
        audio = peak_normalize(audio)
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in made_with.items() if value is not None}
    save(path, audio, sample_rate, metadata=metadata)
    return path


def _ids(conditioning: ConditioningModel | None) -> list[str]:
    return [block.id for block in conditioning.configs] if conditioning is not None else []


def _check_ranges(conditioning: ConditioningModel | None, metadata: Mapping[str, Any]) -> None:
    """Refuse what is no number where one is wanted, and say so where the model takes another one."""
    for block in conditioning.configs if conditioning is not None else []:
        lowest, highest = block.value("min_val"), block.value("max_val")
        if block.id in metadata and highest is not None:
            number, lowest = as_number(metadata[block.id], block.type), lowest or 0
            if not lowest <= number <= highest:
                logger.warning("%s %g: the model knows %g to %g, and takes the nearest of these", block.id, number, lowest, highest)


def _metadata(request: GenerationRequest, ids: Sequence[str], seconds: float) -> dict[str, Any]:
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


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA, else Apple's GPU, else the CPU. ``cuda:1`` names the second GPU.

    Raises:
        ConfigError: If the device does not exist.
    """
    if name.split(":")[0] not in ("auto", "cuda", "mps", "cpu"):
        raise ConfigError(f"--device {name!r}: one of auto, cuda, cuda:N, mps, cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name!r}: not available here ({str(error).splitlines()[0]})") from error
    return device


def slug(text: str, limit: int = 40) -> str:
    """A file name that is safe everywhere, from any text.

    >>> slug("A kick / drum: 120 BPM!")
    'a-kick-drum-120-bpm'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:limit].strip("-") or "clip"


__all__ = ["GenerationRequest", "LoadedModel", "generate_files", "pick_device", "slug", "write_clip"]
