"""How processes share the work, as far as it can be seen without GPUs."""

import pytest
import torch
from pytorch_lightning.strategies import FSDPStrategy

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.layers.transformer import TransformerBlock
from stable_audio_tools.training import acceleration, create_training_wrapper_from_config
from stable_audio_tools.training.checkpointing import find_checkpoints
from stable_audio_tools.training.fsdp import WholeAverage, create_fsdp_strategy_and_callback
from stable_audio_tools.training.options import TrainOptions
from stable_audio_tools.training.strategies import make_strategy, zero_options
from stable_audio_tools.training.trainer import bare_trainer


@pytest.fixture
def wrapper(tiny_diffusion):
    config = tiny_diffusion()
    return create_training_wrapper_from_config(config, create_model_from_config(config))


def options(**more):
    return TrainOptions(model_config={}, dataset_config={}, accelerator="cpu", **more)


def test_fully_sharded_training_is_built_and_leaves_the_average_whole(wrapper):
    strategy, callback = create_fsdp_strategy_and_callback(wrapper, cpu_offload=True)
    assert isinstance(strategy, FSDPStrategy) and isinstance(callback, WholeAverage)
    assert strategy.kwargs["ignored_modules"] == [wrapper.ema] and strategy.kwargs["use_orig_params"]
    assert strategy.cpu_offload.offload_params and strategy._state_dict_type == "full"
    assert TransformerBlock.__name__ in repr(strategy.kwargs["auto_wrap_policy"])
    assert isinstance(make_strategy("fsdp", wrapper, bare_trainer(options())), FSDPStrategy)
    assert "ignored_modules" not in create_fsdp_strategy_and_callback()[0].kwargs


def test_fully_sharded_training_needs_a_gpu(train_briefly, tiny_diffusion):
    with pytest.raises(ConfigError, match=r"--strategy fsdp --precision auto: cannot be had here: .*(GPU|CUDA|cuda)"):
        train_briefly(tiny_diffusion(), strategy="fsdp")


def test_an_average_follows_a_model_that_is_gathered_for_it(wrapper):
    opened = []

    class Gather:
        def __enter__(self):
            opened.append(True)

        def __exit__(self, *error):
            pass

    wrapper.ema.whole_model = Gather
    wrapper.ema.configure(update_every=2)
    for _ in range(4):
        wrapper.ema.update()
    assert len(opened) == 2, "only when it is updated: gathering is expensive"


def test_zero_spreads_states_or_weights_too():
    assert [zero_options(stage)["stage"] for stage in (2, 3)] == [2, 3]
    pytest.importorskip("deepspeed")
    from pytorch_lightning.strategies import DeepSpeedStrategy

    assert DeepSpeedStrategy(**zero_options(2)).config["zero_optimization"]["stage"] == 2


@pytest.mark.parametrize(("name", "found"), [("auto", "auto"), ("", "auto"), ("ddp", "ddp"), ("ddp_spawn", "ddp_spawn")])
def test_other_strategies_are_lightnings(wrapper, name, found):
    assert make_strategy(name, wrapper, bare_trainer(options())) == found


def test_idle_parameters_are_told(tiny_autoencoder):
    config = tiny_autoencoder(adversary=True)
    wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
    probe = bare_trainer(options(strategy="ddp"))
    assert make_strategy("ddp", wrapper, probe) == "ddp_find_unused_parameters_true"


@pytest.fixture
def unheard(tiny_diffusion):
    """A model with a conditioner that nobody listens to."""
    config = tiny_diffusion()
    config["model"]["diffusion"]["cross_attention_cond_ids"].remove("seconds_start")
    config["model"]["diffusion"]["global_cond_ids"] = ["seconds_total"]
    config["model"]["diffusion"]["config"]["global_cond_dim"] = 8
    return config


def test_conditioners_that_nobody_listens_to_are_told(wrapper, unheard):
    """Otherwise the second step of several processes would fail."""
    other = create_training_wrapper_from_config(unheard, create_model_from_config(unheard))
    assert (wrapper.has_idle_parameters, other.has_idle_parameters) == (False, True)
    other.diffusion.conditioner.requires_grad_(False)
    assert not other.has_idle_parameters


@pytest.mark.slow
@pytest.mark.parametrize("why", ["a conditioner that nobody listens to", "layers left out at random"])
def test_two_processes_train_a_model_with_idle_parameters(scripts, unheard, tiny_diffusion, noises, why):
    adapter = {"type": "lora", "config": {"rank": 2}, "module_dropout": 0.5}
    config = unheard if "conditioner" in why else tiny_diffusion(adapter=adapter)
    run = scripts(config, noises["datasets"][0]["path"], "--devices", "2", "--strategy", "ddp", "--max-steps", "4")
    assert run.start().wait(timeout=300) == 0, run.log()
    (saved,) = find_checkpoints(run.folder)
    assert saved.name.endswith("step=4.ckpt")


# ---- time for memory, and memory for time ------------------------------------------------------------------------------------------------


def switched_on(module):
    return {type(part).__name__ for part in module.modules() if any(getattr(part, name, False) is True for name in acceleration.SWITCHES)}


@pytest.mark.parametrize(
    ("kind", "options", "parts"),
    [
        ("tiny_diffusion", {}, {"ContinuousTransformer"}),
        ("tiny_autoencoder", {"adversary": True}, {"ResidualUnit"}),
        ("tiny_arc", {}, {"ContinuousTransformer", "ConvNeXtStage"}),
    ],
)
def test_recomputing_activations_changes_nothing_but_memory(request, train_briefly, kind, options, parts):
    config = request.getfixturevalue(kind)(**options)
    plain, recomputed = (train_briefly(config, gradient_checkpointing=on).wrapper for on in (False, True))
    assert (switched_on(plain), switched_on(recomputed)) == (set(), parts)
    discriminator = getattr(recomputed, "discriminator", None)
    assert kind != "tiny_arc" or switched_on(discriminator) == {"ContinuousTransformer"}, "the adversary too"
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True))


def test_text_encoders_that_are_trained_recompute_too(shared, train_briefly, tiny_diffusion):
    config = tiny_diffusion()
    t5 = {"t5_model_name": str(shared / "fixtures" / "t5-tiny"), "max_length": 8, "enable_grad": True}
    config["model"]["conditioning"]["configs"][0] = {"id": "prompt", "type": "t5", "config": t5}
    plain, recomputed = (train_briefly(config, gradient_checkpointing=on).wrapper for on in (False, True))
    assert "T5Stack" in switched_on(recomputed)
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_model_of_transformers_recomputes_in_its_own_way(save_tiny_musicgen, train_briefly, tmp_path):
    model = {"pretrained": str(save_tiny_musicgen(tmp_path / "musicgen"))}
    config = {"model_type": "musicgen", "sample_rate": 8000, "sample_size": 128, "audio_channels": 1, "model": model}
    config["training"] = {"learning_rate": 1e-2}
    plain, recomputed = (train_briefly(config, gradient_checkpointing=on).wrapper for on in (False, True))
    assert not switched_on(plain) and "MusicgenDecoder" in switched_on(recomputed)
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_recomputing_says_when_it_has_no_effect(train_briefly, tiny_autoencoder, caplog):
    config = tiny_autoencoder()
    parts = {"dim": 8, "depth": 1, "n_fft": 32, "hop_length": 8, "strides": [2]}
    for name, width in (("encoder", 8), ("decoder", 4)):
        config["model"][name] = {"type": "spectral", "config": {"latent_dim": width, **parts}}
    train_briefly(config, gradient_checkpointing=True)
    assert "--gradient-checkpointing has no effect: no part of AudioAutoencoder can recompute its activations" in caplog.text


def test_without_a_working_compiler_a_run_goes_on_and_says_so_once(train_briefly, tiny_diffusion, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", broken)
    assert train_briefly(tiny_diffusion(), compile=True).step == 3
    assert caplog.text.count("--compile: torch.compile does not work here (no compiler here): going on without") == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_blocks_train_alike(train_briefly, tiny_diffusion):
    if acceleration.why_not_compile() is not None:
        pytest.skip("no compiler here")
    config = tiny_diffusion(optimizer_configs={"diffusion": {"optimizer": {"type": "SGD", "config": {"lr": 0.1}}}})
    plain, compiled = (train_briefly(config, compile=on) for on in (False, True))
    assert plain.wrapper.state_dict().keys() == compiled.wrapper.state_dict().keys()
    for a, b in zip(plain.wrapper.parameters(), compiled.wrapper.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
