"""From prompts to audio files."""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stable_audio_tools.audio import load, peak_normalize, save
from stable_audio_tools.checkpoint import load_model_weights, weights_hash
from stable_audio_tools.config.check import parse_model_config
from stable_audio_tools.config.model import (
    DiffusionCondConfig,
    DiffusionUncondConfig,
    LMConfig,
    ModelConfig,
    MusicgenConfig,
)
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.inference.clip_request import (
    DTYPES,
    GenerationRequest,
    LoadedModel,
    check_common,
    check_gap,
    check_ranges,
    check_request,
    condition_ids,
    metadata_of,
    refuse,
)
from stable_audio_tools.inference.device import pick_device
from stable_audio_tools.inference.generation import (
    AnyDiffusionModel,
    generate_diffusion_cond,
    generate_diffusion_cond_inpaint,
    generate_diffusion_uncond,
)
from stable_audio_tools.inference.lm import generate_lm
from stable_audio_tools.models.adapters import stack_of
from stable_audio_tools.models.diffusion.uncond import DiffusionModelWrapper
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper
from stable_audio_tools.models.factory import create_model_from_config_path
from stable_audio_tools.models.lm.wrapper import AudioLanguageModelWrapper
from stable_audio_tools.sampling.run import default_sampler, sampler_facts

logger = logging.getLogger(__name__)


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
        refuse({**prompts, **conditions}, config, "which knows no conditions")
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
    check_request(request, sampler, in_time=in_time)
    drawing = {"--temp": request.temp, "--top-k": request.top_k, "--top-p": request.top_p}
    refuse(drawing, config, "which draws no tokens")
    sample_size = _sample_size(request, config)
    check_gap(request, config, sample_size / config.sample_rate)
    metadata: dict[str, Any] = {}
    if isinstance(config, DiffusionCondConfig):
        metadata = metadata_of(request, condition_ids(config.model.conditioning), sample_size / config.sample_rate)
        check_ranges(config.model.conditioning, metadata)
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
    check_common(request)
    if request.ckpt_path is None and request.model is None and isinstance(config, LMConfig):
        raise ConfigError("--ckpt-path: required, except for a pretrained MusicGen")
    without_effect = {
        "--sampler": request.sampler, "--sigma-min": request.sigma_min, "--sigma-max": request.sigma_max,
        "--init-noise-level": request.init_noise_level, "--negative-prompt": request.negative_prompt,
        "--inpaint-audio": request.inpaint_audio, "--mask-start": request.mask_start, "--mask-end": request.mask_end,
    }  # fmt: skip
    refuse(without_effect, config, "which draws tokens")
    sample_size = _sample_size(request, config)
    ids = condition_ids(config.model.conditioning) if isinstance(config, LMConfig) else ["prompt"]
    metadata = metadata_of(request, ids, sample_size / config.sample_rate)
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


def slug(text: str, limit: int = 40) -> str:
    """A file name that is safe everywhere, from any text.

    >>> slug("A kick / drum: 120 BPM!")
    'a-kick-drum-120-bpm'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:limit].strip("-") or "clip"


__all__ = ["GenerationRequest", "LoadedModel", "generate_files", "pick_device", "slug", "write_clip"]
