"""Shards behind gs:// URLs, on a server that speaks Google's protocol."""

import socket

import pytest

from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.data.shards.pack import PackOptions, pack
from stable_audio_tools.errors import DataError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
BUCKET = "music"


@pytest.fixture(scope="module")
def port():
    """An emulator of Google Cloud Storage with one bucket; its port."""
    with pytest.MonkeyPatch.context() as patch:
        # Otherwise gcsfs asks over gRPC, which the emulator does not speak, what kind of bucket it is, and waits a minute for an answer.
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        pytest.importorskip("gcsfs", reason="gs:// needs gcsfs, which is not installed")
        server = pytest.importorskip("gcp_storage_emulator.server", reason="needs gcp-storage-emulator, which is not installed")
        with socket.create_server(("localhost", 0)) as found:
            number = found.getsockname()[1]
        running = server.create_server("localhost", number, in_memory=True, default_bucket=BUCKET)
        running.start()
        yield number
        running.stop()


def options_of(port):
    return {"endpoint_url": f"http://localhost:{port}", "token": "anon", "project": "test"}


@pytest.fixture
def url(port, tmp_path, write_noises):
    """Forty noises in six shards."""
    found = f"gs://{BUCKET}/{tmp_path.name}"
    options = PackOptions(shard_bytes=60_000, num_jobs=2, caption="noise", storage_options=options_of(port))
    result = pack(write_noises(tmp_path / "noises", 40), found, options)
    assert (result.num_shards, result.num_samples) == (6, 40)
    assert pack(tmp_path / "noises", found, options).num_kept == 6
    return found


def loader_of(url, port, workers=0, **options):
    entry = {"id": "gcs", "path": url, "storage_options": options_of(port)}
    config = {"dataset_type": "wds", "datasets": [entry], "resampled_shards": False, "drop_last": False, **options}
    return create_dataloader_from_config(config, 5, 2000, 8000, 1, num_workers=workers, seed=1)


def names_of(batches):
    return [info["relpath"] for _, infos in batches for info in infos]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_has_each_sample_once_and_is_resumed(url, port, workers):
    loader = loader_of(url, port, workers)
    whole = names_of(loader)
    assert sorted(whole) == [f"{number:02}.wav" for number in range(40)]
    first = loader_of(url, port, workers)
    batches = iter(first)
    seen = names_of([next(batches) for _ in range(3)])
    resumed = loader_of(url, port, workers)
    resumed.load_state_dict(first.state_dict())
    assert seen + names_of(resumed) == whole


def test_connections_that_are_cut_lose_nothing_and_repeat_nothing(url, port, cutter):
    undisturbed = {info["relpath"]: audio for batch, infos in loader_of(url, port) for audio, info in zip(batch, infos, strict=True)}
    proxy = cutter(port, cuts=[1000, 20_000, 5_000, 40_000, 3000, 100])
    seen = list(loader_of(url, proxy.port))
    assert proxy.num_cut >= 4 and sorted(names_of(seen)) == sorted(undisturbed)
    assert all(audio.equal(undisturbed[info["relpath"]]) for batch, infos in seen for audio, info in zip(batch, infos, strict=True))


def test_batches_by_length_use_what_packing_wrote_down(url, port):
    found = loader_of(url, port, length_buckets=[1000, 2000]).dataset
    assert found.bucket_lengths == [2000] * 40


def test_a_bucket_that_is_not_there_is_said(port):
    with pytest.raises(DataError, match=r"^gs://no-such-bucket/x: "):
        loader_of("gs://no-such-bucket/x", port)
