"""Training from an S3-compatible server, over connections that break."""

import itertools
import multiprocessing
import os

import numpy as np
import pytest
import torch

from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.data.shards.pack import PackOptions, pack
from stable_audio_tools.errors import DataError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
BUCKET = "music"


@pytest.fixture(scope="module")
def server():
    """Moto's S3, on a port of this machine."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def store(server, monkeypatch, tmp_path, write_noises):
    """A bucket with 40 noises in shards; ``path``, ``port`` and what opens it."""
    import boto3

    for name, value in {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=BUCKET)
    folder = write_noises(tmp_path / "noises", 40)
    name = f"{BUCKET}/{tmp_path.name}"
    options = PackOptions(shard_bytes=60_000, num_jobs=2, caption="noise", storage_options={"endpoint_url": endpoint})
    result = pack(folder, f"s3://{name}", options)
    assert (result.num_shards, result.num_samples) == (6, 40)
    assert pack(folder, f"s3://{name}", options).num_kept == 6
    yield {"url": f"s3://{name}", "endpoint": endpoint, "port": port, "host": host, "folder": folder}
    for found in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=found["Key"])


def config_of(store, endpoint=None, **options):
    entry = {"id": "s3", "s3_path": store["url"], "endpoint_url": endpoint or store["endpoint"]}
    return {"dataset_type": "s3", "datasets": [entry], "resampled_shards": False, "drop_last": False, **options}


def names_of(batches):
    return [info["relpath"] for _, infos in batches for info in infos]


def loader_of(config, workers=2, batch=5):
    return create_dataloader_from_config(config, batch, 2000, 8000, 1, num_workers=workers, seed=1)


@pytest.mark.parametrize("dataset_type", ["s3", "wds"])
def test_a_model_is_trained_from_a_bucket(store, tiny_autoencoder, train_briefly, dataset_type, tmp_path):
    config = config_of(store) | {"dataset_type": dataset_type}
    if dataset_type == "wds":
        pack(store["folder"], str(tmp_path / "here"), PackOptions(shard_bytes=60_000, caption="noise"))
        config["datasets"] = [{"id": "here", "path": str(tmp_path / "here")}]
    result = train_briefly(tiny_autoencoder(), dataset_config=config, max_steps=6, num_workers=2, batch_size=4)
    assert result.step == 6 and result.checkpoint is not None
    loader = result.wrapper.trainer.train_dataloader
    assert loader.state_dict()["items"] == 24 and loader.dataset.num_skipped == 0
    resumed = train_briefly(tiny_autoencoder(), dataset_config=config, max_steps=8, ckpt_path=result.checkpoint, batch_size=4)
    assert resumed.step == 8 and resumed.wrapper.trainer.train_dataloader.state_dict()["items"] == 32


def _see(rank, world, folder, config):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world)
    loader = loader_of(config, workers=2)
    np.save(f"{folder}/{rank}.npy", np.array([names_of(loader), names_of(loader)]))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_two_nodes_with_two_workers_each_see_every_sample_once_per_pass(store, tmp_path, method):
    context = multiprocessing.get_context(method)
    processes = [context.Process(target=_see, args=(rank, 2, str(tmp_path), config_of(store))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    seen = [np.load(tmp_path / f"{rank}.npy") for rank in range(2)]
    passes = [sorted(itertools.chain(seen[0][number], seen[1][number])) for number in range(2)]
    assert passes[0] == passes[1] == [f"{number:02}.wav" for number in range(40)]
    assert list(seen[0][0]) != list(seen[0][1])


@pytest.mark.parametrize("workers", [0, 2])
def test_connections_that_are_cut_lose_nothing_and_repeat_nothing(store, cutter, workers):
    undisturbed = [names_of(loader_of(config_of(store))), loader_of(config_of(store), workers=0)]
    proxy = cutter(store["port"], cuts=[1000, 20_000, 5_000, 40_000, 3000, 100])
    loader = loader_of(config_of(store, endpoint=proxy.url), workers=workers)
    seen = list(loader)
    assert proxy.num_cut >= 4
    assert sorted(names_of(seen)) == sorted(undisturbed[0])
    reference = {info["relpath"]: audio for batch, infos in undisturbed[1] for audio, info in zip(batch, infos, strict=True)}
    for batch, infos in seen:
        for audio, info in zip(batch, infos, strict=True):
            if workers == 0:
                assert audio.equal(reference[info["relpath"]])
    assert loader.dataset.num_skipped == 0


def test_a_run_that_resumes_sees_what_an_uninterrupted_one_sees(store, cutter):
    whole = names_of(loader_of(config_of(store)))
    first = loader_of(config_of(store))
    batches = iter(first)
    seen = names_of([next(batches) for _ in range(3)])
    proxy = cutter(store["port"], cuts=[2000, 2000])
    resumed = loader_of(config_of(store, endpoint=proxy.url))
    resumed.load_state_dict(first.state_dict())
    assert seen + names_of(resumed) == whole


def test_mistakes_about_credentials_and_buckets_are_said(store, monkeypatch):
    with pytest.raises(DataError, match=r"no-such-bucket.*: no shards \(.tar\) found"):
        loader_of(config_of({**store, "url": "s3://no-such-bucket/x"}))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", os.devnull)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # of the connection that had credentials
    config = config_of(store)
    config["datasets"][0]["profile"] = "nobody"
    with pytest.raises(DataError, match=r'nobody.*; credentials come from "profile" in the dataset\'s entry'):
        loader_of(config)
    del config["datasets"][0]["profile"]
    with pytest.raises(DataError, match=r"NoCredentialsError.*; credentials come from .*for a public bucket write"):
        loader_of(config)
