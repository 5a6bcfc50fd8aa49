"""Classes for a folder whose owner names none: words of its captions that can be told apart by ear."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from stable_audio_tools.demo.classes import STOP_WORDS, NearestCentroid, words_of
from stable_audio_tools.errors import ConfigError

MAX_CANDIDATES, MAX_FILES = 40, 60  # words that are tried; files of each that are listened to
MIN_LETTERS = 3  # "tr", "8000" and "c" are names of machines and notes


def propose_classes(captions: Sequence[str], features: Tensor, *, num_classes: int = 6, min_files: Sequence[int] = (20, 8)) -> list[str]:
    """Choose words, one after the other, such that a classifier tells the files with each of them apart best.

    The accuracy is that of two-fold cross-validation. Among equally good words the rarest is taken: rare words are specific ("saxophone",
    not "hit"). A file counts for a word only if its caption contains none of the others.

    Args:
        captions: One per file, N of them.
        features: (N, F), by `classes.features`.
        num_classes: How many words to choose; fewer if there are no more.
        min_files: The fewest files of a class; if that leaves fewer than two classes, the next number is tried.

    Returns:
        The words.

    Raises:
        ConfigError: If there are not two classes even so.
    """
    words = [set(words_of(caption)) - STOP_WORDS for caption in captions]
    counts = Counter(word for found in words for word in found if len(word) >= MIN_LETTERS and not word.isdigit())
    for fewest in min_files:
        candidates = sorted((word for word, count in counts.items() if count >= fewest), key=lambda word: (-counts[word], word))
        trial = _Trial({word: np.array([word in found for found in words]) for word in candidates[:MAX_CANDIDATES]}, features, fewest)
        chosen = trial.choose(num_classes)
        if chosen:
            return chosen
    raise ConfigError(
        f"{len(captions)} captions share too few words to choose classes from: at least two words with {min(min_files)} files each are "
        "needed; name the classes with --classes"
    )


class _Trial:
    """Tries sets of words.

    Args:
        has: Word -> whether each file's caption contains it (N,).
        features: (N, F)
        min_files: The fewest files of a class.
    """

    def __init__(self, has: dict[str, np.ndarray], features: Tensor, min_files: int) -> None:
        self.has = has
        self.features = features
        self.min_files = min_files

    def choose(self, num_classes: int) -> list[str]:
        """The best pair, and then the best next word again and again; empty if there is no pair."""
        pairs = [list(pair) for pair in itertools.combinations(sorted(self.has), 2)]
        chosen = max(pairs, key=self._merit, default=[])
        if not chosen or self.accuracy(chosen) == 0:
            return []
        while len(chosen) < num_classes:
            longer = max(([*chosen, word] for word in sorted(self.has) if word not in chosen), key=self._merit, default=[])
            if not longer or self.accuracy(longer) == 0:
                break
            chosen = longer
        return chosen

    def _merit(self, words: list[str]) -> tuple[float, int]:
        return round(self.accuracy(words), 2), -sum(int(self.has[word].sum()) for word in words)

    def accuracy(self, words: list[str]) -> float:
        """Share of files that a classifier fitted on the other half sorts rightly; 0 if a class has too few files."""
        num_matches = np.sum([self.has[word] for word in words], axis=0)
        members = {word: np.flatnonzero(self.has[word] & (num_matches == 1)) for word in words}
        if min(len(indices) for indices in members.values()) < self.min_files:
            return 0.0
        rng = np.random.default_rng(0)
        files = [(int(index), word) for word, indices in members.items() for index in rng.permutation(indices)[:MAX_FILES]]
        halves = files[::2], files[1::2]
        total = 0.0
        for fit, test in (halves, halves[::-1]):
            classifier = NearestCentroid().fit(self.features[[index for index, _ in fit]], [word for _, word in fit])
            total += classifier.accuracy(self.features[[index for index, _ in test]], [word for _, word in test])
        return total / 2
