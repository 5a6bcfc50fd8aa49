"""Anything: random sounds of every sort, to train a small general-purpose autoencoder on.

Where `synth` makes sounds that have names, this module only tries to leave no gap: an event (a struck, plucked, blown, spoken, rained or
electronic sound) is repeated, layered, coloured, put into a room and given a level, all at random.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stable_audio_tools.demo.canvas import Canvas, Signal, brightness_for, buzz, semitones, unit_peak, unit_rms
from stable_audio_tools.demo.synth import NUM_SAMPLES, SAMPLE_RATE, VOICES


def anything(rng: np.random.Generator, *, sample_rate: int = SAMPLE_RATE, num_samples: int = NUM_SAMPLES) -> NDArray[np.float32]:
    """One random sound; about 9 ms for 32,768 samples on one core.

    Args:
        rng: Source of all randomness; the same state gives the same sound.
        sample_rate: In Hz.
        num_samples: Length, in samples.

    Returns:
        float32 (T,), never silent throughout, peak between -30 and -0.3 dBFS. It may begin late, end early, or be cut at both ends as if
        it had been cropped from a longer recording.
    """
    canvas = Canvas(rng, sample_rate, num_samples)
    signal = np.zeros(num_samples)
    for _ in range(int(rng.choice([1, 2, 3], p=[0.62, 0.28, 0.1]))):
        signal += layer(canvas) * canvas.between(0.05, 1.0)
    for treatment, probability in TREATMENTS:
        if canvas.chance(probability):
            signal = treatment(canvas, signal)
    signal = framed(canvas, signal)
    peak_db = canvas.uniform(-30, -12) if canvas.chance(0.12) else canvas.uniform(-12, -0.3)
    return (unit_peak(signal) * 10 ** (peak_db / 20)).astype(np.float32)


def layer(canvas: Canvas) -> Signal:
    """One event of a random sort, perhaps repeated, perhaps late; unit peak, (T,)."""
    kind = int(canvas.rng.choice(len(EVENTS), p=[weight / TOTAL_WEIGHT for _, weight in EVENTS]))
    event = EVENTS[kind][0](canvas)
    if canvas.chance(0.12):
        event = repeated(canvas, event)
    if canvas.chance(0.3):
        event = later(event, round(canvas.rng.beta(1, 3) * 0.8 * canvas.num_samples))
    return unit_peak(event)


# Events: Canvas -> (T,)


def named_sound(canvas: Canvas) -> Signal:
    """One of the classes of `synth`, played faster or slower."""
    voice = VOICES[list(VOICES)[canvas.rng.integers(len(VOICES))]]
    speed = canvas.between(0.6, 1.6) if canvas.chance(0.6) else 1.0
    positions = np.arange(canvas.num_samples) * speed
    return np.interp(positions, np.arange(canvas.num_samples), voice(canvas).signal, right=0.0)


def shaped_noise(canvas: Canvas) -> Signal:
    """A band of noise under any envelope: cymbals, waves, wind, brushes, explosions, breath."""
    low = canvas.between(20, 6000)
    noise = canvas.noise(low if canvas.chance(0.8) else 0.0, low * canvas.between(1.3, 40), order=int(canvas.rng.integers(1, 5)))
    return noise * envelope(canvas)


def swept_noise(canvas: Canvas) -> Signal:
    """Noise through a resonance that wanders."""
    centre = canvas.between(200, 5000) * 2 ** (canvas.uniform(0.2, 2.5) * canvas.wander(canvas.between(0.7, 8)))
    return canvas.swept(canvas.noise(), centre, width_octaves=canvas.between(0.06, 1.2)) * envelope(canvas)


def blown(canvas: Canvas) -> Signal:
    """A held tone with vibrato, a glide and breath: winds, bowed strings, horns, whistles, synthesisers."""
    pitch = canvas.between(45, 2200)
    frequency = pitch * vibrato(canvas) * semitones(canvas.uniform(0, 1.0) * canvas.wander(2))
    if canvas.chance(0.25):
        frequency = frequency * semitones(canvas.uniform(-18, 18) * np.minimum(canvas.time / canvas.between(0.05, 1.5), 1))
    cutoff = canvas.between(1.0, 12) * pitch * 2 ** (canvas.uniform(0, 1) * canvas.wander(3))
    tone = buzz(canvas.phase(frequency), brightness_for(cutoff, frequency), odd=canvas.chance(0.3))
    breath = canvas.noise(pitch, canvas.between(3, 12) * pitch, order=1) * canvas.between(0.003, 0.3)
    return (formants(canvas, tone + breath) if canvas.chance(0.5) else tone + breath) * envelope(canvas)


def spoken(canvas: Canvas) -> Signal:
    """Syllables: a buzzing or whispered source, two mouth shapes between which it wanders: speech, barks, crows, cries, growls."""
    pitch = canvas.between(70, 1200)
    frequency = pitch * semitones(canvas.uniform(1, 9) * canvas.wander(canvas.between(1, 5))) * (1 + 0.02 * canvas.wander(40))
    voiced = buzz(canvas.phase(frequency), brightness_for(canvas.between(600, 5000), frequency))
    rough = 1 + canvas.uniform(0, 0.9) * np.sin(canvas.phase(canvas.between(20, 90))) if canvas.chance(0.3) else 1.0
    source = voiced * rough + canvas.between(0.01, 1.0) * canvas.noise(canvas.between(500, 3500))
    mouth = 0.5 + 0.5 * canvas.wander(canvas.between(2, 12))
    shaped = mouth * unit_rms(formants(canvas, source)) + (1 - mouth) * unit_rms(formants(canvas, source))
    vowels = np.clip(1.5 * canvas.wander(canvas.between(2, 9)) + canvas.uniform(0.2, 1.2), 0.01, 1)
    hiss = canvas.noise(canvas.between(1500, 6000), order=2) * np.clip(canvas.wander(8), 0, 1) * canvas.between(0.05, 1.5)
    return (shaped * vowels + hiss * (1 - vowels)) * envelope(canvas)


def modulated(canvas: Canvas) -> Signal:
    """Frequency modulation (Chowning, 1973): bells, brass, electric pianos, lasers, noise-like clangs."""
    pitch = canvas.between(50, 2500) * semitones(canvas.uniform(-36, 12) * (1 - canvas.decay(canvas.between(0.1, 2))) * canvas.chance(0.3))
    ratio = float(canvas.rng.choice([0.5, 1, 1, 2, 3, 4, 7, canvas.between(0.3, 9)]))
    index = canvas.between(0.2, 9) * canvas.decay(canvas.between(0.1, 6))
    return np.sin(canvas.phase(pitch) + index * np.sin(canvas.phase(pitch * ratio))) * envelope(canvas)


def piano_like(canvas: Canvas) -> Signal:
    """Struck strings: slightly stretched harmonics, two decays each, the treble dying first, and the thump of the hammer."""
    num_notes = int(canvas.rng.choice([1, 2, 3, 4], p=[0.7, 0.1, 0.15, 0.05]))
    roots = canvas.between(30, 2200) * semitones(np.sort(canvas.rng.integers(0, 20, num_notes)))
    order = np.arange(1, 41)
    stretch = order * np.sqrt(1 + canvas.between(2e-5, 2e-3) * order**2)  # (40,)
    frequencies = np.outer(roots, stretch).reshape(-1)
    strings = np.concatenate([frequencies, frequencies * semitones(canvas.uniform(0, 0.04))])  # (2 * notes * 40,)
    cutoff, longest = canvas.between(300, 4500), canvas.between(0.4, 12)
    levels = np.exp(-strings / cutoff) * canvas.rng.uniform(0.2, 1, strings.shape)
    t60 = longest / (1 + strings / canvas.between(400, 4000)) * np.where(np.arange(len(strings)) < len(frequencies), 1.0, 0.35)
    hammer = canvas.noise(60, 1500, order=2) * canvas.decay(canvas.between(0.02, 0.1)) * canvas.uniform(0, 0.3)
    return unit_peak(canvas.partials(strings, t60, levels)) + hammer


def plucked(canvas: Canvas) -> Signal:
    """One to five plucked strings, one after the other: guitars, harps, strums and flams."""
    root, gap = canvas.between(55, 900), canvas.between(0.01, 0.25)
    signal = np.zeros(canvas.num_samples)
    damping, t60 = canvas.between(0.02, 0.5), canvas.between(0.3, 8)
    for note in range(int(canvas.rng.choice([1, 2, 3, 5], p=[0.6, 0.15, 0.15, 0.1]))):
        pitch = root * float(semitones(int(canvas.rng.integers(0, 3 * note + 1))))
        string = canvas.string(pitch, t60_seconds=t60, damping=damping, pick_position=canvas.uniform(0.05, 0.5))
        signal += later(string, round(note * gap * canvas.sample_rate)) * canvas.uniform(0.4, 1)
    return formants(canvas, signal) if canvas.chance(0.4) else signal


def struck(canvas: Canvas) -> Signal:
    """Modes of a random object hit with something hard or soft: wood, metal, glass, stone, drums, steps, doors."""
    num_modes, lowest, spread = int(canvas.rng.integers(2, 40)), canvas.between(40, 2500), canvas.between(1.5, 20)
    frequencies = lowest * spread ** np.sort(canvas.rng.random(num_modes))
    t60 = canvas.between(0.03, 4) * (frequencies / lowest) ** -canvas.uniform(0, 1.5) * canvas.rng.uniform(0.3, 1.2, num_modes)
    ring = canvas.partials(frequencies, t60, canvas.rng.exponential(1, num_modes) * (frequencies / lowest) ** -canvas.uniform(0, 2))
    touch = canvas.noise(canvas.between(50, 3000), canvas.between(3500, 11000), order=1) * canvas.decay(canvas.between(0.01, 0.3))
    return unit_peak(ring) + touch * canvas.between(0.01, 0.5)


def thump(canvas: Canvas) -> Signal:
    """A low tone that sinks, with a knock: drums, stomps, shots."""
    pitch = canvas.between(30, 300) * (1 + canvas.between(0.05, 8) * np.exp(-canvas.time / canvas.between(0.005, 0.15)))
    tone = np.sin(canvas.phase(pitch)) * canvas.decay(canvas.between(0.08, 2))
    noise = canvas.noise(canvas.between(50, 2500), canvas.between(3000, 11000), order=1) * canvas.decay(canvas.between(0.02, 0.8))
    return np.tanh(canvas.between(0.5, 4) * (tone + canvas.between(0.01, 1) * noise))


def crackle(canvas: Canvas) -> Signal:
    """Impulses at random moments, each of its own strength, through a resonance: fire, rain, gravel, glass, snow, vinyl."""
    rate_hz = canvas.between(8, 3000)
    hits = canvas.rng.random(canvas.num_samples) < rate_hz / canvas.sample_rate * np.maximum(envelope(canvas), 0.02)
    impulses = (
        hits * canvas.rng.standard_normal(canvas.num_samples) * canvas.rng.exponential(1, canvas.num_samples) ** canvas.uniform(0.5, 2.5)
    )
    impulses[int(canvas.rng.integers(canvas.num_samples // 4))] = 1.0  # never silent
    ring = canvas.noise(canvas.between(80, 4000), canvas.between(4500, 11000), order=2) * canvas.decay(canvas.between(0.002, 0.12))
    hiss = canvas.noise(canvas.between(100, 4000), order=1) * canvas.between(1e-4, 0.1)
    return unit_peak(convolved(impulses, ring)) + hiss


def chirps(canvas: Canvas) -> Signal:
    """Short glides one after the other: birds, insects, squeaks, computers."""
    rate, pitch = canvas.between(2, 25), canvas.between(300, 5000)
    position = canvas.time * rate * (1 + 0.1 * canvas.wander(3)) + canvas.uniform(0, 0.3)
    number, way = np.floor(position).astype(int), position % 1.0
    glides = canvas.rng.normal(0, canvas.uniform(0.05, 0.7), (number.max() + 1, 2))  # octaves at the start and at the end of each
    bend = glides[number, 0] * (1 - way) + glides[number, 1] * way
    loudness = (canvas.rng.random(number.max() + 1) * (canvas.rng.random(number.max() + 1) < 0.8))[number]
    loudness[number == number.min()] = 1.0
    bursts = np.sin(np.pi * np.clip(way / canvas.uniform(0.3, 1.0), 0, 1)) ** canvas.uniform(0.5, 2)
    return buzz(canvas.phase(pitch * 2**bend), canvas.uniform(0.02, 0.6)) * bursts * loudness


def motor(canvas: Canvas) -> Signal:
    """A low buzz and noise that pulse together: engines, rotors, saws, purring, drum rolls."""
    rate = canvas.between(7, 140) * semitones(canvas.uniform(0, 6) * canvas.wander(2))
    phase = canvas.phase(rate)
    tone = buzz(phase, brightness_for(canvas.between(100, 3000), rate))
    pulse = (0.5 + 0.5 * np.sin(phase + canvas.uniform(0, 6.3))) ** canvas.between(0.3, 12)
    noise = canvas.noise(canvas.between(30, 1500), canvas.between(1600, 11000), order=1) * pulse
    mix = canvas.uniform(0, 1)
    return formants(canvas, mix * tone + (1 - mix) * noise) * envelope(canvas)


def rumble(canvas: Canvas) -> Signal:
    """Low noise that comes and goes: thunder, traffic, wind, surf, lava."""
    low = canvas.noise(0.0, canvas.between(60, 500), order=int(canvas.rng.integers(1, 4)))
    bubbles = np.sin(canvas.phase(canvas.between(80, 500) * 2 ** (1.5 * canvas.wander(canvas.between(3, 20)))))
    return (low + canvas.uniform(0, 0.5) * bubbles) * (0.6 + 0.4 * canvas.wander(canvas.between(1, 12))) * envelope(canvas)


def grains(canvas: Canvas) -> Signal:
    """A cloud of short tones of related pitch: coins, jingles, water, glitches, shimmering textures."""
    num_grains, spread = int(canvas.rng.integers(4, 40)), canvas.uniform(0.05, 2)
    pitches = canvas.between(200, 3500) * 2 ** (spread * canvas.rng.standard_normal(num_grains))
    if canvas.chance(0.4):
        pitches = pitches.min() * semitones(np.round(12 * np.log2(pitches / pitches.min())))
    size = max(round(canvas.between(0.01, 0.25) * canvas.sample_rate), 16)
    grain = np.arange(size) / size
    shape = np.sin(np.pi * grain ** canvas.uniform(0.15, 1)) ** 2
    signal = np.zeros(canvas.num_samples + size)
    for start, pitch in zip(canvas.rng.integers(0, canvas.num_samples, num_grains), pitches, strict=True):
        signal[start : start + size] += shape * np.sin(2 * np.pi * pitch / canvas.sample_rate * np.arange(size)) * canvas.uniform(0.1, 1)
    return signal[: canvas.num_samples]


def clicks(canvas: Canvas) -> Signal:
    """A click or two, or a steady tick: switches, clocks, latches, plugs."""
    signal = np.zeros(canvas.num_samples)
    gap = canvas.between(0.01, 0.6) * canvas.sample_rate
    starts = np.arange(0, canvas.num_samples, gap)[: int(canvas.rng.integers(1, 12))].astype(int)
    signal[starts] = canvas.rng.uniform(0.3, 1, len(starts)) * canvas.rng.choice([-1, 1], len(starts))
    ring = canvas.partials(canvas.rng.uniform(300, 9000, 6), canvas.between(0.003, 0.08), canvas.rng.random(6) + 0.01)
    return unit_peak(convolved(signal, ring)) + 1e-4 * canvas.noise()


EVENTS: tuple[tuple[Callable[[Canvas], Signal], float], ...] = (
    (named_sound, 4.0),
    (shaped_noise, 1.5),
    (swept_noise, 1.0),
    (blown, 2.0),
    (spoken, 2.5),
    (modulated, 1.0),
    (piano_like, 2.0),
    (plucked, 1.5),
    (struck, 2.5),
    (thump, 1.5),
    (crackle, 1.5),
    (chirps, 0.7),
    (motor, 1.2),
    (rumble, 0.8),
    (grains, 0.7),
    (clicks, 0.6),
)
TOTAL_WEIGHT = sum(weight for _, weight in EVENTS)


# Shapes and treatments


def envelope(canvas: Canvas) -> Signal:
    """How loud an event is over time: struck, held, swelling or pulsing; (T,) in [0, 1]."""
    kind = canvas.rng.choice(["struck", "held", "swelling", "pulsing", "steady"], p=[0.4, 0.25, 0.12, 0.08, 0.15])
    attack = np.minimum(canvas.time / canvas.between(0.001, 0.08), 1.0)
    length = canvas.between(0.05, 1.2) * canvas.duration_seconds
    if kind == "struck":
        return attack * canvas.decay(canvas.between(0.04, 4))
    if kind == "held":
        return canvas.gate(length, attack_seconds=canvas.between(0.003, 0.2), release_seconds=canvas.between(0.01, 0.4))
    if kind == "swelling":
        return (np.minimum(canvas.time / length, 1.0) ** canvas.uniform(0.5, 4)) * (canvas.time < 1.1 * length)
    if kind == "pulsing":
        return attack * (0.5 + 0.5 * np.cos(canvas.phase(canvas.between(1.5, 20)))) ** canvas.uniform(0.5, 6)
    return attack * (0.75 + 0.25 * canvas.wander(canvas.between(1, 10)))


def vibrato(canvas: Canvas) -> Signal:
    """A pitch ratio that trembles by up to half a semitone, from a random moment on; (T,)."""
    onset = np.clip(canvas.time / canvas.between(0.05, 1), 0, 1) ** 2
    return semitones(canvas.uniform(0, 0.5) * onset * np.sin(canvas.phase(canvas.between(3, 8))))


def formants(canvas: Canvas, signal: Signal) -> Signal:
    """Two to five broad resonances, as of a mouth, a body or a box; (T,) -> (T,)."""
    num_peaks = int(canvas.rng.integers(2, 6))
    centres = canvas.between(200, 1200) * np.cumprod(np.r_[1.0, canvas.rng.uniform(1.2, 2.6, num_peaks - 1)])
    widths = centres * canvas.rng.uniform(0.06, 0.4, num_peaks)
    gains = canvas.rng.uniform(0.2, 1, num_peaks) * 0.75 ** np.arange(num_peaks)
    gain = np.full(canvas.bins.shape, canvas.between(0.003, 0.1))
    for centre, width, level in zip(centres, widths, gains, strict=True):
        gain += level / (1 + ((canvas.bins - centre) / width) ** 2)
    return canvas.equalised(signal, gain)


def repeated(canvas: Canvas, signal: Signal) -> Signal:
    """The same event several times, not quite regularly; (T,) -> (T,)."""
    gaps = canvas.between(0.06, 0.6) * canvas.rng.uniform(0.8, 1.2, 12) * canvas.sample_rate
    starts = np.r_[0, np.cumsum(gaps)].astype(int)
    impulses = np.zeros(canvas.num_samples)
    kept = starts[starts < canvas.num_samples]
    impulses[kept] = canvas.rng.uniform(0.4, 1, len(kept))
    return convolved(impulses, signal * canvas.decay(canvas.between(0.2, 1.5)))


def coloured(canvas: Canvas, signal: Signal) -> Signal:
    """A random equaliser: a smooth curve of up to +-15 dB over log-frequency; (T,) -> (T,)."""
    knots = canvas.rng.uniform(-15, 15, 7)
    octaves = np.log2(np.maximum(canvas.bins, 20) / 20)
    return canvas.equalised(signal, 10 ** (np.interp(octaves, np.linspace(0, 10, 7), knots) / 20))


def in_a_room(canvas: Canvas, signal: Signal) -> Signal:
    """Add reverberation: noise that decays exponentially, the treble darker than the bass; (T,) -> (T,)."""
    tail = canvas.noise(canvas.between(50, 400), canvas.between(1500, 9000), order=1) * canvas.decay(canvas.between(0.1, 3))
    tail = later(tail, round(canvas.between(0.001, 0.04) * canvas.sample_rate))
    wet = unit_peak(convolved(signal, tail)) * canvas.between(0.03, 0.8)
    return unit_peak(signal) + wet


def dulled(canvas: Canvas, signal: Signal) -> Signal:
    """Cut off the treble, as a low sample rate or a wall does; (T,) -> (T,)."""
    return canvas.band(signal, 0.0, canvas.between(800, 9000), order=int(canvas.rng.integers(1, 9)))


def distorted(canvas: Canvas, signal: Signal) -> Signal:
    """Soft clipping; (T,) -> (T,)."""
    return np.tanh(canvas.between(1, 12) * unit_peak(signal))


def in_noise(canvas: Canvas, signal: Signal) -> Signal:
    """Add the noise floor of a recording, -70 to -30 dB; (T,) -> (T,)."""
    return unit_peak(signal) + canvas.noise(0.0, canvas.between(500, 11000), order=1) * canvas.between(3e-4, 0.03)


TREATMENTS: tuple[tuple[Callable[[Canvas, Signal], Signal], float], ...] = (
    (coloured, 0.4),
    (distorted, 0.1),
    (in_a_room, 0.3),
    (dulled, 0.15),
    (in_noise, 0.15),
)


def framed(canvas: Canvas, signal: Signal) -> Signal:
    """Faded to silence at the end, or cut short, or left as a crop from something longer; (T,) -> (T,)."""
    if canvas.chance(0.2):
        return signal
    end = canvas.between(0.08, 1.0) * canvas.duration_seconds if canvas.chance(0.35) else canvas.duration_seconds
    start = canvas.uniform(0, 0.3) if canvas.chance(0.1) else 0.0
    loudest = float(canvas.time[np.argmax(np.abs(signal))])
    end, start = max(end, loudest + 0.01), min(start, 0.9 * loudest)  # never only silence
    fade_out = np.clip((end - canvas.time) / canvas.between(0.003, 0.2), 0, 1)
    return signal * fade_out * np.clip((canvas.time - start) / 0.001, 0, 1)


def later(signal: Signal, num_samples: int) -> Signal:
    """Delay by a number of samples; what leaves the clip is lost; (T,) -> (T,)."""
    return np.r_[np.zeros(num_samples), signal][: len(signal)]


def convolved(signal: Signal, response: Signal) -> Signal:
    """The first T samples of the convolution of two signals; (T,), (T,) -> (T,)."""
    size = 2 * len(signal)
    return np.fft.irfft(np.fft.rfft(signal, size) * np.fft.rfft(response, size), size)[: len(signal)]
