"""Clips to listen to and to measure: generated, reconstructed, and some that the model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.audio import load, save
from stable_audio_tools.audio.plot import spectrogram_image
from stable_audio_tools.demo.clips import ClipSet
from stable_audio_tools.demo.folder import DemoSettings
from stable_audio_tools.demo.synth import NUM_SAMPLES, SAMPLE_RATE
from stable_audio_tools.inference.files import slug, write_clip
from stable_audio_tools.inference.generation import generate_diffusion_cond
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper

SAMPLER_STEPS, CFG_SCALE, FIRST_SEED = 40, 3.0, 1000
MAX_RECONSTRUCTED = 10  # held-out clips per class that are encoded and decoded


@dataclass(frozen=True)
class GeneratedClip:
    """A generated clip.

    Attributes:
        name: Its class.
        prompt: What it was generated from.
        path: Its file.
        audio: As it stands in the file, (T,).
    """

    name: str
    prompt: str
    path: Path
    audio: Tensor


def generate_clips(settings: DemoSettings, model: ConditionedDiffusionModelWrapper, clips: ClipSet, use_half: bool) -> list[GeneratedClip]:
    """Clips of every class, from prompts; those that an earlier demo has left are read. Each has a picture beside it."""
    generated: list[GeneratedClip] = []
    for name, stem in _file_names(clips.classes).items():
        prompts = [clips.prompts[name][index % len(clips.prompts[name])] for index in range(settings.clips_per_class)]
        paths = [settings.output / "generated" / stem / f"{stem}_{index}.wav" for index in range(len(prompts))]
        if not all(path.exists() for path in paths):
            with torch.autocast("cpu", torch.bfloat16) if use_half else nullcontext():
                audio = generate_diffusion_cond(
                    model,
                    steps=SAMPLER_STEPS,
                    cfg_scale=CFG_SCALE,
                    conditioning=[{"prompt": prompt} for prompt in prompts],
                    batch_size=len(prompts),
                    sample_size=NUM_SAMPLES,
                    seed=FIRST_SEED,
                    disable_tqdm=True,
                )
            for path, prompt, clip in zip(paths, prompts, audio, strict=True):
                write_clip(path, clip, SAMPLE_RATE, {"prompt": prompt, "seed": FIRST_SEED, "steps": SAMPLER_STEPS, "cfg_scale": CFG_SCALE})
        for path, prompt in zip(paths, prompts, strict=True):
            samples = load(path).samples
            picture = path.with_suffix(".png")
            if not picture.exists():
                spectrogram_image(samples, SAMPLE_RATE, picture, size_inches=(3.2, 2.2))
            generated.append(GeneratedClip(name, prompt, path, samples[0]))
    return generated


def _file_names(names: Sequence[str]) -> dict[str, str]:
    """A file name for each class. Names of which nothing is left, or the same, get a number."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        stem = slug(name)
        found[name] = stem if stem not in found.values() else f"{stem}-{len(found)}"
    return found


@torch.no_grad()
def reconstruct(model: ConditionedDiffusionModelWrapper, names: Sequence[str], audio: Tensor) -> tuple[Tensor, list[str]]:
    """Some held-out clips of every class, encoded and decoded: (N, T) and their classes."""
    assert model.pretransform is not None
    chosen_indices = [index for index, name in enumerate(names) if names[:index].count(name) < MAX_RECONSTRUCTED]
    decoded = model.pretransform.decode(model.pretransform.encode(audio[chosen_indices]))
    return decoded[:, 0, : audio.shape[-1]], [names[index] for index in chosen_indices]


def training_examples(output: Path, clips: Sequence[Any], audio: Tensor) -> dict[str, list[tuple[Path, str]]]:
    """A few training clips of every class, as files beside the page: class -> (file, caption)."""
    examples: dict[str, list[tuple[Path, str]]] = {}
    stems = _file_names([clip.name for clip in clips])
    for clip, samples in zip(clips, audio, strict=True):
        known = examples.setdefault(clip.name, [])
        if len(known) < 3:
            path = output / "examples" / f"{stems[clip.name]}_{len(known)}.wav"
            if not path.with_suffix(".png").exists():
                save(path, samples, SAMPLE_RATE)
                spectrogram_image(samples, SAMPLE_RATE, path.with_suffix(".png"), size_inches=(3.2, 2.2))
            known.append((path, clip.captions[0]))
    return examples
