"""How long `sat check` takes for a published config, against importing torch alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from timing import compare

CONFIG = Path(__file__).resolve().parents[1] / "stable_audio_tools/configs/model_configs/txt2audio/stable_audio_open_1_0.json"


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    check = "from stable_audio_tools.cli.main import main; main()"
    compare(
        "sat check stable_audio_open_1_0.json",
        lambda: run("-c", check, "check", str(CONFIG)),
        "import torch",
        lambda: run("-c", "import torch"),
    )
    compare("sat --help", lambda: run("-c", check, "--help"), "python -c pass", lambda: run("-c", "pass"))


if __name__ == "__main__":
    main()
