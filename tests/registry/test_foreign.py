"""Parts outside this repository, named "package.module:Thing": checked from their source, imported only to be built."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stable_audio_tools.errors import ConfigError
from stable_audio_tools.families import CONDITIONERS

PARTS = '''
"""Conditioners of my own."""
from __future__ import annotations
import torch
import loudness_kit.base as kit
from typing import TYPE_CHECKING, Literal, Optional
from stable_audio_tools.models.conditioners.base import Condition, Conditioner
from .base import Base
from . import base
from loudness_kit.base import Base as Other
if TYPE_CHECKING:
    from nowhere import Thing

def helper(*args, **kwargs):
    """Not a part; may swallow what it likes."""

class Loudness(Conditioner):
    """Embeds loudness.

    Args:
        output_dim: Width.
        min_lufs: Quietest expected loudness, in LUFS.
    """
    def __init__(self, output_dim: int, *, min_lufs: float = -60.0, unit: Literal["lufs", "db"] = "lufs"):
        super().__init__(output_dim, output_dim)
        self.min_lufs = min_lufs
        self.weight = torch.nn.Parameter(torch.zeros(output_dim))
    def forward(self, values, device):
        level = torch.tensor(values, device=device) / self.min_lufs
        return Condition(level[:, None, None] * self.weight, torch.ones(len(values), 1))

class FromRelative(Base):
    """Inherits."""
class FromAbsolute(Other):
    """Inherits."""
class FromModule(kit.Base):
    """Inherits."""
class FromSibling(base.Base):
    """Inherits."""
class Quoted(Conditioner):
    """Types that only a type checker sees."""
    def __init__(self, output_dim: "int", x: "Thing" = None, y: Optional["Thing"] = None, z: torch.Tensor | None = None):
        super().__init__()
class Greedy(Conditioner):
    """Swallows."""
    def __init__(self, output_dim: int, **kwargs): ...
class Stray(torch.nn.Module):
    """Is no conditioner."""
    def __init__(self, output_dim: int): ...
'''
BASE = '''
from stable_audio_tools.models.conditioners.base import Conditioner
class Base(Conditioner):
    """Base.

    Args:
        gain: How loud.
    """
    def __init__(self, output_dim: int, *, gain: float = 1.0):
        super().__init__(output_dim, output_dim)
        self.gain = gain
'''
MARKED = '''
"""Never imported, since that would register them."""
from stable_audio_tools.families import CONDITIONERS, SAMPLERS
from . import alien
class Own(Own):
    """Its own base, as far as its name says."""
@CONDITIONERS.register("decorated", renamed={"width": "size"})
def decorated(output_dim: int, size: int = 1):
    """Says that it is one."""
    return size
@SAMPLERS.register("elsewhere")
def elsewhere(output_dim: int):
    """Of another family."""
@alien.CONDITIONERS.register("aliens")
def aliens(output_dim: int):
    """Of another library."""
'''
ALIEN = '''
class Registry:
    def register(self, name):
        return lambda thing: thing
CONDITIONERS = Registry()
@CONDITIONERS.register("x")
def other(output_dim: int):
    """Of another library with a registry of this name."""
'''


RAISING = """
from stable_audio_tools.models.conditioners.base import Conditioner
class Thing(Conditioner):
    def __init__(self): ...
raise RuntimeError("boom")
"""


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """A user's package ``loudness_kit`` on the path; returns which of its modules have been imported."""
    files = {"__init__": "", "parts": PARTS, "base": BASE, "alien": ALIEN, "marked": MARKED, "broken": "def (:", "raising": RAISING}
    for name, text in files.items():
        path = tmp_path / "loudness_kit" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    def imported() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] == "loudness_kit"]

    def forget() -> None:
        for name in imported():
            del sys.modules[name]
        for known in (CONDITIONERS._foreign, CONDITIONERS._schemas):
            for name in [name for name in known if name.startswith("loudness_kit")]:
                del known[name]

    forget()
    yield imported
    forget()


def test_checking_imports_neither_the_module_nor_its_package(kit: Callable[[], list[str]]) -> None:
    name = "loudness_kit.parts:Loudness"
    assert [(m.path, m.message) for m in CONDITIONERS.check(name, {"min_luffs": -50, "unit": "sone"})] == [
        ("unit", "input should be 'lufs' or 'db', got 'sone'"),
        ("min_luffs", "unknown key; did you mean 'min_lufs'?"),
    ]
    assert CONDITIONERS.check(name, {"min_lufs": -50, "output_dim": 3}) == []
    assert CONDITIONERS.part(name).summary == "Embeds loudness."
    assert kit() == []


def test_building_imports_and_builds_it(kit: Callable[[], list[str]]) -> None:
    part = CONDITIONERS.build("loudness_kit.parts:Loudness", {"min_lufs": -50}, output_dim=3)
    assert (part.min_lufs, part.output_dim) == (-50, 3)
    assert "loudness_kit.parts" in kit()
    embedding, _ = part([-25.0], "cpu")
    assert embedding.shape == (1, 1, 3)


@pytest.mark.parametrize("name", ["FromRelative", "FromAbsolute", "FromModule", "FromSibling"])
def test_an_inherited_constructor_is_found(kit: Callable[[], list[str]], name: str) -> None:
    assert CONDITIONERS.check(f"loudness_kit.parts:{name}", {"gain": 2.0}) == []
    assert [m.message for m in CONDITIONERS.check(f"loudness_kit.parts:{name}", {"gian": 2.0})] == ["unknown key; did you mean 'gain'?"]
    assert kit() == []
    assert CONDITIONERS.build(f"loudness_kit.parts:{name}", {"gain": 2.0}, output_dim=1).gain == 2.0


def test_types_that_cannot_be_read_accept_anything(kit: Callable[[], list[str]]) -> None:
    assert CONDITIONERS.check("loudness_kit.parts:Quoted", {"x": 1, "y": "two", "z": [3]}) == []
    assert [m.path for m in CONDITIONERS.check("loudness_kit.parts:Quoted", {"w": 1})] == ["w"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loudness_kit.parts:Loudnes", r"module 'loudness_kit.parts' defines no class or function 'Loudnes'"),
        ("loudness_kit.parts:", r"module 'loudness_kit.parts' defines no class or function ''"),
        ("loudness_kit.nowhere:Thing", r"cannot read module 'loudness_kit.nowhere' \(.*\); is it installed, or on PYTHONPATH\?"),
        ("no_such_package.parts:Thing", r"cannot read module 'no_such_package.parts'"),
        ("loudness_kit.parts.deeper:Thing", r"cannot read module 'loudness_kit.parts.deeper'"),
        ("loudness_kit.broken:Thing", r"cannot read module 'loudness_kit.broken' \(.*syntax"),
        ("sys:Thing", r"cannot read module 'sys'"),
        (":Thing", r"cannot read module ''"),
        (".parts:Thing", r"cannot read module '.parts'"),
        ("__main__:Thing", r"conditioner '__main__:Thing': "),
        ("loudness_kit.parts:Greedy", r"parts\.py:\d+: \*\*kwargs in a configurable signature would swallow mistakes"),
    ],
)
def test_what_cannot_be_found_says_why(kit: Callable[[], list[str]], name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CONDITIONERS.check(name, {})


@pytest.mark.parametrize(
    "name",
    ["subprocess:getoutput", "shutil:rmtree", "tempfile:TemporaryDirectory", "loudness_kit.parts:helper", "loudness_kit.parts:Stray",
     "loudness_kit.marked:Own", "loudness_kit.marked:elsewhere", "loudness_kit.marked:aliens", "loudness_kit.alien:other",
     "stable_audio_tools.checkpoint.reading:read_checkpoint", "stable_audio_tools.sampling.samplers.euler:sample_euler"],
)  # fmt: skip
def test_what_does_not_say_that_it_is_a_part_is_never_imported_or_called(kit: Callable[[], list[str]], name: str) -> None:
    refused = (
        r"is no conditioner: it neither carries the decorator @CONDITIONERS\.register .* nor derives from a class of stable_audio_tools"
    )
    with pytest.raises(ConfigError, match=refused):
        CONDITIONERS.check(name, {})
    for run in (CONDITIONERS.load, CONDITIONERS.build, CONDITIONERS.schema):
        with pytest.raises(ConfigError, match=refused):
            run(name)
    assert kit() == []


def test_a_config_cannot_run_commands(kit: Callable[[], list[str]], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no conditioner"):
        CONDITIONERS.build("subprocess:getoutput", {"cmd": f"touch {tmp_path / 'pwned'}"}, output_dim=1)
    assert not (tmp_path / "pwned").exists()


def test_the_decorator_is_enough_for_a_function(kit: Callable[[], list[str]], library_log) -> None:
    name = "loudness_kit.marked:decorated"
    assert [m.message for m in CONDITIONERS.check(name, {"width": 3})] == ["'width' is now called 'size'"]
    assert kit() == []


def test_a_module_that_fails_says_so_when_it_is_built(kit: Callable[[], list[str]]) -> None:
    assert CONDITIONERS.check("loudness_kit.raising:Thing", {}) == []
    with pytest.raises(ConfigError, match=r"Thing': importing loudness_kit\.raising failed: RuntimeError: boom"):
        CONDITIONERS.build("loudness_kit.raising:Thing", {})
    assert "number" in CONDITIONERS.names()  # and the family goes on
