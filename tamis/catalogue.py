"""What components there are, told from their classes: options with types and defaults, columns, sources."""

from __future__ import annotations

import inspect
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


def _kind(hint: Any) -> str:
    if typing.get_origin(hint) is Annotated:
        inner, *constraints = typing.get_args(hint)
        bounds = [repr(item) for found in constraints for item in getattr(found, "metadata", ())]
        return f"{_kind(inner)} {' '.join(bounds)}".strip()
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return text.replace("typing.", "").replace("tamis.steps.", "")
