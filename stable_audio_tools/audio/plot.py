"""Pictures of sounds: log-mel spectrograms under waveforms, as PNG files. Needs no display and leaves matplotlib's state alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from stable_audio_tools.audio.spectrogram import log_mel


def spectrogram_image(
    audio: Tensor,
    sample_rate: int,
    path: str | Path,
    *,
    title: str = "",
    floor_db: float = -80.0,
    size_inches: tuple[float, float] = (6, 3),
) -> Path:
    """Draw the log-mel spectrogram of a clip, with its waveform above.

    Args:
        audio: (C, T) or (T,); channels are averaged.
        sample_rate: In Hz.
        path: PNG file to write.
        title: Text above the picture.
        floor_db: Level drawn as black, relative to the loudest point.
        size_inches: Width and height at 100 dots per inch.

    Returns:
        The path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mono = audio.detach().float().cpu()
    mono = mono.mean(dim=0) if mono.dim() == 2 else mono  # (T,)
    hop_samples = max(64, mono.shape[-1] // 1200)
    mel = log_mel(mono, sample_rate, n_fft=max(2048, 2 * hop_samples), hop_samples=hop_samples, num_mels=96)  # (M, L)
    seconds = mono.shape[-1] / sample_rate
    figure = Figure(figsize=size_inches, layout="constrained")
    FigureCanvasAgg(figure)
    wave, picture = figure.subplots(2, 1, sharex=True, height_ratios=[1, 3])
    step = max(1, mono.shape[-1] // 3000)
    wave.plot(torch.arange(0, mono.shape[-1], step).numpy() / sample_rate, mono[::step].numpy(), linewidth=0.5)
    wave.set_ylim(-1, 1)
    wave.set_yticks([])
    wave.set_title(title, fontsize=9)
    top = float(mel.max())
    picture.imshow(
        mel.numpy(), origin="lower", aspect="auto", extent=(0, seconds, 0, mel.shape[0]), vmin=top + floor_db, vmax=top, cmap="magma"
    )
    picture.set_yticks([])
    picture.set_ylabel("mel", fontsize=8)
    picture.set_xlabel("seconds", fontsize=8)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=100)  # pyright: ignore[reportUnknownMemberType]
    return target


def curves_image(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], path: str | Path, *, title: str = "", x_label: str = "step"
) -> Path:
    """Draw curves over steps, one panel each.

    Args:
        curves: Name -> (x values, y values).
        path: PNG file to write.
        title: Text above.
        x_label: Text below.

    Returns:
        The path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * max(1, len(curves)), 3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, max(1, len(curves)), squeeze=False)[0]
    for panel, (name, (x, y)) in zip(panels, curves.items(), strict=False):
        panel.plot(x, y, linewidth=0.7, alpha=0.4)
        window = max(1, len(y) // 40)
        smooth = [sum(y[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(y))]
        panel.plot(x, smooth, linewidth=1.5)
        panel.set_title(name, fontsize=9)
        panel.set_xlabel(x_label, fontsize=8)
        if y and min(y) > 0:
            panel.set_yscale("log")
    figure.suptitle(title, fontsize=10)  # pyright: ignore[reportUnknownMemberType]
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=100)  # pyright: ignore[reportUnknownMemberType]
    return target
