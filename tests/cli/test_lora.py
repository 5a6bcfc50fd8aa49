"""sat lora, sat generate --lora and sat train --adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio_tools.audio import load, read_metadata
from stable_audio_tools.checkpoint import load_ckpt_state_dict, save_model_weights
from stable_audio_tools.models.adapters import choose_layers, read_adapter, save_adapter
from stable_audio_tools.models.factory import create_model_from_config_path


@pytest.fixture
def adapter(flow: Any, tmp_path: Path) -> Path:
    """An adapter of two layers for the model ``flow``."""
    model = create_model_from_config_path(flow.config)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: {
            "lora_A.weight": 0.3 * torch.randn(2, layer.weight.shape[1], generator=generator),
            "lora_B.weight": 0.3 * torch.randn(layer.weight.shape[0], 2, generator=generator),
        }
        for name, layer in choose_layers(model, "lora", ["self_attn"]).items()
    }
    path = tmp_path / "warm.safetensors"
    return save_adapter(path, tensors, kind="lora", config={"rank": 2}, base_hash=None, step=9, model_type="diffusion_cond")


def generate(sat: Any, files: Any, folder: Path, *more: Any) -> Any:
    flags = ["--steps", 2, "--device", "cpu", "--prompt", "rain", "--seconds", 0.1, "--seed", 1]
    return sat("generate", *files.flags, "--output", folder, *flags, *more)


def test_generating_with_adapters(sat: Any, flow: Any, adapter: Path, tmp_path: Path) -> None:
    ran = {
        name: generate(sat, flow, tmp_path / name.replace(":", "_"), *(["--lora", f"{adapter}{name}"] if name != "none" else []))
        for name in ("none", "", ":0", ":0.5", ":-1")
    }
    audio = {name: load(each.out.strip()).samples for name, each in ran.items()}
    assert torch.equal(audio[":0"], audio["none"])
    assert all(not torch.equal(audio[name], audio["none"]) for name in ("", ":0.5", ":-1"))
    assert json.loads(read_metadata(ran[":0.5"].out.strip())["adapters"]) == ["warm.safetensors:0.5"]
    assert "adapters" not in read_metadata(ran["none"].out.strip())
    twice = generate(sat, flow, tmp_path / "twice", "--lora", f"{adapter}:0.5", "--lora", f"{adapter}:0.5")
    torch.testing.assert_close(load(twice.out.strip()).samples, audio[""], atol=1e-4, rtol=0)


def test_adapters_that_cannot_be_used(sat: Any, flow: Any, tmp_path: Path) -> None:
    assert "no.safetensors: no such file" in generate(sat, flow, tmp_path, "--lora", "no.safetensors").told
    assert "is a whole diffusion model" in generate(sat, flow, tmp_path, "--lora", flow.weights).told
    assert "its strength is a finite number, got nan" in generate(sat, flow, tmp_path, "--lora", "a.safetensors:nan").told


def test_merging(sat: Any, flow: Any, adapter: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged.safetensors"
    ran = sat("lora", "merge", *flow.flags, "--lora", f"{adapter}:0.5", "--name", tmp_path / "merged")
    assert (ran.status, ran.out) == (0, f"{merged}\n")
    with_adapter = load(generate(sat, flow, tmp_path / "a", "--lora", f"{adapter}:0.5").out.strip()).samples
    flags = ["--model-config", flow.config, "--ckpt-path", merged]
    again = sat("generate", *flags, "--steps", 2, "--device", "cpu", "--prompt", "rain", "--seconds", 0.1, "--seed", 1, "-o", tmp_path)
    torch.testing.assert_close(load(again.out.strip()).samples, with_adapter, atol=1e-4, rtol=0)
    found = tmp_path / "found.safetensors"
    ran = sat("lora", "extract", "--model-config", flow.config, "--base", flow.weights, "--tuned", merged, "--rank", 2, "--name", found)
    assert ran.out == f"{found}: {len(read_adapter(adapter).tensors)} layers, 100.0% of the squared difference\n", ran.err
    assert "the same weights in every chosen layer" in sat(
        "lora", "extract", "--model-config", flow.config, "--base", flow.weights, "--tuned", flow.weights
    ).told  # fmt: skip


def test_info(sat: Any, adapter: Path) -> None:
    lines = sat("lora", "info", adapter).out.splitlines()
    assert lines[:3] == ["kind: lora (rank 2, dropout 0.0, rank_stabilised False)", "model_type: diffusion_cond", "step: 9"]
    assert any(line.startswith("parameters: ") for line in lines) and lines[-1].endswith("self_attn.to_out")


def test_training(sat: Any, tiny_diffusion: Any, noises: Any, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps(tiny_diffusion()))
    torch.manual_seed(0)
    model = create_model_from_config_path(tmp_path / "m.json")
    base = save_model_weights(model.state_dict(), tmp_path / "base.safetensors")
    flags = ["--model-config", tmp_path / "m.json", "--dataset-config", noises, "--pretrained-ckpt-path", base]
    flags += ["--batch-size", 2, "--num-workers", 0, "--max-steps", 2, "--save-dir", tmp_path / "runs", "--accelerator", "cpu"]
    flags += ["--logger", "none"]
    ran = sat("train", *flags, "--adapter", "lora", "--adapter-rank", 3, "--adapter-targets", "self_attn, project_out")
    assert ran.status == 0, ran.err
    (file,) = (tmp_path / "runs").rglob("step=2.safetensors")
    assert f"adapter: {file}; use it with: sat generate ... --lora" in ran.out
    adapter = read_adapter(file)
    assert adapter.config["rank"] == 3 and sorted(name.rsplit(".", 1)[-1] for name in adapter.tensors) == [
        "project_out",
        "to_out",
        "to_qkv",
    ]
    saved = json.loads((file.parent.parent / "model_config.json").read_text())
    assert saved["training"]["adapter"]["targets"] == ["self_attn", "project_out"]
    assert "lora" not in str(load_ckpt_state_dict(base).keys())
    checkpoint = next((tmp_path / "runs").rglob("*.ckpt"))
    assert "holds an adapter in training, not a model" in sat("unwrap", *flags[:2], "--ckpt-path", checkpoint).told
    assert "unknown adapter 'lorra'; did you mean 'lora'?" in sat("train", *flags, "--adapter", "lorra").told
    assert "--adapter-rank has no effect with --adapter none" in sat("train", *flags, "--adapter", "none", "--adapter-rank", 2).told
    assert "training.adapter.config.rank: unknown key" in sat("train", *flags, "--adapter", "oft", "--adapter-rank", 2).told


@pytest.mark.parametrize(("section", "kind"), [({}, "lora"), ({"adapter": {"type": "oft", "config": {"block_size": 4}}}, "oft")])
def test_train_lora_takes_what_the_config_says(
    monkeypatch: pytest.MonkeyPatch, tiny_diffusion: Any, noises: Any, tmp_path: Path, section: dict[str, Any], kind: str
) -> None:
    from stable_audio_tools.cli import train
    from stable_audio_tools.training import run as run_module

    seen = []

    def stop(options: Any) -> None:
        seen.append(options)
        raise SystemExit

    (tmp_path / "m.json").write_text(json.dumps(tiny_diffusion(**section)))
    monkeypatch.setattr(run_module, "train", stop)
    flags = ["--model-config", tmp_path / "m.json", "--dataset-config", noises, "--batch-size", 32, "--precision", "16-mixed"]
    monkeypatch.setattr("sys.argv", ["train_lora.py", *map(str, flags)])
    with pytest.raises(SystemExit):
        train.script_lora()
    assert seen[0].model_config.data["training"]["adapter"]["type"] == kind and seen[0].precision == "16-mixed"
