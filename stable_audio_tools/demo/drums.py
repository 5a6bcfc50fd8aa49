"""Drums: voices made of pitch sweeps, damped modes, clusters of square waves and shaped noise.

Recipes after the analogue drum machines, see the "Synth Secrets" series (Sound On Sound, 2002, parts 32-40).
"""

from __future__ import annotations

import numpy as np

from stable_audio_tools.demo.canvas import Canvas, Signal, Take, extreme, unit_peak, unit_rms

HAT_RATIOS = np.array([1.0, 1.483, 1.8, 2.546, 2.63, 3.9])  # the six oscillators of the TR-808's cymbals, 205.3 Hz to 800 Hz
COWBELL_RATIO = 1.481  # 540 Hz and 800 Hz


def kick(canvas: Canvas) -> Take:
    """A sine wave whose pitch drops within milliseconds, driven into saturation, with a click."""
    pitch, t60, click = canvas.between(36, 66), canvas.between(0.22, 1.1), canvas.uniform(0, 0.35)
    drop = (canvas.between(2.5, 7) - 1) * np.exp(-canvas.time / canvas.between(0.012, 0.05))
    body = np.sin(canvas.phase(pitch * (1 + drop)) + canvas.uniform(0, 0.6)) * canvas.decay(t60)
    drive = canvas.between(0.7, 4)
    knock = unit_peak(canvas.noise(900, 6000)) * canvas.decay(canvas.between(0.008, 0.03))
    words = extreme(pitch, 43, "low", 57, "high") + extreme(t60, 0.36, "short", 0.75, "long") + extreme(click, 0.06, "soft", 0.26, "hard")
    return Take(np.tanh(drive * body) / np.tanh(drive) + click * knock, words)


def snare(canvas: Canvas) -> Take:
    """Two modes of a drum head, and the rattle of the wires below it."""
    pitch, t60, top = canvas.between(150, 270), canvas.between(0.16, 0.6), canvas.between(4000, 10000)
    head = np.sin(canvas.phase(pitch * (1 + 0.6 * np.exp(-canvas.time / 0.012)))) * canvas.decay(canvas.between(0.1, 0.25))
    second = np.sin(canvas.phase(pitch * canvas.uniform(1.5, 1.85))) * canvas.decay(canvas.between(0.06, 0.18))
    wires = canvas.noise(canvas.between(700, 1800), top, order=2) * canvas.decay(t60)
    stick = canvas.noise(2000) * canvas.decay(0.012)
    words = extreme(pitch, 175, "low", 235, "high") + extreme(t60, 0.24, "short", 0.45, "long") + extreme(top, 5200, "dark", 8200, "bright")
    return Take(head + 0.6 * second + canvas.uniform(0.25, 0.7) * wires + 0.2 * stick, words)


def closed_hat(canvas: Canvas) -> Take:
    """Metal that is stopped at once."""
    return hat(canvas, t60=canvas.between(0.045, 0.13), words=())


def open_hat(canvas: Canvas) -> Take:
    """Metal that rings on."""
    t60 = canvas.between(0.6, 1.8)
    return hat(canvas, t60=t60, words=extreme(t60, 0.8, "short", 1.3, "long"))


def hat(canvas: Canvas, *, t60: float, words: tuple[str, ...]) -> Take:
    """A cluster of six square waves and noise, high-passed."""
    base, edge, grit = canvas.between(180, 320), canvas.between(4200, 8000), canvas.uniform(0.2, 1.2)
    cluster = squares(canvas, base * HAT_RATIOS * canvas.rng.uniform(0.97, 1.03, 6))
    metal = unit_rms(canvas.band(cluster, edge, order=4)) + grit * canvas.noise(edge, order=4)
    strike = 1 + 0.8 * canvas.decay(0.03)
    return Take(metal * strike * canvas.decay(t60), words + extreme(edge, 5000, "dark", 6800, "bright"))


def squares(canvas: Canvas, frequencies_hz: Signal) -> Signal:
    """A sum of square waves, (P,) -> (T,). Their aliases are welcome: metal is inharmonic anyway."""
    start = canvas.rng.random(len(frequencies_hz))[:, None]
    turns = frequencies_hz[:, None] * canvas.time + start  # (P, T)
    return np.where(turns % 1.0 < 0.5, 1.0, -1.0).sum(axis=0)


def clap(canvas: Canvas) -> Take:
    """Several hands that do not quite meet: a few short bursts of noise, then the room."""
    centre, tail = canvas.between(850, 1700), canvas.between(0.2, 0.8)
    gaps = canvas.uniform(0.008, 0.014) * canvas.rng.uniform(0.8, 1.2, canvas.rng.integers(2, 5))
    starts = np.concatenate([[0.0], np.cumsum(gaps)])
    envelope = np.zeros(canvas.num_samples)
    for start in starts:
        since = canvas.time - start
        last = start == starts[-1]
        burst = np.exp(-np.maximum(since, 0) * 6.9 / (0.09 if last else 0.03)) * canvas.uniform(0.7, 1.0)
        envelope = np.maximum(envelope, np.where(since >= 0, burst, 0))
        if last:
            envelope += np.where(since >= 0, 0.35 * np.exp(-np.maximum(since, 0) * 6.9 / tail), 0)
    noise = canvas.noise(centre / 1.5, centre * 1.9, order=2) + 0.25 * canvas.noise(centre, 8000, order=2)
    return Take(noise * envelope, extreme(centre, 1020, "dark", 1420, "bright") + extreme(tail, 0.3, "short", 0.55, "long"))


def tom(canvas: Canvas) -> Take:
    """Three modes of a round membrane, whose pitch sinks a little while they ring."""
    pitch, t60 = canvas.between(82, 235), canvas.between(0.4, 1.3)
    bend = 1 + (canvas.uniform(1.15, 1.6) - 1) * np.exp(-canvas.time / canvas.between(0.03, 0.12))
    phase = canvas.phase(pitch * bend)
    head = np.sin(phase) * canvas.decay(t60)
    head += canvas.uniform(0.1, 0.35) * np.sin(1.594 * phase) * canvas.decay(0.5 * t60)  # zeros of the Bessel functions
    head += canvas.uniform(0.05, 0.25) * np.sin(2.136 * phase) * canvas.decay(0.35 * t60)
    stick = canvas.noise(300, 4000) * canvas.decay(canvas.between(0.02, 0.06))
    words = extreme(pitch, 115, "low", 170, "high") + extreme(t60, 0.55, "short", 0.95, "long")
    return Take(head + canvas.uniform(0.05, 0.25) * stick, words)


def cowbell(canvas: Canvas) -> Take:
    """Two square waves a little less than a fifth apart, with a hard edge and a short ring."""
    pitch, t60 = canvas.between(420, 740), canvas.between(0.25, 0.9)
    pair = squares(canvas, pitch * np.array([1.0, COWBELL_RATIO * canvas.uniform(0.985, 1.015)]))
    body = canvas.band(pair, 0.9 * pitch, canvas.between(2500, 5000), order=2)
    envelope = 0.6 * canvas.decay(0.05) + 0.4 * canvas.decay(t60)
    return Take(body * envelope, extreme(pitch, 500, "low", 630, "high") + extreme(t60, 0.36, "short", 0.65, "long"))
