"""One line of JSON becomes one row, exactly, or a reason why not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
ROUNDED = re.compile(
    rb"[0-9]e\+?[0-9]{2,3}[,}\]]|[0-9]{17}\.0[,}\]]"
)  # how orjson writes an integer of more than 64 bits
MISSING = object()

Row = tuple[str | None, str, str | None, str | None, str | None]
Document = dict[str, Any]


@dataclass(frozen=True)
class Fields:
    """The names of the JSON fields that become columns of their own."""

    text: str = "text"
    id: str = "id"
    source: str = "source"
    url: str = "url"


class BadLineError(ValueError):
    """A line that is no document; the message is the reason in its quarantine entry."""


def parse(line: bytes, fields: Fields) -> Row:
    """(doc_id, text, source, url, metadata) of a line; doc_id None: one has to be made.

    Raises ValueError, whose `reason` goes to the quarantine.
    """
    document = orjson.loads(line)
    if type(document) is not dict:
        raise BadLineError(f"JSON {_kind(document)}, not an object; write one document per line")
    text = document.pop(fields.text, MISSING)
    if type(text) is not str:
        raise BadLineError(f"field {fields.text!r} is {_kind(text)}, not a string")
    doc_id = document.pop(fields.id, None)
    if type(doc_id) is not str:
        doc_id = None if doc_id is None else _digits(doc_id, line, fields.id)
    source, url = _string(document, fields.source), _string(document, fields.url)
    metadata = _metadata(document, line, fields) if document else None
    return doc_id or None, text, source, url, metadata


def second_look(line: bytes, error: ValueError, fields: Fields) -> Row:
    """The row of a line that `parse` refused with `error`, if only a byte order mark stands before it.

    Raises BadLineError with the reason otherwise.
    """
    if line.startswith(BYTE_ORDER_MARK):
        try:
            return parse(line.removeprefix(BYTE_ORDER_MARK), fields)
        except ValueError as other:
            error = other
    if isinstance(error, BadLineError):
        raise error
    try:
        line.decode()
    except UnicodeDecodeError as other:
        raise BadLineError(f"not UTF-8: byte 0x{line[other.start]:02x} at {other.start} of the line") from error
    where = f"{error.msg} at character {error.pos} of the line" if isinstance(error, json.JSONDecodeError) else error
    raise BadLineError(f"not JSON: {where}") from error


def _kind(value: object) -> str:
    """What JSON calls a value."""
    names = {dict: "object", list: "array", str: "string", int: "number", float: "number", bool: "boolean"}
    return "missing" if value is MISSING else "null" if value is None else names[type(value)]


def _digits(doc_id: object, line: bytes, name: str) -> str:
    """An integer id as it is written; orjson rounds those beyond 64 bits to floats, so these are read again."""
    if type(doc_id) is float:
        doc_id = json.loads(line)[name]
    if type(doc_id) is not int:
        raise BadLineError(f"field {name!r} is {_kind(doc_id)} {str(doc_id)[:40]}, not a string or an integer")
    return str(doc_id)


def _string(document: Document, name: str) -> str | None:
    """Take a string out of the document; any other value stays there for the metadata."""
    value = document.pop(name, None)
    if value is not None and type(value) is not str:
        document[name] = value
        return None
    return value


def _metadata(document: Document, line: bytes, fields: Fields) -> str:
    """The remaining fields of a document as the text of one JSON object."""
    try:
        compact = orjson.dumps(_opened(document, orjson.loads))
    except TypeError as error:
        raise BadLineError(f"metadata is nested too deep: {error}") from error
    if not ROUNDED.search(compact):
        return compact.decode()
    exact = json.loads(line.removeprefix(BYTE_ORDER_MARK))
    for name in (fields.text, fields.id):
        exact.pop(name, None)
    _string(exact, fields.source)
    _string(exact, fields.url)
    return json.dumps(_opened(exact, json.loads), ensure_ascii=False, separators=(",", ":"))


def _opened(document: Document, loads: Callable[[str], Any]) -> Document:
    """The fields with `metadata` opened, if it is an object, or the text of one, and no name would mean two things."""
    inner = document.get("metadata")
    if type(inner) is str and inner.startswith("{"):
        try:
            inner = loads(inner)
        except ValueError:
            return document
    if type(inner) is not dict or not document.keys().isdisjoint(inner.keys() - {"metadata"}):
        return document
    if len(document) == 1:
        return inner
    outer = {name: value for name, value in document.items() if name != "metadata"}
    return {**inner, **outer}
