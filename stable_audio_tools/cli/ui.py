"""``sat ui`` and ``run_gradio.py``: a model in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def ui(
    pretrained_name: Annotated[str | None, typer.Option(help="Folder or Hugging Face id of a published model.")] = None,
    model_config: Annotated[Path | None, typer.Option(help="Model config (JSON), instead of --pretrained-name.")] = None,
    ckpt_path: Annotated[Path | None, typer.Option(help="Its weights: an unwrapped model or a training checkpoint.")] = None,
    pretransform_ckpt_path: Annotated[Path | None, typer.Option(help="Unwrapped autoencoder for the pretransform.")] = None,
    lora_ckpt_path: Annotated[
        list[Path] | None, typer.Option("--lora-ckpt-path", "--lora", help="Adapter file; may be given several times.")
    ] = None,
    title: Annotated[str, typer.Option(help="Above the page.")] = "",
    default_prompt: Annotated[str, typer.Option(help="What the prompt begins with.")] = "",
    model_half: Annotated[
        bool | None, typer.Option("--model-half/--no-model-half", help="Compute in float16; by default on CUDA only.")
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="Show the page to the internet, through a link of Gradio's.")] = False,
    username: Annotated[str | None, typer.Option(help="Ask visitors for this name, and the --password.")] = None,
    password: Annotated[str | None, typer.Option(help="Password of --username.")] = None,
    host: Annotated[str, typer.Option("--host", "--server-name", help="Address to listen at; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "--server-port", min=0, max=65535, help="Port; 0 takes a free one from 7860.")] = 0,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say more.")] = False,
) -> None:
    """Show a model as a web page, on this machine only unless --share or --host say otherwise."""
    from stable_audio_tools.cli.main import set_up_logging
    from stable_audio_tools.errors import ConfigError
    from stable_audio_tools.optional import require

    if verbose:
        set_up_logging(verbose=True)
    if (username is None) != (password is None):
        raise ConfigError("--username and --password belong together; give both, or none")
    require("gradio", extra="ui", purpose="the web page")
    import torch

    from stable_audio_tools.interface.gradio import create_ui

    page = create_ui(
        model_config_path=model_config,
        ckpt_path=ckpt_path,
        pretrained_name=pretrained_name,
        pretransform_ckpt_path=pretransform_ckpt_path,
        model_half=torch.cuda.is_available() if model_half is None else model_half,
        gradio_title=title,
        lora_ckpt_paths=lora_ckpt_path,
        default_prompt=default_prompt,
    )
    auth = (username, password) if username is not None and password is not None else None
    page.launch(share=share, auth=auth, server_name=host, server_port=port or None)


def script() -> None:
    """Entry point of ``run_gradio.py``."""
    from stable_audio_tools.cli.main import script_of

    script_of(ui)
