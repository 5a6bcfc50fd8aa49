"""``sat unwrap`` and ``unwrap_model.py``: make a model of a training checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def unwrap(
    model_config: Annotated[Path, typer.Option(help="Model config (JSON) the checkpoint was trained with.")],
    ckpt_path: Annotated[Path, typer.Option(help="Training checkpoint: a file, or the folder that FSDP or DeepSpeed wrote.")],
    name: Annotated[str, typer.Option(help="The new file: a name or path, without suffix.")] = "exported_model",
    use_safetensors: Annotated[bool, typer.Option("--use-safetensors", help="Write .safetensors instead of .ckpt.")] = False,
    pretransform_ckpt_path: Annotated[
        Path | None, typer.Option(help="Put this autoencoder (unwrapped) in the place of the model's pretransform.")
    ] = None,
    online: Annotated[bool, typer.Option("--online", help="Take the weights themselves, not their moving average.")] = False,
) -> None:
    """Write the model inside a training checkpoint to a file of its own, with averaged weights where there are some."""
    from stable_audio_tools.config.check import parse_model_config

    parse_model_config(model_config)  # mistakes are told before anything heavy is imported
    from stable_audio_tools.checkpoint import (
        copy_state_dict,
        load_pretransform_weights,
        read_checkpoint,
        refuse_other_model,
        save_model_weights,
        unwrap_state_dict,
    )
    from stable_audio_tools.errors import CheckpointError, ConfigError
    from stable_audio_tools.models import create_model_from_config_path

    suffix = ".safetensors" if use_safetensors else ".ckpt"
    target = Path(f"{name.removesuffix(suffix)}{suffix}")
    if target.name == suffix or target.is_dir():
        raise ConfigError(f"--name {name!r}: name the new file, for example --name my_model")
    if ckpt_path.is_dir():
        from stable_audio_tools.training.sharded import read_sharded

        checkpoint = read_sharded(ckpt_path)
    else:
        checkpoint = read_checkpoint(ckpt_path)
    if checkpoint.kind != "wrapped":
        raise CheckpointError(f"{ckpt_path}: is {checkpoint.description} already: there is nothing to unwrap")
    if "adapter" in checkpoint.extra:
        raise CheckpointError(
            f"{ckpt_path}: holds an adapter in training, not a model; its file lies in the run's folder, in adapters/, and "
            "'sat lora merge' makes a model of it and its base"
        )
    model = create_model_from_config_path(model_config)
    refuse_other_model(checkpoint, model.state_dict())
    state_dict = unwrap_state_dict(checkpoint.state_dict, use_ema=not online, path=str(ckpt_path))
    report = copy_state_dict(model, state_dict)
    if not report.is_complete:
        raise CheckpointError(f"{ckpt_path}: does not fit the model in {model_config}: {report}; was it trained with this config?")
    if pretransform_ckpt_path is not None:
        pretransform = getattr(model, "pretransform", None)
        if pretransform is None or not hasattr(pretransform, "model"):
            raise ConfigError("--pretransform-ckpt-path needs a model with an 'autoencoder' pretransform")
        load_pretransform_weights(pretransform, pretransform_ckpt_path)
    save_model_weights(model.state_dict(), target)
    print(f"{target}: {report}")


def script() -> None:
    """Entry point of ``unwrap_model.py``."""
    from stable_audio_tools.cli.main import script_of

    script_of(unwrap)
