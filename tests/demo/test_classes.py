import numpy as np
import pytest
import torch

from stable_audio_tools.demo import synth
from stable_audio_tools.demo.classes import ClassMembers, NearestCentroid, features, parse_classes, select_classes, split
from stable_audio_tools.errors import AudioError, ConfigError

SAMPLE_RATE = synth.SAMPLE_RATE


def sounds(per_class: int, *, seed: int, names: tuple[str, ...] = synth.CLASSES) -> tuple[torch.Tensor, list[str]]:
    labels = [name for name in names for _ in range(per_class)]
    clips = [synth.render(name, np.random.default_rng([seed, number])) for number, name in enumerate(labels)]
    return torch.from_numpy(np.stack(clips)), labels


@pytest.fixture(scope="module")
def training() -> tuple[torch.Tensor, list[str]]:
    clips, labels = sounds(20, seed=1)
    return features(clips, SAMPLE_RATE), labels


@pytest.fixture(scope="module")
def held_out() -> tuple[torch.Tensor, list[str]]:
    return sounds(10, seed=2)


@pytest.fixture(scope="module")
def classifier(training: tuple[torch.Tensor, list[str]]) -> NearestCentroid:
    return NearestCentroid().fit(*training)


def degraded(clips: torch.Tensor) -> torch.Tensor:
    """Low-passed at 5.5 kHz, with white noise 50 dB below the peak."""
    spectrum = torch.fft.rfft(clips)
    hz = torch.fft.rfftfreq(clips.shape[1], 1 / SAMPLE_RATE)
    noise = torch.randn(clips.shape, generator=torch.Generator().manual_seed(0)) * clips.abs().amax(dim=1, keepdim=True) * 10 ** (-50 / 20)
    return torch.fft.irfft(spectrum / (1 + (hz / 5500) ** 16).sqrt(), clips.shape[1]) + noise


def test_twenty_sounds_per_class_are_enough_to_know_the_others(classifier: NearestCentroid, held_out: tuple[torch.Tensor, list[str]]):
    clips, labels = held_out
    assert classifier.accuracy(features(clips, SAMPLE_RATE), labels) >= 0.95


def test_the_accuracy_does_not_hang_on_treble_or_digital_silence(classifier: NearestCentroid, held_out: tuple[torch.Tensor, list[str]]):
    clips, labels = held_out
    assert classifier.accuracy(features(degraded(clips), SAMPLE_RATE), labels) >= 0.9


def test_noise_is_not_taken_for_many_classes(classifier: NearestCentroid):
    noise = torch.randn(20, 32768, generator=torch.Generator().manual_seed(0))
    assert len(set(classifier.predict(features(noise, SAMPLE_RATE)))) <= 2


def test_gain_and_silence_around_a_clip_do_not_matter(held_out: tuple[torch.Tensor, list[str]]):
    clips = held_out[0][::10]
    plain = features(clips, SAMPLE_RATE)
    torch.testing.assert_close(features(0.01 * clips, SAMPLE_RATE), plain, atol=0.05, rtol=0)
    torch.testing.assert_close(features(torch.nn.functional.pad(clips, (0, 9000)), SAMPLE_RATE), plain, atol=0.01, rtol=0)
    torch.testing.assert_close(features(torch.nn.functional.pad(clips, (5001, 0)), SAMPLE_RATE), plain, atol=0.01, rtol=0)


def test_features_do_not_depend_on_the_batch(held_out: tuple[torch.Tensor, list[str]]):
    clips = held_out[0][:70]  # more than one chunk
    torch.testing.assert_close(features(clips, SAMPLE_RATE)[66:67], features(clips[66:67], SAMPLE_RATE), atol=1e-3, rtol=0)


def test_features_agree_across_sample_rates():
    slow = torch.from_numpy(np.stack([synth.render(name, np.random.default_rng(0)) for name in ("bell", "tom", "pluck")]))
    spectrum = torch.nn.functional.pad(torch.fft.rfft(slow), (0, slow.shape[1] // 2))
    fast = 2 * torch.fft.irfft(spectrum, 2 * slow.shape[1])  # the same clips at twice the rate
    torch.testing.assert_close(features(fast, 2 * SAMPLE_RATE), features(slow, SAMPLE_RATE), atol=0.5, rtol=0)


def test_a_silent_clip_has_finite_features(classifier: NearestCentroid):
    silent = features(torch.zeros(1, 4000), SAMPLE_RATE)
    assert silent.isfinite().all()
    assert classifier.predict(silent)[0] in synth.CLASSES


def test_bad_clips_are_refused():
    with pytest.raises(AudioError, match=r"expected mono clips of shape \(clips, samples\), got \(2, 1, 100\)"):
        features(torch.zeros(2, 1, 100), SAMPLE_RATE)
    broken = torch.zeros(3, 100)
    broken[1, 5] = torch.nan
    with pytest.raises(AudioError, match="1 of 3 clips contain NaN or infinity, the first is clip 1"):
        features(broken, SAMPLE_RATE)


def test_fitting_is_deterministic_and_ignores_the_order_of_clips(training: tuple[torch.Tensor, list[str]], classifier: NearestCentroid):
    known, labels = training
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = NearestCentroid().fit(known[order], [labels[index] for index in order])
    columns = [shuffled.classes.index(name) for name in classifier.classes]
    torch.testing.assert_close(shuffled.distances(known)[:, columns], classifier.distances(known))


def test_distances_are_mahalanobis_distances():
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([[3.0, 0.0], [2.9, 0.3]]).T  # two features, strongly correlated
    clips = torch.randn(400, 2, generator=generator) @ spread.T
    clips[200:] += torch.tensor([0.0, 2.0])  # across the correlation: far, although nearer than the spread
    labels = ["a"] * 200 + ["b"] * 200
    assert NearestCentroid().fit(clips, labels).accuracy(clips, labels) > 0.9


def test_distances_do_not_depend_on_the_units_of_a_feature(training: tuple[torch.Tensor, list[str]], classifier: NearestCentroid):
    known, labels = training
    scaled = NearestCentroid().fit(known * 7 + 3, labels)
    torch.testing.assert_close(scaled.distances(known * 7 + 3), classifier.distances(known), atol=1e-2, rtol=1e-3)


def test_a_feature_that_was_constant_is_no_tripwire():
    generator = torch.Generator().manual_seed(0)
    clips = torch.cat([torch.randn(40, 3, generator=generator) * 5, torch.zeros(40, 1)], dim=1)
    clips[20:, 0] += 40
    model = NearestCentroid().fit(clips, ["a"] * 20 + ["b"] * 20)
    moved = clips.clone()
    moved[:, 3] = 1.0
    assert (model.distances(moved) - model.distances(clips)).abs().max() < 5


def test_confusion_and_accuracy_count_the_same_answers():
    clips = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    model = NearestCentroid().fit(clips, ["low", "low", "high", "high"])
    asked, truth = torch.tensor([[0.0], [2.0], [12.0], [9.0]]), ["low", "low", "low", "high"]
    assert model.predict(asked) == ["low", "low", "high", "high"]
    assert model.confusion(asked, truth).tolist() == [[2, 1], [0, 1]]
    assert model.accuracy(asked, truth) == pytest.approx((2 / 3 + 1) / 2)  # classes count alike


def test_misuse_of_the_classifier_is_refused():
    with pytest.raises(ConfigError, match="has not been fitted yet; call fit first"):
        NearestCentroid().predict(torch.zeros(1, 2))
    for labels in (["a"] * 4, ["a", "b"], ["a", "b", "c", "d"]):
        with pytest.raises(
            ConfigError, match=f"cannot fit a classifier on 4 clips with {len(labels)} labels of {len(set(labels))} classes"
        ):
            NearestCentroid().fit(torch.zeros(4, 2), labels)
    model = NearestCentroid().fit(torch.randn(4, 2), ["a", "a", "b", "b"])
    with pytest.raises(ConfigError, match="unknown class 'c'; the classifier was fitted on a, b"):
        model.accuracy(torch.zeros(1, 2), ["c"])


@pytest.mark.parametrize(
    ("caption", "is_match"),
    [
        ("a Hi-Hat!", True),
        ("two hi hats", True),
        ("hats", True),
        ("CRASHES and hat", True),
        ("hatch", False),
        ("chat", False),
        ("an open hi-hat", False),
        ("hi there, hat-trick", True),
        ("", False),
    ],
)
def test_whole_words_match_in_any_case_and_number(caption: str, is_match: bool):
    rule = parse_classes("hat|hi-hat|!open,kick")[0]
    assert rule.matches(caption) is is_match


def test_a_class_is_named_by_its_first_wanted_alternative():
    assert [rule.name for rule in parse_classes(" !drum|bass , kick|bass drum")] == ["bass", "kick"]


def test_a_caption_of_two_classes_belongs_to_none():
    captions = ["bass drum", "bass note", "kick", "a kick and a snare", "rain"]
    loose = select_classes(captions, "kick|bass drum,bass", min_files=1)
    assert [members.indices for members in loose.classes] == [[2, 3], [1]]
    assert (loose.num_ambiguous, loose.num_unmatched) == (1, 1)
    strict = select_classes(captions, "kick|bass drum,bass|!drum", min_files=1)
    assert [members.indices for members in strict.classes] == [[0, 2, 3], [1]]
    assert strict.num_ambiguous == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("kick,,snare", "class 2 is ''; write words"),
        ("kick,!open", "class 2 is '!open'; write words"),
        ("kick|,snare", r"class 1 is 'kick\|'; write words"),
        ("kick,...", r"class 2 is '\.\.\.'; write words"),
        ("kick,snare,kick|bass drum", "'kick' names two classes"),
        ("kick", "name at least two"),
        ("", "class 1 is ''"),
    ],
)
def test_malformed_specifications_are_refused(spec: str, message: str):
    with pytest.raises(ConfigError, match=message):
        parse_classes(spec)


def test_a_class_without_files_gets_a_guess_and_the_common_words():
    captions = ["a snare drum hit"] * 9 + ["a kick drum hit"] * 10
    with pytest.raises(ConfigError) as caught:
        select_classes(captions, "kick,snaer")
    assert str(caught.value) == (
        "class 'snaer' matches 0 of 19 captions, at least 8 are needed; did you mean 'snare'?; "
        "the most common words are drum (19), hit (19), kick (10), snare (9)"
    )


def test_a_class_that_loses_its_files_to_another_is_told_so():
    with pytest.raises(ConfigError, match=r"'drum' matches 1 of 12 captions.*; 11 more match another class as well.*exclude with '!word'"):
        select_classes(["bass drum"] * 11 + ["drum"], "drum,bass", min_files=2)


def test_captions_without_words_are_told_so():
    with pytest.raises(ConfigError, match="'kick' matches 0 of 2 captions, at least 8 are needed; the captions contain no words"):
        select_classes(["", "..."], "kick,snare")


def test_a_split_is_disjoint_complete_and_deterministic():
    members = [ClassMembers("a", list(range(20))), ClassMembers("b", list(range(20, 23)))]
    parts = split(members, held_out_share=0.25, seed=3)
    for whole, fit, held_out in zip(members, parts.fit, parts.held_out, strict=True):
        assert whole.name == fit.name == held_out.name
        assert sorted(fit.indices + held_out.indices) == whole.indices
    assert [len(part.indices) for part in parts.held_out] == [5, 1]
    assert split(members, held_out_share=0.25, seed=3) == parts
    assert split(members, held_out_share=0.25, seed=4) != parts
    assert split(members[:1], held_out_share=0.25, seed=3).fit == parts.fit[:1]  # other classes do not matter


def test_impossible_splits_are_refused():
    with pytest.raises(ConfigError, match=r"class 'a' has 1 file\(s\); at least two are needed"):
        split([ClassMembers("a", [0])])
    with pytest.raises(ConfigError, match="held_out_share must lie between 0 and 1, got 1"):
        split([ClassMembers("a", [0, 1])], held_out_share=1.0)
