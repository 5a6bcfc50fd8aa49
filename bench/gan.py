"""Train a small Oobleck with an adversary on one-shots, and measure it on files that it has not heard.

    python bench/gan.py SOUNDS --minutes 45 --out runs/gan

``SOUNDS`` is a folder of short sounds; every tenth file is held out. The distance is a multi-resolution STFT loss, measured at step 500
and at the end with the averaged weights; the aim is that the end is at least 30 % below. ``OUT/index.html`` has the numbers, players and
pictures.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from stable_audio_tools.audio import load, prepare_audio, save
from stable_audio_tools.audio.plot import curves_image, spectrogram_image
from stable_audio_tools.report.page import Page
from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.losses.stft import MultiResolutionSTFTLoss
from stable_audio_tools.training.run import TrainOptions, train

RATE, LENGTH = 22050, 16384
SIZES = [1024, 512, 256, 128]
FIRST = 500  # the step that the end is compared with
AIM = 0.3


def model_config() -> dict[str, Any]:
    """A mono VAE of half a million parameters with an STFT adversary."""
    sizes: dict[str, Any] = {"channels": 16, "c_mults": [1, 2, 4, 8], "strides": [4, 4, 4, 4], "use_snake": True}
    adam = {"optimizer": {"type": "AdamW", "config": {"lr": 3e-4, "betas": [0.8, 0.99]}}}
    scales = {"fft_sizes": SIZES, "hop_sizes": [size // 4 for size in SIZES], "win_lengths": SIZES}
    return {
        "model_type": "autoencoder",
        "sample_size": LENGTH,
        "sample_rate": RATE,
        "audio_channels": 1,
        "model": {
            "encoder": {"type": "oobleck", "config": {"in_channels": 1, "latent_dim": 32, **sizes}},
            "decoder": {"type": "oobleck", "config": {"out_channels": 1, "latent_dim": 16, "final_tanh": False, **sizes}},
            "bottleneck": {"type": "vae"},
            "latent_dim": 16,
            "downsampling_ratio": 256,
            "io_channels": 1,
        },
        "training": {
            "use_ema": True,
            "warmup_steps": FIRST,
            "clip_grad_norm": 10.0,
            "optimizer_configs": {"autoencoder": adam, "discriminator": adam},
            "loss_configs": {
                "discriminator": {
                    "type": "encodec",
                    "config": {"filters": 8, "n_ffts": [512, 256], "hop_lengths": [256, 128], "win_lengths": [512, 256]},
                    "weights": {"adversarial": 0.1, "feature_matching": 2.0},
                },
                "spectral": {"config": {**scales, "log_eps": 1e-3}, "weights": {"mrstft": 1.0}},
                "time": {"weights": {"l1": 1.0}},
                "bottleneck": {"weights": {"kl": 1e-5}},
            },
            "demo": {"demo_every": 1000},
        },
    }


class HeldOut(pl.Callback):
    """Measures files that are not trained on, and stops the run when its time is over.

    Args:
        clips: (N, 1, T)
        minutes: Time of the run.
        every: Steps between measurements.
    """

    def __init__(self, clips: Tensor, minutes: float, every: int = FIRST) -> None:
        self.clips, self.minutes, self.every = clips, minutes, every
        self.loss = MultiResolutionSTFTLoss(fft_sizes=SIZES, hop_sizes=[size // 4 for size in SIZES], win_lengths=SIZES, log_eps=1e-3)
        self.distances: dict[int, float] = {}
        self.decoded: dict[int, Tensor] = {}
        self.started = math.inf

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the time."""
        self.started = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure, or stop."""
        trainer.should_stop |= time.monotonic() - self.started > 60 * self.minutes
        if trainer.global_step % self.every == 0 or trainer.should_stop:
            self.measure(pl_module, trainer.global_step)

    @torch.no_grad()
    def measure(self, wrapper: pl.LightningModule, step: int) -> None:
        """The distance of the reconstructions with averaged weights, the mean of the latents decoded."""
        if step in self.distances:
            return
        assert isinstance(wrapper, TrainingWrapper)
        with wrapper.averaged() as model:
            state = torch.get_rng_state()
            torch.manual_seed(0)
            decoded = torch.cat([model(clip)[..., :LENGTH] for clip in self.clips.split(8)])  # pyright: ignore[reportCallIssue]
            torch.set_rng_state(state)
        self.distances[step] = float(self.loss(decoded, self.clips))
        self.decoded[step] = decoded[:8].clone()
        print(f"step {step}: {self.distances[step]:.4f} on {len(self.clips)} held-out files", flush=True)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sounds", type=Path)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--out", type=Path, default=Path("runs/gan"))
    parser.add_argument("--every", type=int, default=FIRST, help="steps between measurements; the first one is compared with the last")
    options = parser.parse_args()
    files = sorted(path for path in options.sounds.rglob("*") if path.suffix in (".wav", ".flac", ".ogg", ".aif"))
    random.Random(0).shuffle(files)
    held_out, known = files[::10], [path for index, path in enumerate(files) if index % 10]
    loaded = [load(path) for path in held_out]
    clips = torch.cat([
        prepare_audio(clip.samples, in_sr=clip.sample_rate, target_sr=RATE, target_length=LENGTH, target_channels=1, device="cpu")
        for clip in loaded
    ])  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    listed = options.out / "train"
    listed.mkdir(exist_ok=True)
    for index, path in enumerate(known):
        link = listed / f"{index:05d}{path.suffix}"
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
    watch = HeldOut(clips, options.minutes, options.every)
    result = train(
        TrainOptions(
            model_config=model_config(),
            dataset_config={"dataset_type": "audio_dir", "datasets": [{"id": "sounds", "path": str(listed)}], "random_crop": True},
            run_folder=options.out / "run", batch_size=4, num_workers=1, callbacks=(watch,), logger="csv", show_progress=False,
        )
    )  # fmt: skip
    watch.measure(result.wrapper, result.step)
    write_report(options.out, watch, [path.name for path in held_out], (time.monotonic() - watch.started) / 60)


def write_report(folder: Path, watch: HeldOut, names: list[str], minutes: float) -> None:
    """``index.html`` and ``results.json``."""
    steps = sorted(watch.distances)
    first, last = steps[0], steps[-1]
    lower = 1 - watch.distances[last] / watch.distances[first]
    verdict = f"{lower:.0%} lower than at step {first}; the aim is at least {AIM:.0%}"
    print(f"{minutes:.0f} minutes, step {last}: {watch.distances[last]:.4f}, {verdict}")
    results = {"minutes": minutes, "lower": lower, "distances": watch.distances, "num_held_out": len(watch.clips)}
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    page = Page(folder / "index.html", "A small Oobleck, trained with an adversary")
    page.paragraph(f"{minutes:.0f} minutes on {torch.get_num_threads()} threads; {len(watch.clips)} held-out files; after step {last} the distance is {verdict}.")
    page.table(["step", "multi-resolution STFT distance"], [(step, f"{watch.distances[step]:.4f}") for step in steps])
    curve = {"held-out distance": ([float(step) for step in steps], [watch.distances[step] for step in steps])}
    page.image(curves_image(curve, folder / "distance.png"))
    columns = {"original": watch.clips, f"step {first}": watch.decoded[first], f"step {last}": watch.decoded[last]}
    for index in range(len(watch.decoded[last])):
        page.heading(names[index], level=3)
        cells: list[tuple[str | Path, str | Path | None, str]] = []
        for title, audio in columns.items():
            stem = folder / "media" / f"{index}_{title.replace(' ', '_')}"
            save(stem.with_suffix(".wav"), audio[index].clamp(-1, 1), RATE)
            cells.append((stem.with_suffix(".wav"), spectrogram_image(audio[index], RATE, stem.with_suffix(".png"), title=title), title))
        page.clips(cells)
    print(page.write())


if __name__ == "__main__":
    main()
