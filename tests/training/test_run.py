"""A training run from files to a folder, and what it says on the way."""

import json
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools.checkpoint import save_model_weights
from stable_audio_tools.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config
from stable_audio_tools.training.inventory import describe
from stable_audio_tools.training.options import TrainOptions
from stable_audio_tools.training.trainer import precision_of


@pytest.fixture
def log(caplog):
    caplog.set_level("INFO", "stable_audio_tools")
    return caplog


def test_a_run_leaves_its_configs_curves_demos_and_checkpoint(train_briefly, tiny_diffusion, noises, log):
    config = tiny_diffusion()
    result = train_briefly(config, logger="auto", demos=True)
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "checkpoints", "dataset_config.json", "demos", "metrics", "model_config.json", "report.txt", "tensorboard",
    ]  # fmt: skip
    assert json.loads((result.folder / "model_config.json").read_text()) == config
    assert json.loads((result.folder / "dataset_config.json").read_text()) == noises
    assert f"run folder: {result.folder}\n" in log.text and "steps per pass through the data: 5 (5 batches of 2)" in log.text
    assert (result.step, result.stop_signal) == (3, None)


def test_unreadable_files_are_named_counted_and_left_out(train_briefly, tiny_autoencoder, write_noises, tmp_path, log):
    folder = write_noises(tmp_path / "sounds", 6)
    for name in ("broken.wav", "torn.wav"):
        (folder / name).write_bytes((folder / "00.wav").read_bytes()[:30])
    data = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(folder)}]}
    train_briefly(tiny_autoencoder(), dataset_config=data, max_steps=8)
    assert f"skipped: {folder}/broken.wav" in log.text
    assert log.records[-1].getMessage() == f"data: 2 of 8 files unreadable ({folder}/broken.wav, {folder}/torn.wav)"
    assert log.records[-1].levelname == "WARNING"


def test_workers_report_unreadable_files_too(train_briefly, tiny_autoencoder, write_noises, tmp_path, log):
    folder = write_noises(tmp_path / "sounds", 6)
    (folder / "broken.wav").write_bytes(b"RIFF")
    data = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(folder)}]}
    train_briefly(tiny_autoencoder(), dataset_config=data, max_steps=6, num_workers=2)
    assert f"data: 1 of 7 files unreadable ({folder}/broken.wav)" in log.text


def test_good_data_are_no_warning(train_briefly, tiny_autoencoder, log):
    train_briefly(tiny_autoencoder())
    (record,) = (record for record in log.records if record.getMessage().startswith("data: "))
    assert (record.levelname, record.getMessage()) == ("INFO", "data: 0 of 10 files unreadable")


def test_nothing_but_unreadable_files_is_an_error(train_briefly, tiny_autoencoder, tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.wav").write_bytes(b"RIFF")
    data = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(tmp_path)}]}
    with pytest.raises(DataError, match=r"no usable audio found in 3 files: 3 of 3 files unreadable \("):
        train_briefly(tiny_autoencoder(), dataset_config=data)


def test_what_is_trained_and_what_is_frozen_is_said(tiny_diffusion):
    config = tiny_diffusion()
    config["model"]["diffusion"]["config"]["embed_dim"] = 64
    model = create_model_from_config(config)
    lines = describe(model, create_training_wrapper_from_config(config, model))
    total = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert lines[0] == f"ConditionedDiffusionModelWrapper: {total:.2f} M parameters"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["model", "conditioner", "pretransform", "EMA copy"]
    assert lines[1].endswith("M, trained") and lines[3].endswith("M, frozen")


@pytest.mark.parametrize(
    ("asked", "expected"), [("auto", "32-true"), ("32", "32-true"), ("bf16", "bf16-mixed"), ("64", "64-true"), ("bf16-mixed", "bf16-mixed")]
)
def test_precisions_on_a_cpu(asked, expected):
    assert precision_of(TrainOptions(model_config={}, dataset_config={}, precision=asked, accelerator="cpu")) == expected


@pytest.mark.parametrize("asked", ["16", "16-mixed"])
def test_half_precision_without_cuda_is_replaced_and_said(asked, log):
    assert precision_of(TrainOptions(model_config={}, dataset_config={}, precision=asked, accelerator="cpu")) == "bf16-mixed"
    assert "precision 16-mixed needs CUDA: using bf16-mixed" in log.text


def test_bf16_trains(train_briefly, tiny_diffusion):
    assert train_briefly(tiny_diffusion(), precision="bf16-mixed").step == 3


def test_gradients_are_clipped_if_asked(train_briefly, tiny_diffusion):
    sgd = {"diffusion": {"optimizer": {"type": "SGD", "config": {"lr": 1.0}}}}
    torch.manual_seed(0)

    def distance(**options):
        one, two = (train_briefly(tiny_diffusion(optimizer_configs=sgd), max_steps=steps, **options).wrapper for steps in (1, 2))
        return (
            torch.stack([(a - b).norm() for a, b in zip(one.diffusion.parameters(), two.diffusion.parameters(), strict=True)]).norm().item()
        )

    assert distance(gradient_clip_val=0.01) == pytest.approx(0.01, rel=0.01) and distance() > 0.02


@pytest.mark.parametrize("missing", ["training", "sample_size"])
def test_what_training_needs_from_a_config(train_briefly, tiny_diffusion, missing):
    config = tiny_diffusion()
    del config[missing]
    with pytest.raises(ConfigError, match=f"^model config: {missing}: required for training, and missing$"):
        train_briefly(config)


def test_unknown_keys_are_refused_in_training(train_briefly, tiny_diffusion):
    with pytest.raises(ConfigError, match=r"^model config: sampel_rate: unknown key; did you mean 'sample_rate'"):
        train_briefly({**tiny_diffusion(), "sampel_rate": 8000})


def test_too_little_data_for_a_batch(train_briefly, tiny_diffusion):
    with pytest.raises(DataError, match='10 files do not fill a batch of 11; use a smaller batch size or set "drop_last": false'):
        train_briefly(tiny_diffusion(), batch_size=11)


# ---- weights that a run starts from ----------------------------------------------------------------------------------------------------


def test_a_run_starts_from_a_pretrained_model(train_briefly, tiny_diffusion, tmp_path):
    config = tiny_diffusion(optimizer_configs={"diffusion": {"optimizer": {"type": "SGD", "config": {"lr": 0.0}}}})
    torch.manual_seed(5)
    model = create_model_from_config(config)
    path = save_model_weights(model.state_dict(), tmp_path / "model.safetensors")
    trained = train_briefly(config, pretrained_ckpt_path=path).wrapper
    for mine, theirs in ((trained.diffusion, model), (trained.ema.ema_model, model.model)):
        assert all(torch.equal(mine.state_dict()[key], value) for key, value in theirs.state_dict().items())


@pytest.mark.parametrize("remove", ["", "pre_load", "post_load"])
def test_the_pretransforms_weight_norm_is_removed_before_or_after_loading(
    train_briefly, tiny_diffusion, tiny_autoencoder, tmp_path, remove
):
    torch.manual_seed(5)
    autoencoder = create_model_from_config(tiny_autoencoder())
    audio = torch.randn(1, 1, 256)
    expected = autoencoder.decode(autoencoder.encode(audio, return_info=False) * 0 + 0.1)
    if remove == "pre_load":
        from stable_audio_tools.models.layers.conv import remove_weight_norm_from_model

        remove_weight_norm_from_model(autoencoder)
    path = save_model_weights(autoencoder.state_dict(), tmp_path / "vae.ckpt")
    pretransform = train_briefly(
        tiny_diffusion(), pretransform_ckpt_path=path, remove_pretransform_weight_norm=remove
    ).wrapper.diffusion.pretransform
    has_norm = any("weight_g" in key or "original0" in key for key in pretransform.state_dict())
    assert has_norm is (remove == "")
    torch.testing.assert_close(pretransform.model.decode(torch.full((1, 4, 16), 0.1)), expected, atol=1e-5, rtol=1e-4)


def test_what_has_random_weights_is_said(train_briefly, tiny_diffusion, tmp_path, log):
    """A latent diffusion model on a random autoencoder learns, and makes noise."""
    whole = create_model_from_config(tiny_diffusion())
    save_model_weights(whole.state_dict(), tmp_path / "whole.ckpt")
    save_model_weights(whole.pretransform.model.state_dict(), tmp_path / "autoencoder.ckpt")
    bare = {key: value for key, value in whole.state_dict().items() if not key.startswith("pretransform.")}
    save_model_weights(bare, tmp_path / "bare.ckpt")

    def said(config, **options):
        log.clear()
        result = train_briefly(config, max_steps=options.pop("max_steps", 1), **options)
        words = ("the model starts from random weights; --pretrained-ckpt-path", "the pretransform's autoencoder has random weights")
        return [next((r.levelname for r in log.records if r.getMessage().startswith(word)), None) for word in words], result

    found, run = said(tiny_diffusion())
    assert found == ["INFO", "WARNING"]
    assert said(tiny_diffusion(), pretransform_ckpt_path=tmp_path / "autoencoder.ckpt")[0] == ["INFO", None]
    assert said(tiny_diffusion(), pretrained_ckpt_path=tmp_path / "bare.ckpt")[0] == [None, "WARNING"]
    assert said(tiny_diffusion(), pretrained_ckpt_path=tmp_path / "whole.ckpt")[0] == [None, None]
    assert said(tiny_diffusion(), ckpt_path=run.checkpoint, max_steps=2)[0] == [None, None]
    assert said(tiny_diffusion(adapter={"type": "lora"}))[0] == ["WARNING", "WARNING"], "an adapter of random weights is good for nothing"
    trained = tiny_diffusion()
    trained["model"]["pretransform"]["enable_grad"] = True
    assert said(trained)[0] == ["INFO", None]


def test_flags_about_a_pretransform_need_one(train_briefly, tiny_diffusion, tmp_path):
    for option in ({"pretransform_ckpt_path": tmp_path / "x.ckpt"}, {"remove_pretransform_weight_norm": "pre_load"}):
        with pytest.raises(
            ConfigError, match=r"^--pretransform-ckpt-path and --remove-pretransform-weight-norm need a model with an 'autoencoder'"
        ):
            train_briefly(tiny_diffusion(pretransform=False), **option)
    with pytest.raises(ConfigError, match=r"^--remove-pretransform-weight-norm is 'pre_load' or 'post_load', got 'after'$"):
        train_briefly(tiny_diffusion(), remove_pretransform_weight_norm="after")


def test_wrong_checkpoints_are_refused_before_a_folder_is_made(train_briefly, tiny_diffusion, tmp_path):
    path = save_model_weights(create_model_from_config(tiny_diffusion()).state_dict(), tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match="but --ckpt-path wants a training checkpoint to resume"):
        train_briefly(tiny_diffusion(), ckpt_path=path, save_dir=tmp_path / "runs")
    with pytest.raises(CheckpointError, match=r"--pretrained-ckpt-path|no such file"):
        train_briefly(tiny_diffusion(), pretrained_ckpt_path=tmp_path / "none.ckpt", run_folder=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


# ---- going on with a run that has changed ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(train_briefly, tiny_diffusion):
    """The last checkpoint of a diffusion model's run."""
    return train_briefly(tiny_diffusion(optimizer_configs={"diffusion": optimizer("AdamW")})).checkpoint


def optimizer(name, rate=1e-3, **more):
    return {"optimizer": {"type": name, "config": {"lr": rate}}, **more}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            optimizer("AdamW", 1e-4),
            r"training\.optimizer_configs\.diffusion\.optimizer\.config\.lr: 0\.001 -> 0\.0001\. Undo that, or make",
        ),
        (optimizer("SGD"), r"training\.optimizer_configs\.diffusion\.optimizer\.type: AdamW -> SGD\. Undo"),
        (optimizer("AdamW", scheduler={"type": "InverseLR"}), r"training\.optimizer_configs\.diffusion\.scheduler\.type: absent -> Inv"),
    ],
)
def test_a_resumed_run_must_not_change_its_optimizer(train_briefly, tiny_diffusion, finished, tmp_path, changed, message):
    with pytest.raises(CheckpointError, match=f"^{finished}: a resumed run has the optimizer and schedule of its checkpoint.*{message}"):
        train_briefly(tiny_diffusion(optimizer_configs={"diffusion": changed}), ckpt_path=finished)


def test_a_resumed_run_must_not_train_other_parts(train_briefly, tiny_diffusion, finished):
    config = tiny_diffusion(optimizer_configs={"diffusion": optimizer("AdamW")})
    config["model"]["pretransform"]["enable_grad"] = True
    with pytest.raises(CheckpointError, match=r"but the config has changed: model\.pretransform\.enable_grad: absent -> True\. Undo"):
        train_briefly(config, ckpt_path=finished)


def test_other_changes_of_a_resumed_run_are_said(train_briefly, tiny_diffusion, finished, log):
    config = tiny_diffusion(optimizer_configs={"diffusion": optimizer("AdamW")}, mask_padding=True)
    config["_note"] = "comments do not count"
    train_briefly(config, ckpt_path=finished, max_steps=4)
    (record,) = (record for record in log.records if "the config is not the one of" in record.getMessage())
    assert record.getMessage().endswith(f"{finished}: training.mask_padding: absent -> True") and record.levelname == "WARNING"


def test_a_run_of_another_kind_of_model_is_named(train_briefly, tiny_diffusion, tiny_autoencoder, finished):
    with pytest.raises(
        CheckpointError, match=f"^{finished}: is a training checkpoint of a diffusion model, but the config describes an au"
    ):
        train_briefly(tiny_autoencoder(), ckpt_path=finished)
    other = train_briefly(tiny_autoencoder()).checkpoint
    with pytest.raises(
        CheckpointError, match=f"^{other}: is a training checkpoint of an autoencoder, but the config describes a diffusion"
    ):
        train_briefly(tiny_diffusion(), ckpt_path=other)


def test_a_run_that_is_long_enough_already_says_so(train_briefly, tiny_diffusion, finished, log):
    train_briefly(tiny_diffusion(optimizer_configs={"diffusion": optimizer("AdamW")}), ckpt_path=finished, max_steps=2)
    assert f"{finished} is at step 3, so --max-steps 2 leaves nothing to do" in log.text


def test_a_folder_is_no_checkpoint_to_resume(train_briefly, tiny_diffusion, tmp_path):
    with pytest.raises(CheckpointError, match=r"is a folder, as --strategy deepspeed writes it, which --ckpt-path cannot resume; make a m"):
        train_briefly(tiny_diffusion(), ckpt_path=tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ckpt_path": "a", "pretrained_ckpt_path": "b"}, ConfigError, r"^--ckpt-path goes on with .*: give one of them$"),
        ({"devices": 9999}, ConfigError, r"^--devices 9999: each is a process on a CPU, and this machine has \d+ cores$"),
        (
            {"num_nodes": 2},
            ConfigError,
            r"^--num-nodes 2: the processes would wait for each other forever; start them with srun or torchrun",
        ),
        ({"strategy": "deepspeed"}, MissingExtraError, r"deepspeed.*--strategy deepspeed.*stable-audio-tools\[deepspeed\]"),
        ({"run_folder": __file__}, ConfigError, r"^--save-dir .*test_run\.py: is a file, or lies in one; give a folder$"),
        ({"run_folder": f"{__file__}/x"}, ConfigError, r"^--save-dir .*test_run\.py.x: is a file, or lies in one; give a folder$"),
        ({"seed": -1}, ConfigError, r"^--seed lies between 0 and 4294967295, got -1$"),
        ({"seed": 2**32}, ConfigError, r"^--seed lies between 0 and 4294967295, got 4294967296$"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read(train_briefly, tiny_diffusion, monkeypatch, options, error, message):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(error, match=message):
        train_briefly(tiny_diffusion(), dataset_config={"dataset_type": "none such"}, **options)


def test_configs_are_read_once(train_briefly, tiny_diffusion, noises, tmp_path):
    """A file that changes while the run is set up has no say any more."""
    model, data = tmp_path / "model.json", tmp_path / "data.json"
    config = tiny_diffusion()
    model.write_text(json.dumps(config))
    data.write_text(json.dumps(noises))

    class Watch(pl.Callback):
        def setup(self, *args, **kwargs):
            seen.append(json.loads((tmp_path / "run" / "model_config.json").read_text()))

    opened, seen = [], []
    original = Path.read_text

    def counting(self, *args, **kwargs):
        opened.append(self)
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_text", counting)
        train_briefly(model, dataset_config=data, run_folder=tmp_path / "run", callbacks=[Watch()])
    assert (opened.count(model), opened.count(data), seen) == (1, 1, [config])


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(tmp_path):
    from stable_audio_tools.training.run import _new_folder

    folders = [_new_folder(tmp_path / "x" / "20260101-000000") for _ in range(3)]
    assert [folder.name for folder in folders] == ["20260101-000000", "20260101-000000-2", "20260101-000000-3"]
    assert all(folder.is_dir() for folder in folders)
