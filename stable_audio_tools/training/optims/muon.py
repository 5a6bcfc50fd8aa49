"""MuonAdamW: Muon for matrices, AdamW for everything else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.config.base import BelowOne, Betas, NonNegativeFloat, PositiveInt
from stable_audio_tools.training.optims.base import OPTIMIZERS, Optimizer, Params, decay, names_and_groups
from stable_audio_tools.training.parameters import is_vector, matches

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a quintic that takes singular values to about 1, quickly rather than exactly


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrices with all singular values about 1 (between 0.7 and 1.2), by a Newton-Schulz iteration.

    In bfloat16 on CUDA, where it is quick and good enough; in float32 elsewhere.

    Args:
        matrices: (..., rows, columns)
        steps: Of the iteration.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if is_tall else x).to(matrices.dtype)


@OPTIMIZERS.register("MuonAdamW", takes_names=True)
class MuonAdamW(Optimizer):
    """Muon for matrices, AdamW for everything else.

    Matrices are parameters of which at least two axes are longer than 1; weights of convolutions count as (out, in x kernel). Norms, biases
    and the magnitudes of weight-normalised layers go to AdamW, as does what ``adam_patterns`` names. Source: Jordan et al. 2024, "Muon: an
    optimizer for hidden layers in neural networks", https://kellerjordan.github.io/posts/muon.

    Args:
        params: Parameters, named parameters or groups. Patterns need names.
        muon_lr: Learning rate of matrices.
        muon_momentum: How much of the average of gradients is kept in a step.
        muon_nesterov: Step along the average as it will be, rather than as it is.
        muon_weight_decay: Decoupled, times the learning rate.
        ns_steps: Iterations that orthogonalise a step.
        adam_lr: Learning rate of everything else.
        adam_betas: Of the averages of the gradient and of its square.
        adam_eps: Added to the root of the squares' average.
        adam_weight_decay: Decoupled, times the learning rate.
        fused_layer_patterns: Names (with ``*``) of matrices that hold several, one below the other, such as ``*.to_qkv.*``: those that are
            taller than wide are cut into squares, which are orthogonalised by themselves.
        adam_patterns: Names (with ``*``) of matrices that go to AdamW all the same, such as embeddings.
    """

    def __init__(
        self,
        params: Params,
        muon_lr: NonNegativeFloat = 0.02,
        muon_momentum: BelowOne = 0.95,
        muon_nesterov: bool = True,
        muon_weight_decay: NonNegativeFloat = 0.0,
        ns_steps: PositiveInt = 5,
        adam_lr: NonNegativeFloat = 3e-4,
        adam_betas: Betas = (0.9, 0.95),
        adam_eps: NonNegativeFloat = 1e-8,
        adam_weight_decay: NonNegativeFloat = 0.01,
        fused_layer_patterns: Sequence[str] | None = None,
        adam_patterns: Sequence[str] | None = None,
    ) -> None:
        muon = {"kind": "muon", "lr": muon_lr, "momentum": muon_momentum, "nesterov": muon_nesterov, "weight_decay": muon_weight_decay}
        muon["ns_steps"] = ns_steps
        adam = {"kind": "adam", "lr": adam_lr, "betas": tuple(adam_betas), "eps": adam_eps, "weight_decay": adam_weight_decay}
        groups: list[dict[str, Any]] = []
        for options, named in names_and_groups(params):
            scale = options.pop("lr_scale", 1.0)
            parts: dict[tuple[str, bool], list[Tensor]] = {}
            for name, parameter in named:
                goes_to_muon = not is_vector(parameter) and not matches(name, adam_patterns or ())
                is_fused = goes_to_muon and matches(name, fused_layer_patterns or ()) and parameter.shape[0] > parameter[0].numel()
                parts.setdefault(("muon" if goes_to_muon else "adam", is_fused), []).append(parameter)
            for (kind, is_fused), parameters in sorted(parts.items(), reverse=True):
                own = {**(muon if kind == "muon" else adam), **options}
                groups.append({**own, "lr": own["lr"] * scale, "is_fused": is_fused, "params": parameters})
        super().__init__(groups, {})

    def update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        (self._update_muon if group["kind"] == "muon" else self._update_adam)(group, parameters, gradients)

    def _update_muon(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        (momenta,) = self.states(parameters, "momentum_buffer")
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"]) if group["nesterov"] else momenta
        decay(parameters, group["lr"], group["weight_decay"])
        # Layers of a network repeat the same few shapes: all of one shape make one batch of matrix products.
        by_shape: dict[tuple[torch.Size, torch.dtype, torch.device], list[int]] = {}
        for index, parameter in enumerate(parameters):
            by_shape.setdefault((parameter.shape, parameter.dtype, parameter.device), []).append(index)
        for indices in by_shape.values():
            matrices = torch.stack([updates[index] for index in indices]).flatten(2)  # (N, rows, columns)
            steps = (
                _orthogonalise_squares(matrices, group["ns_steps"]) if group["is_fused"] else _spectral_step(matrices, group["ns_steps"])
            )
            for index, step in zip(indices, steps, strict=True):
                parameters[index].add_(step.view_as(parameters[index]), alpha=-group["lr"])

    def _update_adam(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        means, squares = self.states(parameters, "exp_avg", "exp_avg_sq")
        beta1, beta2 = group["betas"]
        decay(parameters, group["lr"], group["weight_decay"])
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        for number, indices in self.count(parameters).items():
            own, firsts, seconds = ([values[index] for index in indices] for values in (parameters, means, squares))
            scales = torch._foreach_sqrt(seconds)
            torch._foreach_div_(scales, math.sqrt(1 - beta2**number))
            torch._foreach_add_(scales, group["eps"])
            torch._foreach_addcdiv_(own, firsts, scales, value=-group["lr"] / (1 - beta1**number))


def _spectral_step(matrices: Tensor, steps: int) -> Tensor:
    """Orthogonalised; tall ones grow, so that outputs change as much as with wide ones."""
    rows, columns = matrices.shape[-2:]
    return orthogonalise(matrices, steps) * math.sqrt(max(1.0, rows / columns))


def _orthogonalise_squares(matrices: Tensor, steps: int) -> Tensor:
    """Each square by itself; the last one may be wide."""
    return torch.cat([orthogonalise(part, steps) for part in matrices.split(matrices.shape[-1], dim=-2)], dim=-2)
