"""DAU1d: the attention U-Net of Dance Diffusion, on raw audio or on latents.

Legend: C channels of a level, H heads, E = C / H features per head.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeInt, PositiveInt
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import BACKBONES, UNCOND_BACKBONES
from stable_audio_tools.models.diffusion.base import GUIDANCE, Backbone, check_signal, refuse
from stable_audio_tools.models.diffusion.inputs import fit_batch
from stable_audio_tools.models.layers.activations import Snake1d
from stable_audio_tools.models.layers.attention_backends import attend
from stable_audio_tools.models.layers.embeddings import FourierFeatures
from stable_audio_tools.models.layers.parameters import dtype_of, halve_parameters
from stable_audio_tools.models.layers.recompute import Recomputing
from stable_audio_tools.registry import Options

logger = logging.getLogger(__name__)

AttentionLayout = Literal["cpu", "gpu"]
CHANNELS = (128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 512, 512, 512, 512)
STRIDES = (2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2)
CUBIC = (-0.01171875, -0.03515625, 0.11328125, 0.43359375, 0.43359375, 0.11328125, -0.03515625, -0.01171875)
TIME_FEATURES = 16


class ResConvBlock(Recomputing):
    """Two convolutions with group norm and GELU, plus the input: (B, c_in, L) -> (B, c_out, L).

    Args:
        c_in: Channels of the input.
        c_mid: Channels in between.
        c_out: Channels of the output.
        is_last: End with the second convolution.
        kernel_size: Taps, odd.
        conv_bias: Whether the convolutions have a bias.
        use_snake: Snake instead of GELU.
    """

    def __init__(
        self,
        c_in: int,
        c_mid: int,
        c_out: int,
        is_last: bool = False,
        kernel_size: int = 5,
        conv_bias: bool = True,
        use_snake: bool = False,
    ) -> None:
        super().__init__()

        def activation(channels: int) -> nn.Module:
            return Snake1d(channels) if use_snake else nn.GELU()

        self.skip = nn.Identity() if c_in == c_out else nn.Conv1d(c_in, c_out, 1, bias=False)
        self.main = nn.Sequential(
            nn.Conv1d(c_in, c_mid, kernel_size, padding=kernel_size // 2, bias=conv_bias),
            nn.GroupNorm(1, c_mid),
            activation(c_mid),
            nn.Conv1d(c_mid, c_out, kernel_size, padding=kernel_size // 2, bias=conv_bias),
            nn.Identity() if is_last else nn.GroupNorm(1, c_out),
            nn.Identity() if is_last else activation(c_out),
        )

    def compute(self, x: Tensor) -> Tensor:
        return self.main(x) + self.skip(x)


class SelfAttention1d(nn.Module):
    """Self-attention over time, plus the input: (B, C, L) -> (B, C, L).

    Args:
        c_in: Channels C.
        n_head: Heads H.
        layout: How heads are put together again. ``"cpu"`` is the usual way. ``"gpu"`` reads the result (B, H, L, E) as if it were
            (B, H, E, L), as the published code did on a GPU: weights that were trained so work only so.
    """

    def __init__(self, c_in: int, n_head: int = 1, layout: AttentionLayout = "cpu") -> None:
        super().__init__()
        if c_in % n_head:
            raise ConfigError(f"attention of {c_in} channels cannot be divided among {n_head} heads")
        self.n_head = n_head
        self.layout = layout
        self.norm = nn.GroupNorm(1, c_in)
        self.qkv_proj = nn.Conv1d(c_in, 3 * c_in, 1)
        self.out_proj = nn.Conv1d(c_in, c_in, 1)

    def forward(self, x: Tensor) -> Tensor:
        q_BHLE, k_BHLE, v_BHLE = rearrange(self.qkv_proj(self.norm(x)), "b (n h e) l -> n b h l e", n=3, h=self.n_head)
        out_BHLE = attend(q_BHLE, k_BHLE, v_BHLE)
        if self.layout == "gpu":
            out = out_BHLE.reshape(x.shape)
        else:
            out = rearrange(out_BHLE, "b h l e -> b (h e) l")
        return x + self.out_proj(out)


class SkipBlock(nn.Module):
    """``cat([main(x), x])`` along channels."""

    def __init__(self, *main: nn.Module) -> None:
        super().__init__()
        self.main = nn.Sequential(*main)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, L) -> (B, C' + C, L)
        return torch.cat([self.main(x), x], dim=1)


class Downsample1d(nn.Module):
    """(B, C, L) -> (B, C, L / 2) through a fixed cubic filter."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.tensor(CUBIC))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, -1)
        return F.conv1d(F.pad(x, (3, 3), mode="reflect"), kernel, stride=2, groups=x.shape[1])


class Upsample1d(nn.Module):
    """(B, C, L) -> (B, C, 2 L) through a fixed cubic filter."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.tensor(CUBIC) * 2)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, -1)
        return F.conv_transpose1d(F.pad(x, (2, 2), mode="reflect"), kernel, stride=2, padding=7, groups=x.shape[1])


def Downsample1d_2(in_channels: int, out_channels: int, factor: int) -> nn.Conv1d:  # noqa: N802  # kept name
    """A learned one: (B, in_channels, L) -> (B, out_channels, L / factor)."""
    return nn.Conv1d(in_channels, out_channels, 2 * factor + 1, stride=factor, padding=factor)


def Upsample1d_2(in_channels: int, out_channels: int, factor: int) -> nn.Module:  # noqa: N802  # kept name
    """A learned one: (B, in_channels, L) -> (B, out_channels, L * factor)."""
    if factor == 1:
        return nn.Conv1d(in_channels, out_channels, 3, padding=1)
    odd = factor % 2
    return nn.ConvTranspose1d(in_channels, out_channels, 2 * factor, stride=factor, padding=factor // 2 + odd, output_padding=odd)


def expand_to_planes(embedding: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, W) -> (B, W, L), with L the last of ``shape``."""
    return embedding[..., None].expand(-1, -1, shape[-1])


@UNCOND_BACKBONES.register("DAU1d", channels_key="io_channels", multiple_keys=("strides",), levels_key="depth")
class DiffusionAttnUnet1D(nn.Module):
    """Predicts from a noisy signal (B, io_channels, L) and a time; L must be a multiple of ``length_multiple``.

    Args:
        io_channels: Channels of the signal.
        depth: Levels.
        n_attn_layers: How many of them, counted from the deepest, have attention, and one more; 0 is none.
        channels: Width of each level.
        cond_dim: Channels of a condition that is concatenated to the input; 0 is none.
        cond_noise_aug: Add a random amount of noise to the condition, and tell the network how much.
        kernel_size: Taps of the convolutions, odd.
        learned_resample: Learn resampling between levels. Otherwise a fixed filter resamples by 2, whatever the stride.
        strides: By how much each level is shorter than the one before; one less than levels, further ones have no effect.
        conv_bias: Whether the convolutions have a bias.
        use_snake: Snake instead of GELU.
        attention_layout: ``"cpu"`` is attention as it should be. ``"gpu"`` is for weights that were trained with the published code on a
            GPU, where the result of attention was put together in another order.
    """

    def __init__(
        self,
        *,
        io_channels: PositiveInt = 2,
        depth: PositiveInt = 14,
        n_attn_layers: NonNegativeInt = 6,
        channels: Sequence[PositiveInt] = CHANNELS,
        cond_dim: NonNegativeInt = 0,
        cond_noise_aug: bool = False,
        kernel_size: PositiveInt = 5,
        learned_resample: bool = False,
        strides: Sequence[PositiveInt] = STRIDES,
        conv_bias: bool = True,
        use_snake: bool = False,
        attention_layout: AttentionLayout = "cpu",
    ) -> None:
        super().__init__()
        if depth < 1 or len(channels) < depth or len(strides) < depth - 1:
            raise ConfigError(
                f"DAU1d: depth {depth} needs at least {depth} channels and {max(depth - 1, 0)} strides, got {len(channels)} and "
                f"{len(strides)}"
            )
        if not kernel_size % 2:
            raise ConfigError(f"DAU1d: kernel_size must be odd, got {kernel_size}")
        self.io_channels = io_channels
        self.cond_noise_aug = cond_noise_aug
        if cond_noise_aug:
            self.rng = torch.quasirandom.SobolEngine(1, scramble=True)
        self.timestep_embed = FourierFeatures(1, TIME_FEATURES)

        def conv(c_in: int, c_mid: int, c_out: int, *, is_last: bool = False) -> ResConvBlock:
            return ResConvBlock(c_in, c_mid, c_out, is_last, kernel_size, conv_bias, use_snake)

        used = list(strides[: depth - 1])
        is_fixed = [not learned_resample and stride != 1 for stride in used]
        factors = [2 if fixed else stride for fixed, stride in zip(is_fixed, used, strict=True)]
        if factors != used:
            logger.warning("DAU1d: without learned_resample every level is resampled by 2; strides %s are not", used)
        self.length_multiple = math.prod(factors)
        width_in = io_channels + cond_dim + TIME_FEATURES * (2 if cond_noise_aug else 1)
        inner: nn.Module = nn.Identity()
        for level in range(depth - 1, 0, -1):  # from the deepest outwards, as weights have always been drawn
            c, c_outer, factor = channels[level], channels[level - 1], factors[level - 1]
            has_attention = n_attn_layers > 0 and level + 1 >= depth - n_attn_layers

            def attention(width: int, has_attention: bool = has_attention) -> nn.Module:
                return SelfAttention1d(width, max(1, width // 32), attention_layout) if has_attention else nn.Identity()

            down = Downsample1d() if is_fixed[level - 1] else Downsample1d_2(c_outer, c_outer, factor)
            main = [down, conv(c_outer, c, c), attention(c), conv(c, c, c), attention(c), conv(c, c, c), attention(c), inner]
            main += [conv(c if level == depth - 1 else 2 * c, c, c), attention(c), conv(c, c, c), attention(c)]
            main += [conv(c, c, c_outer), attention(c_outer)]
            main.append(Upsample1d() if is_fixed[level - 1] else Upsample1d_2(c_outer, c_outer, factor))
            inner = SkipBlock(*main)
        c = channels[0]
        self.net = nn.Sequential(
            conv(width_in, c, c),
            conv(c, c, c),
            conv(c, c, c),
            inner,
            conv(2 * c if depth > 1 else c, c, c),
            conv(c, c, c),
            conv(c, c, io_channels, is_last=True),
        )
        halve_parameters(self.net)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None, cond_aug_scale: Tensor | None = None) -> Tensor:
        """Predict.

        Args:
            x: (B, io_channels, L)
            t: Times (B,).
            cond: (B, cond_dim, L'), stretched to L by linear interpolation.
            cond_aug_scale: How much noise is added to the condition, (B,) in [0, 1], if the network was built for it; None draws it.

        Returns:
            (B, io_channels, L)
        """
        check_signal("DAU1d", x, self.io_channels, self.length_multiple)
        dtype = dtype_of(self)
        x, t = x.to(dtype), t.to(dtype)
        planes = [x, expand_to_planes(self.timestep_embed(t[:, None]), x.shape)]
        if cond is not None:
            cond = fit_batch(cond.to(dtype), len(x), "the condition")
            if cond.shape[-1] != x.shape[-1]:
                cond = F.interpolate(cond, x.shape[-1], mode="linear", align_corners=False)
            if self.cond_noise_aug:
                level = cond_aug_scale
                if level is None:
                    level = self.rng.draw(len(x))[:, 0]
                level = level.to(x)
                planes.append(expand_to_planes(self.timestep_embed(level[:, None]), x.shape))
                cond = cond + torch.randn_like(cond) * level[:, None, None]
            planes.append(cond)
        return self.net(torch.cat(planes, dim=1))  # (B, io_channels, L)


@BACKBONES.register("DAU1d", multiple_keys=("strides",), levels_key="depth", concat_key="cond_dim")
class DAU1DCondWrapper(Backbone):
    """A `DiffusionAttnUnet1D` with one condition, concatenated to the input.

    Args:
        **unet: Options of the `DiffusionAttnUnet1D`.
    """

    def __init__(self, **unet: Annotated[Any, Options("DiffusionAttnUnet1D")]) -> None:
        super().__init__()
        self.model = DiffusionAttnUnet1D(**unet)
        halve_parameters(self.model)

    @property
    def length_multiple(self) -> int:
        """Lengths must be a multiple of this."""
        return self.model.length_multiple

    def forward(
        self, x: Tensor, t: Tensor, *, input_concat_cond: Tensor | None = None, mask: Tensor | None = None, **others: Any
    ) -> Tensor:
        """Predict. Options of guidance have no effect: this network is not guided.

        Args:
            x: (B, C, L)
            t: Times (B,).
            input_concat_cond: (B, cond_dim, L'), stretched to L by linear interpolation.
            mask: (B, L); no effect.
            **others: Those of guidance have no effect; others may only be None.

        Raises:
            ConfigError: If a condition is given that it does not take.
        """
        refuse("DAU1d", {name: value for name, value in others.items() if name not in GUIDANCE})
        return self.model(x, t, cond=input_concat_cond)
