"""Writing files, so that a crash leaves the old file or the new one, and never half of one."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place only if the block succeeds, after its bytes are on disk."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_model_weights(state_dict: Mapping[str, Tensor], path: str | Path, *, metadata: Mapping[str, str] | None = None) -> Path:
    """Write an unwrapped model: ``.safetensors``, or ``{"state_dict": ...}`` for any other suffix. Atomic.

    Args:
        state_dict: Tensors by name.
        path: Where to.
        metadata: Strings for the header of a safetensors file.
    """
    target = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    with atomic_path(target) as temporary:
        if target.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file({name: tensor.clone() for name, tensor in tensors.items()}, temporary, dict(metadata or {}))
        else:
            torch.save({"state_dict": tensors}, temporary)
    return target


def weights_hash(state_dict: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits that identify a set of weights: the same for wrapped, unwrapped and safetensors files of one model."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
