"""Classes that are chosen when nobody names any."""

import pytest
import torch

from stable_audio_tools.demo.propose import propose_classes
from stable_audio_tools.errors import ConfigError


def spread(centres, *, count=24, seed=0):
    """``count`` points of two features around each centre."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.tensor(centre) + torch.randn(count, 2, generator=generator) for centre in centres])


def test_words_that_sound_different_are_chosen_and_words_that_do_not_are_left_out():
    features = spread([(0.0, 0.0), (30.0, 0.0), (0.0, 30.0), (0.0, 0.0)])
    captions = ["a bell"] * 24 + ["a kick"] * 24 + ["some rain"] * 24 + ["an alarm"] * 24
    chosen = propose_classes(captions, features, num_classes=3)
    assert {"kick", "rain"} < set(chosen) and len({"bell", "alarm"} & set(chosen)) == 1


def test_the_rarer_of_equally_good_words_is_taken():
    features = spread([(0.0, 0.0), (30.0, 0.0), (30.0, 0.0)])
    captions = ["a bell sound"] * 24 + ["a low drum sound"] * 24 + ["a high kick drum sound"] * 24
    assert propose_classes(captions, features, num_classes=2) in (["bell", "high"], ["bell", "kick"], ["bell", "low"])


def test_a_file_with_two_of_the_words_counts_for_neither():
    """All kicks are drums, so that the two cannot both be classes."""
    features = spread([(0.0, 0.0), (30.0, 0.0)])
    captions = ["a bell"] * 24 + ["kick drum"] * 24
    chosen = propose_classes(captions, features)
    assert chosen[0] == "bell" and len(chosen) == 2


def test_small_folders_get_smaller_classes():
    features = spread([(0.0, 0.0), (30.0, 0.0)], count=9)
    assert propose_classes(["a bell"] * 9 + ["a kick"] * 9, features) == ["bell", "kick"]


def test_too_few_common_words_are_told():
    features = spread([(0.0, 0.0), (30.0, 0.0)], count=5)
    with pytest.raises(ConfigError, match=r"10 captions share too few words .* at least two words with 8 files each are needed; name the"):
        propose_classes(["a bell"] * 5 + ["a kick"] * 5, features)
