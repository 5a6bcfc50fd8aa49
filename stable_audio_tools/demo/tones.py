"""Tones: voices with a pitch or a moving colour: strings, bells, pads, sweeps and signals."""

from __future__ import annotations

import numpy as np

from stable_audio_tools.demo.canvas import Canvas, Take, brightness_for, buzz, extreme, semitones, unit_rms

# Ratio to the strike note, decay relative to the longest, amplitude. After Risset's bell (1969), as given in Dodge and Jerse (1997).
BELL_RATIOS = np.array([0.56, 0.561, 0.92, 0.922, 1.19, 1.7, 2.0, 2.74, 3.0, 3.76, 4.07])
BELL_DECAYS = np.array([1.0, 0.9, 0.65, 0.55, 0.325, 0.35, 0.25, 0.2, 0.15, 0.1, 0.075])
BELL_LEVELS = np.array([1.0, 0.67, 1.0, 1.8, 2.67, 1.67, 1.46, 1.33, 1.33, 1.0, 1.33])
CHORDS = ((0, 7, 12), (0, 4, 7), (0, 3, 7), (0, 5, 12), (0, 3, 10), (0, 4, 11), (0, 7, 16), (0, 7, 15))  # semitones


def bass(canvas: Canvas) -> Take:
    """Two oscillators and a sub-octave through a low-pass filter that closes after the attack."""
    pitch, cutoff, length = canvas.between(38, 98), canvas.between(160, 900), canvas.uniform(0.25, 0.95) * canvas.duration_seconds
    is_hollow = canvas.chance(0.4)
    filter_hz = cutoff * (1 + canvas.uniform(0.5, 5) * np.exp(-canvas.time / canvas.between(0.03, 0.25)))
    detune = 1 + canvas.uniform(0.0005, 0.006)
    wave = sum(
        buzz(canvas.phase(pitch * ratio) + canvas.uniform(0, 6.3), brightness_for(filter_hz, pitch), odd=is_hollow)
        for ratio in (detune, 1 / detune)
    )
    sub = np.sin(canvas.phase(pitch)) * canvas.uniform(0.3, 1.2)
    envelope = canvas.gate(length, release_seconds=canvas.uniform(0.04, 0.15)) * canvas.decay(canvas.between(2, 12))
    words = extreme(pitch, 48, "low", 78, "high") + extreme(length, 0.6, "short", 1.1, "long") + extreme(cutoff, 240, "dark", 560, "bright")
    return Take((wave + sub) * envelope, words)


def pluck(canvas: Canvas) -> Take:
    """A plucked string."""
    pitch, t60, damping = canvas.between(130, 620), canvas.between(1.0, 4), canvas.between(0.04, 0.4)
    string = canvas.string(pitch, t60_seconds=t60, damping=damping, pick_position=canvas.uniform(0.1, 0.45))
    body = canvas.band(string, 0.6 * pitch, canvas.between(3500, 9000), order=1)
    words = (
        extreme(pitch, 185, "low", 440, "high") + extreme(t60, 1.4, "short", 2.8, "long") + extreme(damping, 0.07, "bright", 0.24, "dark")
    )
    return Take(body, words)


def bell(canvas: Canvas) -> Take:
    """Inharmonic partials, the high ones dying first, some in pairs that beat."""
    pitch, longest, tilt = canvas.between(420, 1500), canvas.between(2.5, 8), canvas.uniform(-0.9, 0.2)
    ratios = BELL_RATIOS * canvas.rng.uniform(0.985, 1.015, BELL_RATIOS.shape)
    ring = canvas.partials(pitch * ratios, longest * BELL_DECAYS, BELL_LEVELS * ratios**tilt * canvas.rng.uniform(0.5, 1.2, ratios.shape))
    strike = canvas.noise(pitch, 9000, order=2) * canvas.decay(0.015)
    words = (
        extreme(pitch, 560, "low", 1050, "high") + extreme(longest, 3.4, "short", 5.6, "long") + extreme(tilt, -0.55, "dark", 0.0, "bright")
    )
    return Take(unit_rms(ring) + canvas.uniform(0.1, 0.6) * strike, words)


def pad(canvas: Canvas) -> Take:
    """A held chord: three notes, five detuned voices each, its colour drifting between two filters."""
    root, cutoff, attack = canvas.between(105, 300), canvas.between(350, 2200), canvas.between(0.06, 0.5)
    notes = root * semitones(CHORDS[canvas.rng.integers(len(CHORDS))])  # (3,)
    voices = np.repeat(notes, 5) * semitones(canvas.rng.normal(0, canvas.uniform(0.04, 0.14), 15))  # (15,)
    harmonics = np.arange(1, 25)
    frequencies = np.outer(voices, harmonics).reshape(-1)  # (15 * 24,)
    levels = np.tile(harmonics**-0.8, len(voices)) * canvas.rng.uniform(0.6, 1.0, frequencies.shape)
    dark, bright = (canvas.held(frequencies, levels * np.exp(-frequencies / hz)) for hz in (0.6 * cutoff, 1.5 * cutoff))
    mix = 0.5 + 0.5 * np.sin(canvas.phase(canvas.between(0.3, 2.5)) + canvas.uniform(0, 6.3))
    rise = 0.12 + 0.88 * np.minimum(canvas.time / attack, 1.0)
    fall = np.clip((canvas.duration_seconds - canvas.time) / canvas.uniform(0.1, 0.4), 0, 1)
    words = extreme(root, 140, "low", 225, "high") + extreme(cutoff, 560, "dark", 1400, "bright") + (("slow",) if attack > 0.3 else ())
    return Take((dark * mix + bright * (1 - mix)) * rise * fall, words)


def sweep(canvas: Canvas) -> Take:
    """Noise through a resonance that travels up or down."""
    is_rising, width, length = canvas.chance(0.5), canvas.uniform(0.15, 0.6), canvas.uniform(0.5, 0.97) * canvas.duration_seconds
    low, high = canvas.between(200, 500), canvas.between(4000, 8500)
    way = np.clip(canvas.time / length, 0, 1) ** canvas.between(0.6, 1.7)
    centre = low * (high / low) ** (way if is_rising else 1 - way)
    swell = 0.15 + 0.85 * (way if is_rising and canvas.chance(0.6) else np.minimum(canvas.time / 0.1, 1))
    noise = canvas.swept(canvas.noise(), centre, width_octaves=width) / np.sqrt(centre)  # as loud at every centre
    words = ("rising" if is_rising else "falling", *extreme(length, 0.9, "short", 1.25, "long"))
    return Take(noise * swell * canvas.gate(length, release_seconds=0.06), words)


def blip(canvas: Canvas) -> Take:
    """A short electronic tone, sometimes with a step in its pitch."""
    pitch, length = canvas.between(550, 2600), canvas.between(0.05, 0.2)
    has_step = canvas.chance(0.4)
    step = float(semitones(canvas.rng.choice([-12, -7, -5, 4, 5, 7, 12]))) if has_step else 1.0
    phase = canvas.phase(np.where(canvas.time < 0.5 * length, pitch, pitch * step))
    brightness = canvas.uniform(0.05, 0.75)
    tone = buzz(phase, brightness, odd=canvas.chance(0.5)) * canvas.gate(length, attack_seconds=0.002, release_seconds=0.012)
    words = extreme(pitch, 850, "low", 1700, "high") + extreme(length, 0.08, "short", 0.14, "long")
    return Take(tone, words + (("rising" if step > 1 else "falling",) if has_step else ()))


def siren(canvas: Canvas) -> Take:
    """A loud tone that goes up and down, smoothly or between two notes."""
    pitch, rate, depth = canvas.between(480, 1150), canvas.between(1.3, 7), canvas.uniform(0.2, 0.55)
    turn = np.sin(canvas.phase(rate) + canvas.uniform(0, 6.3))
    shape = canvas.rng.choice(["sine", "triangle", "two-tone"])
    bend = {"sine": turn, "triangle": np.arcsin(turn) * (2 / np.pi), "two-tone": np.tanh(12 * turn)}[str(shape)]
    frequency = pitch * 2 ** (depth * bend)
    tone = buzz(canvas.phase(frequency), brightness_for(canvas.between(700, 3000), frequency), odd=canvas.chance(0.3))
    words = extreme(pitch, 620, "low", 900, "high") + extreme(rate, 2.2, "slow", 4.2, "fast")
    return Take(tone * canvas.gate(0.93 * canvas.duration_seconds, release_seconds=0.05), words)
