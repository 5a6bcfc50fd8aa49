"""The Oobleck discriminator: the reference's numbers, and folding."""

import torch

from stable_audio_tools.training.discriminators.oobleck import fold


def test_values_and_state_dict_equal_the_reference(assert_golden):
    assert_golden("oobleck")


def test_folding_puts_samples_of_one_phase_in_a_column():
    assert fold(torch.arange(1.0, 8.0).view(1, 1, 7), 3)[0, 0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 0, 0]]
    assert fold(torch.ones(1, 2, 6), 3).shape == (1, 2, 2, 3)
