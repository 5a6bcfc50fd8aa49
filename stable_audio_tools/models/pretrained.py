"""Published models: from a Hugging Face id or a local folder to a model with its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stable_audio_tools.checkpoint import assign_weights, read_checkpoint
from stable_audio_tools.errors import CheckpointError, ConfigError
from stable_audio_tools.models.factory import create_model_from_config
from stable_audio_tools.models.layers.parameters import without_weights

CONFIG_FILE = "model_config.json"
WEIGHTS_FILES = ("model.safetensors", "model.ckpt")  # in order of preference


def get_pretrained_model(
    name: str | Path, revision: str | None = None, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Load a published model.

    Files come from the local cache where they are there already, so that what was downloaded once works without network. The model is
    built without memory for its weights, which are then taken from the file, so that it needs memory only once.

    Args:
        name: A folder with ``model_config.json`` and ``model.safetensors`` or ``model.ckpt``, or the Hugging Face id of one.
        revision: Branch, tag or commit on the hub.
        device: Where to put the model; the CPU if not given.
        dtype: Data type of its weights; what the config says if not given.

    Returns:
        The model, in eval mode, and its config, as read from JSON.

    Raises:
        CheckpointError: If a file is missing or cannot be downloaded, or the weights do not fit the config.
        ConfigError: If the config is wrong.
    """
    config_path = find_file(name, (CONFIG_FILE,), revision)
    model_config = _read_config(config_path)
    weights_path = find_file(name, WEIGHTS_FILES, revision)
    with without_weights():
        model = create_model_from_config(model_config)
    assign_weights(model, read_checkpoint(weights_path))
    return model.eval().to(device=device, dtype=dtype), model_config


def find_file(name: str | Path, files: tuple[str, ...], revision: str | None = None) -> Path:
    """The first of several files that a folder or a repository of the hub has.

    A file counts as missing only if it is known not to exist; a failed download is an error.

    Raises:
        CheckpointError: If there is none, or the hub cannot be asked.
    """
    folder = Path(name)
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(f"{folder}: is a local folder, which has no revision {revision!r}")
        found = next((folder / file for file in files if (folder / file).is_file()), None)
        if found is None:
            raise CheckpointError(f"{folder}: has no {' or '.join(files)}; it has: {', '.join(_names(folder)) or 'nothing'}")
        return found
    for file in files:
        path = _from_hub(str(name), file, revision)
        if path is not None:
            return path
    raise CheckpointError(f"{name!r}: the repository has no {' or '.join(files)}; is it a model of this kind?")


def _from_hub(name: str, file: str, revision: str | None) -> Path | None:
    """A file of a repository, from the cache or the hub; None if the repository does not have it."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except LocalEntryNotFoundError as error:  # neither in the cache, nor could the hub be asked
        cached = try_to_load_from_cache(name, file, revision=revision)
        if cached is not None and not isinstance(cached, str):
            return None  # the hub said before that there is no such file
        raise CheckpointError(
            f"{name!r}: {file} is not in the local cache, and the hub cannot be reached; download it where there is network, or give a "
            "local folder that holds it"
        ) from error
    except EntryNotFoundError:
        return None
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name!r}: the hub gives it only to users who accepted its terms; do so at https://huggingface.co/{name}, then run: hf auth "
            "login"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{name!r}: has no revision {revision!r}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        where = "is neither a local folder nor a repository of the hub that you may read"
        raise CheckpointError(f"{name!r}: {where}; check the name") from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{name!r}: {file} could not be downloaded ({reason}); try again, or give a local folder") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: is not JSON ({error})") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: a model config is an object, got {config!r:.60}")
    return config


def _names(folder: Path, limit: int = 6) -> list[str]:
    names = sorted(path.name for path in folder.iterdir())
    return names[:limit] + (["..."] if len(names) > limit else [])
