"""Pictures of latents: a cloud of points in their three main directions. Needs no display and leaves matplotlib's state alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def principal_components(points: Tensor, count: int = 3) -> Tensor:
    """Points (N, D) in the directions of their largest variance: (N, count). Directions that do not exist read zero."""
    centred = points.detach().double().cpu()
    centred = centred - centred.mean(dim=0)
    linalg: Any = torch.linalg  # its functions have no annotations
    vectors: Tensor = linalg.eigh(centred.T @ centred).eigenvectors  # (D, D), the widest direction last
    projected = centred @ vectors.flip(1)[:, :count]
    return torch.nn.functional.pad(projected, (0, count - projected.shape[1])).float()


def point_cloud_image(latents: Tensor, path: str | Path, *, title: str = "", max_points: int = 4000) -> Path:
    """Draw latents as a cloud: one point per frame, one line and colour per clip.

    Args:
        latents: (B, D, L)
        path: PNG file to write.
        title: Text above the picture.
        max_points: Frames are thinned out beyond that.

    Returns:
        The path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_clips, width, _ = latents.shape
    step = max(1, latents.shape[0] * latents.shape[2] // max_points)
    kept = latents.detach().float().cpu()[:, :, ::step]  # (B, D, L / step)
    points = principal_components(kept.transpose(1, 2).reshape(-1, width)).view(num_clips, -1, 3)
    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot(projection="3d")
    for index, clip in enumerate(points):
        x, y, z = clip.T.numpy()
        axes.plot(x, y, z, linewidth=0.4, alpha=0.4, color=f"C{index}")
        axes.scatter(x, y, z, s=6, color=f"C{index}")
    axes.set_title(title, fontsize=9)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=100)  # pyright: ignore[reportUnknownMemberType]
    return target
