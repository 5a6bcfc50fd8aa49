"""Pages by model type: which controls there are, and what they ask of `generate_files`."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stable_audio_tools.audio import load, prepare_audio, save
from stable_audio_tools.audio.plot import spectrogram_image
from stable_audio_tools.config.model import (
    AutoencoderConfig,
    DiffusionAutoencoderConfig,
    DiffusionCondConfig,
    DiffusionCondInpaintConfig,
    DiffusionUncondConfig,
    LMConfig,
    ModelConfig,
    MusicgenConfig,
)
from stable_audio_tools.errors import ConfigError, StableAudioError
from stable_audio_tools.families import SAMPLERS
from stable_audio_tools.inference.clip_request import GenerationRequest, LoadedModel
from stable_audio_tools.inference.files import generate_files
from stable_audio_tools.models.adapters import stack_of
from stable_audio_tools.models.layers.parameters import dtype_of
from stable_audio_tools.sampling.run import default_sampler

TIMES = ("seconds_start", "seconds_total")  # conditions that the length says
Made = tuple[str, str, str]  # audio file, picture file, words


@dataclass(frozen=True)
class Session:
    """A model behind a page.

    Attributes:
        model: The model, ready to run.
        config: Its config.
        config_path: The same as a file.
        identity: `weights_hash` of its weights.
        folder: Where results go.
        default_prompt: What the prompt begins with.
        lock: One request at a time: a model keeps what it is computing, and adapters have one strength.
    """

    model: nn.Module
    config: ModelConfig
    config_path: Path
    identity: str
    folder: Path
    default_prompt: str = ""
    lock: Any = field(default_factory=threading.Lock)

    def generate(self, strengths: dict[str, float], **options: Any) -> Made:
        """Make one clip, in a folder of its own.

        Args:
            strengths: Of adapters, by name.
            **options: Of `GenerationRequest`. None, and an empty text or file, is left out.
        """
        given = {key: value for key, value in options.items() if value not in (None, "")}
        output = self.folder / uuid.uuid4().hex
        request = GenerationRequest(
            model_config=self.config_path, model=LoadedModel(self.model, self.identity), output=output, **given
        )  # fmt: skip
        with self.lock:
            for name, strength in strengths.items():
                stack_of(self.model).set_strength(strength, name)
            (path,) = generate_files(request)
        return _shown(path, f"seed {path.stem.rpartition('_')[2]}")

    def reconstruct(self, audio_file: str | None, steps: float | None = None) -> Made:
        """Encode a file and decode it again."""
        if not audio_file:
            raise ConfigError("there is nothing to encode: choose an audio file first")
        model: Any = self.model
        clip = load(audio_file)
        length = round(clip.samples.shape[-1] * self.config.sample_rate / clip.sample_rate)
        device = next(self.model.parameters()).device
        with self.lock, torch.no_grad():
            padded = -(-length // model.min_length) * model.min_length
            sizes = (self.config.sample_rate, padded, self.config.audio_channels)
            audio = prepare_audio(clip.samples, clip.sample_rate, *sizes, device).to(dtype_of(self.model))  # (1, C, T)
            if steps is None:
                latents = model.encode_audio(audio)
                decoded = model.decode_audio(latents)
            else:
                latents = model.encode(audio)
                decoded = model.decode(latents, steps=int(steps))
        path = self.folder / uuid.uuid4().hex / "reconstructed.wav"
        save(path, decoded[0, :, :length].float().cpu().clamp(-1, 1), self.config.sample_rate)
        shape = " x ".join(map(str, latents.shape[1:]))
        return _shown(path, f"latents {shape}, {decoded.shape[1] * length / max(1, latents[0].numel()):.1f} samples for each number")


def _shown(path: Path, words: str) -> Made:
    clip = load(path)
    return str(path), str(spectrogram_image(clip.samples, clip.sample_rate, path.with_suffix(".png"))), words


# ---- pages ------------------------------------------------------------------------------------------------------------------------


def page_of(session: Session, title: str) -> Any:
    """The page of a model, as ``gradio.Blocks``. Its one function has the API name ``generate``, or ``reconstruct``."""
    import gradio as gr

    with gr.Blocks(title=title, analytics_enabled=False) as page:
        gr.Markdown(f"# {title}")
        with gr.Row():
            with gr.Column():
                controls, call, name = _controls(gr, session)
                button = gr.Button("Generate" if name == "generate" else "Encode and decode", variant="primary")
            with gr.Column():
                results = [gr.Audio(label="Result", type="filepath"), gr.Image(label="Spectrogram", type="filepath"), gr.Markdown()]

        def answer(*values: Any) -> Made:
            with _as_message(gr):
                return call(dict(zip(controls, values, strict=True)))

        button.click(answer, list(controls.values()), results, api_name=name)
    return page.queue()


@contextmanager
def _as_message(gr: Any) -> Iterator[None]:
    """Show a user's mistake in the page."""
    try:
        yield
    except (StableAudioError, OSError) as error:
        raise gr.Error(str(error), print_exception=False) from error


def _controls(gr: Any, session: Session) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Made], str]:
    """Controls by name, what is done with their values, and what that is called."""
    config = session.config
    if isinstance(config, (AutoencoderConfig, DiffusionAutoencoderConfig)):
        controls = {"audio_file": gr.Audio(label="Audio", type="filepath")}
        if isinstance(config, DiffusionAutoencoderConfig):
            controls["steps"] = gr.Slider(1, 500, 100, step=1, label="Steps")
        return controls, lambda values: session.reconstruct(**values), "reconstruct"
    controls = _text_controls(gr, session)
    seconds = (config.sample_size or 10 * config.sample_rate) / config.sample_rate
    controls["seconds"] = gr.Number(round(seconds, 2), label="Seconds", minimum=0.01)
    controls["seed"] = gr.Number(-1, label="Seed (-1 draws one)", precision=0, minimum=-1)
    is_lm = isinstance(config, (LMConfig, MusicgenConfig))
    controls |= _drawing_controls(gr) if is_lm else _sampling_controls(gr, session)
    if not isinstance(config, DiffusionUncondConfig):
        few = getattr(session.model, "diffusion_objective", "") == "rf_denoiser"
        controls["cfg_scale"] = gr.Slider(0, 25, 3 if is_lm else 1 if few else 7, step=0.1, label="Guidance")
    controls["init_audio"] = gr.Audio(label="Audio to continue" if is_lm else "Audio to vary", type="filepath")
    if not is_lm:
        controls["init_noise_level"] = gr.Number(None, label="Strength of the variation (0 keeps the audio)", minimum=0)
    if isinstance(config, DiffusionCondInpaintConfig):
        controls["inpaint_audio"] = gr.Audio(label="Audio to fill a gap in", type="filepath")
        controls["mask_start"] = gr.Number(None, label="The gap begins (seconds)", minimum=0)
        controls["mask_end"] = gr.Number(None, label="The gap ends (seconds)", minimum=0)
    for name, strength in stack_of(session.model).strengths.items():
        controls[f"adapter {name}"] = gr.Slider(-2, 2, strength, step=0.05, label=f"Adapter {name}: strength")
    return controls, lambda values: _generate(session, values), "generate"


def _text_controls(gr: Any, session: Session) -> dict[str, Any]:
    config = session.config
    if isinstance(config, DiffusionUncondConfig):
        return {}
    controls = {"prompt": gr.Textbox(session.default_prompt, label="Prompt", autofocus=True)}
    if isinstance(config, DiffusionCondConfig):
        controls["negative_prompt"] = gr.Textbox(label="Negative prompt")
    conditioning = config.model.conditioning if isinstance(config, (DiffusionCondConfig, LMConfig)) else None
    for block in conditioning.configs if conditioning is not None else ():
        if block.id not in ("prompt", *TIMES):
            is_number = block.type in ("number", "int")
            lowest = block.value("min_val") or 0
            controls[f"condition {block.id}"] = gr.Number(lowest, label=block.id) if is_number else gr.Textbox(label=block.id)
    return controls


def _sampling_controls(gr: Any, session: Session) -> dict[str, Any]:
    model: Any = session.model
    objective = model.diffusion_objective
    steps = {"v": 100, "rf_denoiser": 8}.get(objective, 50)
    names = SAMPLERS.names(objectives=objective)
    return {
        "steps": gr.Slider(1, 500, steps, step=1, label="Steps"),
        "sampler": gr.Dropdown(names, value=default_sampler(objective), label="Sampler"),
    }


def _drawing_controls(gr: Any) -> dict[str, Any]:
    return {
        "temp": gr.Slider(0, 2, 1, step=0.05, label="Temperature"),
        "top_k": gr.Number(250, label="Likeliest tokens to draw among (0: all)", precision=0, minimum=0),
        "top_p": gr.Slider(0, 1, 0, step=0.01, label="Their probability (0: any)"),
    }


def _generate(session: Session, values: dict[str, Any]) -> Made:
    """From the values of a page's controls to what is asked of the model."""
    options, conditions, strengths = dict[str, Any](), dict[str, Any](), dict[str, float]()
    for name, value in values.items():
        kind, _, rest = name.partition(" ")
        if kind == "condition":
            conditions[rest] = value
        elif kind == "adapter":
            strengths[rest] = value
        elif name in ("steps", "seed", "top_k"):
            options[name] = int(value)
        elif name in ("init_audio", "inpaint_audio"):
            options[name] = Path(value) if value else None
        else:
            options[name] = value
    if "prompt" in options:
        options["prompts"] = [options.pop("prompt")]
    if options.get("cfg_scale") == 1:
        options.pop("negative_prompt", None)
    if options.get("init_audio") is None:
        options.pop("init_noise_level", None)
    return session.generate(strengths, conditions=conditions, **options)
