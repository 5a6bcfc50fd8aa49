"""Reading weights files, so that every damaged, foreign or dangerous one is refused with what it is."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio_tools.checkpoint.kinds import Checkpoint, StateDict, kind_of
from stable_audio_tools.errors import CheckpointError


def load_ckpt_state_dict(ckpt_path: str | Path) -> StateDict:
    """The tensors of a ``.safetensors`` or ``.ckpt`` file, whatever it is. See `read_checkpoint`, which also says what it is."""
    return read_checkpoint(ckpt_path).state_dict


def read_checkpoint(path: str | Path, *, trust: bool = False) -> Checkpoint:
    """Read a weights file and tell what it is.

    Args:
        path: A ``.safetensors`` file, or one that torch saved.
        trust: Also read files that contain Python objects besides tensors. Such a file can run any code; only do this with your own.

    Raises:
        CheckpointError: If the file is missing, truncated, not a checkpoint, or would have to be trusted.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"{file}: {'is a folder, not a checkpoint file' if file.is_dir() else 'no such file'}")
    with file.open("rb") as stream:
        head = stream.read(64)
    _refuse_by_head(file, head)
    content = _read_safetensors(file) if _is_safetensors(file, head) else _read_torch(file, trust)
    state_dict = content.get("state_dict", content)
    if not isinstance(state_dict, Mapping) or not any(isinstance(value, Tensor) for value in state_dict.values()):
        raise CheckpointError(f"{file}: holds no state dict (a mapping from names to tensors); is it a model checkpoint?")
    extra = {key: value for key, value in content.items() if key != "state_dict"} if "state_dict" in content else {}
    return Checkpoint(str(file), kind_of(state_dict, extra), dict(state_dict), extra)


TORCH_HEADS = (b"PK", b"\x80")  # a zip file; the pickle that torch wrote before version 1.6


def _refuse_by_head(file: Path, head: bytes) -> None:
    """Say what a file is that is clearly no checkpoint."""
    if not head:
        raise CheckpointError(f"{file}: is empty; was it copied or downloaded completely?")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{file}: is a Git LFS pointer, not the weights; run 'git lfs pull' where it came from")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{file}: is a web page, not the weights; does the link that it came from ask to log in?")
    if not _is_safetensors(file, head) and not head.startswith(TORCH_HEADS):
        raise CheckpointError(f"{file}: is not a checkpoint: it begins with {head[:16]!r}")


def _is_safetensors(file: Path, head: bytes) -> bool:
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < file.stat().st_size:
        return True
    return file.suffix == ".safetensors" and not head.startswith(TORCH_HEADS)


def _read_safetensors(file: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: not a complete safetensors file ({error}); was it copied or downloaded completely?") from error


def _read_torch(file: Path, trust: bool) -> dict[str, Any]:
    try:
        source = io.BytesIO(file.read_bytes()) if file.suffix == ".safetensors" else file  # torch judges a path by its suffix
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_scalars()):
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # of a pickle that torch did not write: told below
            content = torch.load(source, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise CheckpointError(f"{file}: is not a checkpoint: a pickle, but not one that torch wrote") from error
        raise CheckpointError(
            f"{file}: contains Python objects besides tensors ({found[1]}); loading them can run any code, so it is refused; if the file "
            "is your own, convert it with read_checkpoint(path, trust=True)"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{file}: truncated or not a checkpoint ({file.stat().st_size:,} bytes; {reason}); was it copied or downloaded completely?"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, not a state dict")
    return content


def _numpy_scalars() -> list[Any]:
    """What a number of numpy (a loss, an epoch) is pickled as, by old and new names: harmless, and found in many training checkpoints."""
    import numpy

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        return []  # cannot be told the old names
    scalar: Any = type(numpy.float64(0)).__reduce__(numpy.float64(0))[0]
    dtypes = [type(numpy.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), numpy.dtype, *dtypes]
