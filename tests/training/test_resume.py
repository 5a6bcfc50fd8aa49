"""A run that is stopped and resumed makes the same losses, bit for bit, as one that is not (one process, float32)."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import pytorch_lightning as pl

from stable_audio_tools.checkpoint import copy_state_dict, read_checkpoint, unwrap_state_dict, weights_hash
from stable_audio_tools.data.shards.pack import pack
from stable_audio_tools.errors import DataError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.conditioners.pretrained import frozen
from stable_audio_tools.training.checkpointing import find_checkpoints

ROOT = Path(__file__).resolve().parents[2]
STEPS = 12
SCHEDULE = {"type": "InverseLR", "config": {"inv_gamma": 10, "power": 0.5, "warmup": 0.5}}
ADAM = {"optimizer": {"type": "AdamW", "config": {"lr": 1e-3}}, "scheduler": SCHEDULE}


@pytest.fixture(scope="session")
def configs(tiny_autoencoder, tiny_diffusion, tiny_uncond, tiny_diffae, tiny_arc):
    """Model configs by name. Everything that draws random numbers or keeps a state is on somewhere."""
    return {
        "autoencoder": tiny_autoencoder(),
        "adversary": tiny_autoencoder(adversary=True, optimizer_configs={"autoencoder": ADAM, "discriminator": ADAM}),
        "masked": tiny_autoencoder(channels=2, latent_mask_ratio=0.3),
        "diffusion": tiny_diffusion(optimizer_configs={"diffusion": ADAM}, mask_padding=True, mask_padding_dropout=0.5),
        "raw": tiny_diffusion(pretransform=False, objective="v", timestep_sampler="logit_normal", p_one_shot=0.3),
        "uncond": tiny_uncond(),
        "diffae": tiny_diffae(),
        "arc": tiny_arc(
            {
                "use_model_as_teacher": True,
                "ode_warmup": {"warmup_steps": 6, "refresh_rate": 4, "sampling_steps": 3, "cfg": 2.0},
                "noise_dist": {"generator": "logsnr_uniform", "discriminator": "uniform"},
            },
            {"contrastive": True, "include_grad_penalties": True},
            optimizer_configs={"diffusion": ADAM, "discriminator": ADAM},
        ),
    }


class Losses(pl.Callback):
    """The loss of every batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(outputs["loss"].item())


class Interrupt(pl.Callback):
    """Sends a signal to this process while the given batch, counted from 1, is under way."""

    def __init__(self, batch, number=signal.SIGTERM):
        self.left, self.number = batch, number

    def on_before_backward(self, trainer, pl_module, loss):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.number)


@pytest.fixture(scope="session")
def run(configs, train_briefly):
    def run(config, /, *callbacks, max_steps=STEPS, **options):
        losses = Losses()
        result = train_briefly(configs[config], max_steps=max_steps, callbacks=[losses, *callbacks], **options)
        return result, losses.seen

    return run


@pytest.fixture(scope="session")
def uninterrupted(run):
    """``uninterrupted(name, **options)``: losses and hash of the weights of a run that nobody stops; each is made once."""
    made = {}

    def get(name, **options):
        key = (name, str(options))
        if key not in made:
            result, losses = run(name, **options)
            made[key] = losses, weights_hash(result.wrapper.state_dict())
        return made[key]

    return get


def assert_resumes(run, uninterrupted, name, stop, number=signal.SIGTERM, *, batches=None, **options):
    """Stop in batch ``stop``; the run must end after ``batches``, and go on as if nothing had happened."""
    expected, expected_hash = uninterrupted(name, **options)
    stopped, first = run(name, Interrupt(stop, number), **options)
    assert stopped.stop_signal == number
    assert len(first) == (batches or stop)
    resumed, second = run(name, ckpt_path=stopped.checkpoint, **options)
    assert resumed.stop_signal is None
    assert first + second == expected
    assert resumed.folder == stopped.folder
    assert weights_hash(resumed.wrapper.state_dict()) == expected_hash


# ---- in this process: every place of a pass ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 4, 5, 6, 10])
@pytest.mark.parametrize("name", ["autoencoder", "adversary", "diffusion"])
def test_resumes_bit_equal_mid_pass_and_at_its_end(run, uninterrupted, name, stop):
    """A pass has 5 batches: 4 is before its last, 5 its last, 6 the first of the next."""
    assert_resumes(run, uninterrupted, name, stop)


@pytest.mark.parametrize("stop", [3, 9])  # during warm-up, which goes on with the same paths; and after it, while the players take turns
def test_resumes_bit_equal_in_both_phases_of_post_training(run, uninterrupted, stop):
    assert_resumes(run, uninterrupted, "arc", stop)


@pytest.mark.parametrize("name", ["masked", "raw", "uncond", "diffae"])
def test_resumes_bit_equal_with_other_random_streams(run, uninterrupted, name):
    assert_resumes(run, uninterrupted, name, 7, signal.SIGINT)


def test_resumes_bit_equal_with_an_encoder_that_is_loaded_on_first_use(shared, tiny_diffusion, train_briefly):
    """Loading it must not move the random streams: the uninterrupted run loads it in its first batch, the resumed one in another."""
    t5 = {"t5_model_name": str(shared / "fixtures" / "t5-tiny"), "max_length": 8}
    config = tiny_diffusion()
    config["model"]["conditioning"]["configs"][0] = {"id": "prompt", "type": "t5", "config": t5}

    def go(*callbacks, **options):
        frozen.cache_clear()  # as in a new process
        losses = Losses()
        return train_briefly(config, max_steps=8, callbacks=[losses, *callbacks], **options), losses.seen

    _, expected = go()
    stopped, first = go(Interrupt(3))
    _, second = go(ckpt_path=stopped.checkpoint)
    assert first + second == expected


@pytest.mark.parametrize(("name", "stop"), [("diffusion", 3), ("adversary", 5)])
def test_resumes_bit_equal_with_workers(run, uninterrupted, name, stop):
    assert_resumes(run, uninterrupted, name, stop, num_workers=2)
    assert uninterrupted(name, num_workers=2) == uninterrupted(name)


def test_a_run_can_be_stopped_again_and_again(run, uninterrupted):
    expected, _ = uninterrupted("adversary")
    losses, checkpoint = [], None
    for _ in range(4):
        options = {} if checkpoint is None else {"ckpt_path": checkpoint}
        result, part = run("adversary", Interrupt(3), **options)
        losses, checkpoint = losses + part, result.checkpoint
    assert losses == expected


@pytest.mark.parametrize(
    ("name", "stop", "batches"),
    [*(("diffusion", *case) for case in ((1, 2), (2, 2), (3, 4), (5, 5), (6, 7), (8, 9))), ("adversary", 1, 2), ("adversary", 5, 5)],
)
def test_with_gradient_accumulation_a_step_is_finished_first(run, uninterrupted, name, stop, batches):
    """Two batches make a step, and the fifth of a pass makes one of its own. Half of a step's gradients cannot be saved."""
    assert_resumes(run, uninterrupted, name, stop, batches=batches, accum_batches=2, max_steps=7)


def test_time_limits_wait_for_the_end_of_a_step_too(run, uninterrupted):
    class Limit(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = trainer.should_stop or batch_idx == 2

    expected, _ = uninterrupted("diffusion", accum_batches=2, max_steps=7)
    stopped, first = run("diffusion", Limit(), accum_batches=2, max_steps=7)
    assert (stopped.stop_signal, len(first), stopped.step) == (None, 4, 2)
    _, second = run("diffusion", accum_batches=2, max_steps=7, ckpt_path=stopped.checkpoint)
    assert first + second == expected


@pytest.mark.parametrize("stop", [3, 5])
@pytest.mark.parametrize(("name", "val_every"), [("autoencoder", -1), ("autoencoder", 2), ("diffusion", 2)])
def test_validation_and_demos_leave_training_alone(run, uninterrupted, noises, name, val_every, stop):
    options = {"val_dataset_config": noises, "val_every": val_every, "demos": True}
    assert_resumes(run, uninterrupted, name, stop, **options)
    assert uninterrupted(name, **options) == uninterrupted(name)


@pytest.mark.parametrize(("batch_size", "expected"), [(1, 4), (3, 1), (5, 0)])
def test_a_run_goes_on_after_the_same_items_with_batches_of_another_size(run, caplog, batch_size, expected):
    """Six of ten items are used when it is stopped: the rest of the pass comes, then whole passes."""

    class Items(pl.Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.seen.append([item["path"] for item in batch[1]])

    first, second = Items(), Items()
    stopped, _ = run("autoencoder", Interrupt(3), first)
    per_pass = 10 // batch_size
    run("autoencoder", second, ckpt_path=stopped.checkpoint, batch_size=batch_size, max_steps=3 + expected + per_pass)
    assert f"resumed with {batch_size} items per batch (over all processes) instead of 2" in caplog.text
    used = [*chain.from_iterable(first.seen)]
    rest, whole = [*chain.from_iterable(second.seen[:expected])], [*chain.from_iterable(second.seen[expected:])]
    assert set(used).isdisjoint(rest) and len(set(rest)) == len(rest) == expected * batch_size
    assert len(set(whole)) == len(whole) == per_pass * batch_size


@pytest.fixture(scope="session")
def bucketed(tmp_path_factory, write_noises, noises):
    """``bucketed(kind)``: ten noises in batches of their length, as a folder or as shards; five batches of two per pass."""
    folder = write_noises(tmp_path_factory.mktemp("short"), 4, seconds=0.03)
    for name in ("04", "05", "06", "07", "08", "09"):
        shutil.copy(Path(noises["datasets"][0]["path"]) / f"{name}.wav", folder)
    shards = tmp_path_factory.mktemp("shards")
    pack(folder, str(shards))

    def config(kind):
        options = {"resampled_shards": False} if kind == "wds" else {}
        entry = {"id": "noises", "path": str(shards if kind == "wds" else folder), "caption": "noise"}
        return {"dataset_type": kind, "datasets": [entry], "length_buckets": [240, 256], **options}

    return config


@pytest.mark.parametrize("is_best", [False, True])
@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("kind", ["audio_dir", "wds"])
def test_a_pass_that_begins_anew_is_run_whole(run, bucketed, noises, caplog, kind, batch_size, is_best):
    """With length buckets, batches of another size begin the pass anew: ten batches of one, or two of five."""
    data, rest = bucketed(kind), Items()
    options = {"val_dataset_config": noises, "val_every": 3, "save_best": 1} if is_best else {}
    stopped, _ = run("uncond", Interrupt(4 if is_best else 3), dataset_config=data, **options)
    checkpoint = find_checkpoints(stopped.folder / "best")[0] if is_best else stopped.checkpoint
    assert checkpoint.name == "epoch=0-step=3.ckpt"
    per_pass = 10 // batch_size
    run("uncond", rest, dataset_config=data, ckpt_path=checkpoint, batch_size=batch_size, max_steps=3 + 2 * per_pass)
    assert "this pass begins anew" in caplog.text
    passes = [[*chain.from_iterable(rest.seen[first : first + per_pass])] for first in (0, per_pass)]
    assert [len(set(names)) for names in passes] == [len(names) for names in passes] == [10, 10]


def test_a_run_that_is_asked_to_stop_does_not_validate_first(run, noises):
    class Validations(pl.Callback):
        count = 0

        def on_validation_start(self, trainer, pl_module):
            self.count += 1

    validations = Validations()
    run("autoencoder", Interrupt(5), validations, val_dataset_config=noises)
    assert validations.count == 0
    run("autoencoder", validations, val_dataset_config=noises, max_steps=5)
    assert validations.count == 1


def test_every_periodic_checkpoint_resumes_bit_equal(run, uninterrupted):
    expected, _ = uninterrupted("diffusion")
    whole, losses = run("diffusion", checkpoint_every=3)
    assert losses == expected
    paths = find_checkpoints(whole.folder)
    assert [path.name for path in paths] == ["epoch=0-step=3.ckpt", "epoch=1-step=6.ckpt", "epoch=1-step=9.ckpt", "epoch=2-step=12.ckpt"]
    for index, path in enumerate(paths[:-1], start=1):
        _, rest = run("diffusion", ckpt_path=path)
        assert rest == expected[3 * index :]


def test_longer_training_goes_on_from_a_finished_run(run, uninterrupted):
    expected, _ = uninterrupted("adversary")
    short, first = run("adversary", max_steps=5)
    _, second = run("adversary", ckpt_path=short.checkpoint)
    assert first + second == expected


def test_recover_takes_the_newest_readable_checkpoint(run, uninterrupted, tmp_path, caplog):
    expected, _ = uninterrupted("autoencoder")
    where = {"save_dir": tmp_path, "name": "mine", "run_folder": tmp_path / "mine" / "20260101-000000"}
    first, losses = run("autoencoder", max_steps=7, checkpoint_every=4, **where)
    first.checkpoint.write_bytes(first.checkpoint.read_bytes()[:1000])
    caplog.set_level("INFO", "stable_audio_tools")
    result, rest = run("autoencoder", recover=True, save_dir=tmp_path, name="mine")
    assert losses[:4] + rest == expected
    assert result.folder == first.folder
    assert "not recovering from it" in caplog.text and "epoch=0-step=4.ckpt" in caplog.text


def test_recover_takes_what_was_written_last_not_the_highest_step_or_name(run, tmp_path):
    """A run that went back to an earlier checkpoint has left steps of the branch that it gave up."""
    where = {"save_dir": tmp_path, "name": "mine"}
    first, _ = run("autoencoder", max_steps=6, checkpoint_every=2, run_folder=tmp_path / "mine" / "zzz", **where)
    last, _ = run("autoencoder", max_steps=3, ckpt_path=find_checkpoints(first.folder)[0], **where)
    result, losses = run("autoencoder", max_steps=5, recover=True, **where)
    assert len(losses) == 2 and last.checkpoint.name.endswith("step=3.ckpt") and result.folder == first.folder
    other, _ = run("autoencoder", max_steps=1, run_folder=tmp_path / "mine" / "aaa", **where)
    assert run("autoencoder", max_steps=2, recover=True, **where)[0].folder == other.folder


def test_recover_starts_afresh_where_there_is_nothing(run, uninterrupted, tmp_path):
    expected, _ = uninterrupted("autoencoder")
    result, losses = run("autoencoder", recover=True, save_dir=tmp_path, name="mine")
    assert losses == expected and result.folder.parent == tmp_path / "mine"


def test_signals_are_given_back_and_a_second_one_does_not_wait(run):
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run("autoencoder", Interrupt(2), Watch())
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert seen[0] is not signal.SIG_DFL and seen[1] is signal.SIG_DFL


# ---- real processes: python train.py, killed at some moment ---------------------------------------------------------------------------


@pytest.fixture
def script(scripts, tmp_path, configs, write_noises):
    """``script(name, *flags, num_sounds=10)``: ``train.py`` on one of the configs and on noises."""
    return lambda name, *flags, num_sounds=10: scripts(configs[name], write_noises(tmp_path / "noises", num_sounds), *flags)


def losses_of(rows):
    """Step -> numbers of that step. A row of an adversarial game repeats the other player's last numbers; those are left out."""
    turns = (("step", "train/loss", "train/mrstft_loss", "train/gen_lr"), ("step", "train/discriminator_loss", "train/disc_lr"))
    kept = []
    for row in rows:
        own = turns[int(row["step"]) % 2] if "train/discriminator_loss" in row else row.keys()
        kept.append({key: row[key] for key in own if key != "epoch"})
    return kept


def assert_killing_is_harmless(script, number, *, whole_group, resume, extra=6):
    process = script.start("--checkpoint-every", "3", data="slow")
    script.wait_for_step(process, 3)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    assert process.wait(timeout=120) == 128 + number, script.log()
    last = find_checkpoints(script.folder / "runs")[-1]
    step = int(last.stem.rpartition("=")[2])
    assert re.search(
        rf"stopped at step {step}; go on with --ckpt-path '?{re.escape(str(last.relative_to(script.folder)))}'?\n", script.log()
    )
    assert len(script.rows()) == step
    steps = ("--max-steps", str(step + extra))
    flags = ("--recover",) if resume == "--recover" else ("--ckpt-path", str(last))
    assert script.start(*flags, *steps, data="slow").wait(timeout=120) == 0, script.log()
    assert script.start(*steps, save_dir="whole").wait(timeout=120) == 0, script.log()
    assert losses_of(script.rows()) == losses_of(script.rows("whole"))
    assert [int(row["step"]) for row in script.rows()] == list(range(step + extra))


@pytest.mark.slow  # in the quick suite: a process that is killed without warning, in test_every_wrapper.py
def test_killed_process_resumes_bit_equal(script):
    assert_killing_is_harmless(script("diffusion", "--num-workers", "0"), signal.SIGTERM, whole_group=False, resume="--ckpt-path")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the second process in /proc")
@pytest.mark.parametrize(("name", "target"), [("diffusion", "first"), ("adversary", "second"), ("arc", "first")])
def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(script, name, target):
    flags = ("--num-workers", "0", "--devices", "2", "--strategy", "ddp", "--checkpoint-every", "3")
    script = script(name, *flags, num_sounds=20)
    process = script.start(data="slow")
    script.wait_for_step(process, 3)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid if target == "first" else int(children[0]), signal.SIGTERM)
    assert process.wait(timeout=120) == 128 + signal.SIGTERM, script.log()
    assert len(list(script.folder.glob("runs/x/*"))) == 1, "one folder per run, whatever its processes"
    assert [script.log().count(line) for line in ("run folder: ", "last checkpoint: ", "stopped at step ")] == [1, 1, 1]
    last = find_checkpoints(script.folder / "runs")[-1]
    step = int(last.stem.rpartition("=")[2])
    assert script.start("--ckpt-path", str(last), "--max-steps", str(step + 3)).wait(timeout=120) == 0, script.log()
    assert [int(row["step"]) for row in script.rows()] == list(range(step + 3))


RANKS = """import json, os, sys
import pytorch_lightning as pl
import torch
from stable_audio_tools.training.run import TrainOptions, train

class Watch(pl.Callback):
    seen = []
    def on_before_backward(self, trainer, module, loss):
        self.seen.append([torch.randint(10**9, ()).item(), module.timestep_sampler(1).item()])
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.seen.append([item["relpath"] for item in batch[1]])

steps, checkpoint = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
result = train(TrainOptions(model_config="model.json", dataset_config="data.json", name="x", batch_size=2, num_workers=0, logger="csv",
    accelerator="cpu", devices=2, max_steps=steps, checkpoint_every=2, demos=False, show_progress=False, callbacks=[Watch()],
    ckpt_path=checkpoint))
with open(f"rank{os.environ['RANK']}-{steps}{'-resumed' if checkpoint else ''}.json", "w") as stream:
    json.dump({"seen": Watch.seen, "checkpoint": str(result.checkpoint), "is_there": result.checkpoint.is_file()}, stream)
"""


@pytest.mark.slow
def test_processes_share_a_folder_but_neither_items_nor_noise_and_resume_exactly(script):
    """Started by torchrun, so that nothing but the run itself can make them agree."""
    script = script("diffusion", num_sounds=20)
    (script.folder / "ranks.py").write_text(RANKS)

    def go(*arguments):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "ranks.py", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=script.folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr

    def told(name):
        return [json.loads((script.folder / f"rank{rank}-{name}.json").read_text()) for rank in (0, 1)]

    go("4")
    one, two = told("4")
    assert one["checkpoint"] == two["checkpoint"] and one["is_there"]
    assert len(list(script.folder.glob("runs/x/*"))) == 1
    assert len(one["seen"]) == len(two["seen"]) == 8
    items = [[name for entry in rank["seen"] if isinstance(entry[0], str) for name in entry] for rank in (one, two)]
    assert len({*items[0], *items[1]}) == 16, "every item once, whichever process has it"
    assert all(a != b for x, y in zip(one["seen"], two["seen"], strict=True) for a, b in zip(x, y, strict=True))
    go("4", str(find_checkpoints(script.folder / "runs")[0]))
    for whole, resumed in zip((one, two), told("4-resumed"), strict=True):
        assert resumed["seen"] == whole["seen"][4:]
    # one loadable file, with one set of weights, whatever the number of processes
    checkpoint = read_checkpoint(script.folder / one["checkpoint"])
    model = create_model_from_config(script.folder / "model.json")
    assert checkpoint.kind == "wrapped" and copy_state_dict(model, unwrap_state_dict(checkpoint.state_dict)).is_complete
    report = next(script.folder.glob("runs/x/*/report.txt")).read_text()
    assert report.count("memory: ") == 2, "told once per run, by the first process"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "whole_group", "workers", "flags"),
    [
        ("autoencoder", signal.SIGINT, True, 0, ()),
        ("autoencoder", signal.SIGTERM, True, 2, ()),
        ("adversary", signal.SIGTERM, False, 0, ()),
        ("adversary", signal.SIGINT, True, 2, ()),
        ("diffusion", signal.SIGTERM, True, 2, ()),
        ("diffusion", signal.SIGINT, True, 2, ("--accum-batches", "2")),
    ],
)
def test_killed_processes_of_all_kinds_resume_bit_equal(script, name, number, whole_group, workers, flags):
    assert_killing_is_harmless(script(name, "--num-workers", str(workers), *flags), number, whole_group=whole_group, resume="--recover")


class Items(pl.Callback):
    """The items of every batch; raises in one of them, counted from 0."""

    def __init__(self, fails_at=-1, hook="on_before_backward"):
        self.seen, self.fails_at, self.hook = [], fails_at, hook

    def _fail_in(self, hook):
        if hook == self.hook and len(self.seen) == self.fails_at + 1:
            raise DataError("something is wrong")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append([item["path"] for item in batch[1]])
        self._fail_in("on_train_batch_start")

    def on_before_backward(self, trainer, pl_module, loss):
        self._fail_in("on_before_backward")

    def on_validation_start(self, trainer, pl_module):
        self._fail_in("on_validation_start")


@pytest.mark.parametrize(("fails_at", "hook"), [(3, "on_before_backward"), (7, "on_train_batch_start"), (4, "on_validation_start")])
@pytest.mark.parametrize("name", ["uncond", "adversary"])
def test_a_run_that_fails_saves_what_it_has_learned_first(run, noises, caplog, name, fails_at, hook):
    validation = {"val_dataset_config": noises} if hook == "on_validation_start" else {}
    whole, failing, rest = Items(), Items(fails_at, hook), Items()
    run(name, whole, max_steps=15)
    folder = run(name, max_steps=1)[0].folder.parent / f"{name} {hook}"
    with pytest.raises(DataError, match="something is wrong"):
        run(name, failing, max_steps=9, run_folder=folder, checkpoint_every=2, save_top_k=1, **validation)
    earlier, saved = find_checkpoints(folder)  # also the good one from before
    assert earlier.name.endswith(f"step={fails_at - fails_at % 2}.ckpt")
    step = fails_at + (hook == "on_validation_start")
    assert saved.name.endswith(f"step={step}.ckpt") and f"saved step {step} before giving up: {saved}" in caplog.text
    resumed, _ = run(name, rest, max_steps=10, ckpt_path=saved)
    assert resumed.step == 10 and len(rest.seen) == 10 - step
    following = fails_at + 1
    per_pass = 5
    same_pass = per_pass - following % per_pass if following % per_pass else per_pass
    assert rest.seen[:same_pass] == whole.seen[following : following + same_pass], "the batch after the one that failed"


def test_a_run_that_fails_in_its_first_step_leaves_no_checkpoint(run, caplog):
    folder = run("uncond", max_steps=1)[0].folder.parent / "first"
    with pytest.raises(DataError):
        run("uncond", Items(0), run_folder=folder)
    assert find_checkpoints(folder) == [] and "before giving up" not in caplog.text


@pytest.mark.parametrize("val_every", [-1, 2])
def test_the_best_checkpoint_of_a_validation_resumes_bit_equal(run, uninterrupted, noises, val_every):
    options = {"val_dataset_config": noises, "val_every": val_every, "save_best": 9}
    expected, _ = uninterrupted("uncond")
    whole, losses = run("uncond", **options)
    assert losses == expected
    for path in find_checkpoints(whole.folder / "best"):
        step = int(path.stem.rpartition("=")[2])
        assert run("uncond", ckpt_path=path, **options)[1] == expected[step:], path.name
