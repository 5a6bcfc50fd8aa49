"""What holds for the whole source text: layers, no printing, no packages that are tied to one build of torch, names that say something."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import stable_audio_tools

PACKAGE = Path(stable_audio_tools.__file__).parent
ROOT = PACKAGE.parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
SHIMS = {  # kept import paths; each says where the thing lives now
    "models/utils.py", "models/bottleneck.py", "models/transformer.py", "models/dit.py", "models/inpainting.py",
    "inference/utils.py", "inference/sampling.py", "data/utils.py", "training/utils.py",
}  # fmt: skip
ADAPTERS = {"inference/sampling.py", "data/utils.py"}  # of these, the published call shapes are no longer those of ours


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def imported_by(path: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in it."""
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
    return found


def test_imports_only_point_down() -> None:
    """As `make lint` says; here, so that a test run alone finds it too."""
    pytest.importorskip("importlinter", reason="import-linter comes with the extra 'dev'")
    code = "import sys; from importlinter.cli import lint_imports_command; sys.argv[1:] = ['--no-cache']; lint_imports_command()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_the_contracts_are_not_about_nothing() -> None:
    """Every package has a layer, so a new one cannot stand outside."""
    if sys.version_info < (3, 11):
        pytest.skip("needs tomllib")
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layered = {name.strip() for layer in settings["contracts"][0]["layers"] for name in layer.split("|")}
    there = {
        path.stem if path.is_file() else path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert there - {"__init__"} == layered
    only_training = next(contract for contract in settings["contracts"] if contract["name"] == "Only training imports Lightning")
    users_of_lightning = {
        name.split("/")[0].removesuffix(".py") for name, path in SOURCES.items() if "pytorch_lightning" in imported_by(path)
    }
    assert users_of_lightning & {module.split(".")[1] for module in only_training["source_modules"]} == set()


@pytest.mark.parametrize("name", [name for name in SOURCES if not name.startswith("cli/")])
def test_only_the_command_line_prints(name: str) -> None:
    printing = [
        node.lineno
        for node in nodes(SOURCES[name])
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id in ("print", "input"))
            or ast.unparse(node.func) in ("sys.stdout.write", "sys.stderr.write", "sys.exit", "exit")
        )
    ]
    assert printing == []


@pytest.mark.parametrize("package", ["torchaudio", "torchvision", "torchcodec", "librosa"])
def test_what_is_never_imported(package: str) -> None:
    """Their binaries are tied to one build of torch, or they bring a compiler."""
    files = {**SOURCES, **{path.name: path for path in ROOT.glob("*.py")}}
    assert [name for name, path in files.items() if package in imported_by(path)] == []


def test_no_file_is_a_drawer_for_everything() -> None:
    vague = {"utils", "helpers", "common", "misc", "util"}
    assert [name for name in SOURCES if Path(name).stem in vague and name not in SHIMS] == []


@pytest.mark.parametrize("name", sorted(SHIMS & set(SOURCES) - ADAPTERS))
def test_kept_paths_only_point_elsewhere(name: str) -> None:
    tree = ast.parse(SOURCES[name].read_text(encoding="utf-8"))
    assert "Kept import path" in (ast.get_docstring(tree) or "")
    assert [type(node).__name__ for node in tree.body[1:] if not isinstance(node, (ast.ImportFrom, ast.Assign))] == []


@pytest.mark.parametrize("name", list(SOURCES))
def test_text_is_ascii_and_has_no_loose_ends(name: str) -> None:
    text = SOURCES[name].read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if not line.isascii()] == []
    assert [word for word in ("TODO", "FIXME", "XXX", "HACK") if word in text] == []
    assert SOURCES[name].name == "__init__.py" or not text or text.lstrip().startswith(('"""', 'r"""')), "no docstring that says what it is"


def test_errors_of_users_are_not_assertions() -> None:
    """`assert` vanishes under ``python -O``; those that are left are our own invariants, and have no message for users."""
    told = [
        f"{name}:{node.lineno}"
        for name, path in SOURCES.items()
        for node in nodes(path)
        if isinstance(node, ast.Assert) and isinstance(node.msg, (ast.JoinedStr, ast.Constant))
    ]
    assert told == []


@pytest.mark.parametrize("name", list(SOURCES))
def test_nothing_is_caught_bare(name: str) -> None:
    for node in nodes(SOURCES[name]):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), node.lineno
        call = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        assert call not in ("os.system", "exec", "os.popen"), call
        assert call != "eval" or name == "registry/signature.py", call  # annotations, without builtins
        assert not any(keyword.arg == "shell" for keyword in getattr(node, "keywords", [])), (
            f"a shell string in line {getattr(node, 'lineno', 0)}"
        )
