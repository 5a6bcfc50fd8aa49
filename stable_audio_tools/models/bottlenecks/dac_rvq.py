"""Residual vector quantization as of the Descript Audio Codec: low-dimensional codes, looked up by cosine, learned by gradient.

Source: Kumar et al. 2023, arXiv:2306.06546.

Letters: B batch, D width, d width of the codes, L frames, K codebooks, V codes per codebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeInt, PositiveInt, Probability
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import BOTTLENECKS
from stable_audio_tools.models.bottlenecks.base import DiscreteBottleneck, check_width, with_noise_channels
from stable_audio_tools.models.bottlenecks.vae import vae_sample
from stable_audio_tools.models.layers.conv import WNConv1d


class Quantized(NamedTuple):
    """What a residual quantizer gives.

    Attributes:
        z: Quantized latents (B, D, L).
        codes: Tokens (B, K, L).
        latents: Projections of what each stage quantized, (B, K d, L).
        commitment_loss: Distance of the projections from their codes, averaged over the batch, summed over stages.
        codebook_loss: The same number, with the gradient going to the codes.
    """

    z: Tensor
    codes: Tensor
    latents: Tensor
    commitment_loss: Tensor
    codebook_loss: Tensor


class CosineVectorQuantize(nn.Module):
    """One stage: project to d channels, take the code of the nearest direction, project back.

    Args:
        input_dim: D.
        codebook_size: V.
        codebook_dim: d.
    """

    def __init__(self, input_dim: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.in_proj = WNConv1d(input_dim, codebook_dim, kernel_size=1)
        self.out_proj = WNConv1d(codebook_dim, input_dim, kernel_size=1)
        self.codebook = nn.Embedding(codebook_size, codebook_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(B, D, L) -> quantized (B, D, L), commitment loss (B,), codebook loss (B,), codes (B, L), projection (B, d, L)."""
        z = self.in_proj(x)  # (B, d, L)
        codes = self.nearest(z)
        quantized = self.look_up(codes)
        commitment = F.mse_loss(z, quantized.detach(), reduction="none").mean(dim=(1, 2))
        codebook = F.mse_loss(quantized, z.detach(), reduction="none").mean(dim=(1, 2))
        quantized = z + (quantized - z).detach()
        return self.out_proj(quantized), commitment, codebook, codes, z

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """(B, d, L) -> (B, L): the codes whose direction is nearest; their length does not matter."""
        directions = F.normalize(z.transpose(1, 2), dim=-1)  # (B, L, d)
        return (directions @ F.normalize(self.codebook.weight, dim=-1).T.to(directions)).argmax(dim=-1)

    def look_up(self, codes: Tensor) -> Tensor:
        """(B, L) -> (B, d, L), not normalised."""
        return self.codebook(codes).transpose(1, 2)


class ResidualVectorQuantize(nn.Module):
    """Stages that each quantize what the ones before left over.

    Args:
        input_dim: D.
        n_codebooks: K.
        codebook_size: V.
        codebook_dim: d, one for all or one for each.
        quantizer_dropout: Share of a training batch that uses a random number of codebooks.
    """

    def __init__(
        self, input_dim: int, n_codebooks: int, codebook_size: int, codebook_dim: int | Sequence[int], quantizer_dropout: float
    ) -> None:
        super().__init__()
        dims = [codebook_dim] * n_codebooks if isinstance(codebook_dim, int) else list(codebook_dim)
        if n_codebooks < 1 or codebook_size < 1 or len(dims) != n_codebooks or not 0 <= quantizer_dropout <= 1:
            raise ConfigError(
                "dac_rvq bottleneck: needs n_codebooks and codebook_size of at least 1, one codebook_dim or as many as codebooks, and "
                f"quantizer_dropout in [0, 1], got {n_codebooks}, {codebook_size}, {codebook_dim} and {quantizer_dropout}"
            )
        self.quantizer_dropout = quantizer_dropout
        self.quantizers = nn.ModuleList(CosineVectorQuantize(input_dim, codebook_size, dim) for dim in dims)

    def forward(self, x: Tensor, n_quantizers: int | None = None) -> Quantized:
        """Quantize (B, D, L).

        Args:
            x: (B, D, L)
            n_quantizers: Codebooks to use; in training all of them, but for the items that ``quantizer_dropout`` chooses.
        """
        if self.training:
            return self._quantize(x, self._random_counts(x.shape[0]).to(x.device), len(self.quantizers))
        used = min(n_quantizers, len(self.quantizers)) if n_quantizers is not None else len(self.quantizers)
        return self._quantize(x, torch.full((x.shape[0],), used, device=x.device), used)

    def _random_counts(self, batch: int) -> Tensor:
        """How many codebooks each item uses. Drawn on the CPU, at every training step, as published training runs did."""
        drawn = torch.randint(1, len(self.quantizers) + 1, (batch,))
        dropped = torch.arange(batch) < int(batch * self.quantizer_dropout)
        return torch.where(dropped, drawn, len(self.quantizers))

    def _quantize(self, x: Tensor, counts: Tensor, num_stages: int) -> Quantized:
        total, residual = torch.zeros_like(x), x
        commitment = codebook = x.new_zeros(())
        codes: list[Tensor] = []
        latents: list[Tensor] = []
        for stage, quantizer in enumerate(self.quantizers[:num_stages]):
            quantized, commitment_i, codebook_i, codes_i, latents_i = quantizer(residual)
            used = (stage < counts).to(x)  # (B,)
            total = total + quantized * used[:, None, None]
            residual = residual - quantized
            commitment = commitment + (commitment_i * used).mean()
            codebook = codebook + (codebook_i * used).mean()
            codes.append(codes_i)
            latents.append(latents_i)
        return Quantized(total, torch.stack(codes, dim=1), torch.cat(latents, dim=1), commitment, codebook)

    def from_codes(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (B, K', L), K' <= K -> quantized (B, D, L), the codes' vectors (B, K' d, L), and the codes."""
        stages = [cast("CosineVectorQuantize", stage) for stage in self.quantizers[: codes.shape[1]]]
        vectors = [stage.look_up(index) for stage, index in zip(stages, codes.unbind(1), strict=True)]
        parts = [stage.out_proj(vector) for stage, vector in zip(stages, vectors, strict=True)]
        return torch.stack(parts).sum(dim=0), torch.cat(vectors, dim=1), codes


@BOTTLENECKS.register("dac_rvq", losses=("codebook", "commitment"), width_key="input_dim")
class DACRVQBottleneck(DiscreteBottleneck):
    """Residual vector quantization of the Descript Audio Codec. Tokens: ``codes``, (B, K, L).

    Args:
        quantize_on_decode: Latents stay continuous, and are quantized before decoding.
        noise_augment_dim: Channels of noise that the decoder gets besides the latents.
        input_dim: Channels of the latents.
        n_codebooks: Codebooks.
        codebook_size: Codes per codebook.
        codebook_dim: Width of the codes, one for all or one for each codebook.
        quantizer_dropout: Share of a training batch that uses a random number of codebooks, so that any number works.
    """

    loss_weights: ClassVar[dict[str, float]] = {"vq/codebook_loss": 1.0, "vq/commitment_loss": 0.25}

    def __init__(
        self,
        quantize_on_decode: bool = False,
        noise_augment_dim: NonNegativeInt = 0,
        input_dim: PositiveInt = 512,
        n_codebooks: PositiveInt = 9,
        codebook_size: PositiveInt = 1024,
        codebook_dim: PositiveInt | list[PositiveInt] = 8,
        quantizer_dropout: Probability = 0.0,
    ) -> None:
        super().__init__(num_quantizers=n_codebooks, codebook_size=codebook_size, tokens_id="codes")
        self.input_dim = input_dim
        self.quantize_on_decode = quantize_on_decode
        self.noise_augment_dim = noise_augment_dim
        self.quantizer = ResidualVectorQuantize(input_dim, n_codebooks, codebook_size, codebook_dim, quantizer_dropout)

    def encode(self, x: Tensor, return_info: bool = False, *, n_quantizers: int | None = None, **kwargs: Any) -> Any:
        """(B, D, L) -> quantized (B, D, L), or ``x`` itself with ``quantize_on_decode``.

        Args:
            x: Latents.
            return_info: Also return ``pre_quantizer``, ``z``, ``codes``, ``latents`` and both losses, per codebook.
            n_quantizers: Use only the first codebooks. Training uses all.
            **kwargs: Ignored; other bottlenecks have more options.
        """
        latents, info = self.quantize(x, n_quantizers)
        return (latents, info) if return_info else latents

    def quantize(self, x: Tensor, n_quantizers: int | None) -> tuple[Tensor, dict[str, Any]]:
        """(B, D, L) -> latents (B, D, L), and all by-products."""
        check_width(x, self.input_dim, "dac_rvq bottleneck", "input_dim")
        if n_quantizers is not None and n_quantizers < 1:
            raise ConfigError(f"dac_rvq bottleneck: n_quantizers must be at least 1, got {n_quantizers}")
        made = self.quantizer(x, n_quantizers)
        info = {
            "pre_quantizer": x,
            "z": made.z,
            "codes": made.codes,
            "latents": made.latents,
            "vq/commitment_loss": made.commitment_loss / self.num_quantizers,
            "vq/codebook_loss": made.codebook_loss / self.num_quantizers,
        }
        return x if self.quantize_on_decode else made.z, info

    def decode(self, x: Tensor) -> Tensor:
        return self.decode_quantized(self.quantizer(x).z if self.quantize_on_decode else x)

    def decode_quantized(self, x: Tensor) -> Tensor:
        return with_noise_channels(x, self.noise_augment_dim)

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        return self.quantizer.from_codes(tokens)[0]


@BOTTLENECKS.register("dac_rvq_vae", losses=("kl", "codebook", "commitment"), encoder_width=2, width_key="input_dim")
class DACRVQVAEBottleneck(DACRVQBottleneck):
    """A Gaussian sample as of ``vae``, then residual vector quantization as of ``dac_rvq``.

    Args:
        quantize_on_decode: Latents stay continuous, and are quantized before decoding.
        input_dim: Channels of the latents.
        n_codebooks: Codebooks.
        codebook_size: Codes per codebook.
        codebook_dim: Width of the codes, one for all or one for each codebook.
        quantizer_dropout: Share of a training batch that uses a random number of codebooks, so that any number works.
    """

    loss_weights: ClassVar[dict[str, float]] = {"kl": 1e-6, "vq/codebook_loss": 1.0, "vq/commitment_loss": 0.25}

    def __init__(
        self,
        quantize_on_decode: bool = False,
        input_dim: PositiveInt = 512,
        n_codebooks: PositiveInt = 9,
        codebook_size: PositiveInt = 1024,
        codebook_dim: PositiveInt | list[PositiveInt] = 8,
        quantizer_dropout: Probability = 0.0,
    ) -> None:
        super().__init__(
            quantize_on_decode,
            input_dim=input_dim,
            n_codebooks=n_codebooks,
            codebook_size=codebook_size,
            codebook_dim=codebook_dim,
            quantizer_dropout=quantizer_dropout,
        )

    def encode(self, x: Tensor, return_info: bool = False, *, n_quantizers: int | None = None, **kwargs: Any) -> Any:
        """(B, 2 D, L) -> (B, D, L); see `DACRVQBottleneck.encode`. ``info`` has ``kl`` too."""
        check_width(x, 2 * self.input_dim, "dac_rvq_vae bottleneck", "2 * input_dim")
        sampled, kl = vae_sample(*x.chunk(2, dim=1))
        latents, info = self.quantize(sampled, n_quantizers)
        return (latents, {"kl": kl, **info}) if return_info else latents
