"""Losses as modules over one dict of named tensors: what makes a list of weighted terms out of what a training step has computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Info = Mapping[str, Tensor]


class LossModule(nn.Module):
    """One weighted term.

    Args:
        name: What it is called in logs.
        weight: Its factor w.
        decay: The k-th call in training has the factor ``w * decay**k``. What is reached is saved in checkpoints.
    """

    weight: Tensor

    def __init__(self, name: str, weight: float = 1.0, decay: float = 1.0) -> None:
        super().__init__()
        self.name, self.initial_weight, self.decay = name, float(weight), float(decay)
        self.register_buffer("weight", torch.tensor(self.initial_weight))

    def raw(self, info: Info) -> Tensor:
        """The term without its weight."""
        raise NotImplementedError

    def forward(self, info: Info) -> Tensor:
        """The weighted term.

        Args:
            info: Tensors by name.

        Raises:
            KeyError: If ``info`` lacks one that the term needs.
        """
        if self.decay == 1:
            return self.initial_weight * self.raw(info)  # a number of Python's: reading the buffer would wait for the GPU
        if self.training:
            self.weight = self.weight * self.decay  # not in place: an earlier call may still need the old one for its gradient
        return self.weight * self.raw(info)


class ValueLoss(LossModule):
    """A value that someone else has computed.

    Args:
        key: Its name in ``info``.
        name: What the term is called in logs.
        weight: Its factor.
        decay: See `LossModule`.
    """

    def __init__(self, key: str, name: str, weight: float = 1.0, decay: float = 1.0) -> None:
        super().__init__(name, weight, decay)
        self.key = key

    def raw(self, info: Info) -> Tensor:
        return info[self.key]


class TargetValueLoss(ValueLoss):
    """Distance of a value from the one it should have.

    Args:
        key: Its name in ``info``.
        target: What it should be.
        name: What the term is called in logs.
        weight: Its factor.
        decay: See `LossModule`.
    """

    def __init__(self, key: str, target: float, name: str, weight: float = 1.0, decay: float = 1.0) -> None:
        super().__init__(key, name, weight, decay)
        self.target = target

    def raw(self, info: Info) -> Tensor:
        return (info[self.key] - self.target).abs()


class _Elementwise(LossModule):
    def __init__(self, key_a: str, key_b: str, weight: float, mask_key: str | None, name: str, decay: float) -> None:
        super().__init__(name, weight, decay)
        self.key_a, self.key_b, self.mask_key = key_a, key_b, mask_key

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        raise NotImplementedError

    def raw(self, info: Info) -> Tensor:
        distances = self.distance(info[self.key_a], info[self.key_b])
        mask = info.get(self.mask_key) if self.mask_key is not None else None
        if mask is None:
            return distances.mean()
        if mask.dim() == 2 and distances.dim() == 3:
            mask = mask[:, None]  # (B, 1, L)
        return distances[mask.bool().expand_as(distances)].mean()


class L1Loss(_Elementwise):
    """Mean absolute difference of two tensors.

    Args:
        key_a: Name of one in ``info``.
        key_b: Name of the other.
        weight: Factor of the term.
        mask_key: Name of a mask, (B, L) or like the tensors; only where it is true, elements count.
        name: What the term is called in logs.
        decay: See `LossModule`.
    """

    def __init__(
        self, key_a: str, key_b: str, weight: float = 1.0, mask_key: str | None = None, name: str = "l1_loss", decay: float = 1.0
    ) -> None:
        super().__init__(key_a, key_b, weight, mask_key, name, decay)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return F.l1_loss(a, b, reduction="none")


class MSELoss(_Elementwise):
    """Mean squared difference of two tensors.

    Args:
        key_a: Name of one in ``info``.
        key_b: Name of the other.
        weight: Factor of the term.
        mask_key: Name of a mask, (B, L) or like the tensors; only where it is true, elements count.
        name: What the term is called in logs.
        decay: See `LossModule`.
    """

    def __init__(
        self, key_a: str, key_b: str, weight: float = 1.0, mask_key: str | None = None, name: str = "mse_loss", decay: float = 1.0
    ) -> None:
        super().__init__(key_a, key_b, weight, mask_key, name, decay)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return F.mse_loss(a, b, reduction="none")


class LossWithTarget(LossModule):
    """What a module says of an input and a target: ``module(input, target)``.

    Args:
        loss_module: The module.
        input_key: Name of the input in ``info``.
        target_key: Name of the target.
        name: What the term is called in logs.
        weight: Its factor.
        decay: See `LossModule`.
    """

    def __init__(self, loss_module: nn.Module, input_key: str, target_key: str, name: str, weight: float = 1.0, decay: float = 1.0) -> None:
        super().__init__(name, weight, decay)
        self.loss_module, self.input_key, self.target_key = loss_module, input_key, target_key

    def raw(self, info: Info) -> Tensor:
        return self.loss_module(info[self.input_key], info[self.target_key])


class AuralossLoss(LossWithTarget):
    """What a spectral loss says, called as ``module(target, input)``, so that the input is the yardstick of spectral convergence.

    Published runs were trained so.
    """

    def raw(self, info: Info) -> Tensor:
        return self.loss_module(info[self.target_key], info[self.input_key])


class MultiLoss(nn.Module):
    """The sum of several terms.

    Args:
        losses: The terms.
    """

    def __init__(self, losses: Sequence[LossModule]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)

    def forward(self, info: Info, *, only_known: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum, and the weighted terms by name. The sum of none is zero.

        Args:
            info: Tensors by name.
            only_known: Leave out values (`ValueLoss`) that nobody has computed, instead of asking for them.
        """
        terms: dict[str, Tensor] = {}
        for loss in self.losses:
            assert isinstance(loss, LossModule)
            if only_known and isinstance(loss, ValueLoss) and loss.key not in info:
                continue
            terms[loss.name] = terms[loss.name] + loss(info) if loss.name in terms else loss(info)
        return sum(terms.values(), torch.zeros(())), terms
