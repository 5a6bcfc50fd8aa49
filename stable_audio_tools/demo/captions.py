"""Captions: what people would call the synthesised sounds.

Every class has a few names; a name is put into one of a dozen sentences, some of which say a trait of the sound as well. The prompts used
for evaluation are made of the same words in sentences that no caption uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.registry import closest

NOUNS: dict[str, tuple[str, ...]] = {
    "kick": ("kick drum", "kick", "bass drum", "808 style kick"),
    "snare": ("snare drum", "snare", "snare hit"),
    "closed hat": ("closed hi-hat", "closed hat", "closed hihat"),
    "open hat": ("open hi-hat", "open hat", "open hihat"),
    "clap": ("clap", "hand clap", "drum machine clap"),
    "tom": ("tom", "tom drum", "tom-tom", "tom hit"),
    "cowbell": ("cowbell", "cowbell hit", "808 style cowbell"),
    "bass": ("synth bass", "bass note", "synth bass note", "bass synthesizer"),
    "pluck": ("plucked string", "string pluck", "pluck", "plucked note"),
    "bell": ("bell", "church bell", "ringing bell", "bell strike"),
    "pad": ("synth pad", "pad", "pad chord", "ambient pad"),
    "sweep": ("noise sweep", "sweep", "sweep of noise", "filter sweep"),
    "blip": ("blip", "electronic blip", "computer blip", "beep"),
    "siren": ("siren", "alarm siren", "police siren", "electronic siren"),
}
CLASSES = tuple(NOUNS)
CLASS_SPEC = (  # for `classes.select_classes`: every caption matches its own class and no other
    "kick|bass drum,snare,closed hat|closed hi-hat|closed hihat,open hat|open hi-hat|open hihat,clap,tom,cowbell,"
    "bass|!drum,pluck|plucked,bell,pad,sweep,blip|beep,siren"
)

TRAIT_WORDS: dict[str, tuple[str, ...]] = {
    "low": ("low", "deep"),
    "high": ("high", "high-pitched"),
    "short": ("short", "tight"),
    "long": ("long", "sustained"),
    "bright": ("bright", "crisp"),
    "dark": ("dark", "muffled"),
    "soft": ("soft", "gentle"),
    "hard": ("hard", "clicky"),
    "rising": ("rising", "upward"),
    "falling": ("falling", "downward"),
    "slow": ("slow", "slowly moving"),
    "fast": ("fast", "quick"),
}

PLAIN = (
    "{a noun}",
    "{noun}",
    "{noun} sound",
    "the sound of {a noun}",
    "{noun}, one shot",
    "one single {noun}",
    "a sample of {a noun}",
    "just {a noun}",
)
DESCRIBED = (
    "{a trait} {noun}",
    "{trait} {noun}",
    "{noun}, {trait}",
    "the sound of {a trait} {noun}",
    "{trait} {noun} sample",
    "one {trait} {noun}",
)
PROMPTS = (
    "just the sound of one {noun}",
    "{a noun}, one single shot",
    "a sound sample: {noun}",
    "just one {noun} sound",
    "one shot of {a noun}",
    "the single sound of {a noun}",
)


def caption(name: str, rng: np.random.Generator, *, traits: Sequence[str] = ()) -> str:
    """One wording for a sound of a class.

    Args:
        name: One of `CLASSES`.
        rng: Source of the choice.
        traits: Keys of `TRAIT_WORDS` that are true of the sound. If there are any, about two captions in three say one.

    Raises:
        ConfigError: If there is no such class.
    """
    check_class(name)
    is_described = bool(traits) and rng.random() < 0.65
    template = _pick(DESCRIBED if is_described else PLAIN, rng)
    trait = _pick(TRAIT_WORDS[_pick(traits, rng)], rng) if is_described else ""
    return _fill(template, _pick(NOUNS[name], rng), trait)


def all_captions(name: str) -> frozenset[str]:
    """Every text that `caption` can return for a class."""
    check_class(name)
    words = [word for words in TRAIT_WORDS.values() for word in words]
    plain = {_fill(template, noun) for template, noun in product(PLAIN, NOUNS[name])}
    return frozenset(plain | {_fill(*parts) for parts in product(DESCRIBED, NOUNS[name], words)})


def test_prompt(name: str, index: int) -> str:
    """A prompt for evaluation: the words of the captions, in a sentence that is not one of them.

    Args:
        name: One of `CLASSES`.
        index: Any number from 0; the prompts repeat after ``len(PROMPTS) * len(NOUNS[name])``.

    >>> test_prompt("kick", 0)
    'just the sound of one kick drum'
    """
    check_class(name)
    nouns = NOUNS[name]
    return _fill(PROMPTS[index % len(PROMPTS)], nouns[(index // len(PROMPTS)) % len(nouns)])


test_prompt.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]  # pytest must not take it for a test


def check_class(name: str) -> None:
    """Refuse a name that is not one of `CLASSES`.

    Raises:
        ConfigError: With the nearest name.
    """
    if name not in NOUNS:
        guess = closest(name, CLASSES)
        raise ConfigError(f"unknown sound {name!r}; " + (f"did you mean {guess!r}?" if guess else f"known: {', '.join(CLASSES)}"))


def _fill(template: str, noun: str, trait: str = "") -> str:
    filled = template.replace("{a noun}", _with_article(noun)).replace("{a trait}", _with_article(trait))
    return filled.replace("{noun}", noun).replace("{trait}", trait)


def _with_article(words: str) -> str:
    """Put "a" or "an" before ``words``; "808" is read "eight-oh-eight"."""
    return f"{'an' if words[:1] in tuple('aeiou8') else 'a'} {words}"


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
