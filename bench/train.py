"""Seconds per step and peak memory of one training wrapper of each kind, with small models, and where the time goes.

    python bench/train.py [--only NAME ...] [--steps 10]

Runs as ``sat train`` makes them, with curves for TensorBoard and CSV, on sounds that are made first. What is neither forward nor backward
pass, which is data, moving average, optimizer, logging and the loop itself, should take less than 10 % of a step. Each run has a process
of its own; peak memory on a CPU counts the libraries too.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import resource
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import soundfile
import torch
from pytorch_lightning.profilers import Profiler

from stable_audio_tools.training.base import TrainingWrapper
from stable_audio_tools.training.run import TrainOptions, train

RATE, SIZE, WARM_UP = 22050, 16384, 3
COLUMNS = ("forward", "backward", "data", "average", "optimizer", "logging", "callbacks", "loop")
AIM = 0.1


class Stopwatch(Profiler):
    """Charges every moment to the innermost region that is open."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)
        self._open = ["loop"]
        self._since = time.perf_counter()

    def _charge(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def enter(self, region: str) -> None:
        """Open a region."""
        self._charge()
        self._open.append(region)

    def leave(self) -> None:
        """Close the innermost region."""
        self._charge()
        self._open.pop()

    def reset(self) -> None:
        """Forget what was measured."""
        self._charge()
        self.seconds.clear()

    @contextmanager
    def region(self, name: str) -> Iterator[None]:
        """Charge what happens inside."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def watch(self, owner: Any, method: str, region: str) -> None:
        """Charge the calls of an object's method."""
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.region(region):
                return original(*args, **kwargs)

        object.__setattr__(owner, method, timed)

    def start(self, action_name: str) -> None:
        """Of Lightning."""
        self.enter(self._region_of(action_name))

    def stop(self, action_name: str) -> None:
        """Of Lightning."""
        self.leave()

    def _region_of(self, action: str) -> str:
        if action.endswith(".training_step"):
            return "forward"
        if action.endswith(".backward"):
            return "backward"
        if action.endswith("dataloader_next"):
            return "data"
        return "callbacks" if action.startswith("[Callback]") else self._open[-1]


class Watch(pl.Callback):
    """Measures the steps after the first few."""

    def __init__(self) -> None:
        self.clock = Stopwatch()
        self.begun = self.total = 0.0
        self.steps = 0
        self.shares: dict[str, float] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let Lightning say what it does."""
        trainer.profiler = self.clock  # pyright: ignore[reportAttributeAccessIssue]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch what Lightning does not say."""
        assert isinstance(pl_module, TrainingWrapper)
        clock = self.clock
        clock.watch(pl_module, "manual_backward", "backward")
        for method in ("log", "log_dict"):
            clock.watch(pl_module, method, "logging")
        for sink in trainer.loggers:
            clock.watch(sink, "log_metrics", "logging")
        if pl_module.ema is not None:
            clock.watch(pl_module.ema, "update", "average")
        for optimizer in trainer.optimizers:
            optimizer.register_step_pre_hook(lambda *_: clock.enter("optimizer"))
            optimizer.register_step_post_hook(lambda *_: clock.leave())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Begin anew when it is warm."""
        if trainer.global_step == WARM_UP:
            self.clock.reset()
            self.begun = time.perf_counter()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
        self.steps = trainer.global_step - WARM_UP
        if trainer.global_step == trainer.max_steps:
            self.clock.enter("end")  # the last checkpoint does not count
            self.total = time.perf_counter() - self.begun
            self.shares = {column: self.clock.seconds[column] / self.total for column in COLUMNS}


# ---- what is trained -----------------------------------------------------------------------------------------------------------------


def configs() -> dict[str, dict[str, Any]]:
    """A small model for every wrapper. MusicGen is trained by the wrapper of language models."""
    adam = {"optimizer": {"type": "AdamW", "config": {"lr": 1e-4}}}
    oobleck: dict[str, Any] = {"channels": 16, "c_mults": [1, 2, 4], "strides": [4, 4, 4]}
    shape = {"sample_size": SIZE, "sample_rate": RATE, "audio_channels": 1}
    patches = {"type": "patched", "config": {"channels": 1, "patch_size": 64}}
    stft = {"filters": 8, "n_ffts": [1024, 256], "hop_lengths": [256, 64], "win_lengths": [1024, 256]}
    adversary = {"type": "encodec", "config": stft, "weights": {"adversarial": 0.1, "feature_matching": 5.0}}
    text = {"id": "prompt", "type": "byte_text", "config": {"max_length": 32, "embed_dim": 64, "depth": 1, "num_heads": 2}}
    dit = {"io_channels": 64, "embed_dim": 192, "depth": 4, "num_heads": 3, "cond_token_dim": 64}

    def autoencoder(bottleneck: dict[str, Any], width: int = 16) -> dict[str, Any]:
        return {
            "encoder": {"type": "oobleck", "config": {"in_channels": 1, "latent_dim": width, **oobleck}},
            "decoder": {"type": "oobleck", "config": {"out_channels": 1, "latent_dim": 16, **oobleck}},
            "bottleneck": bottleneck, "latent_dim": 16, "downsampling_ratio": 64, "io_channels": 1,
        }  # fmt: skip

    def conditional(kind: str, training: dict[str, Any], objective: str = "rectified_flow", **more: Any) -> dict[str, Any]:
        concat = {"input_concat_dim": 65} if more else {}
        diffusion = {
            "type": "dit", "diffusion_objective": objective, "cross_attention_cond_ids": ["prompt"], "config": {**dit, **concat}, **more,
        }  # fmt: skip
        model = {
            "pretransform": patches, "io_channels": 64, "conditioning": {"cond_dim": 64, "configs": [text]}, "diffusion": diffusion,
        }  # fmt: skip
        return {"model_type": kind, **shape, "model": model, "training": training}

    told = {"embed_dim": 192, "depth": 4, "num_heads": 3, "io_channels": 64, "input_concat_dim": 3, "diffusion_objective": "v"}
    latents = {"channels": 16, "c_mults": [1], "strides": [4]}
    diffae = {
        "encoder": {"type": "oobleck", "config": {"in_channels": 64, "latent_dim": 8, **latents}},
        "decoder": {"type": "oobleck", "config": {"out_channels": 3, "latent_dim": 4, **latents}},
        "bottleneck": {"type": "vae"}, "pretransform": patches, "diffusion": {"type": "dit", "config": told},
        "latent_dim": 4, "downsampling_ratio": 4, "io_channels": 64,
    }  # fmt: skip
    codec = autoencoder({"type": "rvq", "config": {"dim": 16, "codebook_size": 64, "num_quantizers": 2}})
    network = {"embed_dim": 192, "depth": 4, "dim_heads": 64, "cross_attn_cond_dim": 64}
    lm = {
        "pretransform": {"type": "autoencoder", "config": codec},
        "conditioning": {"cond_dim": 64, "configs": [text]},
        "lm": {"type": "continuous_transformer", "codebook_pattern": "delay", "cross_attention_cond_ids": ["prompt"], "config": network},
    }
    head = {"channels": 16, "latent_dim": 8, "c_mults": [1, 2], "strides": [1, 2], "num_blocks": [1, 1]}
    arc = {"use_model_as_discriminator": True, "discriminator": {"type": "convnext", "config": head, "dit_hidden_layer": 2}}
    plain: dict[str, Any] = {"learning_rate": 1e-4}
    sizes = [1024, 512, 256, 128]
    scales = {"fft_sizes": sizes, "hop_sizes": [size // 4 for size in sizes], "win_lengths": sizes}
    losses = {"discriminator": adversary, "spectral": {"config": scales, "weights": {"mrstft": 1.0}}, "time": {"weights": {"l1": 1.0}}}
    gan = {**plain, "use_ema": True, "loss_configs": losses}
    players = {"optimizer_configs": {"diffusion": adam, "discriminator": adam}}
    return {
        "autoencoder": {"model_type": "autoencoder", **shape, "model": autoencoder({"type": "vae"}, 32), "training": gan},
        "diffusion_uncond": {
            "model_type": "diffusion_uncond", **shape, "training": plain,
            "model": {"type": "dit", "config": {"in_channels": 64, "embed_dim": 192, "depth": 4, "num_heads": 3}, "pretransform": patches},
        },
        "diffusion_cond": conditional("diffusion_cond", plain),
        "adapter": conditional("diffusion_cond", {**plain, "adapter": {"type": "lora", "config": {"rank": 8}}}),
        "diffusion_cond_inpaint": conditional(
            "diffusion_cond_inpaint", plain, input_concat_ids=["inpaint_mask", "inpaint_masked_input"]
        ),
        "diffusion_autoencoder": {"model_type": "diffusion_autoencoder", **shape, "model": diffae, "training": plain},
        "lm": {"model_type": "lm", **shape, "model": lm, "training": {**plain, "use_ema": True}},
        "arc": conditional("diffusion_cond", {**players, "arc": arc}, "rf_denoiser"),
    }  # fmt: skip


def measure(name: str, folder: Path, steps: int, workers: int) -> None:
    """Train one of the models, and print a line."""
    for noisy in ("stable_audio_tools", "pytorch_lightning", "lightning_fabric"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    watch = Watch()
    data = {"dataset_type": "audio_dir", "datasets": [{"id": "sounds", "path": str(folder / "sounds"), "caption": "a sound"}]}
    options = TrainOptions(
        model_config=configs()[name], dataset_config=data, run_folder=folder / name, batch_size=4, max_steps=WARM_UP + steps,
        num_workers=workers, callbacks=(watch,), show_progress=False, demos=False, precision="32",
    )  # fmt: skip
    result = train(options)
    shares = watch.shares
    outside = 1 - shares["forward"] - shares["backward"]
    has_gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if has_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    millions = sum(parameter.numel() for parameter in result.wrapper.model.parameters()) / 1e6
    columns = " ".join(f"{shares[column]:9.1%}" for column in COLUMNS)
    verdict = "" if outside < AIM else "  above the aim"
    print(
        f"{name:24} {millions:6.2f} {watch.total / watch.steps:8.3f} {peak / 1e6:8.0f} {columns} {outside:9.1%}{verdict}",
        flush=True,
    )  # fmt: skip


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(configs()), default=list(configs()))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{device}; batches of 4 x {SIZE} samples; shares of a step outside forward and backward pass: less than {AIM:.0%} is aimed at")
    print(f"{'':24} {'M':>6} {'s/step':>8} {'peak MB':>8} " + " ".join(f"{column:>9}" for column in (*COLUMNS, "outside")))
    context: Any = multiprocessing.get_context("spawn")  # a fork of a process that has computed with several threads hangs
    with tempfile.TemporaryDirectory() as folder:
        sounds = Path(folder) / "sounds"
        sounds.mkdir()
        generator = torch.Generator().manual_seed(0)
        for index in range(40):
            soundfile.write(sounds / f"{index}.wav", (0.1 * torch.randn(3 * RATE, generator=generator)).clamp(-1, 1).numpy(), RATE)
        for name in arguments.only:
            process = context.Process(target=measure, args=(name, Path(folder), arguments.steps, arguments.workers))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{name} failed")


if __name__ == "__main__":
    main()
