"""What a weights file is, whether it fits, and that writing one leaves no half of it."""

import os
import pickle
import re
import signal
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stable_audio_tools.checkpoint import (
    atomic_path,
    compare_state_dict,
    copy_state_dict,
    initialise_from,
    kind_of,
    load_ckpt_state_dict,
    load_model_weights,
    load_pretransform_weights,
    read_checkpoint,
    require_fit,
    require_wrapped,
    save_model_weights,
    unwrap_state_dict,
    weights_hash,
)
from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.models import create_model_from_config

WRAPPED = "a training checkpoint (wrapped, with optimizer states)"
DIFFUSION = "a whole diffusion model (unwrapped)"
AUTOENCODER = "an autoencoder (unwrapped)"
UNKNOWN = "a state dict of some other model"


class Thing:
    """Something that only a pickle can hold."""


@pytest.fixture(scope="module")
def configs(tiny_autoencoder, tiny_diffusion):
    return {"autoencoder": tiny_autoencoder(), "diffusion": tiny_diffusion()}


@pytest.fixture(scope="module")
def files(tmp_path_factory, configs, train_briefly):
    """A file of each kind, from real runs of three steps."""
    folder = tmp_path_factory.mktemp("checkpoints")
    made = {}
    for name, config in configs.items():
        run = train_briefly(config)
        made[f"wrapped {name}"] = run.checkpoint
        made[name] = save_model_weights(run.wrapper.model.state_dict(), folder / f"{name}.ckpt")
        made[f"{name} safetensors"] = save_model_weights(run.wrapper.model.state_dict(), folder / f"{name}.safetensors")
    made["unknown"] = save_model_weights(torch.nn.Linear(2, 2).state_dict(), folder / "unknown.ckpt")
    return made


@pytest.fixture
def build(configs):
    return lambda name: create_model_from_config(configs[name])


def message_of(call, *args, **kwargs):
    with pytest.raises(CheckpointError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# ---- what a file is ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "description"),
    [
        ("wrapped diffusion", WRAPPED),
        ("wrapped autoencoder", WRAPPED),
        ("diffusion", DIFFUSION),
        ("diffusion safetensors", DIFFUSION),
        ("autoencoder", AUTOENCODER),
        ("autoencoder safetensors", AUTOENCODER),
        ("unknown", UNKNOWN),
    ],
)
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors", ".bin"])
def test_files_are_recognised_by_contents_whatever_their_names(tmp_path, files, name, description, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(files[name].read_bytes())
    checkpoint = read_checkpoint(path)
    assert checkpoint.description == description
    assert all(torch.equal(tensor, checkpoint.state_dict[key]) for key, tensor in load_ckpt_state_dict(files[name]).items())


def test_a_training_checkpoint_keeps_its_run_and_its_config(files, configs):
    checkpoint = read_checkpoint(files["wrapped diffusion"])
    assert checkpoint.extra["global_step"] == 3
    assert checkpoint.extra["model_config"] == configs["diffusion"]
    assert not read_checkpoint(files["diffusion"]).extra


def test_files_that_torch_wrote_before_1_6_and_bare_state_dicts_are_read(tmp_path, files):
    state = load_ckpt_state_dict(files["autoencoder"])
    for number, legacy in enumerate([True, False]):
        path = tmp_path / f"{number}.ckpt"
        torch.save(state, path, _use_new_zipfile_serialization=not legacy)
        assert read_checkpoint(path).kind == "autoencoder"


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (["diffusion.model.model.a", "diffusion_ema.ema_model.model.a"], "wrapped"),
        (["autoencoder.encoder.a", "autoencoder.decoder.a"], "wrapped"),
        (["diffae.encoder.a"], "wrapped"),
        (["encoder.a", "decoder.a", "bottleneck.b"], "autoencoder"),
        (["encoder.a"], "unknown"),
        (["model.model.a"], "diffusion"),
        (["model.a", "conditioner.b"], "diffusion"),
        (["model.a", "pretransform.b"], "diffusion"),
        (["model.a"], "unknown"),
        ([], "unknown"),
    ],
)
def test_kinds_by_keys(keys, kind):
    assert kind_of(dict.fromkeys(keys)) == kind


def write_zip_without_end(path, files):
    data = files["diffusion"].read_bytes()
    path.write_bytes(data[: len(data) // 2])


def write_half_a_safetensors(path, files):
    data = files["diffusion safetensors"].read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty; was it copied or downloaded completely?"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "is a Git LFS pointer, not the weights; run 'git lfs pull' where it came from",
        ),
        (b"\n <!DOCTYPE html><html>", "is a web page, not the weights; does the link that it came from ask to log in?"),
        (b"<HTML><head>", "is a web page, not the weights; does the link that it came from ask to log in?"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "is not a checkpoint: it begins with b'RIFF\\x00\\x00\\x00\\x00WAVEfmt '"),
        (pickle.dumps({"a": 1}), "is not a checkpoint: a pickle, but not one that torch wrote"),
        (
            write_zip_without_end,
            "truncated or not a checkpoint (SIZE bytes; PytorchStreamReader failed reading zip archive: failed finding central directory); "
            "was it copied or downloaded completely?",
        ),
        (b"PK\x03\x04", "truncated or not a checkpoint (4 bytes; "),
        (
            lambda path, files: torch.save([torch.ones(1)], path),
            "holds a list, not a state dict",
        ),
        (
            lambda path, files: torch.save({"state_dict": {"step": 3}}, path),
            "holds no state dict (a mapping from names to tensors); is it a model checkpoint?",
        ),
        (
            lambda path, files: torch.save({"state_dict": {"a": torch.ones(1)}, "thing": Thing()}, path),
            "contains Python objects besides tensors (MODULE.Thing); loading them can run any code, so it is refused; if the file is your "
            "own, convert it with read_checkpoint(path, trust=True)",
        ),
    ],
    ids=["empty", "lfs", "html", "html-2", "wav", "pickle", "truncated", "zip-head", "list", "no-state-dict", "objects"],
)
def test_what_is_no_checkpoint_is_refused_with_what_it_is(tmp_path, files, content, expected):
    path = tmp_path / "model.ckpt"
    path.write_bytes(content) if isinstance(content, bytes) else content(path, files)
    expected = expected.replace("SIZE", f"{path.stat().st_size:,}").replace("MODULE", Thing.__module__)
    assert message_of(read_checkpoint, path).startswith(f"{path}: {expected}")


@pytest.mark.parametrize("size", [4, 20, 0.5])
def test_a_truncated_safetensors_file_is_refused(tmp_path, files, size):
    data = files["diffusion safetensors"].read_bytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(data[: size if isinstance(size, int) else int(size * len(data))])
    assert re.fullmatch(
        rf"{path}: not a complete safetensors file \(.+\); was it copied or downloaded completely\?", message_of(read_checkpoint, path)
    )


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("name", ["wrapped diffusion", "autoencoder safetensors"])
def test_no_part_of_a_file_is_mistaken_for_the_whole(tmp_path, files, name, share):
    data = files[name].read_bytes()
    path = tmp_path / files[name].name
    path.write_bytes(data[: int(share * len(data))])
    assert "copied or downloaded completely?" in message_of(read_checkpoint, path)


def test_missing_files_and_folders(tmp_path):
    assert message_of(read_checkpoint, tmp_path / "no.ckpt") == f"{tmp_path}/no.ckpt: no such file"
    assert message_of(read_checkpoint, tmp_path) == f"{tmp_path}: is a folder, not a checkpoint file"


def test_objects_are_read_only_on_trust(tmp_path):
    path = tmp_path / "mine.ckpt"
    torch.save({"state_dict": {"a": torch.ones(1)}, "path": Path("x")}, path)
    with pytest.raises(CheckpointError, match=r"Python objects besides tensors \(pathlib\.\w+\)"):
        read_checkpoint(path)
    assert read_checkpoint(path, trust=True).extra["path"] == Path("x")


def test_numbers_of_numpy_are_no_objects(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "loss": np.float64(3), "step": np.int64(4)}, tmp_path / "mine.ckpt")
    extra = read_checkpoint(tmp_path / "mine.ckpt").extra
    assert extra["loss"] == 3 and extra["step"] == 4


# ---- the wrong kind: what it is, what was wanted, which flag takes it ---------------------------------------------------------------


TAKES = {
    "wrapped": "resume it with --ckpt-path of train.py, or make a model of it with unwrap_model.py",
    "diffusion": "--pretrained-ckpt-path of train.py and --ckpt-path of sat generate take it",
    "autoencoder": "--pretransform-ckpt-path takes it, or --pretrained-ckpt-path when training an autoencoder",
}


def test_resuming_refuses_all_but_training_checkpoints(files):
    for name, description in (("diffusion", DIFFUSION), ("autoencoder safetensors", AUTOENCODER)):
        expected = f"{files[name]}: is {description}, but --ckpt-path wants a training checkpoint to resume; {TAKES[name.split()[0]]}"
        assert message_of(require_wrapped, files[name]) == expected
    path = files["unknown"]
    assert message_of(require_wrapped, path) == f"{path}: is {UNKNOWN}, but --ckpt-path wants a training checkpoint to resume"
    assert require_wrapped(files["wrapped diffusion"]).kind == "wrapped"


def test_resuming_refuses_weights_without_the_state_of_their_run(tmp_path, files):
    path = tmp_path / "stripped.ckpt"
    torch.save({"state_dict": load_ckpt_state_dict(files["wrapped diffusion"])}, path)
    assert message_of(require_wrapped, path) == (
        f"{path}: holds the weights of a training checkpoint, but not the state of its run, which --ckpt-path needs to resume it; make a "
        "model of it with unwrap_model.py, and start from that with --pretrained-ckpt-path"
    )


def test_resuming_refuses_the_run_of_another_model(files, train_briefly, tiny_diffusion):
    other = tiny_diffusion()
    other["model"]["diffusion"]["config"]["depth"] = 2
    message = message_of(train_briefly, other, ckpt_path=files["wrapped diffusion"])
    assert re.match(
        rf"{re.escape(str(files['wrapped diffusion']))}: does not fit this run: \d+ of the model's \d+ tensors loaded "
        r"\(\d+\.\d% of its weights\); missing in the file: diffusion\.model\.\S+, .*\(\d+ in all\)",
        message,
    )
    assert message.endswith("; --ckpt-path resumes a run with the same model config")


def test_a_tensor_without_a_place_is_no_fit(files, train_briefly, configs):
    wrapper = train_briefly(configs["diffusion"]).wrapper
    checkpoint = read_checkpoint(files["wrapped diffusion"])
    require_fit(wrapper, checkpoint)
    message = message_of(require_fit, wrapper, checkpoint._replace(state_dict={**checkpoint.state_dict, "extra": torch.ones(1)}))
    assert ": holds what this run does not keep (extra), as checkpoints of another config do" in message


def test_a_new_run_starts_only_from_a_model_of_its_kind(files, build):
    for model, name, description in (
        ("diffusion", "wrapped diffusion", WRAPPED),
        ("diffusion", "autoencoder", AUTOENCODER),
        ("autoencoder", "diffusion", DIFFUSION),
    ):
        wanted = DIFFUSION if model == "diffusion" else AUTOENCODER
        expected = f"{files[name]}: is {description}, but --pretrained-ckpt-path wants {wanted}; {TAKES[name.split()[0]]}"
        assert message_of(initialise_from, build(model), files[name]) == expected


def test_pretransforms_take_only_autoencoders(files, build):
    pretransform = build("diffusion").pretransform
    for name, description in (("diffusion", DIFFUSION), ("wrapped autoencoder", WRAPPED)):
        wanted = f"--pretransform-ckpt-path wants an autoencoder (unwrapped); {TAKES[name.split()[0]]}"
        assert message_of(load_pretransform_weights, pretransform, files[name]) == f"{files[name]}: is {description}, but {wanted}"
    report = load_pretransform_weights(pretransform, files["autoencoder"])
    assert report.is_complete
    assert weights_hash(pretransform.model.state_dict()) == weights_hash(load_ckpt_state_dict(files["autoencoder"]))


def test_pretransforms_are_filled_completely_or_not_at_all(tmp_path, files, build):
    state = load_ckpt_state_dict(files["autoencoder"])
    lost = next(iter(state))
    path = save_model_weights({key: value for key, value in state.items() if key != lost}, tmp_path / "part.ckpt")
    pretransform = build("diffusion").pretransform
    before = weights_hash(pretransform.state_dict())
    message = message_of(load_pretransform_weights, pretransform, path)
    assert message.startswith(f"{path}: does not fit the pretransform's autoencoder: ")
    assert message.endswith(f"; missing in the file: {lost}")
    assert weights_hash(pretransform.state_dict()) == before


def test_inference_takes_models_of_its_kind_only(files, build):
    expected = f"{files['autoencoder']}: is {AUTOENCODER}, but this model wants {DIFFUSION}; {TAKES['autoencoder']}"
    assert message_of(load_model_weights, build("diffusion"), files["autoencoder"]) == expected
    expected = f"{files['wrapped autoencoder']}: is a training checkpoint of an autoencoder, but the config describes a diffusion model"
    assert message_of(load_model_weights, build("diffusion"), files["wrapped autoencoder"]) == expected


# ---- fitting -------------------------------------------------------------------------------------------------------------------------


class Small(torch.nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.kept = torch.nn.Linear(4, 4, bias=False)
        self.head = torch.nn.Linear(4, width)


def test_reports_say_what_became_of_every_tensor():
    model, other = Small(3), Small(5).state_dict() | {"more.a": torch.ones(1), "more.b": torch.ones(1)}
    del other["head.bias"]
    head = model.head.weight.detach().clone()
    report = copy_state_dict(model, other)
    assert report == compare_state_dict(model, other)
    assert (report.matched, report.missing, report.unexpected) == (["kept.weight"], ["head.bias"], ["more.a", "more.b"])
    assert report.mismatched == {"head.weight": ((5, 4), (3, 4))}
    assert report.matched_share == 16 / 31 and not report.is_complete
    assert str(report) == (
        "1 of the model's 3 tensors loaded (51.6% of its weights); missing in the file: head.bias; of another shape: head.weight [5, 4] "
        "instead of [3, 4]; not in the model: more.a, more.b"
    )
    assert torch.equal(model.kept.weight, other["kept.weight"]) and torch.equal(model.head.weight, head)


def test_comparing_changes_nothing_and_copying_works_under_grad_and_across_types():
    model = Small()
    before = weights_hash(model.state_dict())
    state = {key: torch.ones_like(value, dtype=torch.float16) for key, value in model.state_dict().items()}
    assert compare_state_dict(model, state).is_complete and weights_hash(model.state_dict()) == before
    assert str(copy_state_dict(model, state)) == "3 of the model's 3 tensors loaded (100.0% of its weights)"
    assert all(bool((parameter == 1).all()) and parameter.dtype == torch.float32 for parameter in model.parameters())


def test_long_lists_are_cut():
    model = torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(3))
    assert str(compare_state_dict(model, {})).endswith("missing in the file: 0.weight, 0.bias, 1.weight, 1.bias, ... (6 in all)")


def test_a_new_run_may_differ_in_parts_and_says_so(tmp_path, files, build, caplog):
    state = load_ckpt_state_dict(files["diffusion"])
    changed = {key: value for key, value in state.items() if not key.startswith("conditioner.")} | {"model.new": torch.ones(2)}
    path = save_model_weights(changed, tmp_path / "changed.safetensors")
    caplog.set_level("INFO", "stable_audio_tools")
    model = build("diffusion")
    report = initialise_from(model, path)
    assert report.missing == [key for key in model.state_dict() if key.startswith("conditioner.")]
    assert caplog.records[-1].levelname == "WARNING" and caplog.records[-1].getMessage() == f"{path}: {report}"
    assert "; not in the model: model.new" in str(report)
    assert initialise_from(model, files["diffusion"]).is_complete
    assert caplog.records[-1].levelname == "INFO"


def test_a_new_run_refuses_a_model_that_hardly_fits(tmp_path, files, build):
    state = load_ckpt_state_dict(files["diffusion"])
    path = save_model_weights({key: value for key, value in state.items() if "conditioner" in key}, tmp_path / "part.ckpt")
    model = build("diffusion")
    before = weights_hash(model.state_dict())
    message = message_of(initialise_from, model, path)
    assert message.startswith(f"{path}: does not fit the model: ")
    assert message.endswith("; --pretrained-ckpt-path wants a model with mostly the same config")
    assert weights_hash(model.state_dict()) == before


def test_inference_wants_every_tensor(tmp_path, files, build):
    state = load_ckpt_state_dict(files["diffusion"])
    lost = list(state)[3]
    path = save_model_weights({key: value for key, value in state.items() if key != lost}, tmp_path / "part.ckpt")
    model = build("diffusion")
    before = weights_hash(model.state_dict())
    message = message_of(load_model_weights, model, path)
    assert message.startswith(f"{path}: does not fit the model: ")
    assert message.endswith(f"missing in the file: {lost}; was it made with this config?")
    assert weights_hash(model.state_dict()) == before


@pytest.mark.parametrize("name", ["diffusion", "autoencoder"])
def test_inference_takes_a_training_checkpoint_as_it_is(files, build, name, caplog):
    caplog.set_level("INFO", "stable_audio_tools")
    for use_ema, took in ((True, "averaged weights where there are some"), (False, "online weights")):
        model = build(name)
        assert load_model_weights(model, files[f"wrapped {name}"], use_ema=use_ema).is_complete
        expected = unwrap_state_dict(load_ckpt_state_dict(files[f"wrapped {name}"]), use_ema=use_ema)
        assert weights_hash(model.state_dict()) == weights_hash(expected)
        assert f"a training checkpoint; took the {took}" in caplog.text


# ---- unwrapping ----------------------------------------------------------------------------------------------------------------------


def test_unwrapping_takes_the_average_of_what_is_averaged():
    wrapped = {
        "diffusion.model.w": torch.tensor(1.0),
        "diffusion.conditioner.w": torch.tensor(2.0),
        "diffusion_ema.ema_model.w": torch.tensor(3.0),
        "diffusion_ema.online_model.w": torch.tensor(1.0),
        "diffusion_ema.step": torch.tensor([5]),
        "losses.losses.0.weight": torch.tensor(1.0),
    }
    assert unwrap_state_dict(wrapped) == {"model.w": 3, "conditioner.w": 2}
    assert unwrap_state_dict(wrapped, use_ema=False) == {"model.w": 1, "conditioner.w": 2}
    without = {key: value for key, value in wrapped.items() if "ema" not in key}
    assert unwrap_state_dict(without) == {"model.w": 1, "conditioner.w": 2}


@pytest.mark.parametrize("prefix", ["autoencoder", "diffae"])
def test_unwrapping_takes_the_average_of_all_of_an_autoencoder(prefix):
    wrapped = {
        f"{prefix}.encoder.w": torch.tensor(1.0),
        f"{prefix}_ema.ema_model.encoder.w": torch.tensor(3.0),
        f"{prefix}_ema.initted": torch.ones(1),
        "discriminator.w": torch.tensor(9.0),
    }
    assert unwrap_state_dict(wrapped) == {"encoder.w": 3}
    assert unwrap_state_dict(wrapped, use_ema=False) == {"encoder.w": 1}


def test_unwrapping_a_real_run_gives_the_model_and_its_average(files, build):
    wrapped = load_ckpt_state_dict(files["wrapped diffusion"])
    online, averaged = unwrap_state_dict(wrapped, use_ema=False), unwrap_state_dict(wrapped)
    assert list(online) == list(averaged) == list(build("diffusion").state_dict())
    differ = {key for key in online if not torch.equal(online[key], averaged[key])}
    assert differ and {key.split(".")[0] for key in differ} == {"model"}
    assert weights_hash(online) == weights_hash(load_ckpt_state_dict(files["diffusion"]))


def test_what_cannot_be_unwrapped():
    assert message_of(unwrap_state_dict, {"a.w": torch.ones(1), "b.w": torch.ones(1)}, path="x.ckpt") == (
        "x.ckpt: no model found in this training checkpoint; its keys begin with a, b"
    )
    wrapped = {"diffusion.model.w": torch.ones(1), "diffusion_ema.ema_model.v": torch.ones(1)}
    assert message_of(unwrap_state_dict, wrapped, path="x.ckpt") == ("x.ckpt: its averaged weights have keys that its model lacks: model.v")


# ---- identity ------------------------------------------------------------------------------------------------------------------------


def test_a_models_hash_is_the_same_in_every_kind_of_file(files):
    unwrapped = weights_hash(unwrap_state_dict(load_ckpt_state_dict(files["wrapped diffusion"]), use_ema=False))
    assert re.fullmatch("[0-9a-f]{16}", unwrapped)
    assert unwrapped == weights_hash(load_ckpt_state_dict(files["diffusion"]))
    assert unwrapped == weights_hash(load_ckpt_state_dict(files["diffusion safetensors"]))


def test_hashes_tell_names_values_shapes_and_types_apart():
    base = {"a": torch.arange(6, dtype=torch.float32), "b": torch.tensor(1)}
    variants = [
        base,
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"] + 1e-6, "b": base["b"]},
        {"a": base["a"].reshape(2, 3), "b": base["b"]},
        {"a": base["a"].to(torch.bfloat16), "b": base["b"]},
        {"a": base["a"], "b": torch.tensor(True)},
        {},
    ]
    assert len({weights_hash(variant) for variant in variants}) == len(variants)
    shuffled = {"b": base["b"], "a": torch.arange(6, dtype=torch.float32).repeat(2, 1).t()[:, 0]}
    assert weights_hash(shuffled) == weights_hash(base)


# ---- writing -------------------------------------------------------------------------------------------------------------------------


def test_atomic_path_replaces_only_what_is_complete(tmp_path):
    target = tmp_path / "new" / "model.ckpt"
    with atomic_path(target) as path:
        path.write_bytes(b"one")
        assert path.parent == target.parent and not target.exists()
    assert target.read_bytes() == b"one"

    def fail():
        with atomic_path(target) as path:
            path.write_bytes(b"tw")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_bytes() == b"one"
    assert os.listdir(target.parent) == ["model.ckpt"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a child process")
def test_a_process_that_is_killed_while_writing_leaves_the_old_file(tmp_path):
    path = save_model_weights({"a": torch.ones(3)}, tmp_path / "model.ckpt")
    child = os.fork()
    if child == 0:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert torch.equal(load_ckpt_state_dict(path)["a"], torch.ones(3))
    assert [left.suffix for left in tmp_path.iterdir() if left != path] == [".tmp"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_model_weights({"a": torch.ones(3)}, tmp_path / "model.safetensors")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_model_weights({"a": torch.zeros(3)}, path)
    assert torch.equal(load_file(path)["a"], torch.ones(3))
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_atomic_files_have_the_usual_permissions(tmp_path):
    with atomic_path(tmp_path / "a") as path:
        path.write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_saved_weights_come_back_bit_equal(tmp_path, suffix):
    shared = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    state = {"a": shared, "b": shared, "t": shared.t(), "half": shared.half(), "count": torch.tensor(7), "grad": torch.nn.Parameter(shared)}
    path = save_model_weights(state, tmp_path / f"model{suffix}", metadata={"made by": "a test"})
    loaded = load_ckpt_state_dict(path)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) and loaded[key].dtype == state[key].dtype for key in state)


def test_a_safetensors_file_that_others_wrote_is_read(tmp_path):
    save_file({"encoder.w": torch.ones(2), "decoder.w": torch.ones(2)}, tmp_path / "x.safetensors", {"format": "pt"})
    assert read_checkpoint(tmp_path / "x.safetensors").kind == "autoencoder"


@pytest.mark.parametrize("part", ["lora_A.weight", "lora_magnitude_vector", "hada_w1_a", "lokr_w1", "hira_A", "oft_R.weight", "hra_u"])
def test_an_adapter_is_not_taken_for_a_model(tmp_path, tiny_diffusion, part):
    """Neither to start from nor to generate with."""
    path = save_model_weights({f"model.model.project_in.{part}": torch.ones(2)}, tmp_path / "adapter.safetensors")
    assert read_checkpoint(path).kind == "adapter"
    model = create_model_from_config(tiny_diffusion())
    for load, wants in ((initialise_from, "--pretrained-ckpt-path"), (load_model_weights, "this model")):
        with pytest.raises(CheckpointError, match=rf"is an adapter \(LoRA or the like\), but {wants} wants a whole .* --lora of sat gen"):
            load(model, path)
