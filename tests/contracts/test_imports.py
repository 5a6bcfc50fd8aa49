"""Every module imports by itself, and importing it does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import stable_audio_tools

PACKAGE = Path(stable_audio_tools.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if "configs" not in path.relative_to(PACKAGE).parts
)

# One process imports what we depend on; a copy of it (fork) then imports one of our modules and says what that has changed.
PROBE = """
import importlib, importlib.util, io, json, logging, os, random, signal, sys, tempfile, traceback, warnings
import matplotlib, numpy, pydantic, pytorch_lightning, safetensors.torch, soundfile, soxr, torch, typer
import torch.utils.tensorboard, transformers, matplotlib.figure, matplotlib.backends.backend_agg, scipy.signal, scipy.linalg
import av, einops, fsspec, peft, torchsde, tqdm.auto
for extra in ("gradio", "pyarrow.parquet"):
    importlib.util.find_spec(extra.partition(".")[0]) and importlib.import_module(extra)

def state():
    return {
        "environment variables": dict(os.environ),
        "working directory": os.getcwd(),
        "sys.path": list(sys.path),
        "warning filters": list(map(str, warnings.filters)),
        "root logger": (logging.getLogger().level, list(map(str, logging.getLogger().handlers))),
        "Lightning's logger": (logging.getLogger("pytorch_lightning").level, str(logging.getLogger("pytorch_lightning").handlers)),
        "our logger": (logging.getLogger("stable_audio_tools").level, str(logging.getLogger("stable_audio_tools").handlers)),
        "signal handlers": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "excepthook": str(sys.excepthook),
        "random numbers of Python": hash(random.getstate()),
        "random numbers of numpy": str(numpy.random.get_state()[2:]),
        "random numbers of torch": torch.get_rng_state().sum().item(),
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "default type of torch": str(torch.get_default_dtype()),
        "gradients": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 products": torch.get_float32_matmul_precision(),
        "torch.backends": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark),
        "compiler's cache": torch._dynamo.config.cache_size_limit if "torch._dynamo" in sys.modules else None,
        "matplotlib": [str(dict.__getitem__(matplotlib.rcParams, key)) for key in ("backend", "figure.dpi", "font.size")],
        "multiprocessing": __import__("multiprocessing").get_start_method(allow_none=True),
    }

def changes(name):
    before = state()  # here, since a fork reseeds Python's random numbers
    importlib.import_module(name)
    after = state()
    return [key for key in before if before[key] != after[key]]

results = {}
for name in sys.argv[1:]:
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as output:
        sys.stdout.flush()
        child = os.fork()
        if not child:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            try:
                found = {"changed": changes(name)}
            except BaseException:
                found = {"failed": traceback.format_exc()}
            sys.stdout.flush()
            sys.stderr.flush()
            os.write(writer, json.dumps(found).encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        text = b"".join(iter(lambda: os.read(reader, 65536), b""))
        os.close(reader)
        output.seek(0)
        results[name] = {**json.loads(text or b'{"failed": "died"}'), "printed": output.read().decode()}
print("RESULTS" + json.dumps(results))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, dict[str, object]]:
    command = [sys.executable, "-W", "ignore", "-c", PROBE, *MODULES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("RESULTS")[1])


def test_every_module_imports_alone(imported: dict[str, dict[str, object]]) -> None:
    assert {name: found["failed"] for name, found in imported.items() if "failed" in found} == {}
    assert len(imported) == len(MODULES) > 100


def test_importing_prints_nothing(imported: dict[str, dict[str, object]]) -> None:
    assert {name: found["printed"] for name, found in imported.items() if found["printed"]} == {}


def test_importing_changes_nothing(imported: dict[str, dict[str, object]]) -> None:
    assert {name: found["changed"] for name, found in imported.items() if found.get("changed")} == {}
