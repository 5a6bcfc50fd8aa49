"""Signatures read from source text: what a constructor accepts, known without importing it.

`parts_in_file` finds registered classes and functions by their decorator; `part_from_object` gives the same description of a live class
(for parts defined in a notebook or a test). A contract test holds that both agree for every part of this library.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from stable_audio_tools.errors import ConfigError

MISSING: Any = inspect.Parameter.empty
COMPUTED: Any = object()  # a default that is not a literal: the key is optional, its default is the constructor's business


class Options:
    """Marks a parameter whose keys are the keyword-only parameters of another class.

    ``attn_kwargs: Annotated[dict[str, Any], Options("Attention")]`` is a nested JSON object checked against ``Attention``;
    ``**block: Annotated[Any, Options("TransformerBlock")]`` accepts that class's options as flat keys. Either way each parameter is
    written once, where it is used.
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options) and other.owner == self.owner

    def __hash__(self) -> int:
        return hash(self.owner)

    def __repr__(self) -> str:
        return f"Options({self.owner!r})"


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


# ---- from source text -------------------------------------------------------------------------------------------------------------


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


def parts_in_module(module_name: str) -> Iterator[Part]:
    """Every top-level class and function of an importable module, described without running the module itself."""
    spec = importlib.util.find_spec(module_name)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise ImportError("no Python source found")
    module = _module(Path(spec.origin), module_name)
    for node in module.tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield _part(module, node, name=node.name, call=None)


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
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            imports.update({alias.asname or alias.name: (node.module, alias.name) for alias in node.names})
        elif isinstance(node, ast.Import):
            imports.update({alias.asname or alias.name.split(".")[0]: (alias.name, "") for alias in node.names})
    return _Module(name, file, tree, imports)


def _registration(decorator: ast.expr, symbol: str) -> ast.Call | None:
    if not isinstance(decorator, ast.Call) or not isinstance(decorator.func, ast.Attribute) or decorator.func.attr != "register":
        return None
    owner = decorator.func.value
    return decorator if isinstance(owner, ast.Name) and owner.id == symbol else None


def _part(module: _Module, node: ast.ClassDef | ast.FunctionDef, *, name: str, call: ast.Call | None) -> Part:
    keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg} if call else {}
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


def _method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == name), None)


def _constructor(module: _Module, node: ast.ClassDef, name: str) -> tuple[_Module, ast.FunctionDef] | None:
    """The method, looked for in the class and then in its bases, following imports."""
    own = _method(node, name)
    if own is not None:
        return module, own
    for base in node.bases:
        found = _find_class(module, base.id) if isinstance(base, ast.Name) else None
        if found is not None and (inherited := _constructor(*found, name)) is not None:
            return inherited
    return None


def _find_class(module: _Module, name: str) -> tuple[_Module, ast.ClassDef] | None:
    if name in module.classes():
        return module, module.classes()[name]
    target, attribute = module.imports.get(name, ("", ""))
    if not attribute:
        return None
    file = _source_of(target)
    return _find_class(_module(file, target), attribute) if file else None


def _source_of(module_name: str) -> Path | None:
    package, *rest = module_name.split(".")
    root = Path(__file__).resolve().parent.parent
    if package == root.name:  # find our own modules by path: find_spec would import their parent packages
        path = root.joinpath(*rest)
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    spec = importlib.util.find_spec(module_name)
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") and package not in _OPAQUE else None


_OPAQUE = {"torch", "numpy", "typing", "collections", "abc"}  # packages whose classes never add config keys


def _parameters(module: _Module, node: ast.ClassDef | ast.FunctionDef, method: str) -> Iterator[Parameter]:
    docs = _argument_docs(ast.get_docstring(node) or "")
    if isinstance(node, ast.ClassDef):
        found = _constructor(module, node, method)
        if found is None:
            return
        module, function = found
        docs = {**docs, **_argument_docs(ast.get_docstring(function) or "")}
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
        marker = _marker(_annotation(module, arguments.kwarg.annotation))
        if marker is None:
            raise ConfigError(
                f"{module.file}:{function.lineno}: **{arguments.kwarg.arg} in a configurable signature would swallow mistakes; "
                "annotate it with Options"
            )
        taken = {argument.arg for argument in [*positional, *arguments.kwonlyargs]}
        yield from (p for p in _options(module, marker) if p.name not in taken)


def _parameter(module: _Module, argument: ast.arg, default: ast.expr | None, docs: Mapping[str, str], *, keyword_only: bool) -> Parameter:
    annotation = _annotation(module, argument.annotation)
    marker = _marker(annotation)
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
        return eval(code, {"__builtins__": {}}, _Names(module))
    except (TypeError, AttributeError):
        return Any


def _marker(annotation: Any) -> Options | None:
    if typing.get_origin(annotation) is Annotated:
        return next((item for item in annotation.__metadata__ if isinstance(item, Options)), None)
    return next((m for branch in typing.get_args(annotation) if (m := _marker(branch))), None)


def _argument_docs(docstring: str) -> dict[str, str]:
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


# ---- from a live object -----------------------------------------------------------------------------------------------------------


def part_from_object(
    thing: Callable[..., Any], *, name: str, renamed: Mapping[str, str], ignored: Mapping[str, str], facts: Mapping[str, Any]
) -> Part:
    """Describe a live class or function as a `Part`."""
    has_from_config = "from_config" in vars(thing)
    constructor: Any = thing.from_config if has_from_config else thing
    try:
        file, line = inspect.getsourcefile(thing) or "<unknown>", inspect.getsourcelines(thing)[1]
    except (OSError, TypeError):
        file, line = f"<{thing.__module__}>", 0
    return Part(
        name=name,
        module=thing.__module__,
        qualname=thing.__qualname__,
        file=file,
        line=line,
        doc=inspect.getdoc(thing) or "",
        parameters=tuple(_live_parameters(constructor, docs=_argument_docs(inspect.getdoc(thing) or ""))),
        has_from_config=has_from_config,
        renamed=dict(renamed),
        ignored=dict(ignored),
        facts=dict(facts),
        thing=thing,
    )


def _live_parameters(constructor: Any, *, docs: Mapping[str, str] | None = None) -> Iterator[Parameter]:
    function = constructor.__init__ if inspect.isclass(constructor) else constructor
    scope = dict(inspect.unwrap(getattr(function, "__func__", function)).__globals__)
    hints = typing.get_type_hints(function, include_extras=True) if function is not object.__init__ else {}
    signature = inspect.signature(constructor)
    for parameter in signature.parameters.values():
        annotation = hints.get(parameter.name, Any)
        marker = _marker(annotation)
        if parameter.kind is parameter.VAR_POSITIONAL or (parameter.kind is parameter.VAR_KEYWORD and marker is None):
            raise ConfigError(
                f"{constructor.__module__}.{constructor.__qualname__}: {parameter} in a configurable signature would swallow mistakes"
            )
        options = tuple(p for p in _live_parameters(scope[marker.owner]) if p.keyword_only) if marker else None
        if parameter.kind is parameter.VAR_KEYWORD:
            yield from (p for p in options or () if p.name not in signature.parameters)
        else:
            doc = (docs or {}).get(parameter.name, "")
            yield Parameter(parameter.name, annotation, parameter.default, doc, parameter.kind is parameter.KEYWORD_ONLY, options)
