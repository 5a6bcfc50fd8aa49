"""Clips encoded once, before training: a diffusion model on latents then never sees audio again until it generates."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stable_audio_tools.audio import to_mono
from stable_audio_tools.checkpoint import atomic_path
from stable_audio_tools.config.base import PositiveInt
from stable_audio_tools.data.base import ItemDataset, ItemKey
from stable_audio_tools.demo.clips import Clip
from stable_audio_tools.errors import DataError
from stable_audio_tools.models.pretransforms.base import Pretransform


class EncodedClips(ItemDataset):
    """What `encode_clips` wrote: latents and, drawn anew each time, one of the captions of each clip.

    In a config: ``{"dataset_type": "stable_audio_tools.demo.latents:EncodedClips", "folder": ...}``.

    Args:
        folder: The folder.
        repeat: How often a pass goes through all clips, so that small sets fill large batches.
        drop_last: Leave out the last batch of a pass if it is not full. Read by the loader.

    Raises:
        DataError: If the folder holds no encoded clips.
    """

    def __init__(self, folder: str, repeat: PositiveInt = 1, drop_last: bool = True) -> None:
        super().__init__()
        path = Path(folder)
        try:
            latents = load_file(path / "latents.safetensors")["latents"]  # (N, D, L)
            clips = json.loads((path / "latents.json").read_text(encoding="utf-8"))
        except (OSError, KeyError, json.JSONDecodeError) as error:
            raise DataError(f"{path}: holds no encoded clips ({error})") from error
        self.latents = latents.repeat(repeat, 1, 1)
        self.clips: list[dict[str, Any]] = clips * repeat

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: int | ItemKey) -> tuple[Tensor, dict[str, Any]]:
        rng = random.Random(f"{key.seed}/{key.epoch}/{key.index}") if isinstance(key, ItemKey) else random
        index = key.index if isinstance(key, ItemKey) else key
        clip = self.clips[index]
        metadata = {
            "path": clip["path"],
            "prompt": rng.choice(clip["captions"]),
            "padding_mask": torch.ones(self.latents.shape[-1]),
        }
        return self.latents[index], metadata


@torch.no_grad()
def encode_clips(pretransform: Pretransform, clips: list[Clip], samples: Tensor, folder: Path, *, batch_size: int = 32) -> Tensor:
    """Encode clips and write latents and descriptions.

    Args:
        pretransform: An autoencoder; its mean is stored, not a sample.
        clips: N clips.
        samples: Their audio (N, 1, T).
        folder: Where to.
        batch_size: Clips at a time.

    Returns:
        Latents (N, D, L).
    """
    latents = torch.cat([pretransform.encode(to_mono(batch), sample=False) for batch in samples.split(batch_size)])
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "latents.safetensors") as path:
        save_file({"latents": latents.contiguous()}, path)
    descriptions = [{"path": clip.path, "name": clip.name, "captions": list(clip.captions)} for clip in clips]
    (folder / "latents.json").write_text(json.dumps(descriptions) + "\n", encoding="utf-8")
    return latents
