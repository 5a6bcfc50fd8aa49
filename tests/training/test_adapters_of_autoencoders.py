"""Adapters of autoencoders and diffusion autoencoders, whose layers are weight-normalised and dilated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio_tools.checkpoint import load_ckpt_state_dict, load_model_weights, read_checkpoint, save_model_weights
from stable_audio_tools.cli.lora import merge
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models.adapters import choose_layers, extract_adapter, read_adapter, stack_of
from stable_audio_tools.models.factory import create_model_from_config
from stable_audio_tools.training.randomness import isolated_randomness
from stable_audio_tools.training.run import TrainResult

KINDS = {
    "lora": {"rank": 2}, "dora": {"rank": 2}, "loha": {"rank": 2}, "lokr": {"rank": 2}, "hira": {"rank": 2},
}  # fmt: skip
STEPS = 4


@pytest.fixture(params=["autoencoder", "autoencoder and adversary", "diffusion_autoencoder"])
def config(request: pytest.FixtureRequest, tiny_autoencoder: Callable[..., Any], tiny_diffae: Callable[..., Any]) -> Callable[..., Any]:
    """``config(**training)``: a model whose layers are weight-normalised, at a high learning rate."""

    def made(**training: Any) -> dict[str, Any]:
        options = {"learning_rate": 0.01, **training}
        if request.param == "diffusion_autoencoder":
            return tiny_diffae(**options)
        return tiny_autoencoder(adversary="adversary" in request.param, **options)

    return made


@pytest.fixture
def base(config: Callable[..., Any], tmp_path: Path) -> Path:
    """Weights in which every layer has a say."""
    torch.manual_seed(3)
    model = create_model_from_config(config())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not name.endswith("weight_g"):
                parameter += 0.05 * torch.randn(parameter.shape)
    return save_model_weights(model.state_dict(), tmp_path / "base.safetensors")


def loaded(config: dict[str, Any], path: Path) -> Any:
    model = create_model_from_config(config)
    load_model_weights(model, path)
    return model.eval()


def heard(model: Any) -> torch.Tensor:
    """What becomes of some audio."""
    options = {"steps": 2} if hasattr(model, "diffusion") else {}
    audio = 0.3 * torch.randn(1, 1, 512, generator=torch.Generator().manual_seed(0))
    with isolated_randomness(1), torch.no_grad():
        return model.decode(model.encode(audio), **options)


def test_train_save_load_strengths_and_merge(train_briefly: Callable[..., TrainResult], config: Any, base: Path, tmp_path: Path) -> None:
    run = train_briefly(config(adapter={"type": "lora", "config": {"rank": 2}}), max_steps=STEPS, pretrained_ckpt_path=base)
    file = run.folder / "adapters" / f"step={STEPS}.safetensors"
    adapter = read_adapter(file)
    learning = [name for name, parameter in run.wrapper.model.named_parameters() if parameter.requires_grad]
    assert learning and all("lora_" in name for name in learning)
    assert run.checkpoint is not None
    prefix = f"{run.wrapper.model_prefix}."
    assert all("lora_" in key for key in read_checkpoint(run.checkpoint).state_dict if key.startswith(prefix))

    model = loaded(config(), base)
    assert list(adapter.tensors) == list(choose_layers(model, "lora")), "also weight-normalised layers"
    state, plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}, heard(model)
    stack = stack_of(model)
    stack.load(file)
    with run.wrapper.averaged() as averaged:
        torch.testing.assert_close(heard(model), heard(averaged), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(heard(model), plain, atol=1e-5)
    stack.set_strength(0.0)
    assert torch.equal(heard(model), plain) and all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())

    stack.set_strength(1.0)
    adapted = heard(model)
    stack.merge(keep_base=True)
    whole = save_model_weights(model.state_dict(), tmp_path / "merged.safetensors")
    torch.testing.assert_close(heard(loaded(config(), whole)), adapted)
    stack.unmerge()
    assert torch.equal(heard(model), plain)
    (tmp_path / "model.json").write_text(json.dumps(config()))
    merge(tmp_path / "model.json", base, [str(file)], name=str(tmp_path / "by_command"))
    torch.testing.assert_close(heard(loaded(config(), tmp_path / "by_command.safetensors")), adapted)

    found = extract_adapter(loaded(config(), base), load_ckpt_state_dict(whole), rank=2)
    assert found.captured > 0.99, "a change of rank 2"


def test_resumed_is_as_uninterrupted(train_briefly: Callable[..., TrainResult], config: Any, base: Path) -> None:
    made = config(adapter={"type": "lora", "config": {"rank": 2}})
    whole = train_briefly(made, max_steps=STEPS, pretrained_ckpt_path=base, checkpoint_every=2)
    (half,) = (whole.folder / "checkpoints").glob("*step=2.ckpt")
    again = train_briefly(made, max_steps=STEPS, pretrained_ckpt_path=base, ckpt_path=half, run_folder=whole.folder / "again")
    one, other = (read_adapter(run.folder / "adapters" / f"step={STEPS}.safetensors") for run in (whole, again))
    assert all(torch.equal(tensor, other.tensors[layer][name]) for layer, named in one.tensors.items() for name, tensor in named.items())


@pytest.mark.parametrize("kind", ["dora", "loha", "lokr", "hira"])
def test_other_kinds_are_used_as_they_were_trained(
    train_briefly: Callable[..., TrainResult], tiny_autoencoder: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    torch.manual_seed(3)
    plain = tiny_autoencoder(learning_rate=0.01)
    base = save_model_weights(create_model_from_config(plain).state_dict(), tmp_path / "base.safetensors")
    run = train_briefly(tiny_autoencoder(learning_rate=0.01, adapter={"type": kind, "config": KINDS[kind]}), pretrained_ckpt_path=base)
    model = loaded(plain, base)
    before = heard(model)
    stack_of(model).load(run.folder / "adapters" / "step=3.safetensors")
    with run.wrapper.averaged() as averaged:
        torch.testing.assert_close(heard(model), heard(averaged), atol=2e-5, rtol=1e-4)
    assert not torch.equal(heard(model), before)


@pytest.mark.parametrize("kind", ["oft", "boft", "hra"])
def test_kinds_that_find_no_layer_say_so(
    train_briefly: Callable[..., TrainResult], tiny_autoencoder: Callable[..., Any], kind: str
) -> None:
    with pytest.raises(ConfigError, match=rf"adapter '{kind}': no layer is left to adapt; it adapts Linear layers"):
        train_briefly(tiny_autoencoder(adapter={"type": kind}))


def test_a_part_can_be_chosen(train_briefly: Callable[..., TrainResult], tiny_autoencoder: Callable[..., Any]) -> None:
    run = train_briefly(tiny_autoencoder(learning_rate=0.01, adapter={"type": "lora", "targets": ["decoder"]}))
    tensors = read_adapter(run.folder / "adapters" / "step=3.safetensors").tensors
    assert tensors and all(name.startswith("decoder.") for name in tensors)
