"""What components there are, told from their classes: options with types and defaults, columns, sources."""

from __future__ import annotations

import inspect
import types
import typing
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any

from tamis.errors import SpecError
from tamis.families import FAMILIES, find, names
from tamis.steps import Component


def listing(folder: Path | None = None) -> str:
    """One line per component, by family."""
    own = str(folder) if folder else None
    lines = []
    for verb in FAMILIES:
        lines.append(f"{verb}:")
        lines += [f"  {name:<16}{_first_line(find(verb, name, own))}" for name in names(verb, own)]
    return "\n".join([*lines, "", "tamis components NAME shows one with its options"])


def describe(name: str, folder: Path | None = None) -> str:
    """A component's options, with types and defaults, and what its documentation says. Raises SpecError if unknown."""
    own = str(folder) if folder else None
    for verb in FAMILIES:
        if name in names(verb, own):
            return _description(verb, name, find(verb, name, own))
    known = [each for verb in FAMILIES for each in names(verb, own)]
    raise SpecError(f"components: expected one of {', '.join(known)}, got {name!r}")


def _first_line(cls: type[Component]) -> str:
    return (inspect.getdoc(cls) or "").splitlines()[0] if cls.__doc__ else ""


def _description(verb: str, name: str, cls: type[Component]) -> str:
    hints = typing.get_type_hints(cls, include_extras=True)
    options = []
    for field in fields(cls):  # type: ignore[arg-type]
        default = (
            "required"
            if field.default is MISSING and field.default_factory is MISSING
            else f"default {field.default!r}"
        )
        options.append(f"  {field.name}: {_kind(hints[field.name])}, {default}")
    extra = [f"needs: pip install 'tamis[{cls.extra}]'", ""] if cls.extra else []
    return "\n".join(
        [f"{verb}: {name}", "", inspect.getdoc(cls) or "", "", *extra, "options:", *(options or ["  none"])]
    )


_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def _kind(hint: Any) -> str:
    """A type as a user writes it, with its bounds."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        bounds = [
            f"{sign} {getattr(item, name):,}" if name != "min_length" else f"at least {getattr(item, name)}"
            for found in arguments[1:]
            for item in getattr(found, "metadata", ())
            for name, sign in (*_SIGNS.items(), ("min_length", ""))
            if getattr(item, name, None) is not None
        ]
        return " ".join([_kind(arguments[0]), *bounds])
    if origin in (typing.Union, types.UnionType):
        return " or ".join("nothing" if each is type(None) else _kind(each) for each in arguments)
    if origin is typing.Literal:
        return " | ".join(str(each) for each in arguments)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    return str(getattr(hint, "__name__", hint))
