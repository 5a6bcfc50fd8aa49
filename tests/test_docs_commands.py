"""Commands in the guides exist: every flag, value, extra, make target and script that a page types is one that there is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from stable_audio_tools.cli.main import app
from stable_audio_tools.cli.pre_encode import pre_encode
from stable_audio_tools.cli.train import train
from stable_audio_tools.cli.ui import ui
from stable_audio_tools.cli.unwrap import unwrap

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS: dict[str, Callable[..., Any]] = {
    "train.py": train,
    "train_lora.py": train,
    "pre_encode.py": pre_encode,
    "unwrap_model.py": unwrap,
    "run_gradio.py": ui,
}
GUIDES = ("001_b5d94267ae6c4666.txt", "002_99aea8e5354f910a.txt", "003_83a95ef8cd4b7e74.txt")


class Line(NamedTuple):
    """One command of a page. ``is_whole`` is False where the text only mentions a command, without what it needs."""

    page: str
    words: list[str]
    is_whole: bool

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def lines_of(page: str, text: str) -> Iterator[Line]:
    """The commands in code blocks, and those that sentences mention."""
    pattern = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
    for language, block in pattern.findall(text):
        if language not in ("bash", "sh"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
            if words:
                yield Line(page, words, "..." not in words)
    for mention in re.findall(r"`((?:sat|python3?|make|torchrun|srun) [^`]+)`", pattern.sub("", text)):
        yield Line(page, shlex.split(mention), False)


def application_of(function: Callable[..., Any]) -> typer.Typer:
    application = typer.Typer()
    application.command()(function)
    return application


def arguments_of(words: list[str]) -> tuple[typer.Typer, list[str]] | None:
    """The program of ours that a command starts, perhaps through another, and what it is given."""
    for index, word in enumerate(words):
        name = Path(word).name
        if name == "sat":
            return app, words[index + 1 :]
        if name in SCRIPTS:
            return application_of(SCRIPTS[name]), words[index + 1 :]
    return None


def parse(line: Line) -> bool:
    """Parse a command as the program would, without running it; False if it starts no program of ours."""
    found = arguments_of(line.words)
    if found is None:
        return False
    command: Any = typer.main.get_command(found[0])
    arguments = [word for word in found[1] if word != "..."]
    for end in (">", "|", "&&"):
        arguments = arguments[: arguments.index(end)] if end in arguments else arguments
    while hasattr(command, "commands"):  # a group, such as `sat data`
        if not arguments or arguments[0].startswith("-") or arguments[0].isupper():
            break
        assert arguments[0] in command.commands, f"{line}: there is no command {arguments[0]!r}"
        command = command.commands[arguments.pop(0)]
    try:
        command.make_context("sat", arguments, resilient_parsing=not line.is_whole)
    except typer.Exit:  # --help
        pass
    except Exception as error:
        raise AssertionError(f"{line}: {error.format_message() if hasattr(error, 'format_message') else error}") from error
    return True


PROGRAMS = [line for page in PAGES for line in lines_of(page.name, page.read_text(encoding="utf-8")) if arguments_of(line.words)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_are_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where defaults.ini is
    for line in PROGRAMS:
        if line.page == page.name:
            parse(line)


def test_enough_commands_were_found() -> None:
    typed = {" ".join(word for word in line.words[:3] if word.isidentifier() or "-" in word) for line in PROGRAMS}
    assert len(PROGRAMS) > 80 and len(typed) > 10, (len(PROGRAMS), typed)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("sat train --model-config m --dataset-config d --bath-size 2", "No such option"),
        ("sat train --model-config m", "Missing option '--dataset-config'"),
        ("sat train --model-config m --dataset-config d --batch-size many", "Invalid value for '--batch-size'"),
        ("python3 ./train.py --model-config m --dataset-config d --logger paper", "'paper' is not"),
        ("sat data weigh x", "there is no command 'weigh'"),
        ("torchrun --nnodes 2 train.py --model-config m", "Missing option"),
    ],
)
def test_wrong_commands_are_found(words: str, reason: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(reason)):
        parse(Line("page", shlex.split(words), True))


@pytest.mark.parametrize("guide", GUIDES)
def test_commands_that_users_know_are_understood(shared: Path, guide: str) -> None:
    """Of the published guides: every command for a script of ours, and every flag that their prose names."""
    text = (shared / "seeds" / guide).read_text(encoding="utf-8")
    count = sum(parse(line) for line in lines_of(guide, text))
    assert count >= {"001": 2, "002": 7, "003": 0}[guide[:3]]
    known = {
        option
        for function in {*SCRIPTS.values()}
        for parameter in typer.main.get_command(application_of(function)).params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    named = set(re.findall(r"^- `(--[\w-]+)`|`(--[\w-]+)`", text, re.MULTILINE))
    assert {flag.replace("_", "-") for pair in named for flag in pair if flag} <= known


def test_pages_name_scripts_targets_and_extras_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    extras = set(re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for line in lines_of(page.name, text):
            if line.words[0] == "make":
                assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in line.words[1:]), line
            if line.words[0] == "cp":
                assert not line.words[1].startswith("stable_audio_tools/") or (ROOT / line.words[1]).exists(), line
            for word in line.words:
                assert not re.fullmatch(r"(bench|docs)/\w+\.py", word) or (ROOT / word).is_file(), line
        for names in re.findall(r'(?:stable-audio-tools|"\.)\[([\w, -]+)\]', text):
            assert {name.strip() for name in names.split(",")} <= extras, f"{page.name}: {names}"
