"""Embeddings of times, numbers and positions."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.layers.parameters import without_autocast
from stable_audio_tools.models.layers.tables import Tables


class FourierFeatures(nn.Module):
    """``cat(cos f, sin f)`` with ``f = 2 pi x w``. Source: Tancik et al. 2020, arXiv:2006.10739.

    Args:
        in_features: Numbers per item.
        out_features: Features, even.
        std: Standard deviation of the initial frequencies ``w``, which are learned.
    """

    def __init__(self, in_features: int, out_features: int, std: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features // 2, in_features) * std)

    def forward(self, x: Tensor) -> Tensor:  # (..., in_features) -> (..., out_features)
        angle = 2 * math.pi * x @ self.weight.T
        return torch.cat([angle.cos(), angle.sin()], dim=-1)


class LearnedPositionalEmbedding(nn.Module):
    """``cat(x, sin(2 pi x w), cos(2 pi x w))`` of one number per item; ``w`` is learned.

    Args:
        dim: Number of sines and cosines, even; the output has ``dim + 1`` channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(dim // 2))

    def forward(self, x: Tensor) -> Tensor:  # (B,) -> (B, dim + 1)
        x = x[:, None]
        angle = x * self.weights[None] * 2 * math.pi
        return torch.cat([x, angle.sin(), angle.cos()], dim=-1)


class ExpoFourierFeatures(nn.Module):
    """``cat(cos f, sin f)`` with ``f = 2 pi x w`` and fixed frequencies ``w`` in geometric progression. Has no state.

    Args:
        dim: Number of cosines and sines, even and at least 4.
        min_freq: Lowest frequency, in cycles per unit.
        max_freq: Highest frequency.
    """

    def __init__(self, dim: int, min_freq: float = 0.5, max_freq: float = 10000.0) -> None:
        super().__init__()
        self.dim = dim
        self.min_freq = min_freq
        self.max_freq = max_freq

    def forward(self, x: Tensor) -> Tensor:  # (B,) or (B, 1) -> (B, dim)
        with without_autocast(x.device):  # a frequency of 10000 needs every digit
            low, high = math.log(self.min_freq), math.log(self.max_freq)
            steps = torch.arange(self.dim // 2, device=x.device, dtype=torch.float32) / (self.dim // 2 - 1)
            angle = 2 * math.pi * x.float().view(-1, 1) * (low + steps * (high - low)).exp()
            return torch.cat([angle.cos(), angle.sin()], dim=-1).to(x.dtype)


class NumberEmbedder(nn.Module):
    """One number per item to a vector: sines, then a linear layer.

    Args:
        features: Width of the vector.
        dim: Number of sines and cosines.
        fourier_features_type: ``"learned"`` frequencies, or ``"expo"``: fixed ones in geometric progression.
    """

    def __init__(self, features: int, dim: int = 256, fourier_features_type: Literal["learned", "expo"] = "learned") -> None:
        super().__init__()
        self.features = features
        is_learned = fourier_features_type == "learned"
        self.embedding = nn.Sequential(
            LearnedPositionalEmbedding(dim) if is_learned else ExpoFourierFeatures(dim), nn.Linear(dim + is_learned, features)
        )

    def forward(self, x: Tensor) -> Tensor:  # (...,) -> (..., features)
        return self.embedding(x.flatten()).view(*x.shape, self.features)


class RotaryEmbedding(nn.Module):
    """Angles of rotary position embeddings. Source: Su et al. 2021, arXiv:2104.09864.

    Args:
        dim: Number of features per head that are rotated, even.
        base: Wavelengths run from 2 pi to 2 pi * base.
    """

    inv_freq: Tensor

    def __init__(self, dim: int, base: float = 10000.0) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / (base ** (torch.arange(0, dim, 2).float() / dim)))

    def forward_from_seq_len(self, length: int, start: int = 0) -> Tensor:
        """Angles of positions start .. length - 1: (length - start, dim), in float32."""
        with without_autocast(self.inv_freq.device):
            positions = torch.arange(start, length, device=self.inv_freq.device, dtype=torch.float32)
            angles = torch.outer(positions, self.inv_freq.float())  # (L, dim / 2)
            return torch.cat([angles, angles], dim=-1)


def apply_rotary(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate pairs of features by position-dependent angles, in float32.

    Args:
        x: (B, H, L, E)
        angles: (L', dim) with L' >= L (the last rows count) and dim <= E; further features stay as they are.

    Returns:
        (B, H, L, E), in float32.
    """
    with without_autocast(x.device):
        angles = angles[-x.shape[-2] :].float()
        rotated, rest = x[..., : angles.shape[-1]].float(), x[..., angles.shape[-1] :].float()
        first, second = rotated.chunk(2, dim=-1)
        turned = rotated * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()
        return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned


class AbsolutePositionalEmbedding(nn.Module):
    """One learned vector per position, scaled by ``dim ** -0.5``.

    Args:
        dim: Width D.
        max_seq_len: Longest sequence.
    """

    def __init__(self, dim: int, max_seq_len: int) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.max_seq_len = max_seq_len
        self.emb = nn.Embedding(max_seq_len, dim)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """(B, L, D) -> embeddings (L, D) of positions from ``start``.

        Raises:
            ConfigError: If the sequence is longer than ``max_seq_len``.
        """
        end = start + x.shape[1]
        if end > self.max_seq_len:
            raise ConfigError(
                f"sequence of {end} steps, but the absolute positional embedding knows {self.max_seq_len}; "
                "raise abs_pos_emb_max_length, or generate something shorter"
            )
        return self.emb(torch.arange(start, end, device=x.device)) * self.scale


class ScaledSinusoidalEmbedding(Tables):
    """Fixed sines and cosines of the position, with one learned gain. Source: Vaswani et al. 2017, arXiv:1706.03762.

    Args:
        dim: Width D, even.
        theta: Longest wavelength over 2 pi.
    """

    inv_freq: Tensor

    def __init__(self, dim: int, theta: float = 10000.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1) * dim**-0.5)
        self.dim, self.theta = dim, theta
        self.register_tables()

    def tables(self) -> dict[str, Tensor]:
        half = self.dim // 2
        return {"inv_freq": self.theta ** -(torch.arange(half).float() / half)}

    def forward(self, x: Tensor, start: int = 0) -> Tensor:  # (B, L, D) -> (L, D) of positions from start
        positions = torch.arange(start, start + x.shape[1], device=x.device, dtype=torch.float32)
        angles = torch.outer(positions, self.inv_freq)
        return torch.cat([angles.sin(), angles.cos()], dim=-1) * self.scale
