"""Published models, from local folders and from a cache of the hub."""

import json
import threading

import pytest
import torch
from safetensors.torch import save_file

from stable_audio_tools import create_model_from_config, get_pretrained_model
from stable_audio_tools.errors import CheckpointError, ConfigError
from stable_audio_tools.models.layers.parameters import is_without_weights, without_weights


def write(folder, config, model=None, weights="model.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_config.json").write_text(json.dumps(config))
    model = model or create_model_from_config(config)
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    if weights.endswith(".safetensors"):
        save_file(tensors, folder / weights)
    else:
        torch.save({"state_dict": tensors}, folder / weights)
    return model


@pytest.fixture
def published(tmp_path, dit_config, oobleck_config):
    """A folder with a latent diffusion model; returns (folder, config, model)."""
    pretransform = {"type": "autoencoder", "config": oobleck_config()["model"]}
    config = dit_config(pretransform=pretransform, io_channels=4, use_abs_pos_emb=True, use_sinusoidal_emb=False)
    return tmp_path / "model", config, write(tmp_path / "model", config)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """``hub(name, source)``: put files into the cache of a hub that cannot be reached, as if they had been downloaded."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    commit = "0" * 40

    def add(name, source, files=None, missing=(), revision="main"):
        repo = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (repo / "refs").mkdir(parents=True, exist_ok=True)
        (repo / "refs" / revision).write_text(commit)
        snapshot = repo / "snapshots" / commit
        snapshot.mkdir(parents=True, exist_ok=True)
        for file in files or [path.name for path in source.iterdir()]:
            (snapshot / file).write_bytes((source / file).read_bytes())
        for file in missing:
            (repo / ".no_exist" / commit).mkdir(parents=True, exist_ok=True)
            (repo / ".no_exist" / commit / file).touch()

    return add


def assert_same(model, expected):
    actual, wanted = model.state_dict(), expected.state_dict()
    assert set(actual) == set(wanted)
    for key, value in wanted.items():
        assert torch.equal(actual[key], value), key
    assert all(tensor.device.type == "cpu" for tensor in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize("weights", ["model.safetensors", "model.ckpt"])
def test_local_folder(tmp_path, dit_config, weights):
    config = dit_config(use_sinusoidal_emb=True)  # has a table that no state dict holds
    expected = write(tmp_path, config, weights=weights)
    model, read = get_pretrained_model(tmp_path)
    assert read == config
    assert_same(model, expected)
    assert not model.training
    assert not is_without_weights()
    x, t = torch.randn(1, 8, 16), torch.tensor([0.5])
    conditions = model.conditioner([{"prompt": "a", "seconds_total": 1}], "cpu")
    assert torch.equal(model(x, t, conditions), expected(x, t, conditions))


def test_latent_diffusion_model_keeps_what_is_frozen(published):
    folder, _, expected = published
    model, _ = get_pretrained_model(str(folder))
    assert_same(model, expected)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        n for n, p in expected.named_parameters() if p.requires_grad
    }
    assert not model.pretransform.training
    z = torch.randn(1, 4, 8)
    torch.testing.assert_close(model.pretransform.decode(z), expected.pretransform.decode(z))


def test_safetensors_come_first(published):
    folder, config, expected = published
    write(folder, config, weights="model.ckpt")  # other weights
    assert_same(get_pretrained_model(folder)[0], expected)


def test_data_type_and_device(published):
    folder, _, expected = published
    model, _ = get_pretrained_model(folder, device="cpu", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    stored = {key: value.half() for key, value in expected.state_dict().items()}
    save_file(stored, folder / "model.safetensors")
    model, _ = get_pretrained_model(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}  # as the config says, whatever the file holds


def test_training_checkpoint_in_the_place_of_a_model(published):
    folder, _, expected = published
    (folder / "model.safetensors").unlink()
    wrapped = {f"diffusion.{key}": value for key, value in expected.state_dict().items()}
    torch.save({"state_dict": wrapped, "optimizer_states": []}, folder / "model.ckpt")
    assert_same(get_pretrained_model(folder)[0], expected)


def test_hub_without_network(published, hub):
    folder, config, expected = published
    hub("somebody/model", folder)
    model, read = get_pretrained_model("somebody/model")
    assert read == config
    assert_same(model, expected)
    hub("somebody/model", folder, revision="v2")
    assert_same(get_pretrained_model("somebody/model", revision="v2")[0], expected)


def test_only_no_such_file_falls_back_to_ckpt(tmp_path, dit_config, hub):
    config = dit_config()
    expected = write(tmp_path / "old", config, weights="model.ckpt")
    hub("somebody/old", tmp_path / "old", missing=["model.safetensors"])  # the hub said so when it could be reached
    assert_same(get_pretrained_model("somebody/old")[0], expected)
    hub("somebody/unknown", tmp_path / "old")  # never asked
    with pytest.raises(CheckpointError, match=r"'somebody/unknown': model\.safetensors is not in the local cache, and the hub cannot"):
        get_pretrained_model("somebody/unknown")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("GatedRepoError", r"only to users who accepted its terms; do so at https://huggingface\.co/a/b, then run: hf auth login"),
        ("RevisionNotFoundError", "'a/b': has no revision 'v9'"),
        ("RepositoryNotFoundError", "neither a local folder nor a repository of the hub that you may read"),
        ("EntryNotFoundError", r"the repository has no model_config\.json; is it a model of this kind"),
        ("HfHubHTTPError", r"model_config\.json could not be downloaded \(told so\); try again"),
    ],
)
def test_what_the_hub_may_say(monkeypatch, error, message):
    from unittest.mock import Mock

    import huggingface_hub
    from huggingface_hub import errors

    def refuse(*_, **__):
        made = getattr(errors, error).__new__(getattr(errors, error))
        Exception.__init__(made, "told so")
        made.args, made.response = ("told so",), Mock()
        raise made

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(CheckpointError, match=message):
        get_pretrained_model("a/b", revision="v9")


def test_what_is_wrong_with_a_folder(tmp_path, published):
    folder, config, expected = published
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"has no model_config\.json; it has: nothing"):
        get_pretrained_model(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="is a local folder, which has no revision 'main'"):
        get_pretrained_model(folder, revision="main")
    with pytest.raises(CheckpointError, match="is neither a local folder nor a repository of the hub"):
        get_pretrained_model("/no/such/folder")
    (folder / "model_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"model_config\.json: is not JSON"):
        get_pretrained_model(folder)
    (folder / "model_config.json").write_text("[]")
    with pytest.raises(ConfigError, match="a model config is an object, got"):
        get_pretrained_model(folder)
    config["model"]["diffusion"]["config"]["depth"] = 1
    (folder / "model_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"does not fit its config: .* not in the model: model\.model\.transformer\.layers\.1\."):
        get_pretrained_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors or model\.ckpt; it has: model_config\.json"):
        get_pretrained_model(folder)
    config["model"]["diffusion"]["config"]["depth"] = 2
    (folder / "model_config.json").write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in expected.pretransform.model.state_dict().items()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"does not fit its config: .*; it belongs to another kind of model"):
        get_pretrained_model(folder)


def test_models_without_weights_have_shapes_and_real_tables(dit_config):
    expected = create_model_from_config(dit_config(use_sinusoidal_emb=True))
    with without_weights():
        assert is_without_weights()
        with without_weights():
            pass
        assert is_without_weights()
        model = create_model_from_config(dit_config(use_sinusoidal_emb=True))
    assert not is_without_weights()
    assert {name: (p.shape, p.requires_grad) for name, p in model.named_parameters()} == {
        name: (p.shape, p.requires_grad) for name, p in expected.named_parameters()
    }
    assert {p.device.type for p in model.parameters()} == {"meta"}
    for name, buffer in expected.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer)
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"  # afterwards everything is as it was
    with pytest.raises(ZeroDivisionError), without_weights():
        raise ZeroDivisionError
    assert not is_without_weights()


def test_threads_that_build_without_weights_do_not_get_in_each_others_way():
    """The first to begin is the first to end, while the second still builds."""
    register, events = torch.nn.Module.register_parameter, [threading.Event() for _ in range(3)]
    devices = {}

    def first():
        with without_weights():
            events[0].set()
            events[1].wait(10)
        devices["first, after"] = torch.nn.Linear(2, 2).weight.device.type
        events[2].set()

    def second():
        events[0].wait(10)
        with without_weights():
            events[1].set()
            events[2].wait(10)
            devices["second, inside"] = torch.nn.Linear(2, 2).weight.device.type

    threads = [threading.Thread(target=run) for run in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert devices == {"first, after": "cpu", "second, inside": "meta"}
    assert torch.nn.Module.register_parameter is register
