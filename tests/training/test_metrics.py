"""Metrics while training: the distance itself, and when it is measured."""

import pytest
import torch

from stable_audio_tools.errors import DataError
from stable_audio_tools.training import create_metrics_callback_from_config
from stable_audio_tools.training.metrics import frechet_distance


def test_the_distance_of_two_gaussians_is_known():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20000, 3, generator=generator)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + torch.tensor([3.0, 0.0, 4.0])) == pytest.approx(25, rel=1e-6)
    assert frechet_distance(x, 3 * x) == pytest.approx(3 * 4, rel=0.05), "three spreads, of 1 and 3"
    assert frechet_distance(x[:, :1], 2 * x[:, :1]) == pytest.approx(1, rel=0.05)


def test_it_is_measured_every_so_many_steps(train_briefly, tiny_autoencoder, noises):
    folder = noises["datasets"][0]["path"]
    metrics = {"ref_audios_path": folder, "ref_audios_ext": ".wav", "metrics_every": 2, "max_samples": 2}
    result = train_briefly(tiny_autoencoder(metrics=metrics), max_steps=4, logger="csv")
    table = (result.folder / "metrics" / "metrics.csv").read_text().splitlines()
    column = table[0].split(",").index("metrics/latent_frechet_distance")
    values = [float(row.split(",")[column]) for row in table[1:] if row.split(",")[column]]
    assert len(values) == 2 and all(value > 0 for value in values)


def test_a_config_that_asks_for_nothing_and_one_without_files(tiny_autoencoder, tmp_path):
    assert create_metrics_callback_from_config(tiny_autoencoder()) is None
    with pytest.raises(DataError, match=r"^training.metrics.ref_audios_path: .* holds no file that ends in '.mp3'$"):
        create_metrics_callback_from_config(tiny_autoencoder(metrics={"ref_audios_path": str(tmp_path)}))
