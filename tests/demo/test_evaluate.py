"""Measurements of generated clips, on clips whose answers are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from stable_audio_tools.demo import synth
from stable_audio_tools.demo.evaluate import Evaluation, LabelledAudio, evaluate

NAMES = ("kick", "bell", "open hat")


def sounds(per_class: int, seed: int) -> LabelledAudio:
    labels = [name for name in NAMES for _ in range(per_class)]
    clips = [synth.render(name, np.random.default_rng([seed, number])) for number, name in enumerate(labels)]
    return LabelledAudio(torch.from_numpy(np.stack(clips)), labels)


@pytest.fixture(scope="module")
def train() -> LabelledAudio:
    return sounds(12, seed=1)


def measure(train: LabelledAudio, generated: LabelledAudio) -> Evaluation:
    held_out = sounds(6, seed=2)
    return evaluate(train, held_out, held_out, generated, sample_rate=synth.SAMPLE_RATE)


def test_real_sounds_with_their_own_names_agree(train: LabelledAudio) -> None:
    found = measure(train, sounds(5, seed=3))
    assert found.classes == list(NAMES)
    assert (found.num_per_class, found.chance) == (5, pytest.approx(1 / 3))
    assert found.agreement == found.spectrogram_match == found.classifier_accuracy == found.reconstruction_accuracy == 1
    assert found.answers == [[5, 0, 0], [0, 5, 0], [0, 0, 5]]
    assert found.diversity == pytest.approx(1, abs=0.5)
    assert json.loads(json.dumps(found.as_dict()))["agreement_by_class"] == dict.fromkeys(NAMES, 1.0)


def test_wrong_names_do_not(train: LabelledAudio) -> None:
    clips = sounds(4, seed=3)
    turned = [NAMES[(NAMES.index(label) + 1) % 3] for label in clips.labels]
    found = measure(train, LabelledAudio(clips.samples, turned))
    assert found.agreement == found.spectrogram_match == 0
    assert found.classifier_accuracy == 1  # says nothing about the generated ones


def test_agreement_is_the_mean_over_classes_not_over_clips(train: LabelledAudio) -> None:
    clips = sounds(4, seed=3)
    labels = ["kick"] * 4 + ["kick"] * 4 + ["open hat"] * 4  # bells under the name of kicks: half of eight are right
    few = LabelledAudio(torch.cat([clips.samples, clips.samples[4:5]]), [*labels, "bell"])
    found = measure(train, few)
    assert found.agreement_by_class == {"kick": 0.5, "bell": 1.0, "open hat": 1.0}
    assert found.agreement == pytest.approx(2.5 / 3)
    assert found.num_per_class == 1


def test_one_clip_over_and_over_is_not_diverse(train: LabelledAudio) -> None:
    clips = sounds(1, seed=3)
    same = LabelledAudio(clips.samples.repeat_interleave(4, dim=0), [label for label in clips.labels for _ in range(4)])
    found = measure(train, same)
    assert found.agreement == 1
    assert found.diversity == pytest.approx(0, abs=1e-6)


def test_noise_and_silence_are_not_taken_for_everything(train: LabelledAudio) -> None:
    noise = 0.3 * torch.randn(12, synth.NUM_SAMPLES, generator=torch.Generator().manual_seed(0))
    assert measure(train, LabelledAudio(noise, sounds(4, seed=3).labels)).agreement <= 0.5
    silence = measure(train, LabelledAudio(torch.zeros_like(noise), sounds(4, seed=3).labels))
    assert silence.agreement <= 0.5
    assert 0 <= silence.spectrogram_match <= 0.5


def test_gain_does_not_matter(train: LabelledAudio) -> None:
    clips = sounds(4, seed=3)
    quiet = LabelledAudio(0.05 * clips.samples, clips.labels)
    assert measure(train, quiet).answers == measure(train, clips).answers
