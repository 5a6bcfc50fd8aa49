"""sat list, show and schema: what configs can say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from stable_audio_tools.config.model import MODEL_CONFIGS
from stable_audio_tools.families import ALL
from stable_audio_tools.registry import Part, Registry

ROOT = Path(__file__).resolve().parents[2]
EVERY = [pytest.param(registry, part, id=f"{registry.symbol}-{part.name}") for registry in ALL for part in registry]


def test_list_names_every_part_of_every_family(sat: Any) -> None:
    out = sat("list").out
    for registry in ALL:
        block = re.search(rf"^{registry.family} \((\d+)\)\n((?:  .*\n)*)", out, re.MULTILINE)
        assert block is not None, registry.family
        names = [line.split()[0] for line in block.group(2).splitlines()]
        assert (int(block.group(1)), names) == (len(names), registry.names())


def test_list_says_where_each_part_is_defined(sat: Any) -> None:
    lines = [line for line in sat("list").out.splitlines() if line.startswith("  ")]
    for line in lines:
        name, file, number = re.match(r"  (\S+) .*  \[(.*):(\d+)\]$", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
        source = (ROOT / file).read_text(encoding="utf-8").splitlines()
        registered = [line for line in range(1, int(number)) if ".register(" in source[line - 1]]  # a decorator can be long
        around = "\n".join(source[max(0, registered[-1] - 4 if registered else 0) : int(number)])
        assert f'"{name}"' in around, line


def test_lines_of_list_read_well(sat: Any) -> None:
    for line in sat("list").out.splitlines():
        assert "`" not in line
        if line.startswith("  "):
            sentence = line.strip().partition(" ")[2].rsplit("  [", 1)[0].strip()
            assert len(sentence.split()) >= 3, line
            assert not sentence.startswith(("(B", "Build ")), line
            assert not sentence.endswith(".")


@pytest.mark.parametrize("name", ["conditioners", "conditioner", "CONDITIONERS", "Conditioner"])
def test_a_family_may_be_named_as_people_name_it(sat: Any, name: str) -> None:
    out = sat("list", name).out
    assert out.startswith("conditioner (")
    assert "sampler" not in out


def test_samplers_say_what_they_serve(sat: Any) -> None:
    lines = {line.split()[0]: line for line in sat("list", "samplers").out.splitlines() if line.startswith("  ")}
    assert "; for v  [" in lines["dpmpp-3m-sde"]
    assert "; for rectified_flow, rf_denoiser  [" in lines["euler"]


@pytest.mark.parametrize(("registry", "part"), EVERY)
def test_show_names_every_key(sat: Any, registry: Registry, part: Part) -> None:
    ran = sat("show", registry.family, part.name)
    assert ran.status == 0
    assert ran.out.startswith(f"{registry.family} {part.name!r}: {part.qualname}  [stable_audio_tools/")
    if part.facts.get("trunk") or registry.symbol in ("MODELS", "WRAPPERS", "DEMOS"):
        return
    keys = re.findall(r"^  (\w+): ", ran.out.split("\nconfig:\n")[1], re.MULTILINE) if "\nconfig:\n" in ran.out else []
    assert keys == [parameter.name for parameter in registry.schema(part.name).parameters]
    assert bool(keys) != ("It has no options." in ran.out)


@pytest.mark.parametrize("name", MODEL_CONFIGS)
def test_show_a_model_type_lists_its_trunk(sat: Any, name: str) -> None:
    out = sat("show", "model type", name).out
    keys = re.findall(r"^  (\w+): ", out.split("\nmodel:\n")[1], re.MULTILINE)
    assert keys == list(MODEL_CONFIGS[name].model_fields["model"].annotation.model_fields)  # pyright: ignore[reportOptionalMemberAccess]
    assert "Annotated" not in out
    assert "stable_audio_tools.config" not in out


def test_show_types_defaults_and_meanings(sat: Any) -> None:
    out = sat("show", "conditioner", "number").out
    assert "  min_val: float = 0\n" in out
    assert "  output_dim: int > 0\n" in out
    out = sat("show", "backbone", "dit").out
    assert "  global_cond_type: Literal['prepend', 'adaLN'] = \"prepend\"\n      Put the global condition before the sequence" in out
    out = sat("show", "training wrapper", "diffusion_cond").out
    assert "\ntraining:\n" in out and "\n  learning_rate: float | None\n" in out
    assert "      demo_every: int = 2000\n" in out


def test_show_a_part_of_somebody_else(sat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_parts.py").write_text(
        "import nowhere_to_be_found\nfrom stable_audio_tools.models.conditioners import Conditioner\n\n"
        'class Loud(Conditioner):\n    """Loudness.\n\n    Args:\n        gain_db: How much.\n    """\n\n'
        "    def __init__(self, output_dim: int, gain_db: float = 3.0) -> None: ...\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    out = sat("show", "conditioner", "my_parts:Loud").out
    assert f"[{tmp_path / 'my_parts.py'}:4]" in out
    assert "  gain_db: float = 3.0\n      How much.\n" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "samplerz"], "error: unknown family 'samplerz'; did you mean 'sampler'?"),
        (["list", "xyz"], "error: unknown family 'xyz'; known: model type, encoder, decoder, "),
        (["show", "sampler", "eulr"], "error: unknown sampler 'eulr'; did you mean 'euler'?"),
        (["show", "conditioner", "no_such_package_:x"], "error: conditioner 'no_such_package_:x': cannot read module 'no_such_package_' "),
    ],
)
def test_unknown_names(sat: Any, arguments: list[str], message: str) -> None:
    ran = sat(*arguments)
    assert (ran.status, ran.out) == (1, "")
    assert ran.told.startswith(message)


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_schema_is_json_schema(sat: Any, kind: str) -> None:
    ran = sat("schema", kind)
    schema = json.loads(ran.out)
    assert schema["title"] == f"{kind} config"
    assert schema["$schema"].startswith("https://json-schema.org/")


def test_schema_is_of_models_unless_told_otherwise(sat: Any) -> None:
    assert sat("schema") == sat("schema", "model")
    ran = sat("schema", "modle")
    assert (ran.status, ran.told) == (2, "Error: Invalid value: 'modle': 'model' or 'dataset'")
