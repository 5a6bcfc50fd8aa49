"""Residual units of dilated convolutions, which several autoencoders and the patches' postfilter are made of."""

from __future__ import annotations

from torch import Tensor, nn

from stable_audio_tools.models.layers.activations import get_activation
from stable_audio_tools.models.layers.conv import WNConv1d
from stable_audio_tools.models.layers.recompute import Recomputing


class ResidualUnit(Recomputing):
    """Activation, dilated convolution, activation, 1x1 convolution, plus the input.

    Args:
        channels: Channels C of input and output (B, C, T).
        dilation: Dilation of the first convolution, whose kernel has 7 taps.
        use_snake: Snake instead of ELU.
    """

    def __init__(self, channels: int, dilation: int, use_snake: bool = False) -> None:
        super().__init__()
        name = "snake" if use_snake else "elu"
        self.layers = nn.Sequential(
            get_activation(name, channels=channels),
            WNConv1d(channels, channels, kernel_size=7, dilation=dilation, padding=3 * dilation),
            get_activation(name, channels=channels),
            WNConv1d(channels, channels, kernel_size=1),
        )

    def compute(self, x: Tensor) -> Tensor:  # (B, C, T) -> (B, C, T)
        return x + self.layers(x)


def residual_units(channels: int, use_snake: bool) -> list[nn.Module]:
    """The three units, of dilations 1, 3 and 9, that stand between two changes of rate."""
    return [ResidualUnit(channels, dilation, use_snake) for dilation in (1, 3, 9)]
