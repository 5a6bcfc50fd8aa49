"""Point clouds: main directions, and pictures that show something."""

import numpy as np
import torch
from matplotlib.image import imread

from stable_audio_tools.audio.point_cloud import point_cloud_image, principal_components


def test_the_first_direction_is_the_widest_and_distances_survive():
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    points = torch.randn(200, 5, generator=generator) * torch.tensor([9.0, 4.0, 2.0, 0.0, 0.0]) @ rotation
    found = principal_components(points)
    assert found.std(dim=0).tolist() == sorted(found.std(dim=0).tolist(), reverse=True)
    torch.testing.assert_close(torch.pdist(found), torch.pdist(points), atol=1e-2, rtol=1e-3)


def test_fewer_channels_than_directions():
    assert principal_components(torch.randn(10, 2)).shape == (10, 3)
    assert bool((principal_components(torch.randn(10, 2))[:, 2] == 0).all())


def test_picture(tmp_path):
    path = point_cloud_image(torch.randn(2, 8, 5000), tmp_path / "new" / "cloud.png", title="latents")
    picture = imread(path)
    assert min(picture.shape[:2]) > 100 and float(np.std(picture[..., :3])) > 0.02
