import torch

from stable_audio_tools.training.base import unbatch


def test_batches_of_all_loaders_become_audio_with_channels():
    metadata = [{"a": 1}]
    for shape, expected in (((2, 1, 8), (2, 1, 8)), ((1, 2, 3, 8), (2, 3, 8)), ((2, 8), (2, 1, 8))):
        audio, meta = unbatch([torch.ones(shape), metadata])
        assert audio.shape == expected and meta is metadata
