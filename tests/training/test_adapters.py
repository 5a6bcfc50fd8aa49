"""Runs that train an adapter: only it learns, checkpoints hold it alone, and resuming goes on exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools.checkpoint import load_ckpt_state_dict, read_checkpoint, save_model_weights
from stable_audio_tools.config.training.adapters import with_adapter
from stable_audio_tools.errors import CheckpointError, ConfigError
from stable_audio_tools.models.adapters import read_adapter, save_adapter, stack_of
from stable_audio_tools.models.adapters.attach import attach, tensors_of
from stable_audio_tools.models.adapters.compact import DTYPES, compact
from stable_audio_tools.models.factory import create_model_from_config
from stable_audio_tools.training.run import TrainResult

LORA = {"type": "lora", "config": {"rank": 2}}


@pytest.fixture(scope="module")
def base(tiny_diffusion: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of `tiny_diffusion`, in which every layer has a say."""
    torch.manual_seed(3)
    model = create_model_from_config(tiny_diffusion())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return save_model_weights(model.state_dict(), tmp_path_factory.mktemp("base") / "base.safetensors")


@pytest.fixture(scope="module")
def trained(train_briefly: Callable[..., TrainResult], tiny_diffusion: Callable[..., Any], base: Path) -> TrainResult:
    """Four steps."""
    return train_briefly(tiny_diffusion(adapter=LORA), max_steps=4, pretrained_ckpt_path=base, checkpoint_every=2)


def test_only_the_adapter_learns(trained: TrainResult, base: Path) -> None:
    wrapper = trained.wrapper
    learning = {name for name, parameter in wrapper.named_parameters() if parameter.requires_grad}
    assert learning and all("lora_" in name for name in learning)
    before = load_ckpt_state_dict(base)
    plain = {key.replace(".base_layer", ""): value for key, value in wrapper.model.state_dict().items() if "lora_" not in key}
    assert set(plain) == set(before)
    assert all(torch.equal(value, before[key]) for key, value in plain.items())
    assert len(wrapper.trainer.optimizers[0].param_groups[0]["params"]) == len(learning)


def test_files_hold_the_adapter_alone(trained: TrainResult, base: Path, tiny_diffusion: Callable[..., Any]) -> None:
    assert sorted(path.name for path in (trained.folder / "adapters").iterdir()) == ["step=2.safetensors", "step=4.safetensors"]
    assert trained.checkpoint is not None
    state = read_checkpoint(trained.checkpoint).state_dict
    assert {key for key in state if "lora_" not in key} == {"diffusion_ema.initted", "diffusion_ema.step"}
    file = read_adapter(trained.folder / "adapters" / "step=4.safetensors")
    assert file.kind == "lora" and file.header["step"] == 4 and file.header["model_type"] == "diffusion_cond"
    inside = read_adapter(trained.checkpoint)
    assert inside.header == file.header and inside.config["rank"] == 2
    assert all(torch.equal(tensor, inside.tensors[layer][name]) for layer, named in file.tensors.items() for name, tensor in named.items())
    model = create_model_from_config(tiny_diffusion())
    model.load_state_dict(load_ckpt_state_dict(base))
    options = {"steps": 2, "seed": 1, "conditioning": {"prompt": "a", "seconds_start": 0, "seconds_total": 1}, "sample_size": 1024}
    plain = model.eval().generate(**options)
    stack_of(model).load(file)
    with trained.wrapper.averaged() as averaged:
        torch.testing.assert_close(model.generate(**options), averaged.generate(**options), atol=1e-5, rtol=1e-4)
    assert not torch.equal(model.generate(**options), plain)


def test_resumed_is_as_uninterrupted(
    trained: TrainResult, train_briefly: Callable[..., TrainResult], tiny_diffusion: Callable[..., Any], base: Path
) -> None:
    half = trained.folder / "checkpoints" / "epoch=0-step=2.ckpt"
    config = tiny_diffusion(adapter=LORA)
    resumed = train_briefly(config, max_steps=4, pretrained_ckpt_path=base, ckpt_path=half, run_folder=trained.folder / "again")
    once, again = (read_checkpoint(run.checkpoint).state_dict for run in (trained, resumed) if run.checkpoint)
    assert once.keys() == again.keys() and all(torch.equal(value, again[key]) for key, value in once.items())
    with pytest.raises(CheckpointError, match=r"trained on other weights .* also needs the --pretrained-ckpt-path that the run began with"):
        train_briefly(config, max_steps=4, ckpt_path=half)
    other = tiny_diffusion(adapter={**LORA, "targets": ["ff"]})
    with pytest.raises(CheckpointError, match="holds an adapter of other layers, or with another EMA setting, than the config asks for"):
        train_briefly(other, max_steps=4, pretrained_ckpt_path=base, ckpt_path=half)
    other = tiny_diffusion(adapter={"type": "lora", "config": {"rank": 3}})
    with pytest.raises(CheckpointError, match=r"lora_A\.default\.weight is missing, or of another shape"):
        train_briefly(other, max_steps=4, pretrained_ckpt_path=base, ckpt_path=half)


def test_starting_from_a_file(
    trained: TrainResult, train_briefly: Callable[..., TrainResult], tiny_diffusion: Callable[..., Any], base: Path
) -> None:
    file = trained.folder / "adapters" / "step=4.safetensors"
    config = tiny_diffusion(adapter={**LORA, "start_from": str(file)}, learning_rate=0.0)
    again = train_briefly(config, max_steps=1, pretrained_ckpt_path=base)
    before, after = read_adapter(file), read_adapter(again.folder / "adapters" / "step=1.safetensors")
    assert all(torch.equal(tensor, after.tensors[layer][name]) for layer, named in before.tensors.items() for name, tensor in named.items())
    with pytest.raises(CheckpointError, match=r"is for other layers than those to train; only the file has: .*preprocess_conv"):
        train_briefly(tiny_diffusion(adapter={**LORA, "targets": ["ff"], "start_from": str(file)}), pretrained_ckpt_path=base)
    with pytest.raises(CheckpointError, match="is an adapter of kind 'lora', but the one to train is 'dora'"):
        train_briefly(tiny_diffusion(adapter={"type": "dora", "start_from": str(file)}), pretrained_ckpt_path=base)


def test_a_run_that_changes_nothing_fails(train_briefly: Callable[..., TrainResult], tiny_diffusion: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"after 1 steps: the adapter: changes nothing: .* Its keys: .* a learning rate above 0\?"):
        train_briefly(tiny_diffusion(adapter=LORA, learning_rate=0.0), max_steps=1)


@pytest.mark.parametrize("kind", ["dora", "lokr", "oft"])
def test_other_kinds_learn(train_briefly: Callable[..., TrainResult], tiny_diffusion: Callable[..., Any], base: Path, kind: str) -> None:
    config = {"block_size": 4} if kind == "oft" else {"rank": 2}
    adapter = {"type": kind, "config": config, "targets": ["transformer.layers"]}
    run = train_briefly(tiny_diffusion(adapter=adapter, use_ema=False), max_steps=2, pretrained_ckpt_path=base)
    assert read_adapter(run.folder / "adapters" / "step=2.safetensors").kind == kind


def test_files_are_small(dit_config: Callable[..., Any], tmp_path: Path) -> None:
    """At rank 8, under 3 % of a base of 20 M parameters."""
    model = create_model_from_config(dit_config(embed_dim=512, depth=6, num_heads=8))
    size = sum(tensor.numel() for tensor in model.state_dict().values())
    attached = attach(model, "lora", {"rank": 8})
    path = save_adapter(tmp_path / "a.safetensors", tensors_of(attached), kind="lora", config={"rank": 8}, base_hash=None)
    assert size >= 20e6 and path.stat().st_size < 0.03 * 4 * size
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])["__metadata__"]
    assert (header["rank"], header["alpha"], header["kind"], header["format_version"]) == ("8", "8", "lora", "1")
    assert json.loads(header["targets"]) == list(attached)


def test_language_models(train_briefly: Callable[..., TrainResult], tiny_lm: Callable[..., Any]) -> None:
    run = train_briefly(tiny_lm(adapter=LORA), max_steps=2)
    file = read_adapter(run.folder / "adapters" / "step=2.safetensors")
    assert all(name.startswith("lm.") for name in file.tensors) and file.header["model_type"] == "lm"


def test_unconditional_models(train_briefly: Callable[..., TrainResult], tiny_uncond: Callable[..., Any]) -> None:
    run = train_briefly(tiny_uncond(adapter=LORA), max_steps=2)
    assert read_adapter(run.folder / "adapters" / "step=2.safetensors").header["model_type"] == "diffusion_uncond"


def test_rows_of_zeros_have_no_direction(train_briefly: Callable[..., TrainResult], tiny_diffusion: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"adapter 'dora': .*to_out.*: the weight has rows of zeros, .*is the model trained"):
        train_briefly(tiny_diffusion(adapter={"type": "dora"}))


SECTION = {
    "component_whitelist": ["transformer"], "multiplier": 1.0, "rank": 16, "alpha": 0, "dropout": 0, "module_dropout": 0, "lr": 0.0001,
    "weight_decompose": True,
}  # fmt: skip


def test_older_spellings_mean_the_same(tiny_diffusion: Callable[..., Any], shared: Path) -> None:
    published = json.loads((shared / "corpus/model_configs/Gab404__my-LoRAW__examples-model_config.json").read_text())
    config = with_adapter(published)
    assert "lora" not in config and "lora" in published
    options = {"rank": 16, "alpha": 16, "dropout": 0.0}
    assert config["training"]["adapter"] == {"type": "dora", "config": options, "targets": [".transformer."]}
    assert config["training"]["optimizer_configs"] == {"diffusion": {"optimizer": {"type": "Adam", "config": {"lr": 1e-4}}}}
    older = tiny_diffusion(lora_config={"rank": 4, "adapter_type": "dora-rows", "include": ["ff"]}, lora_ckpt_path="a.safetensors")
    assert with_adapter(older)["training"]["adapter"] == {
        "type": "dora", "config": {"rank": 4, "alpha": None, "dropout": 0.0}, "targets": ["ff"], "exclude": [],
        "start_from": "a.safetensors",
    }  # fmt: skip
    plain = tiny_diffusion()
    assert with_adapter(plain) == plain
    assert "adapter" not in with_adapter(published, {"type": "none"})["training"]
    given = with_adapter(published, {"config": {"rank": 2}, "type": "dora"})["training"]["adapter"]
    assert given["config"] == {**options, "rank": 2} and given["targets"] == [".transformer."]
    assert with_adapter(published, {"type": "oft", "config": {}})["training"]["adapter"]["config"] == {}


def test_the_section_of_loraw_trains(train_briefly: Callable[..., TrainResult], tiny_diffusion: Callable[..., Any], base: Path) -> None:
    run = train_briefly({**tiny_diffusion(), "lora": SECTION}, max_steps=1, pretrained_ckpt_path=base)
    file = read_adapter(run.folder / "adapters" / "step=1.safetensors")
    assert file.kind == "dora" and all(".transformer." in name for name in file.tensors)
    assert run.wrapper.trainer.optimizers[0].param_groups[0]["lr"] == 1e-4
    assert json.loads((run.folder / "model_config.json").read_text())["training"]["adapter"]["type"] == "dora"


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"adapter": {"type": "lorra"}}, r"training\.adapter\.type: unknown adapter 'lorra'; did you mean 'lora'\?"),
        ({"adapter": {"type": "lora", "config": {"rank": 0}}}, r"training\.adapter\.config\.rank: input should be greater than 0"),
        ({"adapter": {"type": "oft", "config": {"rank": 4}}}, r"training\.adapter\.config\.rank: unknown key"),
        ({"adapter": {"type": "lora", "targets": []}}, r"training\.adapter\.targets: is empty"),
        ({"adapter": {"type": "lora", "targets": [" , "]}}, r"training\.adapter\.targets\[0\]: ' , ' would match every layer"),
        ({"lora_config": {"adapter_type": "bora"}}, r"lora_config\.adapter_type: files of 'bora' can be used, but it cannot be trained"),
        ({"lora_config": {}, "adapter": LORA}, r"lora_config: says what adapter says"),
        ({"lora_ckpt_path": "a"}, r"lora_ckpt_path: has no effect without lora_config"),
    ],
)
def test_mistakes_are_told(tiny_diffusion: Callable[..., Any], training: dict[str, Any], message: str) -> None:
    from stable_audio_tools.config.check import parse_model_config

    with pytest.raises(ConfigError, match=message):
        parse_model_config(tiny_diffusion(**training), strict=True)


def test_mistakes_of_the_section_are_told(tiny_diffusion: Callable[..., Any], tiny_autoencoder: Callable[..., Any]) -> None:
    from stable_audio_tools.config.check import parse_model_config

    with pytest.raises(ConfigError, match=r"lora: LoRAW trains no model of type 'autoencoder'; write training\.adapter instead"):
        parse_model_config({**tiny_autoencoder(), "lora": SECTION}, strict=True)
    with pytest.raises(ConfigError, match="lora: training says, too, which adapter is trained"):
        parse_model_config({**tiny_diffusion(adapter=LORA), "lora": SECTION}, strict=True)
    with pytest.raises(ConfigError, match=r"lora\.component_whitelist: is empty"):
        parse_model_config({**tiny_diffusion(), "lora": {**SECTION, "component_whitelist": []}}, strict=True)


@pytest.mark.parametrize(
    ("kind", "precision"), [("lora", "bf16"), ("dora", "bf16"), ("hra", "bfloat16"), ("oft", "bf16"), ("lora", "fp16")]
)
def test_a_base_in_half_precision(
    train_briefly: Callable[..., TrainResult], tiny_diffusion: Callable[..., Any], base: Path, kind: str, precision: str
) -> None:
    config = {"block_size": 4} if kind == "oft" else {"rank": 2}
    adapter = {"type": kind, "config": config, "targets": ["transformer.layers"]}
    training = tiny_diffusion(adapter=adapter, base_precision=precision)
    run = train_briefly(training, max_steps=2, pretrained_ckpt_path=base, demos=True, precision="32")
    dtypes = {parameter.requires_grad: parameter.dtype for parameter in run.wrapper.model.parameters()}
    assert dtypes == {True: torch.float32, False: DTYPES[precision]}
    assert len(list((run.folder / "demos").iterdir())) == 2, "demos work"
    if kind == "lora" and precision == "bf16":
        whole = train_briefly(tiny_diffusion(adapter=adapter), max_steps=2, pretrained_ckpt_path=base, precision="32")
        files = [read_adapter(each.folder / "adapters" / "step=2.safetensors") for each in (run, whole)]
        assert files[0].header == files[1].header, "of the same base"
        for layer, named in files[1].tensors.items():
            torch.testing.assert_close(files[0].tensors[layer]["lora_A.weight"], named["lora_A.weight"], atol=5e-3, rtol=0)


@pytest.mark.parametrize("precision", ["bf16-mixed", "32"])
def test_half_of_a_base_computes_what_all_of_it_does(dit_config: Callable[..., Any], randomise: Callable[..., Any], precision: str) -> None:
    model = randomise(create_model_from_config(dit_config())).eval()
    small = randomise(create_model_from_config(dit_config())).eval().requires_grad_(False)
    small.load_state_dict(model.state_dict())
    size = sum(parameter.numel() for parameter in model.parameters())
    assert compact(small, torch.bfloat16) == size
    x, t = torch.randn(2, model.io_channels, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.7])
    items = [{"prompt": "a", "seconds_start": 0, "seconds_total": 1}] * 2
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision != "32"):
        expected, found = (each(x, t, cond=each.conditioner(items, "cpu")).float() for each in (model, small))
    assert float((found - expected).norm() / expected.norm()) < 0.03


def test_pretransforms_without_weights_stay_exact(dit_config: Callable[..., Any]) -> None:
    config = dit_config()
    codec = {"type": "pqmf", "config": {"attenuation": 60, "num_bands": config["model"]["io_channels"]}}
    config["model"]["pretransform"] = codec
    model = create_model_from_config(config).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.pretransform.state_dict(keep_vars=True).items()}
    tables = {name: buffer.clone() for name, buffer in model.pretransform.named_buffers()}
    assert tables or before
    compact(model, torch.bfloat16)
    for name, buffer in model.pretransform.named_buffers():
        assert buffer.dtype == torch.float32 and torch.equal(buffer, tables[name]), name
    assert {parameter.dtype for parameter in model.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["tiny_autoencoder", "tiny_diffae"])
def test_an_autoencoder_has_no_base_in_half_precision(request: pytest.FixtureRequest, name: str) -> None:
    from stable_audio_tools.config.check import parse_model_config

    config = request.getfixturevalue(name)(adapter=LORA, base_precision="bf16")
    with pytest.raises(ConfigError, match=r"training\.base_precision: not supported: an autoencoder that is adapted codes audio"):
        parse_model_config(config, strict=True)


def test_a_base_in_half_precision_is_for_adapters(
    train_briefly: Callable[..., TrainResult], tiny_diffusion: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    train_briefly(tiny_diffusion(base_precision="bf16"), max_steps=1)
    assert "training.base_precision has no effect without an adapter" in caplog.text
    with pytest.raises(ConfigError, match=r"training\.base_precision: input should be 'bf16', 'bfloat16', 'fp16' or 'float16'"):
        train_briefly(tiny_diffusion(base_precision="int8"))


def test_layers_that_do_without_the_adapter(
    train_briefly: Callable[..., TrainResult], tiny_diffusion: Callable[..., Any], base: Path
) -> None:
    """Other ones in every batch, the same ones when resumed, and none when it is over."""

    class Watch(pl.Callback):
        def __init__(self) -> None:
            self.seen: list[list[str]] = []

        def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            idle = [name for name, p in pl_module.named_parameters() if p.requires_grad and p.grad is None]
            self.seen.append(sorted({name.split(".lora_")[0] for name in idle}))

    config = tiny_diffusion(adapter={**LORA, "module_dropout": 0.5})
    watch, again = Watch(), Watch()
    run = train_briefly(config, max_steps=4, checkpoint_every=2, pretrained_ckpt_path=base, callbacks=[watch])
    total = len(read_adapter(run.folder / "adapters" / "step=4.safetensors").tensors)
    assert all(0 < len(idle) < total for idle in watch.seen) and len({str(idle) for idle in watch.seen}) == 4
    assert 0.2 * total < sum(map(len, watch.seen)) / 4 < 0.8 * total
    half = run.folder / "checkpoints" / "epoch=0-step=2.ckpt"
    resumed = train_briefly(
        config, max_steps=4, pretrained_ckpt_path=base, ckpt_path=half, run_folder=run.folder / "again", callbacks=[again]
    )
    assert again.seen == watch.seen[2:] and resumed.checkpoint is not None and run.checkpoint is not None
    once, twice = (read_checkpoint(path).state_dict for path in (run.checkpoint, resumed.checkpoint))
    assert all(torch.equal(value, twice[key]) for key, value in once.items())
    assert run.wrapper.has_idle_parameters, "which processes that share their gradients must know"
    attached = [module for module in run.wrapper.model.modules() if hasattr(module, "is_left_out")]
    assert len(attached) == total and any(module.is_left_out for module in attached)
    options = {"steps": 1, "seed": 1, "conditioning": {"prompt": "a", "seconds_start": 0, "seconds_total": 1}, "sample_size": 1024}
    run.wrapper.model.eval().generate(**options)
    assert not any(module.disable_adapters for module in attached), "generating, all have it"


def test_one_layer_always_has_the_adapter(
    train_briefly: Callable[..., TrainResult], tiny_diffusion: Callable[..., Any], base: Path
) -> None:
    adapter = {**LORA, "targets": ["to_qkv"], "module_dropout": 0.99}
    assert train_briefly(tiny_diffusion(adapter=adapter), max_steps=3, pretrained_ckpt_path=base).step == 3
    section = {**SECTION, "module_dropout": 0.1}
    assert with_adapter({**tiny_diffusion(), "lora": section})["training"]["adapter"]["module_dropout"] == 0.1


def test_an_adapter_of_another_program_to_start_from(
    train_briefly: Callable[..., TrainResult], tiny_diffusion: Callable[..., Any], base: Path, tmp_path: Path
) -> None:
    import peft

    model = create_model_from_config(tiny_diffusion())
    made: Any = peft.get_peft_model(model.model, peft.LoraConfig(r=2, lora_alpha=2, target_modules=r".*to_qkv"))  # type: ignore[arg-type]
    torch.nn.init.ones_(next(parameter for name, parameter in made.named_parameters() if "lora_B" in name))
    made.save_pretrained(tmp_path)
    adapter = {**LORA, "targets": ["to_qkv"], "start_from": str(tmp_path)}
    run = train_briefly(tiny_diffusion(adapter=adapter, learning_rate=0.0), max_steps=1, pretrained_ckpt_path=base)
    (named,) = read_adapter(run.folder / "adapters" / "step=1.safetensors").tensors.values()
    assert bool((named["lora_B.weight"] == 1).all())
