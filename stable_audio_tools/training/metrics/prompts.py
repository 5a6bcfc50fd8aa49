"""Lists of prompts, from files."""

from __future__ import annotations

import csv
from pathlib import Path

from stable_audio_tools.errors import DataError

COLUMNS = ("caption", "prompt")


def read_prompts(path: str | Path) -> list[str]:
    """The prompts in a file: a column ``caption`` or ``prompt`` of a CSV file, or the lines of any other.

    Raises:
        DataError: If there are none.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as a list of prompts: {error}") from error
    lines = text.splitlines()
    if file.suffix.lower() == ".csv":
        rows = csv.DictReader(lines)
        column = next((name for name in COLUMNS if name in (rows.fieldnames or ())), None)
        if column is None:
            raise DataError(f"{file}: has no column {' or '.join(COLUMNS)}; its columns are {', '.join(rows.fieldnames or ()) or 'none'}")
        lines = [row[column] or "" for row in rows]
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise DataError(f"{file}: holds no prompt")
    return prompts
