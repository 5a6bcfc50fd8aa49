"""Classes: which captions belong to which class, and a classifier that tells by ear which class a clip belongs to.

The classifier judges the clips that the demo generates, so it is kept simple enough to be trusted: a few hundred log-mel statistics and the
nearest of the class means. It is fitted on real (training) sounds only, and its accuracy on held-out real sounds is reported beside every
score of generated ones.

Letters: N clips, T audio samples, M mel bands, L frames, F features, K classes.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stable_audio_tools.audio.spectrogram import mel_filterbank, stft_magnitude
from stable_audio_tools.errors import AudioError, ConfigError
from stable_audio_tools.registry import closest

# The upper limit keeps out what tells where a file comes from rather than what it is. Clips that are low-passed at 5.5 kHz and given noise
# at -50 dB after fitting on clean ones: with 10 kHz the accuracy falls from 0.90 to 0.82, with 8 kHz from 0.91 to 0.88, with 6 kHz not at
# all (means of six choices of classes of real one-shots).
MIN_HZ, MAX_HZ, NUM_MELS = 30.0, 6000.0, 32
WINDOW_SECONDS = 0.0464  # 1024 samples at 22,050 Hz
ONSET_RATIO, FLOOR_DB = 0.1, -50.0
FRAME_EDGES = (0, 1, 2, 4, 8, 16, 32, 64, 110)  # in hops of 11.6 ms after the onset: 1.28 s in all
MOTION_EDGES = (0, 16, 110)
ENVELOPE_STRIDE = 4
SHRINKAGE = 0.3  # 0.1 to 0.6 are equally good on the same choices; without whitening (1.0) the accuracy falls from 0.91 to 0.72
STOP_WORDS = frozenset(["a", "an", "the", "of", "on", "in", "at", "from", "with", "and", "to", "by", "into", "is", "for"])


class ClassRule(NamedTuple):
    """One class of a specification such as ``"hat|hi-hat|!open"``.

    Attributes:
        name: The first of the wanted alternatives, as written.
        wanted: A caption belongs to the class if it contains any of these,
        unwanted: and none of these.
    """

    name: str
    wanted: tuple[str, ...]
    unwanted: tuple[str, ...]

    def matches(self, caption: str) -> bool:
        """Whether the caption belongs to the class. Whole words count, in singular or plural; case and punctuation do not."""
        text = _spaced(caption)
        return any(_contains(text, phrase) for phrase in self.wanted) and not any(_contains(text, phrase) for phrase in self.unwanted)


class ClassMembers(NamedTuple):
    """A class and the indices of the captions that belong to it, ascending unless `split` shuffled them."""

    name: str
    indices: list[int]


class Selection(NamedTuple):
    """What a specification selects.

    Attributes:
        classes: In the order of the specification.
        num_ambiguous: Captions that match several classes and were therefore given to none.
        num_unmatched: Captions that match no class.
    """

    classes: list[ClassMembers]
    num_ambiguous: int
    num_unmatched: int


class Split(NamedTuple):
    """Disjoint parts of the same classes."""

    fit: list[ClassMembers]
    held_out: list[ClassMembers]


def parse_classes(spec: str) -> list[ClassRule]:
    """Read a specification: commas between classes, ``|`` between alternatives, ``!`` before what must not occur.

    Raises:
        ConfigError: If a class is empty, two share a name, or there are fewer than two.

    >>> parse_classes("kick|bass drum, hat|hi-hat|!open")[1]
    ClassRule(name='hat', wanted=('hat', 'hi-hat'), unwanted=('open',))
    """
    rules: list[ClassRule] = []
    for number, part in enumerate(spec.split(","), start=1):
        alternatives = [alternative.strip() for alternative in part.split("|")]
        wanted = tuple(word for word in alternatives if not word.startswith("!"))
        unwanted = tuple(word[1:].strip() for word in alternatives if word.startswith("!"))
        if not wanted or not all(words_of(phrase) for phrase in wanted + unwanted):
            raise ConfigError(f"classes {spec!r}: class {number} is {part.strip()!r}; write words, as in 'kick|bass drum,hat|hi-hat|!open'")
        if wanted[0] in [rule.name for rule in rules]:
            raise ConfigError(f"classes {spec!r}: {wanted[0]!r} names two classes; give one of them another first word")
        rules.append(ClassRule(wanted[0], wanted, unwanted))
    if len(rules) < 2:
        raise ConfigError(f"classes {spec!r}: one class is nothing to tell apart; name at least two, separated by commas")
    return rules


def select_classes(captions: Sequence[str], spec: str, *, min_files: int = 8) -> Selection:
    """Sort captions into classes; a caption that matches several belongs to none of them.

    Args:
        captions: One per file.
        spec: See `parse_classes`.
        min_files: The fewest captions that a class may have.

    Raises:
        ConfigError: If the specification is malformed, or a class has fewer than ``min_files`` captions.

    >>> select_classes(["a kick", "kick drums", "open hat", "kick and hat", "rain"], "kick,hat", min_files=1)
    Selection(classes=[ClassMembers(name='kick', indices=[0, 1]), ClassMembers(name='hat', indices=[2])], num_ambiguous=1, num_unmatched=1)
    """
    rules = parse_classes(spec)
    matching = [[index for index, rule in enumerate(rules) if rule.matches(caption)] for caption in captions]
    classes = [ClassMembers(rule.name, [i for i, found in enumerate(matching) if found == [k]]) for k, rule in enumerate(rules)]
    for number, (name, indices) in enumerate(classes):
        if len(indices) < min_files:
            shared = sum(number in found for found in matching) - len(indices)
            raise ConfigError(_too_few(name, len(indices), captions, min_files=min_files, num_shared=shared))
    return Selection(classes, sum(len(found) > 1 for found in matching), sum(not found for found in matching))


def split(members: Sequence[ClassMembers], *, held_out_share: float = 0.25, seed: int = 0) -> Split:
    """Divide every class at random into a part to fit on and a part to test on, at least one clip each.

    The split of a class depends on its name, its members and the seed only, not on the other classes.

    Raises:
        ConfigError: If the share is not between 0 and 1, or a class has fewer than two members.
    """
    if not 0 < held_out_share < 1:
        raise ConfigError(f"held_out_share must lie between 0 and 1, got {held_out_share:g}")
    fit: list[ClassMembers] = []
    held_out: list[ClassMembers] = []
    for name, indices in members:
        if len(indices) < 2:
            raise ConfigError(f"class {name!r} has {len(indices)} file(s); at least two are needed to hold one out")
        shuffled = np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(indices).tolist()
        num_held_out = min(max(round(held_out_share * len(indices)), 1), len(indices) - 1)
        held_out.append(ClassMembers(name, shuffled[:num_held_out]))
        fit.append(ClassMembers(name, shuffled[num_held_out:]))
    return Split(fit, held_out)


def features(samples: Tensor, sample_rate: int) -> Tensor:
    """Describe clips by how their log-mel spectrogram develops after the onset.

    The spectrogram (30 Hz to 6 kHz) begins at the onset, which is the first sample within 20 dB of the peak, and is taken relative to its
    loudest value, with a floor at -50 dB. Gain, leading silence and trailing silence therefore make no difference.
    There are three groups of numbers, all in decibels: the level of every band in eight intervals that double in length (timbre and its
    development); how much every band moves from frame to frame, early and late (is it noise, a tone, or a pulse); the level of every fourth
    frame (the envelope).

    Args:
        samples: (N, T) mono clips. Frames beyond their end are silent.
        sample_rate: In Hz; above 12,000.

    Returns:
        (N, F) float32.

    Raises:
        AudioError: If the shape is wrong or a clip contains NaN or infinity.
    """
    if samples.dim() != 2 or 0 in samples.shape:
        raise AudioError(f"expected mono clips of shape (clips, samples), got {tuple(samples.shape)}")
    bad = (~samples.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise AudioError(f"{len(bad)} of {len(samples)} clips contain NaN or infinity, the first is clip {bad[0]}")
    return torch.cat([_features(part.float(), sample_rate) for part in samples.split(64)])  # 64 clips: about 100 MB


def _features(samples: Tensor, sample_rate: int) -> Tensor:
    n_fft = 2 ** round(float(np.log2(WINDOW_SECONDS * sample_rate)))
    hop, num_frames = n_fft // 4, FRAME_EDGES[-1]
    trimmed = _from_onset(samples, num_samples=(num_frames - 1) * hop + n_fft // 2, pre_roll=n_fft // 8)
    power = stft_magnitude(trimmed, n_fft=n_fft, hop_samples=hop)[..., :num_frames].square()  # (N, bins, L)
    bank = mel_filterbank(sample_rate, n_fft=n_fft, num_mels=NUM_MELS, min_hz=MIN_HZ, max_hz=MAX_HZ).to(power)
    bands = bank @ power  # (N, M, L)
    bands = bands / bands.amax(dim=(1, 2), keepdim=True).clamp_min(1e-20)  # the loudest is 1

    timbre = [_decibels(bands[..., start:end].mean(dim=2)) for start, end in pairwise(FRAME_EDGES)]  # 8 of (N, M)
    steps = _decibels(bands).diff(dim=2).abs()  # (N, M, L - 1)
    motion = [steps[..., start:end].mean(dim=2) for start, end in pairwise(MOTION_EDGES)]  # 2 of (N, M)
    envelope = _decibels(bands.sum(dim=1))[:, ::ENVELOPE_STRIDE]  # (N, L / 4)
    return torch.cat([*timbre, *motion, envelope], dim=1)  # (N, F)


def _from_onset(samples: Tensor, *, num_samples: int, pre_roll: int) -> Tensor:
    """Every clip from ``pre_roll`` samples before the first sample within 20 dB of its peak; (N, T) -> (N, num_samples)."""
    level = samples.abs()
    onset = (level >= ONSET_RATIO * level.amax(dim=1, keepdim=True)).int().argmax(dim=1)  # (N,)
    index = onset[:, None] + torch.arange(num_samples, device=onset.device)  # (N, num_samples)
    return torch.nn.functional.pad(samples, (pre_roll, num_samples)).gather(1, index)


class NearestCentroid:
    """A classifier that answers with the class whose mean is nearest, in Mahalanobis distance.

    Features are standardised: x' = (x - mean) / s, with s^2 = variance + (0.2 s_rms)^2, so that a feature which hardly varied among the
    fitted clips (a band that is always silent) does not become a tripwire. With W the covariance of x' within the classes, pooled over
    them, and W_r = 0.7 W + 0.3 (tr W / F) I its shrunk version (invertible even with fewer clips than features), the distance to centroid
    c is the root of (x' - c)^T W_r^-1 (x' - c): directions in which sounds of one class differ among themselves count less. This is linear
    discriminant analysis with equal priors, computed as the plain nearest centroid in the whitened space y = L^-1 x', where W_r = L L^T.

    Shrinkage after Friedman, "Regularized Discriminant Analysis", 1989.
    """

    def __init__(self) -> None:
        self.classes: list[str] = []

    def fit(self, features: Tensor, labels: Sequence[str]) -> NearestCentroid:
        """Learn from clips whose class is known; there is no randomness.

        Args:
            features: (N, F).
            labels: N class names; their order of appearance is the order of `classes`.

        Returns:
            Itself.

        Raises:
            ConfigError: If the numbers do not fit, there are fewer than two classes, or no class has two clips.
        """
        self.classes = list(dict.fromkeys(labels))
        if len(labels) != len(features) or not 2 <= len(self.classes) < len(labels):
            raise ConfigError(
                f"cannot fit a classifier on {len(features)} clips with {len(labels)} labels of {len(self.classes)} classes; "
                "one label per clip, at least two classes, and more clips than classes are needed"
            )
        exact = features.double().cpu()  # float32 is not enough to factorise a nearly singular covariance
        known = torch.tensor([self.classes.index(label) for label in labels])  # (N,)
        variance = exact.var(dim=0, correction=0)  # (F,)
        self._mean, self._scale = exact.mean(dim=0), (variance + 0.04 * variance.mean()).sqrt().clamp_min(1e-9)
        standard = (exact - self._mean) / self._scale
        centroids = torch.stack([standard[known == k].mean(dim=0) for k in range(len(self.classes))])  # (K, F)
        residual = standard - centroids[known]
        within = residual.T @ residual / (len(exact) - len(self.classes))  # (F, F)
        spread = within.diagonal().mean().clamp_min(1e-9)
        shrunk = (1 - SHRINKAGE) * within + SHRINKAGE * spread * torch.eye(len(within), dtype=torch.float64)
        self._factor = torch.linalg.cholesky(shrunk)  # (F, F), lower triangular
        self._centroids = self._whitened(centroids)  # (K, F)
        return self

    def distances(self, features: Tensor) -> Tensor:
        """Mahalanobis distance of every clip to every centroid; (N, F) -> (N, K) float64."""
        if not self.classes:
            raise ConfigError("this classifier has not been fitted yet; call fit first")
        return torch.cdist(self._whitened((features.double().cpu() - self._mean) / self._scale), self._centroids)

    def predict(self, features: Tensor) -> list[str]:
        """The most likely class of every clip; (N, F) -> N names."""
        return [self.classes[index] for index in self.distances(features).argmin(dim=1).tolist()]

    def accuracy(self, features: Tensor, labels: Sequence[str]) -> float:
        """Share of right answers, every class counting the same however many clips it has; (N, F), N names -> [0, 1]."""
        counts = self.confusion(features, labels).double()
        present = counts.sum(dim=1) > 0
        return float((counts.diagonal() / counts.sum(dim=1).clamp_min(1))[present].mean())

    def confusion(self, features: Tensor, labels: Sequence[str]) -> Tensor:
        """How often a clip of class i was taken for class j: (N, F), N names -> (K, K) int64, the truth along the rows.

        Raises:
            ConfigError: If a label is not one of `classes`.
        """
        unknown = sorted(set(labels) - set(self.classes))
        if unknown:
            raise ConfigError(f"unknown class {unknown[0]!r}; the classifier was fitted on {', '.join(self.classes) or 'nothing'}")
        counts = torch.zeros(len(self.classes), len(self.classes), dtype=torch.int64)
        for truth, answer in zip(labels, self.predict(features), strict=True):
            counts[self.classes.index(truth), self.classes.index(answer)] += 1
        return counts

    def _whitened(self, standard: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self._factor, standard.T, upper=False).T  # (N, F)


def _decibels(power: Tensor) -> Tensor:
    """Relative power in dB that flattens out softly at the floor."""
    return 10 * (power + 10 ** (FLOOR_DB / 10)).log10()


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: ``"Hi-Hats!"`` -> ``["hi", "hats"]``."""
    return re.findall(r"[^\W_]+", text.lower())


def _spaced(text: str) -> str:
    """One space around every word: ``"Hi-Hats!"`` -> ``" hi hats "``."""
    return " " + "".join(word + " " for word in words_of(text))


def _contains(text: str, phrase: str) -> bool:
    stem = _spaced(phrase).rstrip()
    return any(f"{stem}{plural} " in text for plural in ("", "s", "es"))


def _too_few(name: str, num_files: int, captions: Sequence[str], *, min_files: int, num_shared: int) -> str:
    """The message for a class with too few files: what was found, and what there is instead."""
    counts = Counter(word for caption in captions for word in set(words_of(caption)) - STOP_WORDS)
    words = sorted(counts, key=lambda word: (-counts[word], word))
    common = ", ".join(f"{word} ({counts[word]})" for word in words[:12])
    guess = closest(name, [word for word in words if counts[word] >= min_files])
    parts = [f"class {name!r} matches {num_files} of {len(captions)} captions, at least {min_files} are needed"]
    if num_shared:
        parts.append(f"{num_shared} more match another class as well and count for neither; exclude with '!word'")
    elif guess is not None and guess != name:
        parts.append(f"did you mean {guess!r}?")
    parts.append(f"the most common words are {common}" if common else "the captions contain no words")
    return "; ".join(parts)
