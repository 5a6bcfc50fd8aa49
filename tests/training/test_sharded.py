"""Folders of shards, made into one."""

import shutil
import subprocess
import sys

import pytest
import torch
import torch.distributed.checkpoint as dcp

from stable_audio_tools.checkpoint import read_checkpoint, unwrap_state_dict, weights_hash
from stable_audio_tools.cli.unwrap import unwrap
from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.training.sharded import is_sharded, read_sharded

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch: that one process writes alone, and that storages are typed


@pytest.fixture(scope="module")
def whole(train_briefly, tiny_diffusion):
    return read_checkpoint(train_briefly(tiny_diffusion()).checkpoint)


@pytest.fixture
def folder(whole, tmp_path):
    """As Lightning's FSDP strategy writes it."""
    folder = tmp_path / "epoch=0-step=3.ckpt"
    dcp.save({"model": whole.state_dict, "optimizer_0": {"state": {"a": torch.ones(3)}}}, checkpoint_id=folder, no_dist=True)
    torch.save({"epoch": 0, "global_step": 3, "pytorch-lightning_version": "2.5.0", "loops": {}}, folder / "meta.pt")
    return folder


def test_shards_hold_what_one_file_does(whole, folder):
    assert is_sharded(folder)
    merged = read_sharded(folder)
    assert (merged.kind, merged.extra["global_step"]) == ("wrapped", 3)
    assert weights_hash(merged.state_dict) == weights_hash(whole.state_dict)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing is left behind"


def test_sat_unwrap_takes_the_folder(whole, folder, tiny_diffusion, tmp_path, capsys):
    (tmp_path / "m.json").write_text(__import__("json").dumps(tiny_diffusion()))
    unwrap(tmp_path / "m.json", folder, name=str(tmp_path / "model"), use_safetensors=True, online=False)
    assert "(100.0% of its weights)" in capsys.readouterr().out
    state = read_checkpoint(tmp_path / "model.safetensors").state_dict
    assert weights_hash(state) == weights_hash(unwrap_state_dict(whole.state_dict))


def test_names_that_strategies_put_in_between_are_left_out(whole, tmp_path):
    renamed = {f"_forward_module.{key.replace('diffusion.model.', 'diffusion._fsdp_wrapped_module.model.', 1)}": value
               for key, value in whole.state_dict.items()}  # fmt: skip
    dcp.save({"state_dict": renamed}, checkpoint_id=tmp_path / "x", no_dist=True)
    assert read_sharded(tmp_path / "x").state_dict.keys() == whole.state_dict.keys()


SHARDS = """import sys
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
whole = torch.load(sys.argv[1], weights_only=True)["state_dict"]
dcp.save({"model": {key: distribute_tensor(value, mesh, [Shard(0)]) if value.dim() else value for key, value in whole.items()}},
    checkpoint_id=sys.argv[2])
"""


@pytest.mark.slow
def test_shards_of_two_processes(whole, tmp_path):
    """Every tensor is spread over both, as fully sharded training leaves them."""
    (tmp_path / "shards.py").write_text(SHARDS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(tmp_path / "shards.py"), whole.path, str(tmp_path / "x.ckpt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "x.ckpt").glob("*.distcp"))) == 2
    assert weights_hash(read_sharded(tmp_path / "x.ckpt").state_dict) == weights_hash(whole.state_dict)


def test_folders_that_cannot_be_read(folder, tmp_path):
    shard = next(folder.glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"step=3\.ckpt: a shard is missing or damaged \(.*\); was the whole folder copied\?"):
        read_sharded(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(CheckpointError, match=r"is a folder, but not one that FSDP or DeepSpeed wrote; give a checkpoint file"):
        read_sharded(folder)
    assert not is_sharded(folder)


def test_a_deepspeed_folder_needs_deepspeed(tmp_path, monkeypatch):
    from stable_audio_tools.errors import MissingExtraError

    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    assert is_sharded(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "deepspeed", None)
    with pytest.raises(MissingExtraError, match=r"deepspeed is needed for reading a folder that DeepSpeed wrote"):
        read_sharded(tmp_path)
