"""Does a generated sound sound like its prompt? Measured by a classifier that was fitted on the training sounds alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.audio.spectrogram import log_mel
from stable_audio_tools.demo.classes import NearestCentroid, features


@dataclass(frozen=True)
class Evaluation:
    """All numbers of a demo.

    Attributes:
        classes: Names of the classes.
        num_per_class: Generated clips per class.
        agreement: Share of generated clips that the classifier takes for the class of their prompt, averaged over classes.
        agreement_by_class: The same for each class.
        answers: How often clips generated for class i were taken for class j.
        classifier_accuracy: The classifier's accuracy on held-out sounds.
        reconstruction_accuracy: Its accuracy on the same sounds after encoding and decoding: what the autoencoder costs.
        chance: What guessing would reach.
        spectrogram_match: Share of generated clips whose log-mel spectrogram correlates more with the mean of their own class than with
            that of any other.
        diversity: Mean feature distance between clips of one class: generated over held-out real ones. 1 is as varied as the real ones.
    """

    classes: list[str]
    num_per_class: int
    agreement: float
    agreement_by_class: dict[str, float]
    answers: list[list[int]]
    classifier_accuracy: float
    reconstruction_accuracy: float
    chance: float
    spectrogram_match: float
    diversity: float

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass(frozen=True)
class LabelledAudio:
    """Clips of known classes.

    Attributes:
        samples: (N, T)
        labels: N class names.
    """

    samples: Tensor
    labels: Sequence[str]


def evaluate(
    train: LabelledAudio, held_out: LabelledAudio, reconstructed: LabelledAudio, generated: LabelledAudio, *, sample_rate: int
) -> Evaluation:
    """Fit the classifier on the training sounds and apply it to everything else.

    Args:
        train: Sounds the model was trained on.
        held_out: Sounds it was not trained on.
        reconstructed: The held-out sounds after encoding and decoding.
        generated: Generated sounds, labelled with the class of their prompt.
        sample_rate: Of all of them, in Hz.
    """
    classifier = NearestCentroid().fit(features(train.samples, sample_rate), train.labels)
    classes = classifier.classes
    found = features(generated.samples, sample_rate)
    answers = classifier.confusion(found, generated.labels)
    by_class = {name: float(answers[k, k] / answers[k].sum().clamp_min(1)) for k, name in enumerate(classes)}
    held_out_features = features(held_out.samples, sample_rate)
    return Evaluation(
        classes=classes,
        num_per_class=int(answers.sum(dim=1).min()),
        agreement=sum(by_class.values()) / len(by_class),
        agreement_by_class=by_class,
        answers=answers.tolist(),
        classifier_accuracy=classifier.accuracy(held_out_features, held_out.labels),
        reconstruction_accuracy=classifier.accuracy(features(reconstructed.samples, sample_rate), reconstructed.labels),
        chance=1 / len(classes),
        spectrogram_match=_spectrogram_match(train, generated, sample_rate, classes),
        diversity=_spread(found, generated.labels) / max(_spread(held_out_features, held_out.labels), 1e-9),
    )


def _spectrogram_match(train: LabelledAudio, generated: LabelledAudio, sample_rate: int, classes: Sequence[str]) -> float:
    means = torch.stack(
        [
            _pictures(train.samples[[i for i, label in enumerate(train.labels) if label == name]], sample_rate).mean(dim=0)
            for name in classes
        ]
    )  # (K, P)
    pictures = _pictures(generated.samples, sample_rate)  # (N, P)
    centre = means.mean(dim=0)
    correlation = _unit(pictures - centre) @ _unit(means - centre).T  # (N, K)
    truth = torch.tensor([classes.index(label) for label in generated.labels])
    return float((correlation.argmax(dim=1) == truth).float().mean())


def _pictures(samples: Tensor, sample_rate: int) -> Tensor:
    """Log-mel spectrograms relative to their loudest point: (N, T) -> (N, P)."""
    mel = log_mel(samples, sample_rate, n_fft=2048, hop_samples=512, num_mels=64).flatten(1)
    return (mel - mel.amax(dim=1, keepdim=True)).clamp_min(-80)


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows - rows.mean(dim=1, keepdim=True), dim=1)


def _spread(found: Tensor, labels: Sequence[str]) -> float:
    spreads = []
    for name in dict.fromkeys(labels):
        rows = found[[i for i, label in enumerate(labels) if label == name]]
        if len(rows) > 1:
            spreads.append(float(torch.pdist(rows.double()).mean()))
    return sum(spreads) / max(len(spreads), 1)
