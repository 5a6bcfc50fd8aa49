"""The BigVGAN discriminators: members, and options that contradict each other."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.training.discriminators.big_vgan import BigVGANDiscriminator


def test_members():
    model = BigVGANDiscriminator(2, periods=[2, 3], hop_lengths=[16, 32], bins_per_octaves=[4, 8], n_octaves=3, filters=2)
    assert {key.split(".discriminators.")[0] for key in model.state_dict()} == {"mpd", "cqtd"}
    scores = [judgement.score for judgement in model.judge(torch.randn(1, 2, 512))]
    assert [tuple(score.shape[:2]) for score in scores] == [(1, 1)] * 4
    assert [score.shape[2] for score in scores[2:]] == [32, 16], "a row per frame"


def test_the_defaults_cover_nine_octaves():
    model = BigVGANDiscriminator()
    assert [member.transform.frequencies().shape[0] for member in model.cqtd.discriminators] == [9 * 24, 9 * 36, 9 * 48]
    assert 44100 * float(model.cqtd.discriminators[0].transform.frequencies()[0]) == pytest.approx(32.7, abs=0.1)


def test_one_hop_per_resolution():
    with pytest.raises(ConfigError, match=r"hop_lengths and bins_per_octaves must have the same length, got 1 and 3$"):
        BigVGANDiscriminator(hop_lengths=[256])
