"""The four families of components: the folder is the registry, the file name is the name, the class is its config."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tamis.errors import SpecError
from tamis.steps import Component, Documents

FAMILIES = {"embed": "embedders", "deduplicate": "dedup", "score": "scorers", "select": "selectors"}
_INTERNAL = {"pipeline": "pipeline.stages"}  # programs that the engine itself adds
_ROOT = Path(__file__).parent
_COMPUTING = tuple(
    f"tamis.{part}"
    for part in (
        "kernels.",
        "models.",
        "seeds",
        "clustering",
        "expressions",
        *(f"{each}." for each in FAMILIES.values()),
        "pipeline.stages.",
    )
)


def names(verb: str, folder: str | None = None) -> list[str]:
    """The components of a family, sorted; a user's own folder joins them."""
    found = {path.stem for path in _folder(verb).glob("*.py") if path.stem not in ("__init__", "base")}
    if folder and verb in FAMILIES:
        found |= {path.stem for path in _user_files(folder) if _user_class(path, verb)}
    return sorted(found)


def _folder(verb: str) -> Path:
    package = FAMILIES.get(verb) or _INTERNAL[verb]
    return _ROOT.joinpath(*package.split("."))


def find(verb: str, name: str, folder: str | None = None) -> type[Component]:
    """The class of a component. Raises SpecError with what exists, and the likely meaning, if there is none."""
    if folder and verb in FAMILIES and (own := Path(folder) / f"{name}.py").exists():
        found = _user_class(own, verb)
        if found:
            return found
    if name not in names(verb):
        known = names(verb, folder)
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise SpecError(f"{verb}: expected one of {', '.join(known)}, got {name!r}; {hint}see `tamis components`")
    package = FAMILIES.get(verb) or _INTERNAL[verb]
    module = importlib.import_module(f"tamis.{package}.{name}")
    return _component_in(module, name)


def _component_in(module: ModuleType, name: str) -> type[Component]:
    own = _components_in(module)
    if len(own) != 1:
        found = [cls.__name__ for cls in own]
        raise SpecError(f"{module.__file__}: expected one component class for {name!r}, got {found}")
    return own[0]


def _components_in(module: ModuleType) -> list[type[Component]]:
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Component)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
    ]


def _user_files(folder: str) -> list[Path]:
    return [path for path in sorted(Path(folder).glob("*.py")) if not path.stem.startswith("_")]


def _user_class(path: Path, verb: str) -> type[Component] | None:
    """The component in a user's file as it is now, if it belongs to this family: workers outlive an edited file."""
    digest = hashlib.blake2b(path.read_bytes() + str(path.resolve()).encode(), digest_size=6).hexdigest()
    return _imported_class(path, verb, f"tamis_components_{digest}_{path.stem}")


@lru_cache(maxsize=256)
def _imported_class(path: Path, verb: str, label: str) -> type[Component] | None:
    spec = importlib.util.spec_from_file_location(label, path)
    if spec is None or spec.loader is None:
        raise SpecError(f"{path}: expected a Python file with a component, got something that cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[label] = module
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # noqa: S102 - a cached .pyc misses edits within a second
    if not _components_in(module):
        return None  # what the components of the folder share
    found = _component_in(module, path.stem)
    base = importlib.import_module(f"tamis.{FAMILIES[verb]}.base")
    parents = tuple(cls for cls in vars(base).values() if inspect.isclass(cls) and cls.__module__ == base.__name__)
    return found if issubclass(found, tuple(cls for cls in parents if issubclass(cls, Component))) else None


def build(
    cls: type[Component], options: Mapping[str, Any], base: str | Path = ".", *, texts: bool = False
) -> Component:
    """A component from its options, checked: unknown, mistyped and out-of-range ones raise SpecError by name.

    base : the folder that relative paths of `Documents` options start from. texts : lists of strings are
    documents themselves rather than paths.
    """
    refuse_unknown(_component_name(cls), options, option_names(cls))
    try:
        built: Component = _validated(TypeAdapter(cls), options, {"base": str(base), "texts": texts})
    except ValidationError as error:
        raise SpecError(_complaint(cls, options, error.errors())) from error
    return built


def option_names(cls: type[Component]) -> list[str]:
    """The options of a component, sorted."""
    return sorted(field.name for field in fields(cls) if field.init)  # type: ignore[arg-type]


def refuse_unknown(component: str, options: Iterable[str], known: Sequence[str]) -> None:
    """Raises SpecError, with the likely meaning, for the first of the options that is not among those known."""
    for key in options:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known) or 'no options'}"
            raise SpecError(f"{key}: {component} has no such option; {hint}")


def _complaint(cls: type[Component], options: Mapping[str, Any], errors: Sequence[Any]) -> str:
    """What is wrong with the first option that is; of an option that may be one of several things, all that it may.

    What a component itself finds wrong with its options together is told in its own words.
    """
    component, first = _component_name(cls), errors[0]
    expected = _expected(first)
    if not first["loc"]:
        return expected if expected.split(":")[0] in option_names(cls) else f"{component}: {expected}"
    same = [error for error in errors if error["loc"][:1] == first["loc"][:1]]
    if len(same) > 1:
        expected = ", or ".join(dict.fromkeys(_expected(error) for error in same))
        return f"{first['loc'][0]}: {component} expects: {expected}, got {_short(options[first['loc'][0]])}"
    got = "" if first["type"] == "missing" or ", got " in expected else f", got {_short(first['input'])}"
    return f"{_path(first, options)}: {component} expects: {expected}{got}"


def _expected(error: Mapping[str, Any]) -> str:
    return str(error["ctx"]["error"] if error["type"] == "value_error" else error["msg"])


def _path(error: Mapping[str, Any], value: Any) -> str:
    """Where in the options an error is, as the file has it: names of types that a value might have are left out."""
    keys = []
    for part in error["loc"]:
        in_list = isinstance(value, (list, tuple)) and isinstance(part, int)
        if in_list or (isinstance(value, Mapping) and part in value):
            value = value[part]
            keys.append(str(part))
    if error["type"] == "missing":
        keys.append(str(error["loc"][-1]))
    return ".".join(keys)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _validated(adapter: TypeAdapter[Any], options: Mapping[str, Any], context: Mapping[str, Any]) -> Any:
    """Strictly, as JSON: a quoted number is no number. What JSON cannot hold is left to the types' own rules."""
    try:
        text = json.dumps(dict(options))
    except TypeError:
        return adapter.validate_python(dict(options), context=context)
    return adapter.validate_json(text, strict=True, context=context)


def _component_name(cls: type[Component]) -> str:
    return cls.__module__.rsplit(".", 1)[-1]


def options_of(component: Component) -> dict[str, Any]:
    """All options with their values, as JSON would hold them; `build` makes the same component of them."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(component)))  # type: ignore[call-overload]
    return values


def documents_in(value: Any) -> Iterator[Documents]:
    """Every set of documents among a component's options."""
    for _, documents in named_documents(value):
        yield documents


def named_documents(value: Any, name: str = "") -> Iterator[tuple[str, Documents]]:
    """The same with the option that names each, such as `target`, or `target.law` of several by name."""
    if isinstance(value, Documents):
        yield name, value
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from named_documents(getattr(value, field.name), f"{name}.{field.name}".strip("."))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from named_documents(item, f"{name}.{key}")
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from named_documents(item, name)


@lru_cache(maxsize=256)
def code_digest(cls: type[Component]) -> str:
    """Digest of the code behind a component, comments and docstrings aside: its module, its base, its kernels."""
    module = sys.modules[cls.__module__]
    seen: dict[str, str] = {}
    _collect(Path(inspect.getfile(cls)), module.__name__, seen)
    return hashlib.blake2b(json.dumps(sorted(seen.items())).encode(), digest_size=16).hexdigest()


def _collect(path: Path, module: str, seen: dict[str, str]) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    label = module if module.startswith("tamis.") else path.stem
    seen[label] = hashlib.blake2b(ast.dump(_without_docstrings(tree)).encode(), digest_size=16).hexdigest()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                if (
                    name not in seen
                    and _counts(name)
                    and (file := _ROOT.parent / (name.replace(".", "/") + ".py")).exists()
                ):
                    _collect(file, name, seen)


def _counts(module: str) -> bool:
    """Whether a module takes part in what a component computes; the engine around it does not."""
    return module.startswith(_COMPUTING)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            node.body = body[1:]  # type: ignore[attr-defined]
    return tree
