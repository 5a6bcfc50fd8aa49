"""The numerical settings under which reference results were made, without leaving them behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def reference_numerics() -> Iterator[None]:
    """Full float32 products and deterministic kernel choice; everything is restored on exit.

    Generation is compared seed by seed, so TF32, reduced-precision sums and cuDNN's autotuner are off while it runs.
    """
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, matmul.allow_fp16_reduced_precision_reduction, cudnn.benchmark)
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = matmul.allow_fp16_reduced_precision_reduction = cudnn.benchmark = False
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, matmul.allow_fp16_reduced_precision_reduction, cudnn.benchmark = before


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global streams, and put them back as they were on exit."""
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield
