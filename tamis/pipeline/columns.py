"""Which columns a run will have, and whether every stage uses only those that exist before it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tamis.errors import SpecError
from tamis.expressions import Expression, kinds
from tamis.families import build, find, names
from tamis.pipeline.program import ProgramSpec

if TYPE_CHECKING:
    from tamis.pipeline.spec import Spec

OWN = {
    "doc_id": pa.string(),
    "text": pa.string(),
    "source": pa.string(),
    "quarantined": pa.bool_(),
}  # columns that every run has, whatever its files hold


def check_columns(spec: Spec, base: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """All columns of the run with their types, if every stage uses only columns that exist before it.

    base : the columns of the documents themselves. Raises SpecError naming the stage's line otherwise.
    """
    known: dict[str, pa.DataType] = {**base, **OWN}
    for program in spec.programs:
        component = program.build()
        where = Expression(program.where).columns if program.where else ()
        for column in (*component.reads, *where):
            if column not in known:
                raise spec.fail(program.line, f"{program.label}: {_missing(column, known, spec, program)}")
        score = getattr(component, "score", None)
        scores = score if isinstance(score, tuple) else (score,)
        texts = [program.where, getattr(component, "where", None), *scores]
        try:
            for text in texts:
                kinds([text] if isinstance(text, str) else [], known)
            _check_numbers(component.numbers, known)
        except SpecError as error:
            raise spec.fail(program.line, f"{program.label}: {error}") from error
        for column, kind in component.columns(program.name).items():
            if column.lower() in {name.lower() for name in known}:  # DuckDB does not tell cases apart
                raise spec.fail(
                    program.line,
                    f"{program.label}: the column {column!r} exists already; give this stage another name with `as:`",
                )
            known[column] = kind
    return known


def _check_numbers(texts: Sequence[str], known: Mapping[str, pa.DataType]) -> None:
    for text in texts:
        (kind,) = kinds([text], known)
        if not (
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or kind == pa.bool_()
        ):
            raise SpecError(f"{text!r}: expected a number for each document, got {kind}")


def _missing(column: str, known: Mapping[str, Any], spec: Spec, program: ProgramSpec) -> str:
    later = [other for other in spec.programs if column in other.build().columns(other.name)]
    if later and later[0] is not program:
        return (
            f"uses the column {column!r} before `{later[0].label}` (line {later[0].line}) makes it; move that stage up"
        )
    close = difflib.get_close_matches(column, list(known), 1)
    if close:
        return f"no column {column!r}; did you mean {close[0]!r}?"
    makers = [name for name in names("score") if column in _made_by(name)]
    do = f"; `- score: {makers[0]}` before it makes one" if makers else ""
    return f"no column {column!r}{do}; there are {', '.join(sorted(known))}"


def _made_by(scorer: str) -> Sequence[str]:
    """The columns of a scorer by its own name; none if it needs options to know them."""
    try:
        return tuple(build(find("score", scorer), {}).columns(scorer))
    except SpecError:
        return ()
