"""The inference script that users were given runs as it is written; only the library that it saves with is another."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from stable_audio_tools.audio import load
from stable_audio_tools.checkpoint import save_model_weights
from stable_audio_tools.models import create_model_from_config

PACKAGES = Path(__file__).resolve().parents[2]


def test_the_documented_script_runs(shared: Path, tmp_path: Path, tiny_diffusion: Any, randomise: Any) -> None:
    text = (shared / "seeds" / "002_99aea8e5354f910a.txt").read_text(encoding="utf-8")
    script = re.search(r"## 8\) Minimal Inference Script\s+```python\n(.*?)```", text, re.DOTALL)
    assert script is not None
    code = script.group(1).replace("import torchaudio", "from stable_audio_tools.audio import save").replace("torchaudio.save(", "save(")
    assert "torchaudio" not in code
    config = tiny_diffusion(objective="v")
    (tmp_path / "model_config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.manual_seed(0)
    model = randomise(create_model_from_config(config))
    save_model_weights(model.state_dict(), tmp_path / "model_unwrap.ckpt")
    (tmp_path / "script.py").write_text(code, encoding="utf-8")
    environment = {"PYTHONPATH": str(PACKAGES), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "error::UserWarning", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    made = sorted((tmp_path / "outputs" / "generated").iterdir())
    assert [path.name for path in made] == ["output_finetuned_0.wav", "output_finetuned_1.wav"]
    for path in made:
        audio = load(path)
        assert (audio.sample_rate, audio.samples.shape) == (8000, (1, 1024))
        assert 0.99 < float(audio.samples.abs().max()) <= 1
    assert not torch.equal(load(made[0]).samples, load(made[1]).samples)
