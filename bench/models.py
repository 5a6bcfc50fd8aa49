"""Stable Audio Open 1.0 sizes with random weights, on the CPU: how much of this machine's matrix-product rate its networks reach.

The autoencoder encodes and decodes, the DiT takes one guided step (two network evaluations in one batch) at 256 latents, each in float32
and bfloat16. Operations are those of the matrix products and convolutions, counted by torch; the rate they are compared with is that of a
large product in bfloat16, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import resources

import torch
from timing import median_ms
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stable_audio_tools.models.factory import create_model_from_config
from stable_audio_tools.models.layers.conv import remove_weight_norm_from_model
from stable_audio_tools.models.layers.packing import packed_linears

CONFIG = resources.files("stable_audio_tools") / "configs" / "model_configs" / "txt2audio" / "stable_audio_open_1_0.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", type=int, default=256, help="length of the DiT's input")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of the autoencoder's input")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("autoencoder", "dit"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rate = matmul_rate(torch.bfloat16)
    print(
        f"{torch.get_num_threads()} threads; matrix product in bfloat16: {rate:.0f} GFLOP/s, in float32: {matmul_rate(torch.float32):.0f}"
    )
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    model = create_model_from_config(config).eval().requires_grad_(False)
    remove_weight_norm_from_model(model)
    autoencoder = model.pretransform.model
    num_samples = round(arguments.seconds * model.sample_rate) // model.downsampling_ratio * model.downsampling_ratio
    audio = torch.randn(1, 2, num_samples) * 0.1
    latents = torch.randn(1, 64, num_samples // model.downsampling_ratio)
    x = torch.randn(1, 64, arguments.latents)
    cross, keep = torch.randn(1, 130, 768), torch.ones(1, 130, dtype=torch.bool)
    globals_ = torch.randn(1, 1536)
    for dtype in (torch.float32, torch.bfloat16):
        if arguments.only != "dit":
            part = autoencoder.to(dtype)
            a, z = audio.to(dtype), latents.to(dtype)
            report(f"encode {arguments.seconds:g} s", dtype, lambda p=part, a=a: p.encoder(a), rate, arguments.repeats)
            report(f"decode {arguments.seconds:g} s", dtype, lambda p=part, z=z: p.decoder(z), rate, arguments.repeats)
        if arguments.only != "autoencoder":
            dit = model.model.to(dtype)
            given = {"cross_attn_cond": cross.to(dtype), "cross_attn_mask": keep, "global_cond": globals_.to(dtype)}
            step = lambda m=dit, g=given, d=dtype: m(x.to(d), torch.full((1,), 0.5), cfg_scale=6.0, **g)  # noqa: E731
            packed = packed_linears(dit, num_calls=100, rows=2 * arguments.latents)  # as in a generation of 100 steps
            report(f"guided step, {arguments.latents} latents", dtype, step, rate, arguments.repeats, packed)


def matmul_rate(dtype: torch.dtype, size: int = 2048) -> float:
    """GFLOP/s of a large matrix product."""
    square = torch.randn(size, size).to(dtype)
    return 2 * size**3 / median_ms(lambda: square @ square) / 1e6


@torch.inference_mode()
def report(
    name: str,
    dtype: torch.dtype,
    run: Callable[[], Tensor],
    rate: float,
    repeats: int,
    setting: AbstractContextManager[None] | None = None,
) -> None:
    """Print one line; ``setting`` is entered for the timed calls."""
    with FlopCounterMode(display=False) as counter:
        run()
    with setting or nullcontext():
        milliseconds = median_ms(run, repeats=repeats)
    achieved = counter.get_total_flops() / milliseconds / 1e6
    print(
        f"{name:28} {str(dtype)[6:]:9} {milliseconds:9.0f} ms {achieved:8.0f} GFLOP/s {achieved / rate:6.0%} of the bfloat16 rate",
        flush=True,
    )


if __name__ == "__main__":
    main()
