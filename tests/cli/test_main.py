"""What all commands share: help, versions, errors in one line, Ctrl-C, closed pipes, and no torch where none is needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer

import stable_audio_tools
from stable_audio_tools.cli.main import app
from stable_audio_tools.errors import ConfigError

GROUP: Any = typer.main.get_command(app)
COMMANDS = ["demo", "train", "generate", "unwrap", "check", "list", "show", "schema"]
HEAVY = ("torch", "numpy", "pytorch_lightning", "transformers", "matplotlib", "soundfile")


def test_help_lists_all_commands_in_whole_sentences(sat: Any) -> None:
    ran = sat("--help")
    assert ran.status == 0
    lines = ran.out.split("Commands:\n")[1].strip().splitlines()
    assert [line.split()[0] for line in lines] == list(GROUP.commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)
    assert set(COMMANDS) <= set(GROUP.commands)


@pytest.mark.parametrize("name", list(GROUP.commands))
def test_every_command_explains_itself_and_its_options(sat: Any, name: str) -> None:
    ran = sat(name, "--help")
    assert ran.status == 0
    assert ran.out.startswith(f"Usage: sat {name} ")
    command = GROUP.commands[name]
    assert len(command.help) > 40
    unexplained = [parameter.name for parameter in command.params if not getattr(parameter, "hidden", False) and not parameter.help]
    assert unexplained == []


def test_version(sat: Any) -> None:
    assert sat("--version") == (0, f"stable-audio-tools {stable_audio_tools.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chekc"], "Error: No such command 'chekc'. Did you mean 'check'?"),
        (["check"], "Error: Missing argument 'files'."),
        (["list", "a", "b"], "Error: Got unexpected extra argument(s) (b)"),
        (["generate", "--promt", "x"], "Error: No such option: --promt (Possible options: --prompt)"),
        (["demo", "--minutes", "x"], "Error: Invalid value for '--minutes': "),
    ],
)
def test_usage_errors_have_status_2(sat: Any, arguments: list[str], message: str) -> None:
    ran = sat(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert ran.told.startswith(message)


def test_no_command_shows_the_help(sat: Any) -> None:
    ran = sat()
    assert ran.status == 2
    assert "Commands:" in ran.out + ran.err


def test_errors_are_one_line_and_tracebacks_are_for_verbose(sat: Any, tmp_path: Path) -> None:
    arguments = ["unwrap", "--model-config", tmp_path / "a.json", "--ckpt-path", tmp_path / "a.ckpt"]
    ran = sat(*arguments)
    assert ran == (1, "", f"error: {tmp_path / 'a.json'}: no such file\n")
    with pytest.raises(ValueError, match="no such file"):
        sat("--verbose", *arguments)


def test_mistakes_of_a_config_have_a_line_each(sat: Any, tmp_path: Path, flow: Any) -> None:
    config = json.loads(flow.config.read_text(encoding="utf-8"))
    config["sample_rate"] = config["model"]["io_channels"] = "x"
    (tmp_path / "c.json").write_text(json.dumps(config), encoding="utf-8")
    ran = sat("generate", "--model-config", tmp_path / "c.json", "--ckpt-path", flow.weights, "--prompt", "x")
    assert ran.status == 1
    assert [line.split("  ", 1)[1] for line in ran.err.splitlines()] == [
        "sample_rate: input should be a valid integer, got 'x'",
        "model.io_channels: input should be a valid integer, got 'x'",
    ]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (PermissionError(13, "Permission denied", "/a/b.wav"), 1, "error: /a/b.wav: Permission denied"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device"),
        (OSError("cannot reach the hub"), 1, "error: cannot reach the hub"),
        (ConfigError("c.json:1:2  x: wrong\nc.json:3:4  y: wrong"), 1, "c.json:1:2  x: wrong\nc.json:3:4  y: wrong"),
        (KeyboardInterrupt(), 130, "stopped"),
        (typer.Abort(), 130, "stopped"),
        (typer.Exit(7), 7, ""),
    ],
)  # fmt: skip
def test_whatever_goes_wrong_has_a_status_and_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, message: str
) -> None:
    from stable_audio_tools.cli.main import run

    application = typer.Typer(pretty_exceptions_enable=False)

    @application.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["fail"])
    with pytest.raises(SystemExit) as done:
        run(application)
    assert done.value.code == status
    assert capsys.readouterr().err.strip() == message


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from stable_audio_tools.cli.main import run

    application = typer.Typer(pretty_exceptions_enable=False)

    @application.command()
    def fail() -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(sys, "argv", ["fail"])
    with pytest.raises(AssertionError, match="a bug"):
        run(application)


def test_a_closed_pipe_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "stable_audio_tools.cli.main", "schema"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_at_any_time_is_no_traceback(tmp_path: Path) -> None:
    """While a command waits for a file: a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "pipe.json")
    process = subprocess.Popen(
        [sys.executable, "-m", "stable_audio_tools.cli.main", "check", str(tmp_path / "pipe.json")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c,
    )  # fmt: skip
    writer = open_when_read(tmp_path / "pipe.json")
    for _ in range(6):  # one that comes just before a system call blocks is seen only when that returns
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
            break
    out, err = process.communicate(timeout=5)
    os.close(writer)
    assert (process.returncode, out, err) == (130, "", "stopped\n")


def heed_ctrl_c() -> None:
    """What runs in the background of a shell script, as these tests may, ignores Ctrl-C, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def open_when_read(pipe: Path) -> int:
    """Open a pipe for writing as soon as somebody reads it."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody yet
            assert time.monotonic() < deadline
            time.sleep(0.02)


# ---- nothing heavy is imported for nothing --------------------------------------------------------------------------------------


def imported_by(code: str, *arguments: str, status: int = 0) -> list[str]:
    """The heavy packages that a Python program has imported when it ends."""
    program = f"import atexit, sys; atexit.register(lambda: print('loaded:', *[n for n in {HEAVY} if n in sys.modules])); {code}"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout.rsplit("loaded:", 1)[1].split()


MAIN = "from stable_audio_tools.cli.main import main; main()"


@pytest.mark.parametrize(
    "code", ["import stable_audio_tools", "import stable_audio_tools.families", "import stable_audio_tools.config.check"]
)
def test_importing_is_light(code: str) -> None:
    assert imported_by(code) == []


@pytest.mark.parametrize(
    "arguments",
    ["--help", "--version", "train --help", "generate --help", "demo --help", "list", "show conditioner t5", "schema"],
)
def test_looking_things_up_is_light(arguments: str) -> None:
    assert imported_by(MAIN, *arguments.split()) == []


def test_a_mistake_in_the_trunk_is_found_without_torch(tmp_path: Path, flow: Any) -> None:
    config = json.loads(flow.config.read_text(encoding="utf-8"))
    config["model"]["io_chanels"] = 4
    (tmp_path / "c.json").write_text(json.dumps(config), encoding="utf-8")
    assert imported_by(MAIN, "check", str(tmp_path / "c.json"), status=1) == []


@pytest.mark.parametrize("command", ["train --dataset-config x --model-config", "generate --prompt x --ckpt-path x --model-config",
                                     "unwrap --ckpt-path x --model-config"], ids=lambda command: command.split()[0])  # fmt: skip
def test_a_mistake_in_the_config_is_told_before_anything_heavy_is_imported(tmp_path: Path, command: str) -> None:
    (tmp_path / "c.json").write_text('{"model_type": "autoencodr"}', encoding="utf-8")
    assert imported_by(MAIN, *command.split(), str(tmp_path / "c.json"), status=1) == []
