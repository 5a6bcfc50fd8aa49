"""The contract of discriminators, and the hinge game."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio_tools.families import DISCRIMINATORS


class AdversarialLosses(NamedTuple):
    """One round of the game.

    Attributes:
        discriminator: What the discriminator minimises.
        adversarial: What the generator minimises to be taken for real.
        feature_matching: Distance between the discriminator's features of fake and real.
    """

    discriminator: Tensor
    adversarial: Tensor
    feature_matching: Tensor


class Discriminator(nn.Module):
    """Tells real audio from fake.

    `discriminator_loss` sees detached fakes and `generator_losses` leaves the discriminator's own parameters alone, so that neither
    player's step computes gradients of the other.
    """

    def discriminator_loss(self, reals: Tensor, fakes: Tensor) -> Tensor:
        """Loss of the discriminator, for audio (B, C, T) and (B, C, T). ``fakes`` get no gradient."""
        raise NotImplementedError

    def generator_losses(self, reals: Tensor, fakes: Tensor) -> tuple[Tensor, Tensor]:
        """Adversarial and feature-matching loss of the generator, for audio (B, C, T) and (B, C, T)."""
        raise NotImplementedError

    def loss(self, reals: Tensor, fakes: Tensor) -> AdversarialLosses:
        """All three losses."""
        return AdversarialLosses(self.discriminator_loss(reals, fakes), *self.generator_losses(reals, fakes))


def hinge_discriminator_loss(score_real: Tensor, score_fake: Tensor) -> Tensor:
    """``relu(1 - real) + relu(1 + fake)``. Source: Lim & Ye 2017, arXiv:1705.02894."""
    return F.relu(1 - score_real).mean() + F.relu(1 + score_fake).mean()


__all__ = ["DISCRIMINATORS", "AdversarialLosses", "Discriminator", "hinge_discriminator_loss"]
