"""Checkpoints that are folders: what FSDP and DeepSpeed write, one shard per process, made into one."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.checkpoint import Checkpoint, kind_of
from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.optional import require

WEIGHTS = ("model", "state_dict")  # what the weights are called among optimizer states
WRAPPING = re.compile(r"(^|\.)(_forward_module|module|_fsdp_wrapped_module|_orig_mod)(?=\.)")  # names that strategies put between others
MORE = "meta.pt"  # where Lightning's FSDP strategy keeps what is no tensor


def is_sharded(path: Path) -> bool:
    """Whether a path is a folder of shards."""
    return path.is_dir() and (_is_distributed(path) or _is_zero(path))


def _is_distributed(folder: Path) -> bool:
    return (folder / ".metadata").is_file()


def _is_zero(folder: Path) -> bool:
    return (folder / "zero_to_fp32.py").is_file() or any(folder.rglob("*_optim_states.pt"))


def read_sharded(path: str | Path) -> Checkpoint:
    """All shards of a checkpoint, put together in memory, in float32 as they were trained.

    Args:
        path: A folder that FSDP (``torch.distributed.checkpoint``) or DeepSpeed (ZeRO 2 or 3) wrote.

    Raises:
        CheckpointError: If it is neither, or a shard is missing or damaged.
        MissingExtraError: If DeepSpeed is needed and not installed.
    """
    folder = Path(path)
    if _is_distributed(folder):
        content = _read_distributed(folder)
    elif _is_zero(folder):
        content = _read_zero(folder)
    else:
        raise CheckpointError(f"{folder}: is a folder, but not one that FSDP or DeepSpeed wrote; give a checkpoint file")
    state_dict = {WRAPPING.sub(r"\1", key).replace("..", ".").lstrip("."): value for key, value in content.items()}
    more = folder / MORE
    extra = torch.load(more, map_location="cpu", weights_only=True) if more.is_file() else {}
    return Checkpoint(str(folder), kind_of(state_dict, extra), state_dict, extra)


def _read_distributed(folder: Path) -> dict[str, Tensor]:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".merging-") as temporary:
        whole = Path(temporary, "whole.pt")
        try:
            dcp_to_torch_save(folder, whole)
        except (Exception, CheckpointException) as error:  # the latter is no Exception; damaged files raise anything
            reason = str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
            raise CheckpointError(f"{folder}: a shard is missing or damaged ({reason}); was the whole folder copied?") from error
        content: dict[str, Any] = torch.load(whole, map_location="cpu", weights_only=True)
    for name in WEIGHTS:
        if isinstance(content.get(name), Mapping):
            content = content[name]
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def _read_zero(folder: Path) -> dict[str, Tensor]:
    require("deepspeed", extra="deepspeed", purpose="reading a folder that DeepSpeed wrote")
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint  # pyright: ignore[reportMissingImports]

    tag = None if (folder / "latest").is_file() else "checkpoint"  # the latter is what Lightning calls it
    try:
        return dict(get_fp32_state_dict_from_zero_checkpoint(str(folder), tag))
    except Exception as error:  # damaged files raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{folder}: a shard is missing or damaged ({reason}); was the whole folder copied?") from error
