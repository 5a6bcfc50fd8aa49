"""Optional dependencies: one message when they are missing, and extras that bring what is asked for."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import stable_audio_tools
from stable_audio_tools.errors import MissingExtraError, StableAudioError
from stable_audio_tools.optional import lazy, require

PACKAGE = Path(stable_audio_tools.__file__).parent
DISTRIBUTIONS = {"comet_ml": "comet-ml", "g2p_en": "g2p-en"}  # where it is not the module's name


def requirements() -> list[tuple[str, str, str]]:
    """Every `require` in the package: (module, extra, purpose)."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "require" and node.args:
                options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
                found.append((ast.literal_eval(node.args[0]), options["extra"], options["purpose"]))
    return found


@pytest.mark.parametrize(("module", "extra", "purpose"), requirements())
def test_a_missing_package_has_the_one_message(monkeypatch: pytest.MonkeyPatch, module: str, extra: str | None, purpose: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as told:
        require(module, extra=extra, purpose=purpose)
    package = f'"stable-audio-tools[{extra}]"' if extra else module
    assert str(told.value) == f"{module} is needed for {purpose} and is not installed; run: pip install {package}"
    assert isinstance(told.value, StableAudioError)
    assert isinstance(told.value, ImportError)


@pytest.mark.parametrize(("module", "extra", "purpose"), requirements())
def test_the_extra_brings_the_package(module: str, extra: str | None, purpose: str) -> None:
    if extra is not None:
        text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
        section = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
        listed = re.search(rf"^{extra} = \[(.*?)\]$", section, re.MULTILINE | re.DOTALL)
        assert listed is not None, extra
        assert DISTRIBUTIONS.get(module, module.split(".")[0]) in re.findall(r'"([\w.-]+)', listed.group(1))


@pytest.mark.parametrize(("choice", "module"), [("wandb", "wandb"), ("comet", "comet_ml")])
def test_a_run_refuses_a_missing_logger_before_it_reads_anything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_diffusion: Any, choice: Any, module: str
) -> None:
    from stable_audio_tools.training.run import TrainOptions, train

    monkeypatch.setitem(sys.modules, module, None)
    options = TrainOptions(model_config=tiny_diffusion(), dataset_config=tmp_path / "nowhere.json", logger=choice, accelerator="cpu")
    with pytest.raises(MissingExtraError, match=rf'{module} is needed for --logger {choice} .*"stable-audio-tools\[{choice}\]"'):
        train(options)


def test_a_broken_package_is_not_a_missing_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its own missing dependency is told as it is: reinstalling the extra would not help."""
    (tmp_path / "half_installed_.py").write_text("import no_such_dependency_\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency_") as told:
        require("half_installed_", extra="ui", purpose="x")
    assert not isinstance(told.value, MissingExtraError)


def test_lazy_names_are_found_on_first_use_and_others_are_not() -> None:
    get = lazy("package", dumps="json")
    assert get("dumps")({}) == "{}"
    with pytest.raises(AttributeError, match="module 'package' has no attribute 'loads'"):
        get("loads")
