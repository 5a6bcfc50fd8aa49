"""An adapter that was trained on 40 real sounds moves what is generated towards them."""

from __future__ import annotations

import csv
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio_tools.checkpoint import load_model_weights, save_model_weights
from stable_audio_tools.demo.classes import NearestCentroid, features
from stable_audio_tools.demo.clips import Clip, load_clips, synthesised
from stable_audio_tools.demo.latents import encode_clips
from stable_audio_tools.demo.run import model_config
from stable_audio_tools.demo.synth import NUM_SAMPLES, SAMPLE_RATE
from stable_audio_tools.inference.generation import generate_diffusion_cond
from stable_audio_tools.models.adapters import stack_of
from stable_audio_tools.models.factory import create_model_from_config
from stable_audio_tools.training.run import TrainOptions, train

CAPTION, SOURCE, NUM_CLIPS = "a sound", "esc-10", 16


def real_sounds(folder: Path) -> list[Clip]:
    with (folder / "captions.csv").open(encoding="utf-8", newline="") as stream:
        paths = [row["path"] for row in csv.DictReader(stream) if row["path"].startswith(f"{SOURCE}/")]
    return [Clip(str(folder / path), "real", (CAPTION,), is_held_out=False) for path in sorted(paths)]


def run(config: dict[str, Any], folder: Path, latents: Path, num_clips: int, start: Path, steps: int) -> Any:
    dataset = {"dataset_type": "stable_audio_tools.demo.latents:EncodedClips", "folder": str(latents), "repeat": -(-320 // num_clips)}
    machine = {"accelerator": "cpu", "num_workers": 0, "logger": "none", "demos": False, "show_progress": False}
    options = TrainOptions(
        model_config=config,
        dataset_config=dataset,
        run_folder=folder,
        pretrained_ckpt_path=start,
        batch_size=16,
        max_steps=steps,
        **machine,
    )  # fmt: skip
    return train(options)


@pytest.mark.slow
def test_an_adapter_moves_sounds_towards_its_own(shared: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    synthetic = synthesised(tmp_path / "sounds", num_train=20, num_held_out=0, seed=0)
    base_clips, base_audio = load_clips([Clip(clip.path, "synthetic", (CAPTION,), is_held_out=False) for clip in synthetic.clips])
    sounds = real_sounds(shared / "data" / "real-oneshots")
    loaded, audio = load_clips(sounds)
    chosen = sorted(torch.randperm(len(loaded))[:40].tolist())
    own, own_audio = [loaded[index] for index in chosen], audio[chosen]
    other_audio = audio[[index for index in range(len(loaded)) if index not in chosen]]
    assert len(own) == 40 and len(other_audio) >= 20

    config = model_config()
    model: Any = create_model_from_config(config)
    model.pretransform.fit(torch.cat([base_audio, own_audio]))
    encode_clips(model.pretransform, base_clips, base_audio, tmp_path / "latents")
    encode_clips(model.pretransform, own, own_audio, tmp_path / "own")
    start = save_model_weights(model.state_dict(), tmp_path / "start.safetensors")
    begun = time.perf_counter()
    base = run(config, tmp_path / "base", tmp_path / "latents", len(base_clips), start, steps=200)
    with base.wrapper.averaged() as averaged:
        weights = save_model_weights(averaged.state_dict(), tmp_path / "base.safetensors")
    block = {"type": "lora", "config": {"rank": 8}}
    run({**config, "training": {**config["training"], "adapter": block}}, tmp_path / "run", tmp_path / "own", 40, weights, steps=200)

    load_model_weights(model, weights)
    model.eval()
    stack = stack_of(model)
    stack.load(tmp_path / "run" / "adapters" / "step=200.safetensors", 0.0)

    def generated(strength: float) -> torch.Tensor:
        stack.set_strength(strength)
        options: dict[str, Any] = {"steps": 20, "cfg_scale": 1.0, "seed": 5, "sample_size": NUM_SAMPLES, "disable_tqdm": True}
        return features(
            generate_diffusion_cond(model, conditioning=[{"prompt": CAPTION}] * NUM_CLIPS, batch_size=NUM_CLIPS, **options)[:, 0],
            SAMPLE_RATE,
        )

    # The classifier is fitted on real sounds that the adapter has not seen.
    known = torch.cat([base_audio[:, 0], other_audio[:, 0]])
    labels = ["synthetic"] * len(base_audio) + ["real"] * len(other_audio)
    classifier = NearestCentroid().fit(features(known, SAMPLE_RATE), labels)
    shares = {s: classifier.accuracy(generated(s), ["real"] * NUM_CLIPS) for s in (0.0, 0.5, 1.0)}
    own_share = classifier.accuracy(features(own_audio[:, 0], SAMPLE_RATE), ["real"] * len(own))
    told = f"taken for real: {shares}, the 40 sounds themselves {own_share:.2f}; {time.perf_counter() - begun:.0f} s"
    logging.getLogger(__name__).warning(told)
    assert shares[1.0] >= shares[0.0] + 0.3, told
