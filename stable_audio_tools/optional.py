"""Optional dependencies: imported where they are used, with one message when they are missing."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

from stable_audio_tools.errors import MissingExtraError


def require(module: str, *, extra: str | None, purpose: str) -> ModuleType:
    """Import ``module`` or say how to get it.

    Args:
        module: Dotted module name, for example ``"wandb"``.
        extra: Name of the extra of this package that brings it, or None when it is installed by itself.
        purpose: What it is needed for, completing "... is needed for".

    Raises:
        MissingExtraError: If the module is not installed.

    >>> require("json", extra=None, purpose="nothing special").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the module is there, one of its own dependencies is not
        package = f'"stable-audio-tools[{extra}]"' if extra else module.split(".")[0]
        raise MissingExtraError(f"{module} is needed for {purpose} and is not installed; run: pip install {package}") from error


def lazy(package: str, **homes: str) -> Callable[[str], Any]:
    """A module-level ``__getattr__`` (PEP 562) that imports a name from its home on first use.

    Args:
        package: ``__name__`` of the package that offers the names.
        **homes: Name -> module that defines it.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    return __getattr__


def moved(package: str, **homes: str) -> Callable[[str], Any]:
    """Like `lazy`, for names that are deprecated where they are looked for: using one warns, and says where it is now.

    Args:
        package: ``__name__`` of the module that used to have the names.
        **homes: Name -> its new place, with the name it has there.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warnings.warn(f"{package}.{name} is deprecated; it is now {homes[name]}", DeprecationWarning, stacklevel=2)
        module, _, attribute = homes[name].rpartition(".")
        return getattr(importlib.import_module(module), attribute)

    return __getattr__
