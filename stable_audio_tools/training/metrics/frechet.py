"""The distance of two clouds of points."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Distance of two clouds of points (N, D) and (M, D), each taken for a Gaussian: ``|m - n|^2 + tr(A + B - 2 (A B)^(1/2))``.

    Source: Dowson & Landau 1982; Kilgour et al. 2019, arXiv:1812.08466.
    """
    x, y = x.double(), y.double()
    a, b = torch.cov(x.T).reshape(x.shape[1], -1), torch.cov(y.T).reshape(y.shape[1], -1)
    # The trace of the root of A B is the sum of the roots of its eigenvalues, which are those of the symmetric A^(1/2) B A^(1/2).
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ b @ root).clamp_min(0).sqrt().sum()
    return max(0.0, float((x.mean(dim=0) - y.mean(dim=0)).square().sum() + a.trace() + b.trace() - 2 * shared))
