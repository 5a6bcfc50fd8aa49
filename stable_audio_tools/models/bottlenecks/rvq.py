"""Residual vector quantization with codebooks that follow the data, without gradients.

Source: van den Oord et al. 2017, arXiv:1711.00937 (moving averages: its appendix A); residual stages and dead codes: Zeghidour et al. 2021,
arXiv:2107.03312. State-dict keys are those of published checkpoints.

Letters: B batch, D width, L frames, K codebooks, N vectors (B * L), V codes per codebook.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.config.base import NonNegativeFloat, NonNegativeInt, PositiveInt, Probability
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import BOTTLENECKS
from stable_audio_tools.models.bottlenecks.base import DiscreteBottleneck, check_width
from stable_audio_tools.models.bottlenecks.vae import vae_sample
from stable_audio_tools.models.layers.parameters import without_autocast
from stable_audio_tools.registry import Options

IGNORED = {
    "sync_codebook": "codebooks of several processes are always kept equal",
    "sync_kmeans": "codebooks of several processes are always kept equal",
    "accept_image_fmap": "latents are always (B, D, L)",
    "channel_last": "latents are always (B, D, L)",
}


def _summed(x: Tensor) -> Tensor:
    """The sum over all processes of a distributed run."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(x)
    return x


def _shared(x: Tensor) -> Tensor:
    """What the first process has, so that random choices do not drive codebooks apart."""
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(x, 0)
    return x


def _pick(vectors: Tensor, count: int) -> Tensor:
    """``count`` random rows of (N, D); without repetition where there are enough."""
    if len(vectors) >= count:
        chosen = torch.randperm(len(vectors), device=vectors.device)[:count]
    else:
        chosen = torch.randint(len(vectors), (count,), device=vectors.device)
    return vectors[chosen]


def k_means(vectors: Tensor, count: int, iterations: int, *, on_sphere: bool = False) -> tuple[Tensor, Tensor]:
    """Centres (count, D) of (N, D), and how many vectors each has (count,). A centre that loses all of its vectors stays where it is.

    ``on_sphere``: all vectors have length 1, and so have the centres.
    """
    centres = _pick(vectors, count)
    sizes = vectors.new_zeros(count)
    for _ in range(iterations):
        nearest = torch.cdist(vectors, centres).argmin(dim=1)  # (N,)
        sizes = torch.bincount(nearest, minlength=count).to(vectors)
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        means = F.normalize(sums, dim=-1) if on_sphere else sums / sizes.clamp(min=1)[:, None]
        centres = torch.where(sizes[:, None] > 0, means, centres)
    return centres, sizes


class EMACodebook(nn.Module):
    """V vectors, each the moving average of those that were nearest to it.

    Args:
        dim: Width.
        codebook_size: V.
        decay: Share of the past in the averages.
        kmeans_init: Start from clusters of the first batch, whatever the mode; otherwise from random vectors.
        kmeans_iters: Iterations of that.
        threshold_ema_dead_code: A code that is used less than this often per batch, on average, is replaced by a vector of the batch.
        eps: Added to the counts of codes, for those that are never used.
        freeze_codebook: Never move, not even in training.
        use_cosine_sim: Vectors and codes have length 1, so that the nearest code is the one at the smallest angle.
    """

    initted: Tensor
    cluster_size: Tensor
    embed: Tensor
    embed_avg: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        decay: float,
        kmeans_init: bool,
        kmeans_iters: int,
        threshold_ema_dead_code: float,
        eps: float = 1e-5,
        freeze_codebook: bool = False,
        use_cosine_sim: bool = False,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.freeze_codebook = freeze_codebook
        self.use_cosine_sim = use_cosine_sim
        self.decay = decay
        self.kmeans_iters = kmeans_iters
        self.threshold_ema_dead_code = threshold_ema_dead_code
        embed = torch.zeros(1, codebook_size, dim)
        if not kmeans_init:
            nn.init.kaiming_uniform_(embed)
        embed = self.on_sphere(embed)
        self.register_buffer("initted", torch.tensor([float(not kmeans_init)]))
        self.register_buffer("cluster_size", torch.zeros(1, codebook_size))
        self.register_buffer("embed_avg", embed.clone())
        self.register_buffer("embed", embed)

    def on_sphere(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D) of length 1, if angles are what counts."""
        return F.normalize(x, dim=-1) if self.use_cosine_sim else x

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D), float32 -> the nearest codes (N, D), and their indices (N,). In training the codebook moves afterwards."""
        if not self.initted.is_meta and not self.initted.item():
            self._start(x)
        index = torch.cdist(x, self.embed[0].float()).argmin(dim=1)  # (N,)
        quantized = self.embed[0].float()[index]
        if self.training and not self.freeze_codebook:
            self._follow(x, index)
        return quantized, index

    def _start(self, x: Tensor) -> None:
        centres, sizes = k_means(x, self.embed.shape[1], self.kmeans_iters, on_sphere=self.use_cosine_sim)
        self.embed.copy_(_shared(centres)[None])
        self.cluster_size.copy_(_shared(sizes)[None])
        self.embed_avg.copy_(self.embed * self.cluster_size[..., None])
        self.initted.fill_(1.0)

    def _follow(self, x: Tensor, index: Tensor) -> None:
        counts = _summed(torch.bincount(index, minlength=self.embed.shape[1]).to(self.cluster_size))  # (V,)
        sums = _summed(torch.zeros_like(self.embed_avg[0]).index_add_(0, index, x.to(self.embed_avg)))  # (V, D)
        self.cluster_size.lerp_(counts[None], 1 - self.decay)
        self.embed_avg.lerp_(sums[None], 1 - self.decay)
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + self.eps) / (total + self.eps * self.embed.shape[1]) * total
        self.embed.copy_(self.on_sphere(self.embed_avg / smoothed[..., None]))
        if self.threshold_ema_dead_code > 0:
            self._revive(x)

    def _revive(self, x: Tensor) -> None:
        dead = self.cluster_size[0] < self.threshold_ema_dead_code  # (V,)
        replacements = _shared(_pick(x, len(dead))).to(self.embed)
        self.embed[0] = torch.where(dead[:, None], replacements, self.embed[0])
        self.cluster_size[0] = torch.where(dead, self.threshold_ema_dead_code, self.cluster_size[0])
        self.embed_avg[0] = torch.where(dead[:, None], replacements * self.threshold_ema_dead_code, self.embed_avg[0])


class VectorQuantize(nn.Module):
    """One stage: nearest code, straight-through gradient, commitment loss."""

    def __init__(self, commitment_weight: float, **codebook: Any) -> None:
        super().__init__()
        self.commitment_weight = commitment_weight
        self._codebook = EMACodebook(**codebook)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, D) -> quantized (B, L, D), indices (B, L), loss (zero in eval mode)."""
        x = self._codebook.on_sphere(x)
        quantized, index = self._codebook(x.detach().flatten(0, 1))
        quantized, index = quantized.view_as(x), index.view(x.shape[:-1])
        if not self.training:
            return quantized, index, x.new_zeros(())
        loss = F.mse_loss(x, quantized) * self.commitment_weight
        return x + (quantized - x).detach(), index, loss

    def look_up(self, index: Tensor) -> Tensor:
        """(B, L) -> codes (B, L, D)."""
        return F.embedding(index, self._codebook.embed[0])


class ResidualVQ(nn.Module):
    """Stages that each quantize what the ones before left over.

    Args:
        dim: Width of input and output.
        num_quantizers: Stages K.
        codebook_size: Codes V per stage.
        codebook_dim: Width of the codes; other than ``dim``, inputs and outputs are projected.
        decay: Share of the past in the codebooks' averages.
        kmeans_init: Start codebooks from clusters of the first batch.
        kmeans_iters: Iterations of that.
        threshold_ema_dead_code: Replace codes that are used less often than this per batch.
        commitment_weight: Factor of the loss.
        quantize_dropout: In training, use a random number of stages.
        quantize_dropout_cutoff_index: The fewest stages then, less one.
        quantize_dropout_multiple_of: The number of stages is then rounded up to a multiple of this.
        shared_codebook: One codebook for all stages.
        eps: Added to the counts of codes, for those that are never used.
        freeze_codebook: Codebooks never move, not even in training.
        use_cosine_sim: Vectors and codes have length 1, so that the nearest code is the one at the smallest angle.
        ema_update: Only true: codebooks follow the data; see ``freeze_codebook``.
        learnable_codebook: Only false: they have no gradients.
    """

    def __init__(
        self,
        dim: PositiveInt,
        num_quantizers: PositiveInt,
        codebook_size: PositiveInt,
        *,
        codebook_dim: PositiveInt | None = None,
        decay: Probability = 0.99,
        kmeans_init: bool = True,
        kmeans_iters: PositiveInt = 50,
        threshold_ema_dead_code: NonNegativeFloat = 2,
        commitment_weight: float = 1.0,
        quantize_dropout: bool = False,
        quantize_dropout_cutoff_index: NonNegativeInt = 0,
        quantize_dropout_multiple_of: PositiveInt = 1,
        shared_codebook: bool = False,
        eps: NonNegativeFloat = 1e-5,
        freeze_codebook: bool = False,
        use_cosine_sim: bool = False,
        ema_update: Literal[True] = True,
        learnable_codebook: Literal[False] = False,
    ) -> None:
        super().__init__()
        if num_quantizers < 1 or codebook_size < 1 or not 0 <= quantize_dropout_cutoff_index < num_quantizers:
            raise ConfigError(
                "rvq bottleneck: needs num_quantizers and codebook_size of at least 1, and quantize_dropout_cutoff_index below "
                f"num_quantizers, got {num_quantizers}, {codebook_size} and {quantize_dropout_cutoff_index}"
            )
        width = codebook_dim if codebook_dim is not None else dim
        self.project_in = nn.Linear(dim, width) if width != dim else nn.Identity()
        self.project_out = nn.Linear(width, dim) if width != dim else nn.Identity()
        self.quantize_dropout = quantize_dropout
        self.quantize_dropout_cutoff_index = quantize_dropout_cutoff_index
        self.quantize_dropout_multiple_of = quantize_dropout_multiple_of
        self.layers = nn.ModuleList(
            VectorQuantize(
                commitment_weight,
                dim=width,
                codebook_size=codebook_size,
                decay=decay,
                kmeans_init=kmeans_init,
                kmeans_iters=kmeans_iters,
                threshold_ema_dead_code=threshold_ema_dead_code,
                eps=eps,
                freeze_codebook=freeze_codebook,
                use_cosine_sim=use_cosine_sim,
            )
            for _ in range(num_quantizers)
        )
        if shared_codebook:
            for layer in self.layers[1:]:
                layer._codebook = self.layers[0]._codebook

    def forward(self, x: Tensor, num_active: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize.

        Args:
            x: (B, L, D)
            num_active: How many stages to use; all if None. Those after them have the index -1.

        Returns:
            Quantized (B, L, D), indices (B, L, K), losses (K,).
        """
        count = len(self.layers)
        if self.training and self.quantize_dropout:
            fewest = self.quantize_dropout_cutoff_index + 1
            num_active = int(_shared(torch.randint(fewest, count + 1, (1,), device=x.device)))
            num_active = min(num_active + -num_active % self.quantize_dropout_multiple_of, count)
        with without_autocast(x.device):
            projected = self.project_in(x)
            residual = projected.float()
            total = torch.zeros_like(residual)
            indices: list[Tensor] = []
            losses: list[Tensor] = []
            for position, layer in enumerate(self.layers):
                if num_active is not None and position >= num_active:
                    indices.append(torch.full_like(indices[0], -1))
                    losses.append(total.new_zeros(()))
                    continue
                quantized, index, loss = layer(residual)
                residual = residual - quantized.detach()
                total = total + quantized
                indices.append(index)
                losses.append(loss)
            return self.project_out(total.to(projected.dtype)), torch.stack(indices, dim=-1), torch.stack(losses)

    def from_indices(self, indices: Tensor) -> Tensor:
        """(B, L, K') with K' <= K; -1 adds nothing -> quantized (B, L, D)."""
        total: Tensor | float = 0.0
        for layer, index in zip(self.layers, indices.unbind(-1), strict=False):
            codes = cast("VectorQuantize", layer).look_up(index.clamp(min=0))
            total = total + codes.masked_fill((index < 0)[..., None], 0.0)
        return self.project_out(total)


@BOTTLENECKS.register("rvq", losses=("quantizer",), width_key="dim", ignored=IGNORED)
class RVQBottleneck(DiscreteBottleneck):
    """Residual vector quantization. Tokens: ``quantizer_indices``, (B, L, K)."""

    codebooks_last = True
    loss_weights: ClassVar[dict[str, float]] = {"quantizer_loss": 1.0}

    def __init__(
        self,
        dim: PositiveInt = 128,
        codebook_size: PositiveInt = 1024,
        num_quantizers: PositiveInt = 8,
        heads: PositiveInt = 1,
        **options: Annotated[Any, Options("ResidualVQ")],
    ) -> None:
        """Make a bottleneck.

        Args:
            dim: Channels of the latents.
            codebook_size: Codes per codebook.
            num_quantizers: Codebooks.
            heads: Must be 1; some published configs say so.
            **options: Of `ResidualVQ`.
        """
        super().__init__(num_quantizers=num_quantizers, codebook_size=codebook_size, tokens_id="quantizer_indices")
        if heads != 1:
            raise ConfigError(f"rvq bottleneck: residual quantization has one head, got heads {heads}")
        self.dim = dim
        self.quantizer = ResidualVQ(dim, num_quantizers, codebook_size, **options)

    def encode(self, x: Tensor, return_info: bool = False, *, n_active: int | None = None, **kwargs: Any) -> Any:
        """(B, D, L) -> quantized (B, D, L).

        Args:
            x: Latents.
            return_info: Also return ``quantizer_indices`` (B, L, K) and ``quantizer_loss``.
            n_active: Use only the first codebooks; tokens of the others are -1. Training with ``quantize_dropout`` chooses itself.
            **kwargs: Ignored; other bottlenecks have more options.
        """
        quantized, info = self.quantize(x, n_active if n_active is not None else kwargs.get("n_quantizers"))
        return (quantized, info) if return_info else quantized

    def quantize(self, x: Tensor, num_active: int | None) -> tuple[Tensor, dict[str, Any]]:
        """(B, D, L) -> quantized (B, D, L), and tokens and loss."""
        check_width(x, self.dim, "rvq bottleneck", "dim")
        if num_active is not None and not 1 <= num_active <= self.num_quantizers:
            raise ConfigError(f"rvq bottleneck: n_active must be 1 to {self.num_quantizers}, its codebooks, got {num_active}")
        quantized, indices, losses = self.quantizer(x.transpose(1, 2), num_active)
        return quantized.transpose(1, 2).to(x.dtype), {"quantizer_indices": indices, "quantizer_loss": losses.mean()}

    def decode(self, x: Tensor) -> Tensor:
        return x

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        return self.quantizer.from_indices(tokens).transpose(1, 2)  # (B, D, L)


@BOTTLENECKS.register("rvq_vae", losses=("kl", "quantizer"), encoder_width=2, width_key="dim", ignored=IGNORED)
class RVQVAEBottleneck(RVQBottleneck):
    """A Gaussian sample as of ``vae``, then residual vector quantization as of ``rvq``."""

    loss_weights: ClassVar[dict[str, float]] = {"kl": 1e-6, "quantizer_loss": 1.0}

    def encode(self, x: Tensor, return_info: bool = False, *, n_active: int | None = None, **kwargs: Any) -> Any:
        """(B, 2 D, L) -> quantized (B, D, L); see `RVQBottleneck.encode`. ``info`` has ``kl`` too."""
        check_width(x, 2 * self.dim, "rvq_vae bottleneck", "2 * dim")
        latents, kl = vae_sample(*x.chunk(2, dim=1))
        quantized, info = self.quantize(latents, n_active if n_active is not None else kwargs.get("n_quantizers"))
        return (quantized, {"kl": kl, **info}) if return_info else quantized
