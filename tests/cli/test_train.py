"""sat train and sat unwrap: flags, defaults.ini, and what is refused before data or a model are read."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from stable_audio_tools.checkpoint import load_ckpt_state_dict
from stable_audio_tools.cli.main import app
from stable_audio_tools.cli.train import read_defaults, script
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.training.options import TrainOptions

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS: Any = typer.main.get_command(app).commands["train"].params  # pyright: ignore[reportAttributeAccessIssue]
KNOWN = [parameter.name for parameter in PARAMETERS]


def flags(model: Any, noises: Path, folder: Path) -> list[Any]:
    quick = ["--num-workers", 0, "--batch-size", 2, "--max-steps", 1, "--logger", "none", "--accelerator", "cpu"]
    return ["--model-config", model.config, "--dataset-config", noises, "--save-dir", folder, *quick]


def test_train_unwrap_generate(sat: Any, flow: Any, noises: Path, tmp_path: Path) -> None:
    """What each command says to type next works as written."""
    ran = sat("train", *flags(flow, noises, tmp_path / "runs"), "--name", "x")
    assert ran.status == 0, ran.err
    last, following = ran.out.strip().splitlines()[-2:]
    checkpoint = Path(last.removeprefix("last checkpoint: "))
    assert checkpoint.parent.parent.parent == tmp_path / "runs" / "x"
    assert following == f"make a model of it with: sat unwrap --model-config {flow.config} --ckpt-path {checkpoint} --name my_model"
    command = following.split(": sat ")[1].split()
    ran = sat(*command[:-1], tmp_path / "my_model")
    model = tmp_path / "my_model.ckpt"
    assert ran.out == f"{model}: 148 of the model's 148 tensors loaded (100.0% of its weights)\n"
    ran = sat("generate", "--model-config", flow.config, "--ckpt-path", model, "--prompt", "x", "--steps", 2, "--output", tmp_path)
    assert ran.status == 0

    # the averaged weights by default, and whatever suffix is written
    online = sat("unwrap", "--model-config", flow.config, "--ckpt-path", checkpoint, "--name", tmp_path / "b.safetensors",
                 "--use-safetensors", "--online")  # fmt: skip
    assert online.out.startswith(f"{tmp_path / 'b.safetensors'}: 148 of ")
    averaged, weights = load_ckpt_state_dict(model), load_ckpt_state_dict(tmp_path / "b.safetensors")
    assert set(averaged) == set(weights)
    assert not all(torch.equal(averaged[name], weights[name]) for name in weights)

    wrong = sat("unwrap", "--model-config", flow.config, "--ckpt-path", model, "--name", tmp_path / "c")
    assert wrong.told == f"error: {model}: is a whole diffusion model (unwrapped) already: there is nothing to unwrap"
    for name in ("", tmp_path / ".ckpt", f"{tmp_path}/"):
        wrong = sat("unwrap", "--model-config", flow.config, "--ckpt-path", checkpoint, "--name", name)
        assert wrong.told == f"error: --name {str(name)!r}: name the new file, for example --name my_model"


@pytest.mark.parametrize(("name", "average"), [("nothing", "model."), ("diffae", "")])
def test_train_and_unwrap_other_models(
    sat: Any, request: pytest.FixtureRequest, noises: Path, tmp_path: Path, name: str, average: str
) -> None:
    files = request.getfixturevalue(name)
    ran = sat("train", *flags(files, noises, tmp_path / "runs"), "--max-steps", 3)
    assert ran.status == 0, ran.err
    (checkpoint,) = (tmp_path / "runs").rglob("*.ckpt")
    ran = sat("unwrap", "--model-config", files.config, "--ckpt-path", checkpoint, "--name", tmp_path / "m", "--use-safetensors")
    assert ran.status == 0 and "(100.0% of its weights)" in ran.out, ran.err
    wrapped, unwrapped = load_ckpt_state_dict(checkpoint), load_ckpt_state_dict(tmp_path / "m.safetensors")
    prefix = {"nothing": "diffusion", "diffae": "diffae"}[name]
    averaged = {key: value for key, value in wrapped.items() if key.startswith(f"{prefix}_ema.ema_model.")}
    assert averaged
    for key, value in averaged.items():
        assert torch.equal(unwrapped[average + key.removeprefix(f"{prefix}_ema.ema_model.")], value)
    if name == "nothing":
        command = ["--ckpt-path", tmp_path / "m.safetensors", "--steps", 2, "--seconds", 0.02, "--output", tmp_path / "out"]
        ran = sat("generate", "--model-config", files.config, *command)
        assert ran.status == 0 and Path(ran.out.strip()).parent == tmp_path / "out", ran.err


def test_unwrap_with_another_config(sat: Any, flow: Any, raw: Any, vae: Any, noises: Path, tmp_path: Path) -> None:
    sat("train", *flags(flow, noises, tmp_path / "runs"))
    (checkpoint,) = (tmp_path / "runs").rglob("*.ckpt")
    ran = sat("unwrap", "--model-config", vae.config, "--ckpt-path", checkpoint, "--name", tmp_path / "c")
    assert ran.told == f"error: {checkpoint}: is a training checkpoint of a diffusion model, but the config describes an autoencoder"
    ran = sat("unwrap", "--model-config", raw.config, "--ckpt-path", checkpoint, "--name", tmp_path / "c")
    assert ran.told.startswith(f"error: {checkpoint}: does not fit the model in {raw.config}: ")
    assert ran.told.endswith("; was it trained with this config?")


DEVICES = "--devices auto --strategy auto --precision"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--max-steps 0", "--max-steps is at least 1, or -1 for no limit, got 0"),
        ("--save-top-k 0", "--save-top-k is at least 1, or -1 for all, got 0"),
        ("--name ../x", "--name '../x': names the run's folder below --save-dir: write a name without '/'"),
        ("--name ..", "--name '..': names the run's folder below --save-dir: write a name without '/'"),
        ("--remove-pretransform-weight-norm x", "--remove-pretransform-weight-norm is 'pre_load' or 'post_load', got 'x'"),
        ("--num-gpus 2 --devices 1", "--num-gpus 2 and --devices 1 say different things; give one of them"),
        ("--precision foo", f"--accelerator cpu {DEVICES} foo: cannot be had here: Precision 'foo' is invalid"),
        ("--accelerator foo", f"--accelerator foo {DEVICES} auto: cannot be had here: You selected an invalid"),
        ("--devices 0", "--accelerator cpu --devices 0 --strategy auto --precision auto: cannot be had here: "),
        ("--devices x", "--accelerator cpu --devices x --strategy auto --precision auto: cannot be had here: "),
        ("--strategy foo", "--accelerator cpu --devices auto --strategy foo --precision auto: cannot be had here: You selected an invalid"),
        ("--batch-size 1000", "dataset_config.json: 10 files do not fill a batch of 1000; use a smaller batch size"),
        ("--config-file nowhere.ini", "nowhere.ini: no such file; --config-file names an INI file with default options"),
        ("--ckpt-path nowhere.ckpt", "nowhere.ckpt: no such file"),
    ],
)  # fmt: skip
def test_wrong_options(sat: Any, flow: Any, noises: Path, tmp_path: Path, arguments: str, message: str) -> None:
    ran = sat("train", *flags(flow, noises, tmp_path), *arguments.split())
    assert ran.status == 1
    assert message in ran.told
    assert ran.told.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", ["--max-steps -2", "--save-top-k -2", "--seed -1", "--batch-size 0", "--gradient-clip-val nan", "--logger x"]
)
def test_impossible_numbers(sat: Any, flow: Any, noises: Path, tmp_path: Path, arguments: str) -> None:
    ran = sat("train", *flags(flow, noises, tmp_path), *arguments.split())
    assert ran.status == 2
    assert ran.told.startswith(f"Error: Invalid value for '{arguments.split()[0]}'")


def test_whether_a_set_up_can_learn_is_said_and_is_the_exit_status(sat: Any, vae: Any, noises: Path, tmp_path: Path) -> None:
    ran = sat("train", *flags(vae, noises, tmp_path), "--overfit", "--max-steps", 2)
    assert ran.status == 3, ran.err
    assert (
        ran.out.startswith("this set-up does NOT learn: the error of the reconstruction's spectra went from ") and " in 2 steps " in ran.out
    )
    assert list(tmp_path.iterdir()) == []


def test_every_field_of_the_options_that_is_a_flag_is_one() -> None:
    fields = {field.name for field in dataclasses.fields(TrainOptions)} - {"run_folder", "demos", "show_progress", "callbacks"}
    assert fields == {name for name in KNOWN if not name.startswith("adapter")} - {
        "config_file",
        "num_gpus",
        "wandb_config",
        "project",
        "help",
    }


def test_flags_of_older_scripts(sat: Any, flow: Any, noises: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    ran = sat("train", *flags(flow, noises, tmp_path / "a"), "--wandb-config", "x.ini", "--project", "y")
    assert ran.status == 0 and "--wandb-config has no effect" in ran.err
    for value, told in (("true", True), ("False", False)):
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, flags(flow, noises, tmp_path / value)), "--recover", value])
        capsys.readouterr()
        script()
        assert ("nothing to recover" in capsys.readouterr().err) is told


def test_an_empty_save_dir_is_the_default(sat: Any, flow: Any, noises: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sat("train", *flags(flow, noises, tmp_path), "--save-dir", "", "--name", "x").status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_wrong_checkpoints(sat: Any, flow: Any, raw: Any, vae: Any, noises: Path, tmp_path: Path) -> None:
    def told(model: Any, *more: Any) -> str:
        ran = sat("train", *flags(model, noises, tmp_path), *more)
        assert (ran.status, list(tmp_path.iterdir())) == (1, [])
        return ran.told

    assert told(flow, "--ckpt-path", flow.weights).startswith(
        f"error: {flow.weights}: is a whole diffusion model (unwrapped), but --ckpt-path wants a training checkpoint to resume; "
    )
    assert told(flow, "--pretrained-ckpt-path", vae.weights).startswith(
        f"error: {vae.weights}: is an autoencoder (unwrapped), but --pretrained-ckpt-path wants a whole diffusion model (unwrapped); "
    )
    assert told(flow, "--pretransform-ckpt-path", flow.weights).startswith(
        f"error: {flow.weights}: is a whole diffusion model (unwrapped), but --pretransform-ckpt-path wants an autoencoder (unwrapped); "
    )
    assert told(raw, "--pretransform-ckpt-path", vae.weights) == (
        "error: --pretransform-ckpt-path and --remove-pretransform-weight-norm need a model with an 'autoencoder' pretransform"
    )


def test_validation_steps_without_validation_data_are_warned_about(sat: Any, flow: Any, noises: Path, tmp_path: Path) -> None:
    ran = sat("train", *flags(flow, noises, tmp_path), "--val-every", 5)
    assert ran.status == 0
    assert "warning: --val-every 5 has no effect without --val-dataset-config\n" in ran.err


# ---- defaults.ini ----------------------------------------------------------------------------------------------------------------


def ini(folder: Path, text: str) -> Path:
    (folder / "d.ini").write_text(text, encoding="utf-8")
    return folder / "d.ini"


def test_values_are_written_as_in_python(tmp_path: Path) -> None:
    path = ini(tmp_path, "[DEFAULTS]\n# note\nname = \"a b\"\nbatch_size = 8 ; note\nckpt_path = ''\nsave-dir = runs/x\nseed = None\n")
    assert read_defaults(path, KNOWN) == {"name": "a b", "batch_size": "8", "save_dir": "runs/x"}


def test_the_shipped_defaults_are_the_options_own() -> None:
    """So that ``sat train`` and ``train.py`` do the same."""
    own = {parameter.name: parameter.default for parameter in PARAMETERS}
    for name, value in read_defaults(ROOT / "defaults.ini", KNOWN).items():
        default = getattr(own[name], "value", own[name])
        assert (name, value.lower()) == (name, str(default).lower())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[DEFAULTS]\nbatch_sise = 4\n", "unknown option 'batch_sise'; did you mean 'batch_size'?"),
        ("[DEFAULTS]\nxyz = 4\n", "unknown option 'xyz'"),
        ("batch_size = 4\n", "is not an INI file: File contains no section headers."),
        ("[DEFAULTS]\nseed = 1\nseed = 2\n", "is not an INI file: .*option 'seed' in section 'DEFAULTS' already exists"),
        ("[DEFAULTS]\nseed\n", "is not an INI file: .*'seed"),
    ],
)
def test_wrong_defaults(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"d\.ini: {message}"):
        read_defaults(ini(tmp_path, text), KNOWN)


def test_flags_win_over_the_file(sat: Any, flow: Any, noises: Path, tmp_path: Path) -> None:
    text = f"[DEFAULTS]\nmodel_config = '{flow.config}'\ndataset_config = '{noises}'\nname = 'from_file'\nmax_steps = 1\nlogger = 'none'\n"
    path = ini(
        tmp_path, f"{text}num_workers = 0\nsave_dir = '{tmp_path / 'runs'}'\naccelerator = 'cpu'\nbatch_size = 2\nrecover = 'false'\n"
    )
    assert sat("train", "--config-file", path).status == 0
    assert [run.name for run in (tmp_path / "runs").iterdir()] == ["from_file"]
    assert sat("train", "--name", "given", "--config-file", path).status == 0
    assert sorted(run.name for run in (tmp_path / "runs").iterdir()) == ["from_file", "given"]


def test_a_wrong_value_in_the_file_is_told_by_its_option(sat: Any, flow: Any, noises: Path, tmp_path: Path) -> None:
    ran = sat("train", *flags(flow, noises, tmp_path / "runs"), "--config-file", ini(tmp_path, "[DEFAULTS]\naccum_batches = 'many'\n"))
    assert ran.status == 2
    assert ran.told.startswith("Error: Invalid value for '--accum-batches': ")


@pytest.mark.parametrize(
    ("script", "usage"), [("train.py", "Usage: train.py [OPTIONS]"), ("unwrap_model.py", "Usage: unwrap_model.py [OPTIONS]")]
)
def test_the_scripts_take_the_same_flags(script: str, usage: str, tmp_path: Path) -> None:
    def run(*arguments: str) -> Any:
        command = [sys.executable, str(ROOT / script), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path, env=environment)

    done = run("--help")
    assert done.stdout.startswith(usage)
    name = script.removesuffix(".py").removesuffix("_model")
    parameters: Any = typer.main.get_command(app).commands[name].params  # pyright: ignore[reportAttributeAccessIssue]
    assert [p.name for p in parameters if not p.hidden and p.opts[0] not in done.stdout] == []
    missing = run()
    assert (missing.returncode, missing.stderr.splitlines()[-1]) == (2, "Error: Missing option '--model-config'.")
    wrong = run("--model-config", "no.json", "--dataset-config" if name == "train" else "--ckpt-path", "no.ckpt")
    assert (wrong.returncode, wrong.stderr) == (1, "error: no.json: no such file\n")
