"""Signatures read from source text: what a constructor accepts, known without importing it.

`parts_in_file` finds registered classes and functions by their decorator, `part_in_module` one that is named by its place. See `live` for
the same description of a live object.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import inspect
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from stable_audio_tools.errors import ConfigError

MISSING: Any = inspect.Parameter.empty
COMPUTED: Any = object()  # a default that is not a literal: the key is optional, its default is the constructor's business


@dataclass(frozen=True)
class Options:
    """Marks a parameter whose keys are the keyword-only parameters of another class.

    ``attn_kwargs: Annotated[dict[str, Any], Options("Attention")]`` is a nested JSON object checked against ``Attention``;
    ``**block: Annotated[Any, Options("TransformerBlock")]`` accepts that class's options as flat keys. Either way each parameter is
    written once, where it is used.
    """

    owner: str


class Parameter(NamedTuple):
    """One key of a part's config."""

    name: str
    annotation: Any
    default: Any = MISSING
    doc: str = ""
    keyword_only: bool = False
    options: tuple[Parameter, ...] | None = None  # for a nested object of options

    @property
    def is_required(self) -> bool:
        """Whether a config must give it."""
        return self.default is MISSING

    def optional(self) -> Parameter:
        """The same parameter, not required."""
        return self._replace(default=COMPUTED) if self.is_required else self


class Part(NamedTuple):
    """One member of a family, as far as it is known without importing it."""

    name: str
    module: str
    qualname: str
    file: str
    line: int
    doc: str
    parameters: tuple[Parameter, ...]
    has_from_config: bool = False
    renamed: Mapping[str, str] = {}
    ignored: Mapping[str, str] = {}
    facts: Mapping[str, Any] = {}
    thing: Any = None  # the live object, when it was registered outside a home

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self.doc.strip().split("\n")[0]


def parts_in_file(file: Path, *, root: Path, symbol: str) -> Iterator[Part]:
    """Every class or function in ``file`` decorated with ``@<symbol>.register("name", ...)``.

    Args:
        file: A Python source file.
        root: Folder that contains the top-level package.
        symbol: Name of the registry variable.
    """
    if f"{symbol}.register(" not in _read(file):
        return
    module = _module(file, ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"))
    for node in module.tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            for decorator in node.decorator_list:
                call = _registration(decorator, symbol)
                if call is not None:
                    yield _part(module, node, name=ast.literal_eval(call.args[0]), call=call)


def part_in_module(module_name: str, name: str, *, symbol: str, homes: Sequence[str]) -> Part | None:
    """The top-level class or function of that name in an importable module, described without running it or its parent packages.

    A config may come from anywhere, so it must not be able to call whatever is installed: only what says in its source that it is a part
    of the family counts.

    Args:
        module_name: The module, with dots.
        name: The class or function.
        symbol: The family's registry; a part may carry its decorator.
        homes: Packages of the family; a part may derive from a class of theirs.

    Raises:
        ImportError: If there is no such module, or not as Python source.
        TypeError: If it is no part of the family.
    """
    file = _find_source(module_name)
    if file is None:
        raise ImportError("no Python source found")
    module = _module(file, module_name)
    for node in module.tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            calls = [call for decorator in node.decorator_list if (call := _registration(decorator, symbol)) is not None]
            if not (calls and _is_our_registry(module, calls[0])) and not _derives_from(module, node, homes):
                raise TypeError(
                    f"neither carries the decorator @{symbol}.register (from stable_audio_tools.families) nor derives from a class of "
                    f"{' or '.join(homes)}"
                )
            return _part(module, node, name=name, call=calls[0] if calls else None)
    return None


def _is_our_registry(module: _Module, registration: ast.Call) -> bool:
    """Whether the decorator's registry is one of `stable_audio_tools.families`, and not of another library."""
    name, _, rest = ast.unparse(registration.func).partition(".")
    return rest == "register" and module.imports.get(name, ("", ""))[0] == "stable_audio_tools.families"


def _derives_from(module: _Module, node: ast.ClassDef | ast.FunctionDef, homes: Sequence[str]) -> bool:
    """Whether a class has an ancestor that is defined in one of the packages."""
    for base in node.bases if isinstance(node, ast.ClassDef) else ():
        found = _find_class(module, ast.unparse(base.value if isinstance(base, ast.Subscript) else base))
        if found is None or found[1] is node:
            continue
        if any(f"{found[0].name}.".startswith(f"{home}.") for home in homes) or _derives_from(*found, homes):
            return True
    return False


def _find_source(module_name: str) -> Path | None:
    """The file of a module. ``importlib.util.find_spec`` alone would import its parent packages."""
    name, *rest = module_name.split(".")
    if not all([name, *rest]):
        return None
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module that has no file, such as __main__
        return None
    for part in rest:
        name = f"{name}.{part}"
        spec = importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations or []) if spec else None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


class _Module(NamedTuple):
    name: str
    file: Path
    tree: ast.Module
    imports: dict[str, tuple[str, str]]  # local name -> (module, attribute)

    def classes(self) -> dict[str, ast.ClassDef]:
        return {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef)}


@cache
def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@cache
def _module(file: Path, name: str) -> _Module:
    tree = ast.parse(_read(file), filename=str(file))
    imports: dict[str, tuple[str, str]] = {}
    for node in _statements(tree.body):
        if isinstance(node, ast.ImportFrom):
            source = _absolute(node, name, is_package=file.name == "__init__.py")
            imports.update({alias.asname or alias.name: (source, alias.name) for alias in node.names})
        elif isinstance(node, ast.Import):
            imports.update({alias.asname or alias.name: (alias.name, "") for alias in node.names})
    return _Module(name, file, tree, imports)


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when a module is imported, but for those inside classes."""
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try)):
            yield from _statements([*node.body, *node.orelse])


def _absolute(node: ast.ImportFrom, module_name: str, *, is_package: bool) -> str:
    """The module that ``from ..x import y`` imports from."""
    if node.level == 0:
        return node.module or ""
    parts = module_name.split(".")
    parent = parts[: len(parts) - node.level + is_package]
    return ".".join([*parent, node.module] if node.module else parent)


def _registration(decorator: ast.expr, symbol: str) -> ast.Call | None:
    return decorator if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == f"{symbol}.register" else None


def _part(module: _Module, node: ast.ClassDef | ast.FunctionDef, *, name: str, call: ast.Call | None) -> Part:
    keywords = {keyword.arg: _stated(module, keyword.value) for keyword in call.keywords if keyword.arg} if call else {}
    has_from_config = isinstance(node, ast.ClassDef) and _method(node, "from_config") is not None
    return Part(
        name=name,
        module=module.name,
        qualname=node.name,
        file=str(module.file),
        line=node.lineno,
        doc=ast.get_docstring(node) or "",
        parameters=tuple(_parameters(module, node, "from_config" if has_from_config else "__init__")),
        has_from_config=has_from_config,
        renamed=keywords.pop("renamed", {}),
        ignored=keywords.pop("ignored", {}),
        facts=keywords,
    )


def _stated(module: _Module, node: ast.expr) -> Any:
    """A keyword of a registration: a literal, or a constant of the module."""
    value = _literal(module, node)
    if value is COMPUTED:
        raise ConfigError(f"{module.file}:{node.lineno}: {ast.unparse(node)} is neither a literal nor a constant of this module")
    return value


def _method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == name), None)


def _constructor(module: _Module, node: ast.ClassDef, name: str) -> tuple[_Module, ast.FunctionDef] | None:
    """The method, looked for in the class and then in its bases, following imports."""
    own = _method(node, name)
    if own is not None:
        return module, own
    for base in node.bases:
        found = _find_class(module, ast.unparse(base.value if isinstance(base, ast.Subscript) else base))
        if found is not None and found[1] is not node and (inherited := _constructor(*found, name)) is not None:
            return inherited
    return None


def _find_class(module: _Module, name: str) -> tuple[_Module, ast.ClassDef] | None:
    if name in module.classes():
        return module, module.classes()[name]
    target, attribute = module.imports.get(name, ("", ""))
    if not attribute and "." in name:  # module.Class
        prefix, _, attribute = name.rpartition(".")
        target = ".".join(module.imports.get(prefix, ("", ""))).rstrip(".")
    file = None if not attribute or target.split(".")[0] in OPAQUE else _find_source(target)
    return _find_class(_module(file, target), attribute) if file else None


OPAQUE = {"", "torch", "numpy", "typing", "collections", "abc"}  # packages whose classes never add config keys; "" has object


def _parameters(module: _Module, node: ast.ClassDef | ast.FunctionDef, method: str) -> Iterator[Parameter]:
    docs = argument_docs(ast.get_docstring(node) or "")
    if isinstance(node, ast.ClassDef):
        found = _constructor(module, node, method)
        if found is None:
            return
        module, function = found
        docs = {**docs, **argument_docs(ast.get_docstring(function) or "")}
        skip = 1
    else:
        function, skip = node, 0
    arguments = function.args
    if arguments.vararg is not None:
        raise ConfigError(f"{module.file}:{function.lineno}: *{arguments.vararg.arg} in a configurable signature would swallow mistakes")
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    for index, (argument, default) in enumerate(zip(positional, defaults, strict=True)):
        if index >= skip:
            yield _parameter(module, argument, default, docs, keyword_only=False)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _parameter(module, argument, default, docs, keyword_only=True)
    if arguments.kwarg is not None:
        marker = marker_of(_annotation(module, arguments.kwarg.annotation))
        if marker is None:
            raise ConfigError(
                f"{module.file}:{function.lineno}: **{arguments.kwarg.arg} in a configurable signature would swallow mistakes; "
                "annotate it with Options"
            )
        taken = {argument.arg for argument in [*positional, *arguments.kwonlyargs]}
        yield from (p for p in _options(module, marker) if p.name not in taken)


def _parameter(module: _Module, argument: ast.arg, default: ast.expr | None, docs: Mapping[str, str], *, keyword_only: bool) -> Parameter:
    annotation = _annotation(module, argument.annotation)
    marker = marker_of(annotation)
    return Parameter(
        name=argument.arg,
        annotation=annotation,
        default=MISSING if default is None else _literal(module, default),
        doc=docs.get(argument.arg, ""),
        keyword_only=keyword_only,
        options=tuple(_options(module, marker)) if marker else None,
    )


def _options(module: _Module, marker: Options) -> Iterator[Parameter]:
    found = _find_class(module, marker.owner)
    if found is None:
        raise ConfigError(f"{module.file}: Options({marker.owner!r}) names a class that is not defined or imported there")
    owner_module, node = found
    yield from (p for p in _parameters(owner_module, node, "__init__") if p.keyword_only)


def _literal(module: _Module, node: ast.expr) -> Any:
    if isinstance(node, ast.Name):  # a module-level constant
        for statement in module.tree.body:
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            if isinstance(statement, ast.Assign) and any(isinstance(t, ast.Name) and t.id == node.id for t in targets):
                return _literal(module, statement.value)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return COMPUTED


class _Names(dict[str, Any]):
    """Names that an annotation may use: builtins, typing, pydantic and our torch-free modules. Anything else counts as Any."""

    def __init__(self, module: _Module) -> None:
        super().__init__({t.__name__: t for t in (int, float, str, bool, list, dict, tuple, set)})
        self.module = module

    def __missing__(self, name: str) -> Any:
        target, attribute = self.module.imports.get(name, ("", ""))
        light = target.split(".")[0] in {"typing", "collections", "pydantic"} or target.startswith(
            ("stable_audio_tools.config", "stable_audio_tools.registry")
        )
        value = getattr(importlib.import_module(target), attribute) if light and attribute else Any
        self[name] = value
        return value


def _annotation(module: _Module, node: ast.expr | None) -> Any:
    if node is None:
        return Any
    code = compile(ast.Expression(node), str(module.file), "eval")
    try:
        annotation = eval(code, {"__builtins__": {}}, _Names(module))
    except (TypeError, AttributeError):
        return Any
    return Any if _is_quoted(annotation) else annotation


def _is_quoted(annotation: Any) -> bool:
    """Whether a type is, or contains, one that is written as a string."""
    if typing.get_origin(annotation) is typing.Literal:
        return False
    return isinstance(annotation, (str, typing.ForwardRef)) or any(_is_quoted(branch) for branch in typing.get_args(annotation))


def marker_of(annotation: Any) -> Options | None:
    """The `Options` in an annotation, if there are some."""
    if typing.get_origin(annotation) is Annotated:
        return next((item for item in annotation.__metadata__ if isinstance(item, Options)), None)
    return next((m for branch in typing.get_args(annotation) if (m := marker_of(branch))), None)


def argument_docs(docstring: str) -> dict[str, str]:
    """The ``Args:`` section of a Google-style docstring, as name -> text."""
    match = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", inspect.cleandoc(docstring), re.MULTILINE)
    if match is None:
        return {}
    docs: dict[str, str] = {}
    name = ""
    for line in match.group(1).splitlines():
        entry = re.match(r" {4}\*{0,2}(\w+):\s*(.*)", line)
        if entry:
            name = entry.group(1)
            docs[name] = entry.group(2)
        elif name and line.strip():
            docs[name] += " " + line.strip()
    return docs
