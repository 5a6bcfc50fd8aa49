"""Classifier-free guidance: push the prediction away from what the network says without the condition."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Denoised(NamedTuple):
    """What projected and limited guidance need besides the predictions.

    Attributes:
        data: The data as the network sees it with the condition, (B, D, L).
        sigma: How much of the noisy input is noise, broadcastable to it.
        mask: (B, 1, L), False at padding, which does not count; None counts everything.
    """

    data: Tensor
    sigma: Tensor
    mask: Tensor | None = None


def guide(
    conditional: Tensor,
    unconditional: Tensor,
    scale: float | Tensor,
    *,
    rescale_phi: float = 0.0,
    apg_scale: float = 0.0,
    norm_threshold: float = 0.0,
    denoised: Denoised | None = None,
) -> Tensor:
    """``c + (c - u) * (scale - 1)``, with ways to keep large scales from overdoing it.

    Source: Ho & Salimans 2022, arXiv:2207.12598; rescaling: Lin et al. 2023, arXiv:2305.08891, here per time step over channels;
    projection and limit: Sadat et al. 2024, arXiv:2410.02416.

    Args:
        conditional: Prediction c with the condition, (B, D, L).
        unconditional: Prediction u without it, (B, D, L).
        scale: 1 is no guidance; a tensor (B, 1, 1) is one per item.
        rescale_phi: 0 leaves the spread as guidance makes it, 1 restores the conditional one.
        apg_scale: 1 leaves out the part of ``c - u`` that only makes the denoised data larger or smaller, 0 leaves it in.
        norm_threshold: Longest that the difference of the denoised data of both predictions may be, over the whole item; 0 is no limit.
        denoised: Needed for the last two.

    Returns:
        (B, D, L)
    """
    difference = conditional - unconditional
    if norm_threshold or apg_scale:
        assert denoised is not None
        difference = _tamed(difference, denoised, apg_scale, norm_threshold)
        guided = conditional + difference * (scale - 1)
    else:
        guided = unconditional + difference * scale
    if rescale_phi == 0.0:
        return guided
    rescaled = guided * (conditional.std(dim=1, keepdim=True) / guided.std(dim=1, keepdim=True))
    return rescale_phi * rescaled + (1 - rescale_phi) * guided


def _tamed(difference: Tensor, denoised: Denoised, apg_scale: float, norm_threshold: float) -> Tensor:
    """The predictions' difference limited and projected, in float32.

    Denoised data differ by ``-sigma`` times the predictions' difference, so that nothing needs to be divided by sigma.
    """
    delta, data = difference.float(), denoised.data.float()
    mask = denoised.mask.float() if denoised.mask is not None else None
    if norm_threshold:
        length = _inner(delta, delta, mask).sqrt() * denoised.sigma
        delta = delta * (norm_threshold / length.clamp(min=norm_threshold))
    if apg_scale:
        along = data * (_inner(delta, data, mask) / _inner(data, data, mask).clamp(min=1e-12))
        projected = delta - along if mask is None else (delta - along) * mask
        delta = apg_scale * projected + (1 - apg_scale) * delta
    return delta.to(difference.dtype)


def _inner(a: Tensor, b: Tensor, mask: Tensor | None) -> Tensor:
    product = a * b if mask is None else a * b * mask
    return product.sum(dim=(1, 2), keepdim=True)  # (B, 1, 1)


__all__ = ["Denoised", "guide"]
