"""SEANet: the convolutional encoder and decoder of EnCodec. Source: Defossez et al. 2022, arXiv:2210.13438."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from stable_audio_tools.config.base import NonNegativeInt, PositiveInt, Probability
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import DECODERS, ENCODERS
from stable_audio_tools.models.layers.conv import WNConv1d, WNConvTranspose1d
from stable_audio_tools.models.layers.recompute import Recomputing
from stable_audio_tools.registry import Options

Norm = Literal["none", "weight_norm", "spectral_norm", "time_layer_norm", "layer_norm", "time_group_norm"]
PadMode = Literal["reflect", "constant", "replicate"]


class _LayerNormOverChannels(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # (B, C, T) -> (B, C, T)
        return super().forward(input.transpose(1, 2)).transpose(1, 2)


def _norm_after(channels: int, norm: Norm, causal: bool, norm_params: Mapping[str, Any]) -> nn.Module:
    """What stands behind a convolution. Weight and spectral norm are part of the convolution itself: nothing."""
    if norm in ("layer_norm", "time_layer_norm"):
        return _LayerNormOverChannels(channels, **norm_params)
    if norm == "time_group_norm":
        if causal:
            raise ConfigError("seanet: time_group_norm looks into the future, so it cannot be causal; use another norm")
        return nn.GroupNorm(1, channels, **norm_params)
    return nn.Identity()


class _NormConv1d(nn.Module):
    def __init__(self, *args: Any, norm: Norm, causal: bool, norm_params: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__()
        conv = (WNConv1d if norm == "weight_norm" else nn.Conv1d)(*args, **kwargs)
        self.conv = spectral_norm(conv) if norm == "spectral_norm" else conv
        self.norm = _norm_after(conv.out_channels, norm, causal, norm_params)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class _NormConvTranspose1d(nn.Module):
    def __init__(self, *args: Any, norm: Norm, causal: bool, norm_params: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__()
        conv = (WNConvTranspose1d if norm == "weight_norm" else nn.ConvTranspose1d)(*args, **kwargs)
        self.convtr = spectral_norm(conv) if norm == "spectral_norm" else conv
        self.norm = _norm_after(conv.out_channels, norm, causal, norm_params)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.convtr(x))


def pad1d(x: Tensor, left: int, right: int, mode: PadMode) -> Tensor:
    """Pad (B, C, T) at both ends. A signal too short to be reflected is made longer with zeros first, which are cut off again."""
    longest = max(left, right)
    if mode != "reflect" or x.shape[-1] > longest:
        return F.pad(x, (left, right), mode)
    missing = longest - x.shape[-1] + 1
    padded = F.pad(F.pad(x, (0, missing)), (left, right), mode)
    return padded[..., : padded.shape[-1] - missing]


class _SConv1d(nn.Module):
    """A convolution that pads so that T becomes ceil(T / stride)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        *,
        causal: bool,
        pad_mode: PadMode,
        norm: Norm,
        norm_params: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.stride, self.reach = stride, (kernel_size - 1) * dilation + 1
        self.causal = causal
        self.pad_mode: PadMode = pad_mode
        self.conv = _NormConv1d(
            in_channels, out_channels, kernel_size, stride, dilation=dilation, norm=norm, causal=causal, norm_params=norm_params
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, C_in, T) -> (B, C_out, ceil(T / stride))
        total = self.reach - self.stride
        extra = math.ceil(x.shape[-1] / self.stride) * self.stride - x.shape[-1]  # so that the last window is full
        right = 0 if self.causal else total // 2
        return self.conv(pad1d(x, total - right, right + extra, self.pad_mode))


class _SConvTranspose1d(nn.Module):
    """A transposed convolution, trimmed so that L becomes L * stride."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        *,
        causal: bool,
        trim_right_ratio: float,
        norm: Norm,
        norm_params: Mapping[str, Any],
    ) -> None:
        super().__init__()
        total = kernel_size - stride
        self.right = math.ceil(total * trim_right_ratio) if causal else total // 2
        self.left = total - self.right
        self.convtr = _NormConvTranspose1d(
            in_channels, out_channels, kernel_size, stride, norm=norm, causal=causal, norm_params=norm_params
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, C_in, L) -> (B, C_out, L * stride)
        x = self.convtr(x)
        return x[..., self.left : x.shape[-1] - self.right]


class _SLSTM(nn.Module):
    """LSTM layers over time, plus the input."""

    def __init__(self, dim: int, num_layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, num_layers)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T) -> (B, C, T)
        sequence = x.permute(2, 0, 1)  # (T, B, C)
        out, _ = self.lstm(sequence)
        return (out + sequence).permute(1, 2, 0)


class _Activation:
    """Makes activations of a named class of `torch.nn`."""

    def __init__(self, name: str, params: Mapping[str, Any] | None) -> None:
        self.make = getattr(nn, name, None)
        self.params = dict(params or {})
        if not (isinstance(self.make, type) and issubclass(self.make, nn.Module)):
            raise ConfigError(f"seanet: activation must be the name of a class in torch.nn, such as 'ELU', got {name!r}")

    def __call__(self) -> nn.Module:
        assert self.make is not None
        return self.make(**self.params)


class _ResnetBlock(Recomputing):
    """Two convolutions in a narrower space, plus the input or a 1x1 convolution of it."""

    def __init__(
        self, dim: int, kernel_size: int, dilation: int, compress: int, true_skip: bool, activation: _Activation, conv: Mapping[str, Any]
    ) -> None:
        super().__init__()
        hidden = dim // compress
        self.block = nn.Sequential(
            activation(), _SConv1d(dim, hidden, kernel_size, dilation=dilation, **conv), activation(), _SConv1d(hidden, dim, 1, **conv)
        )
        self.shortcut = nn.Identity() if true_skip else _SConv1d(dim, dim, 1, **conv)

    def compute(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.block(x)


class SEANetLayers:
    """Makes the layers that encoder and decoder have in common.

    Args:
        n_residual_layers: Residual blocks before each stride of the encoder, and after each of the decoder.
        activation: Name of a class in `torch.nn`.
        activation_params: Its options; those of an ELU are ``{"alpha": 1.0}``.
        norm: Norm of every convolution.
        norm_params: Its options.
        residual_kernel_size: Of the residual blocks.
        dilation_base: Residual block j of a stride is dilated by ``dilation_base ** j``.
        causal: See no future sample.
        pad_mode: What stands beyond the ends.
        true_skip: Residual blocks add their input, rather than a 1x1 convolution of it.
        compress: How much narrower residual blocks are inside.
    """

    def __init__(
        self,
        *,
        n_residual_layers: NonNegativeInt = 1,
        activation: str = "ELU",
        activation_params: dict[str, Any] | None = None,
        norm: Norm = "weight_norm",
        norm_params: dict[str, Any] | None = None,
        residual_kernel_size: PositiveInt = 3,
        dilation_base: PositiveInt = 2,
        causal: bool = False,
        pad_mode: PadMode = "reflect",
        true_skip: bool = False,
        compress: PositiveInt = 2,
    ) -> None:
        self.activation = _Activation(activation, activation_params)
        self._norms: dict[str, Any] = {"causal": causal, "norm": norm, "norm_params": norm_params or {}}
        self._conv: dict[str, Any] = {**self._norms, "pad_mode": pad_mode}
        self._dilations = [dilation_base**index for index in range(n_residual_layers)]
        self._residual = (compress, true_skip, self.activation, self._conv)
        self._residual_kernel_size = residual_kernel_size

    def conv(self, width_in: int, width_out: int, kernel_size: int, stride: int = 1) -> nn.Module:
        """(B, C_in, T) -> (B, C_out, T / stride)."""
        return _SConv1d(width_in, width_out, kernel_size, stride, **self._conv)

    def transposed(self, width_in: int, width_out: int, kernel_size: int, stride: int, trim_right_ratio: float) -> nn.Module:
        """(B, C_in, L) -> (B, C_out, L * stride)."""
        return _SConvTranspose1d(width_in, width_out, kernel_size, stride, trim_right_ratio=trim_right_ratio, **self._norms)

    def residuals(self, width: int) -> list[nn.Module]:
        """The residual blocks of one stride, (B, C, T) -> (B, C, T) each."""
        return [_ResnetBlock(width, self._residual_kernel_size, dilation, *self._residual) for dilation in self._dilations]


@ENCODERS.register("seanet", width_key="dimension", channels_key="channels")
class SEANetEncoder(nn.Module):
    """Strided convolutions with residual blocks, LSTM layers at the end: (B, channels, T) -> (B, dimension, T / prod(ratios)).

    Args:
        channels: Audio channels.
        dimension: Channels of the output.
        n_filters: Width of the first layer; every stride doubles it.
        ratios: Strides, in the order in which they are applied.
        kernel_size: Of the first convolution.
        last_kernel_size: Of the last one.
        lstm: LSTM layers; they see everything before, so that no overlap makes chunked coding exact.
        **layers: Options of the `SEANetLayers`.
    """

    def __init__(
        self,
        channels: PositiveInt = 1,
        dimension: PositiveInt = 128,
        n_filters: PositiveInt = 32,
        ratios: Sequence[PositiveInt] = (2, 2, 2, 2, 2),
        kernel_size: PositiveInt = 7,
        last_kernel_size: PositiveInt = 7,
        lstm: NonNegativeInt = 2,
        **layers: Annotated[Any, Options("SEANetLayers")],
    ) -> None:
        super().__init__()
        make = SEANetLayers(**layers)
        model = [make.conv(channels, n_filters, kernel_size)]
        width = n_filters
        for ratio in ratios:
            model += [*make.residuals(width), make.activation(), make.conv(width, 2 * width, 2 * ratio, ratio)]
            width *= 2
        if lstm:
            model.append(_SLSTM(width, lstm))
        model += [make.activation(), make.conv(width, dimension, last_kernel_size)]
        self.model = nn.Sequential(*model)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T) -> (B, W, L)
        return self.model(x).contiguous()


@DECODERS.register("seanet", width_key="dimension", channels_key="channels", strides_as_applied=True)
class SEANetDecoder(nn.Module):
    """LSTM layers, then transposed convolutions with residual blocks: (B, dimension, L) -> (B, channels, L * prod(ratios)).

    Args:
        channels: Audio channels.
        dimension: Channels of the latents.
        n_filters: Width of the last layer; every stride halves the width.
        ratios: Strides, in the order in which they are applied: the encoder's, reversed.
        kernel_size: Of the first convolution.
        last_kernel_size: Of the last one.
        lstm: LSTM layers; they see everything before, so that no overlap makes chunked coding exact.
        final_activation: Name of a class in `torch.nn` to end with; None is none.
        final_activation_params: Its options.
        trim_right_ratio: How much of what transposed convolutions give too much is cut from the right; only if causal.
        **layers: Options of the `SEANetLayers`.
    """

    def __init__(
        self,
        channels: PositiveInt = 1,
        dimension: PositiveInt = 128,
        n_filters: PositiveInt = 32,
        ratios: Sequence[PositiveInt] = (8, 5, 4, 2),
        kernel_size: PositiveInt = 7,
        last_kernel_size: PositiveInt = 7,
        lstm: NonNegativeInt = 2,
        final_activation: str | None = None,
        final_activation_params: dict[str, Any] | None = None,
        trim_right_ratio: Probability = 1.0,
        **layers: Annotated[Any, Options("SEANetLayers")],
    ) -> None:
        super().__init__()
        if not 0 <= trim_right_ratio <= 1:
            raise ConfigError(f"seanet decoder: trim_right_ratio must be in [0, 1], got {trim_right_ratio}")
        make = SEANetLayers(**layers)
        width = n_filters * 2 ** len(ratios)
        model = [make.conv(dimension, width, kernel_size)]
        if lstm:
            model.append(_SLSTM(width, lstm))
        for ratio in ratios:
            model += [make.activation(), make.transposed(width, width // 2, 2 * ratio, ratio, trim_right_ratio)]
            width //= 2
            model += make.residuals(width)
        model += [make.activation(), make.conv(n_filters, channels, last_kernel_size)]
        if final_activation is not None:
            model.append(_Activation(final_activation, final_activation_params)())
        self.model = nn.Sequential(*model)

    def forward(self, x: Tensor) -> Tensor:  # (B, D, L) -> (B, C, T)
        return self.model(x).contiguous()
