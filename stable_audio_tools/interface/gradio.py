"""The web page of a model: `create_ui` builds it, with what the model's type can do."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stable_audio_tools.checkpoint import load_model_weights, load_pretransform_weights, weights_hash
from stable_audio_tools.config.check import parse_model_config
from stable_audio_tools.config.source import read_source
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.inference.device import pick_device
from stable_audio_tools.interface.pages import Session, page_of
from stable_audio_tools.models.adapters import stack_of
from stable_audio_tools.models.factory import create_model_from_config
from stable_audio_tools.models.pretrained import get_pretrained_model
from stable_audio_tools.optional import require

logger = logging.getLogger(__name__)
model: nn.Module | None = None  # of the page that was built last; pages themselves keep their own


def load_model(
    model_config: Mapping[str, Any] | None = None,
    model_ckpt_path: str | Path | None = None,
    pretrained_name: str | None = None,
    pretransform_ckpt_path: str | Path | None = None,
    device: str | torch.device | None = None,
    model_half: bool = False,
    preferred_dtype: torch.dtype | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Load a model to generate with.

    Args:
        model_config: Its config, together with ``model_ckpt_path``.
        model_ckpt_path: Unwrapped model, or training checkpoint.
        pretrained_name: Instead of both, a local folder or a Hugging Face id; see `get_pretrained_model`.
        pretransform_ckpt_path: Unwrapped autoencoder that replaces the pretransform's weights.
        device: Where to put it; the best there is if not given.
        model_half: In float16.
        preferred_dtype: In this data type.

    Returns:
        The model, in eval mode, and its config.

    Raises:
        ConfigError: Unless exactly one of the two ways to name a model is given.
        CheckpointError: If weights do not fit.
    """
    global model
    if (pretrained_name is None) == (model_config is None):
        raise ConfigError("name the model: either by a model config (and checkpoint), or by a pretrained name, not both")
    if pretrained_name is not None:
        if model_ckpt_path is not None:
            raise ConfigError("a pretrained model brings its weights; leave the checkpoint out, or give a model config with it")
        loaded, config = get_pretrained_model(pretrained_name)
    else:
        assert model_config is not None
        loaded, config = create_model_from_config(model_config), dict(model_config)
        if model_ckpt_path is None and config["model_type"] != "musicgen":
            raise ConfigError("a model config needs a checkpoint with the weights; only a pretrained MusicGen brings its own")
        if model_ckpt_path is not None:
            load_model_weights(loaded, model_ckpt_path)
    if pretransform_ckpt_path is not None:
        pretransform = getattr(loaded, "pretransform", None)
        if not hasattr(pretransform, "model"):
            raise ConfigError("--pretransform-ckpt-path needs a model with an 'autoencoder' pretransform")
        load_pretransform_weights(pretransform, pretransform_ckpt_path)  # type: ignore[arg-type]
    target = torch.device(device) if device is not None else pick_device("auto")
    model = loaded.to(target, torch.float16 if model_half else preferred_dtype).eval().requires_grad_(False)
    return model, config


def create_ui(
    model_config_path: str | Path | None = None,
    ckpt_path: str | Path | None = None,
    pretrained_name: str | None = None,
    pretransform_ckpt_path: str | Path | None = None,
    model_half: bool = False,
    gradio_title: str = "",
    lora_ckpt_paths: Sequence[str | Path] | None = None,
    default_prompt: str = "",
) -> Any:
    """Build the page of a model, with the controls that its type has.

    Args:
        model_config_path: Model config (JSON), together with ``ckpt_path``.
        ckpt_path: Unwrapped model, or training checkpoint.
        pretrained_name: Instead of both, a local folder or a Hugging Face id.
        pretransform_ckpt_path: Unwrapped autoencoder that replaces the pretransform's weights.
        model_half: Compute in float16.
        gradio_title: Above the page.
        lora_ckpt_paths: Adapter files; the page has a strength for each.
        default_prompt: What the prompt begins with.

    Returns:
        A ``gradio.Blocks``; ``.launch()`` shows it.

    Raises:
        ConfigError: Unless exactly one of the two ways to name a model is given.
        MissingExtraError: If gradio is not installed.
    """
    require("gradio", extra="ui", purpose="the web page")
    config = read_source(model_config_path, name="model config").data if model_config_path is not None else None
    loaded, config = load_model(config, ckpt_path, pretrained_name, pretransform_ckpt_path, model_half=model_half)
    identity = weights_hash(loaded.state_dict())
    for path in lora_ckpt_paths or ():
        stack_of(loaded).load(path)
    folder = Path(tempfile.mkdtemp(prefix="stable-audio-tools-"))
    config_path = folder / "model_config.json"
    config_path.write_text(json.dumps(config), encoding="utf-8")
    session = Session(loaded, parse_model_config(config_path), config_path, identity, folder, default_prompt)
    return page_of(session, gradio_title or pretrained_name or Path(str(ckpt_path or model_config_path)).name)
