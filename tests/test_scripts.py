"""train.py and unwrap_model.py at the root, as the documents of their users call them."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file

from stable_audio_tools.audio import load, probe
from stable_audio_tools.checkpoint import load_ckpt_state_dict, read_checkpoint, unwrap_state_dict, weights_hash
from stable_audio_tools.cli import train as train_module
from stable_audio_tools.cli import unwrap as unwrap_module
from stable_audio_tools.cli.train import read_defaults, train
from stable_audio_tools.cli.unwrap import unwrap
from stable_audio_tools.errors import CheckpointError, ConfigError

ROOT = Path(__file__).resolve().parents[1]
GIVEN = ("--model-config", "m.json", "--dataset-config", "d.json")


def parsed(*arguments: str) -> dict:
    """What ``train`` would be called with."""
    application = typer.Typer()
    application.command()(train)
    return typer.main.get_command(application).make_context("train.py", list(arguments)).params


# ---- the whole way, with real processes ------------------------------------------------------------------------------------------------


def python(folder: Path, *command: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, *command], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def inference_script(shared: Path) -> str:
    """Section 8 of the run guide, with our own ``save`` instead of torchaudio's; everything else is as written."""
    text = (shared / "seeds" / "002_99aea8e5354f910a.txt").read_text()
    (code,) = re.findall(r"## 8\) Minimal Inference Script\n+```python\n(.*?)```", text, re.DOTALL)
    assert code.count("torchaudio") == 2
    return code.replace("import torchaudio\n", "from stable_audio_tools.audio import save\n").replace("torchaudio.save(", "save(")


def test_train_unwrap_and_generate_as_the_guides_say(shared, tmp_path, tiny_diffusion, write_noises, monkeypatch):
    config = tiny_diffusion(objective="v")
    t5 = {"t5_model_name": str(shared / "fixtures" / "t5-tiny"), "max_length": 16}
    config["model"]["conditioning"]["configs"][0] = {"id": "prompt", "type": "t5", "config": t5}
    data = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(write_noises(tmp_path / "sounds")), "caption": "noise"}]}
    (tmp_path / "model_config.json").write_text(json.dumps(config))
    (tmp_path / "data.json").write_text(json.dumps(data))
    (tmp_path / "infer.py").write_text(inference_script(shared))

    run = python(tmp_path, str(ROOT / "train.py"), "--dataset-config", "data.json", "--model-config", "model_config.json", "--name", "x")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/x/*/demos/*.png")):  # the demo of step 0: training has begun
        assert run.poll() is None and time.monotonic() < deadline, run.communicate(timeout=1)[0]
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    log, _ = run.communicate(timeout=120)
    assert run.returncode == 130, log
    (checkpoint,) = tmp_path.glob("runs/x/*/checkpoints/epoch=*-step=*.ckpt")

    unwrapping = ("--model-config", "model_config.json", "--ckpt-path", str(checkpoint), "--name", "model_unwrap")
    run = python(tmp_path, str(ROOT / "unwrap_model.py"), *unwrapping)
    log, _ = run.communicate(timeout=120)
    assert run.returncode == 0, log
    assert re.search(r"^model_unwrap\.ckpt: (\d+) of the model's \1 tensors loaded \(100\.0% of its weights\)$", log, re.MULTILINE)

    run = python(tmp_path, "infer.py")
    log, _ = run.communicate(timeout=120)
    assert run.returncode == 0, log
    clips = [tmp_path / "outputs" / "generated" / f"output_finetuned_{index}.wav" for index in range(2)]
    for clip in clips:
        info = probe(clip)
        assert (info.sample_rate, info.num_channels, info.num_frames) == (8000, 1, 1024)
        assert float(load(clip).samples.abs().max()) == pytest.approx(1, abs=1e-3)
    assert not torch.equal(load(clips[0]).samples, load(clips[1]).samples)

    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(import json\n.*?)```", (ROOT / "docs" / "generation.md").read_text(), re.DOTALL)
    exec(compile(code, "generation.md", "exec"), {})
    assert probe("rain.wav").num_frames == 1024


# ---- flags and defaults.ini -------------------------------------------------------------------------------------------------------------


DOCUMENTED = {  # what the documents promise, and its default where they name one
    "name": "stable_audio_tools", "batch_size": 4, "save_top_k": -1, "recover": False, "num_nodes": 1, "strategy": "auto",
    "precision": "auto", "num_workers": 6, "seed": 42, "accum_batches": 1, "checkpoint_every": 10000, "val_every": -1, "ckpt_path": None,
    "pretrained_ckpt_path": None, "pretransform_ckpt_path": None, "val_dataset_config": None, "gradient_clip_val": 0.0,
    "remove_pretransform_weight_norm": "", "num_gpus": None, "project": None, "save_dir": "runs",
}  # fmt: skip


def test_documented_flags_exist_with_their_defaults():
    params = parsed(*GIVEN)
    assert {name: params[name] for name in DOCUMENTED} == DOCUMENTED
    assert (params["model_config"], params["dataset_config"]) == (Path("m.json"), Path("d.json"))


def test_the_shipped_defaults_are_those_of_the_flags():
    plain, shipped = parsed(*GIVEN), parsed("--config-file", str(ROOT / "defaults.ini"), *GIVEN)
    assert shipped.pop("config_file") == ROOT / "defaults.ini" and plain.pop("config_file") is None
    assert shipped == plain


def test_the_shipped_defaults_name_every_documented_key():
    text = (ROOT / "defaults.ini").read_text()
    keys = set(re.findall(r"^(\w+) =", text, re.MULTILINE))
    assert keys == (DOCUMENTED.keys() - {"num_gpus", "project"}) | {"model_config", "dataset_config", "logger"}


def test_every_flag_of_the_guides_commands_is_accepted():
    fine_tuning = """--model-config model_config.json --dataset-config data.json --pretrained-ckpt-path model.ckpt
        --pretransform-ckpt-path vae_model.ckpt --batch-size 8 --num-workers 8 --precision 16-mixed --name stable_audio_open_finetune
        --save-dir outputs --num-gpus 2 --num-nodes 1 --accum-batches 4 --strategy ddp --seed 1 --checkpoint-every 500"""
    params = parsed(*fine_tuning.split())
    assert (params["batch_size"], params["precision"], params["num_gpus"], params["accum_batches"]) == (8, "16-mixed", 2, 4)
    assert (params["pretransform_ckpt_path"], params["save_dir"]) == (Path("vae_model.ckpt"), "outputs")


def test_a_defaults_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.ini"
    path.write_text(
        "[DEFAULTS]\n# a comment\nname = my_run  ; another\nbatch-size = 7\nprecision = '32'\nmodel_config = \"m.json\"\n"
        "dataset_config = d.json\nckpt_path = ''\nstrategy = ''\nrecover = false\ngradient_clip_val = 1e-1\nnum_gpus = None\n"
    )
    params = parsed("--config-file", str(path))
    expected = {"name": "my_run", "batch_size": 7, "precision": "32", "model_config": Path("m.json"), "ckpt_path": None}
    expected |= {"strategy": "auto", "recover": False, "gradient_clip_val": 0.1, "num_gpus": None}
    assert {key: params[key] for key in expected} == expected
    for arguments in (("--config-file", str(path), "--batch-size", "3"), ("--batch-size", "3", "--config-file", str(path))):
        assert parsed(*arguments)["batch_size"] == 3, "what is typed wins, in any order"


def test_wrong_defaults_files(tmp_path):
    path = tmp_path / "mine.ini"
    with pytest.raises(ConfigError) as caught:
        read_defaults(path, ["batch_size"])
    assert str(caught.value) == f"{path}: no such file; --config-file names an INI file with default options, such as defaults.ini"
    path.write_text("[DEFAULTS]\nbatch_sise = 3\n")
    with pytest.raises(ConfigError) as caught:
        read_defaults(path, ["batch_size"])
    assert str(caught.value) == f"{path}: unknown option 'batch_sise'; did you mean 'batch_size'?"
    path.write_text("batch_size = 3\n")
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}: .*no section headers"):
        read_defaults(path, ["batch_size"])


@pytest.fixture
def script(monkeypatch, capfd, tmp_path):
    """``script(module, name, *arguments)``: run a script's entry point in this process; (exit status, stdout, stderr)."""
    logger = logging.getLogger("stable_audio_tools")
    before = logger.handlers[:], logger.level, logger.propagate

    def run(module, name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(ROOT / name), *map(str, arguments)])
        status = 0
        try:
            module.script()
        except SystemExit as stop:
            status = stop.code
        return (status, *capfd.readouterr())

    yield run
    logger.handlers[:], logger.level, logger.propagate = before


def test_train_py_reads_defaults_ini_beside_it(script, monkeypatch, tmp_path, tiny_autoencoder, noises):
    seen = []
    (tmp_path / "m.json").write_text(json.dumps(tiny_autoencoder()))
    (tmp_path / "d.json").write_text(json.dumps(noises))
    (tmp_path / "defaults.ini").write_text("[DEFAULTS]\nbatch_size = 9\n")
    monkeypatch.setattr("stable_audio_tools.training.run.train", lambda options: seen.append(options) or exit(7))
    assert script(train_module, "train.py", *GIVEN)[0] == 7
    assert script(train_module, str(tmp_path / "train.py"), *GIVEN)[0] == 7
    assert script(train_module, str(tmp_path / "train.py"), *GIVEN, "--config-file", ROOT / "defaults.ini")[0] == 7
    assert [options.batch_size for options in seen] == [4, 9, 4]


def test_missing_flags_and_wrong_files_are_told_without_a_traceback(script, tmp_path, tiny_autoencoder, noises):
    status, _, err = script(train_module, "train.py", "--dataset-config", "d.json")
    assert status == 2 and "Missing option '--model-config'" in err
    status, _, err = script(train_module, "train.py", *GIVEN)
    assert status == 1 and err.startswith("error: m.json: ") and "Traceback" not in err
    (tmp_path / "m.json").write_text(json.dumps(tiny_autoencoder()))
    (tmp_path / "d.json").write_text(json.dumps(noises))
    torch.save({"state_dict": {"encoder.a": torch.ones(1), "decoder.a": torch.ones(1)}}, tmp_path / "ae.ckpt")
    status, _, err = script(train_module, "train.py", *GIVEN, "--ckpt-path", "ae.ckpt")
    assert status == 1 and err.startswith("error: ae.ckpt: is an autoencoder (unwrapped), but --ckpt-path wants a training checkpoint")


# ---- unwrap_model.py --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory, train_briefly, tiny_autoencoder, tiny_diffusion):
    """Model configs and training checkpoints by name."""
    made = {}
    for name, config in (("autoencoder", tiny_autoencoder(adversary=True)), ("diffusion", tiny_diffusion())):
        path = tmp_path_factory.mktemp("config") / f"{name}.json"
        path.write_text(json.dumps(config))
        made[name] = path, train_briefly(config, max_steps=5).checkpoint
    return made


@pytest.mark.parametrize("name", ["autoencoder", "diffusion"])
@pytest.mark.parametrize("safetensors", [False, True])
def test_unwrapped_files_hold_the_averaged_model_alone(wrapped, tmp_path, monkeypatch, capsys, name, safetensors):
    monkeypatch.chdir(tmp_path)
    config, checkpoint = wrapped[name]
    unwrap(config, checkpoint, name="my_model", use_safetensors=safetensors, online=False)
    (path,) = tmp_path.iterdir()
    assert path.name == ("my_model.safetensors" if safetensors else "my_model.ckpt")
    content = load_file(path) if safetensors else torch.load(path, weights_only=True)
    assert safetensors or content.keys() == {"state_dict"}
    expected = unwrap_state_dict(load_ckpt_state_dict(checkpoint))
    assert weights_hash(content if safetensors else content["state_dict"]) == weights_hash(expected)
    assert read_checkpoint(path).kind == name
    total = len(expected)
    assert capsys.readouterr().out == f"{path.name}: {total} of the model's {total} tensors loaded (100.0% of its weights)\n"
    assert path.stat().st_size < checkpoint.stat().st_size / 2


def test_online_weights_if_asked(wrapped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, checkpoint = wrapped["diffusion"]
    unwrap(config, checkpoint, name="sub/online", use_safetensors=True, online=True)
    state = load_ckpt_state_dict(checkpoint)
    online, averaged = (weights_hash(unwrap_state_dict(state, use_ema=use_ema)) for use_ema in (False, True))
    assert weights_hash(load_ckpt_state_dict(tmp_path / "sub" / "online.safetensors")) == online != averaged


def test_documented_flags_of_unwrap_model(wrapped, script, tmp_path):
    config, checkpoint = wrapped["autoencoder"]
    status, out, _ = script(unwrap_module, "unwrap_model.py", "--model-config", config, "--ckpt-path", checkpoint, "--use-safetensors")
    assert status == 0 and out.startswith("exported_model.safetensors: ") and (tmp_path / "exported_model.safetensors").is_file()
    status, _, err = script(unwrap_module, "unwrap_model.py", "--model-config", config)
    assert status == 2 and "Missing option '--ckpt-path'" in err


def test_what_cannot_be_unwrapped(wrapped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, checkpoint = wrapped["autoencoder"]
    unwrap(config, checkpoint, name="once", use_safetensors=False, online=False)
    with pytest.raises(CheckpointError) as caught:
        unwrap(config, Path("once.ckpt"), name="twice", use_safetensors=False, online=False)
    assert str(caught.value) == "once.ckpt: is an autoencoder (unwrapped) already: there is nothing to unwrap"
    with pytest.raises(CheckpointError) as caught:
        unwrap(wrapped["diffusion"][0], checkpoint, name="other", use_safetensors=False, online=False)
    assert str(caught.value) == f"{checkpoint}: is a training checkpoint of an autoencoder, but the config describes a diffusion model"
    assert os.listdir(tmp_path) == ["once.ckpt"]
