"""Examples in the guides are true: JSON is accepted, Python compiles, links lead somewhere, generated pages are up to date."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stable_audio_tools.checkpoint import DESCRIPTIONS, Checkpoint
from stable_audio_tools.config.check import check_dataset_config, check_model_config
from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.layers.parameters import without_weights
from stable_audio_tools.training.preflight import SMALLER

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = ROOT / "stable_audio_tools" / "configs" / "model_configs"
SECTIONS = {  # where a fragment such as `"training": {...}` belongs
    "training": (
        "autoencoders/small_vae_22k.json",
        "txt2audio/stable_audio_open_1_0.json",
        "txt2audio/small_text_22k.json",
        "dance_diffusion/small_wavelet_22k.json",
    ),
    "conditioning": ("txt2audio/stable_audio_open_1_0.json",),
}


def blocks(language: str) -> list[tuple[str, str]]:
    """Code blocks of a language in all pages: (page, text)."""
    pattern = re.compile(rf"^([ ]*)```{language}\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
    return [(page.name, match.group(2)) for page in PAGES for match in pattern.finditer(page.read_text(encoding="utf-8"))]


def mistakes(data: object) -> list[str]:
    check = check_dataset_config if isinstance(data, dict) and "dataset_type" in data else check_model_config
    return [f"{mistake.path}: {mistake.message}" for mistake in check(data) if mistake.kind != "warning"]


def build(config: dict[str, Any]) -> None:
    """Build the model, without memory for its weights."""
    try:
        with without_weights():
            create_model_from_config(config)
    except CheckpointError as error:  # of something pretrained, which this machine may not have
        if "could not be downloaded" not in str(error):
            raise


@pytest.mark.parametrize(("page", "text"), blocks("json"))
def test_json_examples_are_accepted(page: str, text: str) -> None:
    if text.lstrip().startswith("{"):
        config = json.loads(text)
        assert mistakes(config) == []
        if "model_type" in config:
            build(config)
        return
    fragment = json.loads("{" + text.strip().rstrip(",") + "}")
    ((key, value),) = fragment.items()
    found = []
    for name in SECTIONS[key]:
        config = json.loads((CONFIGS / name).read_text(encoding="utf-8"))
        if key == "training":
            config["training"] = value
        else:
            config["model"][key] = value
            del config["training"]  # whose demos have other conditions
            config["model"]["diffusion"]["cross_attention_cond_ids"] = ["prompt"]
            config["model"]["diffusion"]["global_cond_ids"] = ["seconds_total"]
            config["model"]["diffusion"]["config"]["global_cond_dim"] = value["cond_dim"]
        found.append(mistakes(config))
        if not found[-1] and key != "training":
            build(config)
    assert [] in found, found


@pytest.mark.parametrize(("page", "text"), blocks("python"))
def test_python_examples_compile(page: str, text: str) -> None:
    ast.parse(text.replace("(model, ..., ", "(model, "))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_generated_reference_is_up_to_date() -> None:
    run = subprocess.run([sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr


def test_troubleshooting_quotes_what_the_program_says() -> None:
    """Every quoted message, but for what stands in its place of ``...``, is one in the source."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "stable_audio_tools").rglob("*.py"))
    source = re.sub(r"""["']\s*\n\s*f?["']""", "", source).replace("{SMALLER}", SMALLER)  # strings that go on in the next line
    flags = ("--ckpt-path", "--pretrained-ckpt-path", "--pretransform-ckpt-path")
    wanted = (*DESCRIPTIONS.values(), "a training checkpoint to resume")
    files = [Checkpoint("FILE", kind, {}, {}) for kind in DESCRIPTIONS]
    source += "".join(f"{file.wrong_kind(what, flag)}\n" for file in files for what in wanted for flag in flags)
    source = re.sub(r"%(?:\.\d)?[gds]", "...", source)
    source = re.sub(r"\{(?:[^{}]|\{[^{}]*\})*\}", "...", source)
    quoted = re.findall(r"`([^`]+)`", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"))
    pieces = [piece.strip(" ;:?") for quote in quoted for piece in quote.split("...")]
    checked = [piece for piece in pieces if len(piece.split()) >= 5 and not piece.startswith(("sat ", "pip "))]
    foreign = {"This DataLoader will create 6 worker processes", "not available here (Torch not compiled with CUDA enabled)"}
    assert len(checked) > 20
    assert {piece for piece in checked if piece not in source} <= foreign
