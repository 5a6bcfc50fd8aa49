"""Classifier-free guidance: push the prediction away from what the network says without the condition."""

from __future__ import annotations

from torch import Tensor


def guide(conditional: Tensor, unconditional: Tensor, scale: float, *, rescale_phi: float = 0.0) -> Tensor:
    """``u + (c - u) * scale``, optionally pulled back to the conditional prediction's spread.

    Source: Ho & Salimans 2022, arXiv:2207.12598; rescaling: Lin et al. 2023, arXiv:2305.08891, here per time step over channels.

    Args:
        conditional: Prediction with the condition, (B, D, L).
        unconditional: Prediction without it, (B, D, L).
        scale: 1 is no guidance.
        rescale_phi: 0 leaves the spread as guidance makes it, 1 restores the conditional one.

    Returns:
        (B, D, L)
    """
    guided = unconditional + (conditional - unconditional) * scale
    if rescale_phi == 0.0:
        return guided
    rescaled = guided * (conditional.std(dim=1, keepdim=True) / guided.std(dim=1, keepdim=True))
    return rescale_phi * rescaled + (1 - rescale_phi) * guided
