"""Canvas: the length, the sample rate and the dice of one synthesised clip, and the building blocks of sound on it.

Letters: T audio samples, P partials (damped sine waves), N short-time frames, F frequency bins. All signals are numpy float64, (T,).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Signal = NDArray[np.float64]
LN_1000 = float(np.log(1000.0))  # an amplitude that falls by 60 dB falls by this many nepers


@dataclass(frozen=True)
class Canvas:
    """One clip to be painted on.

    Args:
        rng: Source of all randomness.
        sample_rate: In Hz.
        num_samples: Length T of every signal made here.
    """

    rng: np.random.Generator
    sample_rate: int
    num_samples: int

    @cached_property
    def time(self) -> Signal:
        """Seconds since the start, (T,)."""
        return np.arange(self.num_samples) / self.sample_rate

    @property
    def duration_seconds(self) -> float:
        """Length of the clip."""
        return self.num_samples / self.sample_rate

    def uniform(self, low: float, high: float) -> float:
        """A number from [low, high)."""
        return float(self.rng.uniform(low, high))

    def between(self, low: float, high: float) -> float:
        """A number from [low, high) whose logarithm is uniform: the natural law for pitches and durations."""
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < probability)

    def decay(self, t60_seconds: float) -> Signal:
        """From 1, falling by 60 dB in ``t60_seconds``; (T,)."""
        return np.exp(-self.time * (LN_1000 / t60_seconds))

    def gate(self, seconds: float, *, attack_seconds: float = 0.003, release_seconds: float = 0.02) -> Signal:
        """1 for ``seconds``, with raised-cosine edges that begin at 0 and end after ``seconds + release_seconds``; (T,)."""
        rise = np.clip(self.time / attack_seconds, 0.0, 1.0)
        fall = np.clip((seconds + release_seconds - self.time) / release_seconds, 0.0, 1.0)
        return 0.25 * (1 - np.cos(np.pi * rise)) * (1 - np.cos(np.pi * fall))

    def wander(self, rate_hz: float) -> Signal:
        """A smooth random curve in about [-1, 1] that changes direction about ``rate_hz`` times per second; (T,)."""
        num_knots = max(int(self.duration_seconds * rate_hz) + 2, 3)
        knots = self.rng.uniform(-1, 1, num_knots)
        position = np.linspace(0, num_knots - 1, self.num_samples)
        left = np.minimum(position.astype(int), num_knots - 2)
        ease = 0.5 - 0.5 * np.cos(np.pi * (position - left))
        return knots[left] * (1 - ease) + knots[left + 1] * ease

    def phase(self, frequency_hz: ArrayLike) -> Signal:
        """Phase in radians of an oscillator, starting at 0, whose frequency is a number or a curve (T,); (T,)."""
        step = np.broadcast_to(np.asarray(frequency_hz, dtype=np.float64), (self.num_samples,)) * (2 * np.pi / self.sample_rate)
        return np.cumsum(step) - step[0]

    def partials(self, frequencies_hz: ArrayLike, t60_seconds: ArrayLike, amplitudes: ArrayLike) -> Signal:
        """A sum of P exponentially damped sine waves of random phase: bells, strings, chords.

        A damped sine wave is a power z^n of one complex number. With n = block * a + b, z^n = z^(block * a) * z^b, so all partials together
        are one matrix product: 2.4 ms for 180 partials of 32,768 samples, against 70 ms for as many calls of sin and exp.

        Args:
            frequencies_hz: (P,); those above the Nyquist frequency are left out, and those 80 dB softer than the loudest.
            t60_seconds: (P,) or a number: how long each takes to fall by 60 dB.
            amplitudes: (P,) or a number.

        Returns:
            (T,).
        """
        frequencies, t60, amplitude = np.broadcast_arrays(*np.atleast_1d(frequencies_hz, t60_seconds, amplitudes))
        start = amplitude * np.exp(2j * np.pi * self.rng.random(frequencies.shape))  # (P,)
        keep = (frequencies < 0.48 * self.sample_rate) & (np.abs(amplitude) > 1e-4 * np.abs(amplitude).max())
        exponent = (2j * np.pi * frequencies[keep] - LN_1000 / t60[keep]) / self.sample_rate  # log of z, (P,)
        block = 256
        num_blocks = -(-self.num_samples // block)
        coarse = np.exp(np.arange(num_blocks)[:, None] * block * exponent) * start[keep]  # (T / block, P)
        fine = np.exp(exponent[:, None] * np.arange(block))  # (P, block)
        return (np.real(coarse) @ np.real(fine) - np.imag(coarse) @ np.imag(fine)).reshape(-1)[: self.num_samples]  # (T,)

    def held(self, frequencies_hz: ArrayLike, amplitudes: ArrayLike) -> Signal:
        """A sum of P undamped sine waves of random phase, written into the spectrum of the clip and therefore as quick for thousands.

        Frequencies are rounded to whole periods per clip (0.7 Hz at 1.5 s), which only changes by a little at which rate they beat.

        Args:
            frequencies_hz: (P,); those above the Nyquist frequency are left out.
            amplitudes: (P,) or a number.

        Returns:
            (T,).
        """
        frequencies, amplitude = np.broadcast_arrays(frequencies_hz, amplitudes)
        keep = frequencies < 0.48 * self.sample_rate
        spectrum = np.zeros(self.bins.shape, dtype=np.complex128)
        turns = np.exp(2j * np.pi * self.rng.random(frequencies.shape))
        np.add.at(spectrum, np.rint(frequencies[keep] * self.duration_seconds).astype(int), (amplitude * turns)[keep])
        return np.fft.irfft(spectrum, self.num_samples) * (self.num_samples / 2)

    def string(self, frequency_hz: float, *, t60_seconds: float, damping: float, pick_position: float) -> Signal:
        """A plucked string: a burst of noise going round a loop that loses energy and treble at every turn; (T,).

        The loop of Karplus and Strong (1983), y[n] = x[n] + g ((1 - s) y[n - N] + s y[n - N - 1]), tuned between whole N by an all-pass
        filter (Jaffe and Smith, 1983) and evaluated as one division of spectra. The spectrum is taken on a circle slightly outside the
        unit circle (an exponential window, undone afterwards), which presses the wrapped-around tail down by 80 dB. Everything in the
        loop must be causal for that: a fractional delay z^-N with a broken N is not, and rang at full scale near the Nyquist frequency.

        Args:
            frequency_hz: Pitch.
            t60_seconds: Decay of the fundamental.
            damping: s in [0, 0.5]; the larger, the faster the treble dies.
            pick_position: Where it is plucked, as a fraction of its length; 0.5 removes the even harmonics.
        """
        period = self.sample_rate / frequency_hz - damping  # samples; the loss filter delays by ``damping`` more
        whole = int(period - 0.5)
        tuning = (1 - (period - whole)) / (1 + (period - whole))
        excitation = np.zeros(self.num_samples)
        excitation[: whole + 1] = self.rng.uniform(-1, 1, whole + 1)
        pick = max(round(period * pick_position), 1)
        excitation[pick:] -= excitation[:-pick].copy()
        window = np.exp(-np.arange(self.num_samples) * (np.log(1e4) / self.num_samples))
        z = np.exp(np.log(1e4) / self.num_samples + 2j * np.pi * np.fft.rfftfreq(self.num_samples))  # (F,)
        gain = 10 ** (-3 * period / (self.sample_rate * t60_seconds))
        loop = gain * z**-whole * (tuning + 1 / z) / (1 + tuning / z) * ((1 - damping) + damping / z)  # (F,)
        return np.fft.irfft(np.fft.rfft(excitation * window) / (1 - loop), self.num_samples) / window

    def noise(self, low_hz: float = 0.0, high_hz: float | None = None, *, order: int = 3) -> Signal:
        """Gaussian noise of unit RMS between two frequencies; the skirts fall by 6 * order dB per octave; (T,)."""
        return unit_rms(self.band(self.rng.standard_normal(self.num_samples), low_hz, high_hz, order=order))

    def band(self, signal: Signal, low_hz: float = 0.0, high_hz: float | None = None, *, order: int = 3) -> Signal:
        """Keep what lies between two frequencies, with Butterworth filters of the given order; (T,) -> (T,).

        Their analogue response is multiplied onto the spectrum. It is causal, so that nothing rings before an onset (and, the spectrum
        being circular, at the end of the clip).
        """
        angles = np.pi * (2 * np.arange(order) + order + 1) / (2 * order)
        poles = np.exp(1j * angles)[:, None]  # of the low-pass at 1 rad/s, (order, 1)
        gain = np.ones(self.bins.shape, dtype=np.complex128)
        if low_hz > 0:
            gain[0] = 0
            gain[1:] /= np.prod(low_hz / (1j * self.bins[1:]) - poles, axis=0)
        if high_hz is not None:
            gain /= np.prod(1j * self.bins / high_hz - poles, axis=0)
        return self.equalised(signal, gain)

    @cached_property
    def bins(self) -> Signal:
        """Frequencies of the bins of a whole-clip spectrum, in Hz; (F,) with F = T // 2 + 1."""
        return np.arange(self.num_samples // 2 + 1, dtype=np.float64) * (self.sample_rate / self.num_samples)

    def equalised(self, signal: Signal, gain: Signal | NDArray[np.complex128]) -> Signal:
        """Multiply the whole-clip spectrum by ``gain`` (F,), see `bins`; (T,) -> (T,)."""
        return np.fft.irfft(np.fft.rfft(signal) * gain, self.num_samples)

    def swept(self, signal: Signal, centre_hz: Signal, *, width_octaves: float) -> Signal:
        """A band-pass whose centre moves: a bell curve over log-frequency, applied frame by frame; (T,) -> (T,).

        Args:
            signal: (T,).
            centre_hz: The centre at every sample, (T,).
            width_octaves: Standard deviation of the bell curve.
        """
        size, hop = 512, 128
        num_frames = -(-self.num_samples // hop) + size // hop - 1
        padded = np.zeros((num_frames - 1) * hop + size)
        padded[size - hop : size - hop + self.num_samples] = signal
        window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size))
        frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * window  # (N, size)
        middles = np.clip(np.arange(num_frames) * hop - size // 2 + hop, 0, self.num_samples - 1)
        log_frequency = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / self.sample_rate), 1.0))  # (F,)
        distance = (log_frequency - np.log2(centre_hz[middles])[:, None]) / width_octaves  # (N, F)
        frames = np.fft.irfft(np.fft.rfft(frames) * np.exp(-0.5 * distance**2), size) * window
        summed = np.zeros((num_frames + size // hop - 1, hop))
        for part in range(size // hop):
            summed[part : part + num_frames] += frames[:, part * hop : (part + 1) * hop]
        whole = summed.reshape(-1)[size - hop : size - hop + self.num_samples] * (2 * hop / size)
        return np.asarray(whole, dtype=np.float64)  # (T,)


class Take(NamedTuple):
    """What a voice played on a canvas.

    Attributes:
        signal: (T,), at any level.
        traits: What a listener could say about it: keys of `captions.TRAIT_WORDS`.
    """

    signal: Signal
    traits: tuple[str, ...] = ()


def extreme(value: float, low: float, low_trait: str, high: float, high_trait: str) -> tuple[str, ...]:
    """The trait of a value outside [low, high], or none: only what is clearly low is called low.

    >>> extreme(40.0, 46.0, "low", 58.0, "high")
    ('low',)
    """
    return (low_trait,) if value < low else (high_trait,) if value > high else ()


def buzz(phase: Signal, brightness: float | Signal, *, odd: bool = False) -> Signal:
    """A harmonic tone of unit RMS whose n-th harmonic has the amplitude ``brightness ** n``; (T,) -> (T,).

    The closed form of sum r^n sin(n phase): no loop over harmonics, and brightness may be a curve, which is a filter that moves.
    Moorer, "The Synthesis of Complex Audio Spectra by Means of Discrete Summation Formulas", 1976.

    Args:
        phase: Of the fundamental, in radians.
        brightness: r in (0, 1), a number or a curve (T,); see `brightness_for`.
        odd: Keep the odd harmonics only, as in a square wave: hollow.
    """
    r = np.minimum(np.asarray(brightness, dtype=np.float64), 0.995)
    if odd:  # half the difference between the series at phase and at phase + pi
        wave = r * np.sin(phase) * (1 + r**2) / ((1 + r**2) ** 2 - (2 * r * np.cos(phase)) ** 2)
        return wave * np.sqrt(2 * (1 - r**4)) / r
    wave = r * np.sin(phase) / (1 - 2 * r * np.cos(phase) + r**2)
    return wave * np.sqrt(2 * (1 - r**2)) / r


def brightness_for(cutoff_hz: float | Signal, frequency_hz: float | Signal) -> Signal:
    """The ``brightness`` of `buzz` with which a tone has lost 8.7 dB (1 neper) at ``cutoff_hz``."""
    return np.exp(-np.asarray(frequency_hz) / np.asarray(cutoff_hz))


def unit_rms(signal: Signal) -> Signal:
    """Scale to a root mean square of 1 (silence stays silence)."""
    return signal / max(float(np.sqrt(np.mean(signal**2))), 1e-12)


def unit_peak(signal: Signal) -> Signal:
    """Scale to a largest magnitude of 1 (silence stays silence)."""
    return signal / max(float(np.abs(signal).max()), 1e-12)


def semitones(steps: ArrayLike) -> Signal:
    """Frequency ratios of intervals in equal temperament; 12 semitones are an octave.

    >>> semitones([0, 12]).tolist()
    [1.0, 2.0]
    """
    return 2.0 ** (np.asarray(steps, dtype=np.float64) / 12)
