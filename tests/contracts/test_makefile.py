"""``make setup``: which builds of PyTorch it asks for. Nothing is installed: the environment's Python is a script that takes notes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CPU_BUILDS = "--index-url https://download.pytorch.org/whl/cpu torch"


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def asked_for(folder: Path, *, system: str = "Linux", has_gpu: bool = False, pip_config: str = "", is_reachable: bool = True) -> list[str]:
    """What pip is called with on a machine like that."""
    log = folder / "log"
    program(
        folder / "venv/bin/python",
        f'case "$*" in *"config list"*) echo "{pip_config}"; exit 0;; esac\n'
        f'echo "$@" >> {log}\n'
        f'case "$*" in *whl/cpu*) {"true" if is_reachable else "false"};; esac',
    )
    program(folder / "path/uname", f"echo {system}")
    for name in ("sh", "make", "touch", "grep", "test"):
        found = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        (folder / "path" / name).symlink_to(found)
    if has_gpu:
        program(folder / "path/nvidia-smi", "true")
    command = ["make", "-s", "-C", str(ROOT), "setup", f"VENV={folder}/venv"]
    subprocess.run(command, env={"PATH": str(folder / "path")}, check=True, timeout=20)
    return log.read_text(encoding="utf-8").splitlines()


def test_without_a_gpu_the_small_build_is_asked_for_first(tmp_path: Path) -> None:
    first, second, third = asked_for(tmp_path)
    assert first.endswith(CPU_BUILDS)
    assert "-c constraints.txt" in first and "--no-deps" in first
    assert second.endswith("install -q -c constraints.txt torch")  # finds it done, or is the way out
    assert third.endswith("install -q -c constraints.txt -e .[dev]")


def test_if_the_small_build_cannot_be_had_the_usual_one_is_taken(tmp_path: Path) -> None:
    assert len(asked_for(tmp_path, is_reachable=False)) == 3


@pytest.mark.parametrize(
    "machine",
    [
        {"system": "Darwin"},
        {"has_gpu": True},
        {"pip_config": "global.index-url='https://mirror.example/simple'"},
        {"pip_config": "global.extra-index-url='file:///mirror'"},
        {"pip_config": ":env:.find-links='/wheels'"},
        {"pip_config": "global.no-index='true'"},
    ],
)
def test_elsewhere_pip_is_left_alone(tmp_path: Path, machine: dict[str, object]) -> None:
    assert [CPU_BUILDS in line for line in asked_for(tmp_path, **machine)] == [False, False]  # pyright: ignore[reportArgumentType]
