"""The contract of discriminators, and the games they play with a generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
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


class Judgement(NamedTuple):
    """What one member of a discriminator makes of a batch.

    Attributes:
        score: Of any shape; the larger, the more real.
        features: Outputs of its layers, the score excluded.
    """

    score: Tensor
    features: list[Tensor]


class Game(NamedTuple):
    """What both players minimise, as functions of the score of reals and the score of fakes."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]


GAMES: Mapping[str, Game] = {
    # Lim & Ye 2017, arXiv:1705.02894
    "hinge": Game(lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(), lambda _, fake: -fake.mean()),
    # Jolicoeur-Martineau 2018, arXiv:1807.00734: a fake is to be more real than the real one, item by item
    "rpgan": Game(lambda real, fake: F.softplus(fake - real).mean(), lambda real, fake: F.softplus(real - fake).mean()),
    # Mao et al. 2016, arXiv:1611.04076
    "least_squares": Game(lambda real, fake: fake.square().mean() + (1 - real).square().mean(), lambda _, fake: (1 - fake).square().mean()),
    # The hinge between 0 (fake) and 1 (real), where the generator's term has an end too
    "unit_hinge": Game(lambda real, fake: F.relu(fake).mean() + F.relu(1 - real).mean(), lambda _, fake: F.relu(1 - fake).mean()),
}


class EnsembleDiscriminator(Discriminator):
    """Several members that judge independently; losses are means over them, and feature matching a mean over the layers of each.

    Args:
        game: Key of `GAMES`.
        normalize_losses: Divide each feature distance by the mean magnitude of the real feature.
    """

    def __init__(self, game: str, *, normalize_losses: bool = False) -> None:
        super().__init__()
        self.game = GAMES[game]
        self.normalize_losses = normalize_losses

    def judge(self, audio: Tensor) -> list[Judgement]:
        """What each member makes of audio (B, C, T)."""
        raise NotImplementedError

    def discriminator_loss(self, reals: Tensor, fakes: Tensor) -> Tensor:
        pairs = zip(self.judge(reals), self.judge(fakes.detach()), strict=True)
        return torch.stack([self.game.discriminator(real.score, fake.score) for real, fake in pairs]).mean()

    def generator_losses(self, reals: Tensor, fakes: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            judged_reals = self.judge(reals)
        pairs = list(zip(judged_reals, self.judge(fakes), strict=True))
        adversarial = torch.stack([self.game.generator(real.score, fake.score) for real, fake in pairs]).mean()
        matching = [
            torch.stack([self._distance(r, f) for r, f in zip(real.features, fake.features, strict=True)]).mean() for real, fake in pairs
        ]
        return adversarial, torch.stack(matching).mean()

    def _distance(self, real: Tensor, fake: Tensor) -> Tensor:
        distance = (real - fake).abs().mean()
        return distance / (real.abs().mean() + 1e-3) if self.normalize_losses else distance


class Members(nn.Module):
    """A list of networks that judge, under the published name of their weights.

    Args:
        discriminators: Each takes audio (B, C, T) and returns a `Judgement`.
    """

    def __init__(self, discriminators: Sequence[nn.Module]) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(discriminators)

    def forward(self, audio: Tensor) -> list[Judgement]:
        """What each makes of audio (B, C, T)."""
        return [discriminator(audio) for discriminator in self.discriminators]


__all__ = ["DISCRIMINATORS", "GAMES", "AdversarialLosses", "Discriminator", "EnsembleDiscriminator", "Game", "Judgement", "Members"]
