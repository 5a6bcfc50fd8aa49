"""What a run says that it will take, against what it takes."""

import math
import re
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stable_audio_tools.errors import ConfigError, MissingExtraError
from stable_audio_tools.families import OPTIMIZERS
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config
from stable_audio_tools.training.checkpointing import find_checkpoints
from stable_audio_tools.training.memory import states_of
from stable_audio_tools.training.optimizers import create_optimizer_from_config
from stable_audio_tools.training.optims.schedule_free import start_training
from stable_audio_tools.training.preflight import duration, steps_line
from stable_audio_tools.training.run import TrainOptions


def numbers(text):
    """Bytes by what they are for."""
    return {name: float(value) * (1e9 if unit == "GB" else 1e6) for name, value, unit in re.findall(r"(\w+) ([\d.]+) ([MG]B)", text)}


def line_of(run, start):
    (line,) = (line for line in (run.folder / "report.txt").read_text().splitlines() if line.startswith(start))
    return line


# ---- memory ----------------------------------------------------------------------------------------------------------------------------


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors have taken at a time, of those in ``there`` and those made while it is open."""

    def __init__(self, there):
        super().__init__()
        self._known = {}
        self.now = self.most = 0
        for tensor in there:
            self._count(tensor.untyped_storage())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known[key] = weakref.finalize(storage, self._free, key, size)
            self.now += size
            self.most = max(self.most, self.now)

    def _free(self, key, size):
        self.now -= size
        self._known.pop(key)


class WholeSteps(pl.Callback):
    """Measures the memory of whole steps: forward, backward and optimizer."""

    def on_train_start(self, trainer, pl_module):
        self._mode = LiveBytes([*pl_module.parameters(), *pl_module.buffers()])
        self._mode.__enter__()

    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_step == trainer.max_steps:
            self._mode.__exit__(None, None, None)
            self.most = self._mode.most


@pytest.fixture
def config(request, tmp_path):
    """``config(kind)``: a model, and flags of the run: every wrapper, and what makes an estimate difficult."""
    fixture = request.getfixturevalue

    def autoencoder(**training):
        made = fixture("tiny_autoencoder")(**training)
        for part in ("encoder", "decoder"):
            made["model"][part]["config"]["channels"] = 24
        return made

    def transformer(name, *args, **training):
        made = fixture(name)(*args, **training)
        inner = made["model"].get("diffusion", made["model"])["config"]
        inner |= {"embed_dim": 128, "depth": 4}
        return made

    def made(kind):
        match kind:
            case "autoencoder":
                return autoencoder(), {}
            case "adversary":
                return autoencoder(adversary=True), {}
            case "adversary after a warm-up":
                made = autoencoder(adversary=True, warmup_steps=2)
                made["training"]["loss_configs"]["discriminator"]["config"]["filters"] = 32
                return made, {}
            case "large pretransform":
                made = fixture("tiny_diffusion")()
                for part in ("encoder", "decoder"):
                    made["model"]["pretransform"]["config"][part]["config"]["channels"] = 48
                return made, {}
            case "diffusion_cond" | "adapter" | "accumulating":
                adapter = {"adapter": {"type": "lora"}} if kind == "adapter" else {}
                return transformer("tiny_diffusion", **adapter), {"accum_batches": 2 if kind == "accumulating" else 1}
            case "recomputing":
                made = transformer("tiny_diffusion")
                return {**made, "sample_size": 4096}, {"gradient_checkpointing": True}
            case "arc":
                penalties = {"contrastive": True, "include_grad_penalties": True, "include_r2_penalty": True}
                return transformer("tiny_arc", {}, penalties), {}
            case "arc after a warm-up":
                warmup = {"sampling_steps": 3, "warmup_steps": 2}
                return transformer("tiny_arc", {"use_model_as_teacher": True, "ode_warmup": warmup}), {}
            case "musicgen":
                shape = {"sample_rate": 8000, "sample_size": 1024, "audio_channels": 1}
                model = {"pretrained": str(fixture("save_tiny_musicgen")(tmp_path / "musicgen"))}
                return {"model_type": "musicgen", **shape, "model": model, "training": {"learning_rate": 1e-3}}, {}
            case "lm":
                made = fixture("tiny_lm")()
                made["model"]["lm"]["config"] |= {"embed_dim": 64, "depth": 4}
                return made, {}
        names = {"diffusion_uncond": "tiny_uncond", "diffusion_cond_inpaint": "tiny_inpaint", "diffusion_autoencoder": "tiny_diffae"}
        return transformer(names[kind]), {}

    return made


KINDS = [
    "autoencoder", "adversary", "adversary after a warm-up", "diffusion_uncond", "diffusion_cond", "diffusion_cond_inpaint",
    "diffusion_autoencoder", "lm", "musicgen", "arc", "arc after a warm-up", "adapter", "recomputing", "large pretransform", "accumulating",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_memory_and_checkpoints_are_as_told(train_briefly, config, kind):
    made, flags = config(kind)
    watch = WholeSteps()
    run = train_briefly(made, max_steps=6, batch_size=4, checkpoint_every=2, callbacks=[watch], **flags)
    told = numbers(line_of(run, "memory: ").split(" = ")[0])
    # 0.93 to 1.09 when this was written, and 0.83 with recomputing, whose backward pass nobody has measured
    assert 1 / 1.3 < sum(told.values()) / watch.most < 1.3, f"told {told}, measured {watch.most}"
    checkpoints = find_checkpoints(run.folder)
    each = numbers(line_of(run, "checkpoints: ").replace("checkpoints: ", "each ", 1))["each"]
    (whole,) = re.findall(r"; 3 of them, ([\d.]+) MB; ", line_of(run, "checkpoints: "))
    sizes = [path.stat().st_size for path in checkpoints]
    bookkeeping = 250_000 + 0.03 * each  # names, configs, random states
    assert len(sizes) == 3 and each - 1e5 < sizes[-1] < each + bookkeeping
    assert float(whole) * 1e6 == pytest.approx(3 * each, rel=0.02, abs=2e5)


def test_rehearsals_leave_no_trace(config):
    for kind in ("adversary after a warm-up", "arc after a warm-up", "arc"):
        made, _ = config(kind)
        wrapper = create_training_wrapper_from_config(made, create_model_from_config(made)).train()
        before = {name: tensor.clone() for name, tensor in wrapper.state_dict().items()}
        modes, trained = ([(m.training) for m in wrapper.modules()], [p.requires_grad for p in wrapper.parameters()])
        item = {"prompt": "a kick", "seconds_start": 0, "seconds_total": 1}
        steps = wrapper.rehearsals((torch.randn(2, 1, made["sample_size"]), [item, item]))
        assert steps
        for step in steps:
            step()
        assert all(torch.equal(tensor, before[name]) for name, tensor in wrapper.state_dict().items())
        assert modes == [m.training for m in wrapper.modules()] and trained == [p.requires_grad for p in wrapper.parameters()]
        assert all(parameter.grad is None for parameter in wrapper.parameters())


def test_what_later_steps_need_stops_a_run_before_the_first(train_briefly, config, monkeypatch):
    made, _ = config("adversary after a warm-up")
    monkeypatch.setattr("stable_audio_tools.training.preflight.available_memory", lambda device: (25 * 10**6, "this toy"))
    with pytest.raises(ConfigError, match=r"of 25\.0 MB that this toy has for this run: it will not fit; try a smaller --batch-size"):
        train_briefly(made, batch_size=4)
    made["training"]["warmup_steps"] = 0
    del made["training"]["loss_configs"]["discriminator"]
    assert train_briefly(made, batch_size=4).step == 3


MEASURED = """
import json, sys, torch
from pathlib import Path
import stable_audio_tools.training.run as run
import stable_audio_tools.models
from stable_audio_tools.training.run import TrainOptions, train

def status(key):
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))

options = json.loads(sys.argv[1])
quiet = {"logger": "none", "demos": False, "show_progress": False, "accelerator": "cpu", "num_workers": 0, "batch_size": 4}
warm = train(TrainOptions(**{**options["small"], **quiet, "max_steps": 2}))  # whatever is loaded only when it is used
del warm
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
train(TrainOptions(**{**options["large"], **quiet, "max_steps": 3}))
print("grew by", status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
@pytest.mark.parametrize("kind", ["autoencoder", "diffusion_cond", "lm", "arc", "large pretransform"])
def test_the_memory_of_the_process_grows_by_what_was_told(config, noises, tmp_path, kind):
    import json

    small, flags = config(kind)
    large = json.loads(json.dumps(small))
    model = large["model"]
    if kind == "autoencoder":
        large["sample_size"] *= 4
        for part in ("encoder", "decoder"):
            model[part]["config"]["channels"] = 96
    elif kind == "large pretransform":
        for part in ("encoder", "decoder"):
            model["pretransform"]["config"][part]["config"]["channels"] = 384
    else:
        block = model["lm"] if kind == "lm" else model["diffusion"]
        block["config"] |= {"embed_dim": 512, "depth": 6}
    given = {
        size: {"model_config": made, "dataset_config": noises, "run_folder": str(tmp_path / size), **flags}
        for size, made in (("small", small), ("large", large))
    }
    done = subprocess.run([sys.executable, "-c", MEASURED, json.dumps(given)], capture_output=True, text=True, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    grown = int(re.findall(r"grew by (\d+)", done.stdout)[0])
    (line,) = (line for line in (tmp_path / "large" / "report.txt").read_text().splitlines() if line.startswith("memory: "))
    told = sum(numbers(line.split(" = ")[0]).values())
    # 0.93 to 1.03 for transformers; 0.78 and 0.66 where there are convolutions, for which oneDNN makes copies of its own
    assert 1 / 1.6 < told / grown < 1.6, f"told {line}, grew by {grown}"


# ---- optimizers, disk, steps, time -----------------------------------------------------------------------------------------------------

TORCHS = ["Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop", "Adafactor"]


@pytest.mark.parametrize("name", [*TORCHS, *OPTIMIZERS.names()])
def test_optimizers_keep_what_is_told(name):
    layer = nn.Linear(512, 384)
    config = {} if name == "MuonAdamW" else {"lr": 1e-3}
    try:
        optimizer = create_optimizer_from_config({"type": name, "config": config}, layer.named_parameters())
    except MissingExtraError as error:
        pytest.skip(str(error))
    told = states_of(optimizer)
    start_training([optimizer])
    layer(torch.randn(2, 512)).sum().backward()
    optimizer.step()
    state = getattr(optimizer, "optimizer", optimizer).state
    kept = sum(tensor.numel() * tensor.element_size() for tensor in tree_leaves(dict(state)) if isinstance(tensor, torch.Tensor))
    assert told == pytest.approx(kept, rel=0.1, abs=80_000 if name == "Adafactor" else 20_000), (told / kept if kept else told, name)


def test_a_disk_that_all_kept_checkpoints_fill_stops_a_run(train_briefly, tiny_uncond, monkeypatch, tmp_path):
    import shutil

    first = train_briefly(tiny_uncond(), max_steps=2)
    each = first.checkpoint.stat().st_size
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=6 * each))
    many = {"max_steps": 16, "checkpoint_every": 2, "run_folder": tmp_path / "run"}
    with pytest.raises(
        ConfigError, match=r"; 8 of them, .*: they need .*; keep fewer with --save-top-k, save less often with --checkpoint"
    ):
        train_briefly(tiny_uncond(), **many)
    assert not (tmp_path / "run").exists()
    run = train_briefly(tiny_uncond(), **many, save_top_k=3)
    assert len(find_checkpoints(run.folder)) == 3
    # Half of it is done: four are left to write.
    (half,) = [path for path in find_checkpoints(run.folder) if path.name.endswith("step=12.ckpt")]
    again = train_briefly(tiny_uncond(), max_steps=16, checkpoint_every=2, ckpt_path=half, run_folder=tmp_path / "again")
    assert "; 2 of them, " in line_of(again, "checkpoints: ") and len(find_checkpoints(again.folder)) == 2


class Steps(pl.Callback):
    """The steps of every pass, and when they were made; each takes a while longer."""

    def __init__(self, seconds=0.0):
        self.seconds, self.passes, self.times = seconds, [], []

    def on_train_batch_start(self, *args):
        time.sleep(self.seconds)

    def on_train_batch_end(self, trainer, *args):
        self.times.append((trainer.global_step, time.monotonic()))

    def on_train_epoch_end(self, trainer, pl_module):
        self.passes.append(trainer.global_step)


@pytest.mark.parametrize("kind", ["diffusion_uncond", "adversary"])
@pytest.mark.parametrize("accum", [1, 2])
def test_steps_per_pass_are_as_told(train_briefly, config, kind, accum):
    watch = Steps()
    made, _ = config(kind)
    run = train_briefly(made, max_steps=11, accum_batches=accum, callbacks=[watch])
    told = int(re.findall(r"data: (\d+) \(5 batches of 2", line_of(run, "steps per pass through the data: "))[0])
    assert told == math.ceil(5 / accum) == watch.passes[0] and watch.passes[1] == 2 * told


def test_passes_are_told():
    options = TrainOptions(model_config={}, dataset_config={}, batch_size=4, accum_batches=2, max_steps=10)
    assert steps_line(options, 8) == "steps per pass through the data: 4 (8 batches of 4, 2 for each); 10 steps are 2.5 passes"
    assert steps_line(options, 9, 2).startswith("steps per pass through the data: 3 (9 batches of 4, 4 for each); ")
    assert steps_line(options, 9, 2, drops_rest=True).startswith("steps per pass through the data: 2 (9 batches of 4, 4 for each); ")


def test_the_time_left_is_as_told(train_briefly, tiny_uncond):
    watch = Steps(seconds=0.03)
    run = train_briefly(tiny_uncond(), max_steps=60, callbacks=[watch])
    (line,) = re.findall(r"^([\d.e-]+) s per step; (\d+) steps are left: about (\d+) s$", (run.folder / "report.txt").read_text(), re.M)
    each, left, seconds = float(line[0]), int(line[1]), float(line[2])
    told_at = 60 - left
    at = dict(watch.times)
    actual = at[60] - at[told_at]
    assert told_at == 21 and each >= 0.03 and duration(each * left) == f"{seconds:.0f} s"
    assert each * left == pytest.approx(actual, rel=0.4), "what is written at the end is not counted"
