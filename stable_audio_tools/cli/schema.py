"""``sat schema``: JSON Schema of config files, for editors."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def schema(
    kind: Annotated[str, typer.Argument(help="'model' or 'dataset'.")] = "model",
) -> None:
    """Print the JSON Schema of model or dataset configs, from which editors complete keys and show their meaning."""
    from stable_audio_tools.config.json_schema import dataset_schema, model_schema

    makers = {"model": model_schema, "dataset": dataset_schema}
    if kind not in makers:
        raise typer.BadParameter(f"{kind!r}: 'model' or 'dataset'")
    print(json.dumps(makers[kind](), indent=2))
