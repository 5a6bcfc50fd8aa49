"""What tokens of a language model cost: 1,024 of them against 256, and with the key/value cache against without. On one thread."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from stable_audio_tools import create_model_from_config

SHORT, LONG, WIDTH = 256, 1024, 256
AIM = 4.5  # the long generation may cost this many times the short one; 4 would be exactly linear


def config(pattern: str) -> dict[str, Any]:
    """A language model of width 256 over 4 codebooks of 1,024 tokens; the codec is as small as it can be."""
    sizes: dict[str, Any] = {"channels": 4, "c_mults": [1], "strides": [4], "latent_dim": 8}
    codec = {
        "encoder": {"type": "oobleck", "config": {"in_channels": 1, **sizes}},
        "decoder": {"type": "oobleck", "config": {"out_channels": 1, **sizes}},
        "bottleneck": {"type": "dac_rvq", "config": {"input_dim": 8, "n_codebooks": 4, "codebook_dim": 4, "codebook_size": 1024}},
        "latent_dim": 8,
        "downsampling_ratio": 4,
        "io_channels": 1,
    }
    ids = ["a", "b"]
    return {
        "model_type": "lm",
        "sample_rate": 8000,
        "audio_channels": 1,
        "model": {
            "pretransform": {"type": "autoencoder", "config": codec},
            "conditioning": {
                "cond_dim": WIDTH,
                "configs": [{"id": name, "type": "number", "config": {"min_val": 0, "max_val": 1}} for name in ids],
            },
            "lm": {
                "type": "continuous_transformer",
                "codebook_pattern": pattern,
                "cross_attention_cond_ids": ["a"],
                "prepend_cond_ids": ["b"],
                "config": {"embed_dim": WIDTH, "depth": 8, "dim_heads": 64, "cross_attn_cond_dim": WIDTH, "prepend_cond_dim": WIDTH},
            },
        },
    }


def seconds(*functions: Callable[[], object], repeats: int) -> list[float]:
    """Shortest processor time of each, measured in turn: what else the machine does counts little."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, found in zip(functions, times, strict=True):
            started = time.process_time()
            function()
            found.append(time.process_time() - started)
    return [min(found) for found in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--uncached", action="store_true", help="also measure 256 tokens without the cache")
    options = parser.parse_args()
    torch.set_num_threads(1)  # one token is too little work for more, and waiting threads would count
    print(f"one thread, float32, width {WIDTH}, 8 blocks, 4 codebooks, cross-attention and a prepended condition")
    for pattern, scale in (("delay", 1.0), ("delay", 3.0), ("parallel", 1.0)):
        torch.manual_seed(0)
        model: Any = create_model_from_config(config(pattern)).eval()

        def generate(length: int, use_cache: bool = True, model: Any = model, scale: float = scale) -> Callable[[], object]:
            return lambda: model.generate(length, conditioning=[{"a": 0.5, "b": 0.5}], cfg_scale=scale, use_cache=use_cache)

        generate(16)()
        short, long = seconds(generate(SHORT), generate(LONG), repeats=options.repeats)
        verdict = "ok" if long / short <= AIM else "MISSED"
        print(
            f"{pattern:9} guidance {scale:g}   {SHORT} tokens {short:6.2f} s   {LONG:,} tokens {long:6.2f} s "
            f"({LONG / long:5.0f} per second)   ratio {long / short:.2f} (aim <= {AIM}: {verdict})"
        )
        if options.uncached:
            (whole,) = seconds(generate(SHORT, use_cache=False), repeats=1)
            print(f"{'':22} {SHORT} tokens {whole:6.2f} s without the cache: {whole / short:.1f} times as long")


if __name__ == "__main__":
    main()
