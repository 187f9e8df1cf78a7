"""Row-wise DuckDB expressions over columns: `where:` and `score:`, checked on the syntax tree before anything runs."""

from __future__ import annotations

import atexit
import hashlib
import json
import re
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.errors import SpecError
from tamis.kernels.arrow import widened

_REFUSED_CLASSES = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "PARAMETER": "a parameter",
    "STAR": "a star",
    "LAMBDA": "a lambda",
    "POSITIONAL_REFERENCE": "a column by its position",
}
FOLDS = ("rank", "zscore")  # scorers that an expression of a stage may call like functions
_CALLS_FOLD = re.compile(rf"\b({'|'.join(FOLDS)})\s*\(", re.IGNORECASE)
_VOLATILE = frozenset(
    {
        "random",
        "uuid",
        "gen_random_uuid",
        "setseed",
        "now",
        "today",
        "current_date",
        "current_time",
        "current_timestamp",
        "get_current_timestamp",
        "get_current_time",
        "nextval",
        "currval",
        "getenv",
        "getvariable",
        "current_setting",
        "read_text",
        "read_blob",
    }
)


def _connection() -> duckdb.DuckDBPyConnection:
    """This thread's database; one connection does not serve two threads."""
    return _connection_of(threading.get_ident())


@lru_cache(maxsize=64)
def _connection_of(thread: int) -> duckdb.DuckDBPyConnection:
    """A database without files, network, extensions or configuration."""
    del thread
    connection = duckdb.connect(":memory:", config={"threads": 1})
    for setting in (
        "SET enable_external_access = false",
        "SET autoinstall_known_extensions = false",
        "SET autoload_known_extensions = false",
        "SET ieee_floating_point_ops = false",  # what cannot be computed is an error, so NULL, and never a NaN
        "SET lock_configuration = true",
    ):
        connection.execute(setting)
    return connection


atexit.register(_connection_of.cache_clear)  # DuckDB complains about connections that outlive the interpreter


@lru_cache(maxsize=1)
def _aggregates() -> frozenset[str]:
    rows = _connection().execute(
        "SELECT DISTINCT function_name, stability FROM duckdb_functions() "
        "WHERE function_type IN ('aggregate', 'table', 'pragma') OR stability = 'VOLATILE'"
    )
    return frozenset(name for name, _ in rows.fetchall())


def _value(sql: str) -> str:
    return str(_connection().execute(sql).fetchall()[0][0])


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _tree(text: str) -> dict[str, Any]:
    sql = f"SELECT {text}"
    tree: dict[str, Any] = json.loads(_value(f"SELECT json_serialize_sql({_quoted(sql)})"))
    if tree.get("error"):
        raise SpecError(f"{text!r}: expected a DuckDB expression over columns, got: {tree.get('error_message')}")
    statements = tree["statements"]
    if len(statements) != 1:
        raise SpecError(f"{text!r}: expected one expression, got {len(statements)} statements")
    node = statements[0]["node"]
    extra = [key for key in ("where_clause", "having", "qualify") if node.get(key)]
    table = (node.get("from_table") or {}).get("type")
    if extra or table not in (None, "EMPTY") or node.get("group_expressions") or len(node["select_list"]) != 1:
        raise SpecError(f"{text!r}: expected one expression, got a query; leave out everything but the expression")
    return tree


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "class" in node:
            yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)


@dataclass(frozen=True)
class Expression:
    """A deterministic expression over the columns of a document, e.g. `length > 100 and source = 'news'`.

    Raises SpecError for what is not one: aggregates, windows, subqueries, random or file functions.
    NaN is NULL inside (DuckDB would rank NaN above every number).
    """

    text: str

    def __post_init__(self) -> None:
        for node in _nodes(self._select):
            refused = _REFUSED_CLASSES.get(node["class"])
            name = str(node.get("function_name", "")).lower()
            if node["class"] == "FUNCTION" and (name in _aggregates() or name in _VOLATILE):
                refused = f"{name}()"
            if node["class"] == "FUNCTION" and name in FOLDS:
                raise SpecError(
                    f"{self.text!r}: {name}() is about all documents; call it in `where:` or `score:` of a stage, "
                    f"elsewhere add the scorer {name!r} and use its column"
                )
            if refused:
                raise SpecError(
                    f"{self.text!r}: expected a row-wise, deterministic expression, got {refused}; "
                    "compute it as a column first"
                )

    @cached_property
    def _select(self) -> dict[str, Any]:
        expression: dict[str, Any] = _tree(self.text)["statements"][0]["node"]["select_list"][0]
        return expression

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads, sorted."""
        names = {node["column_names"][0] for node in _nodes(self._select) if node["class"] == "COLUMN_REF"}
        return tuple(sorted(names))

    @cached_property
    def spelling(self) -> str:
        """The one way to write it, whatever spaces and brackets it came with; a column by its plain name."""
        names = self._select.get("column_names", ())
        return str(names[0]) if len(names) == 1 else _sql_of(self._select)

    @cached_property
    def conjuncts(self) -> tuple[str, ...]:
        """The parts of a top-level `and`, in order, as SQL; the whole text if there is none."""
        top = self._select
        if not (top["class"] == "CONJUNCTION" and top["type"] == "CONJUNCTION_AND"):
            return (self.text,)
        return tuple(_sql_of(child) for child in top["children"])

    def over(self, table: pa.Table | pa.RecordBatch) -> pa.Array:
        """Its value for every row of the table (a null where it is NULL)."""
        return evaluate([self.text], table)[0]

    def numbers(self, table: pa.Table | pa.RecordBatch) -> npt.NDArray[np.float64]:
        """Its value as a number for each of n rows: float64, (n), NaN where it is NULL."""
        return np.asarray(self.over(table).cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


@dataclass(frozen=True)
class GlobalFold:
    """A call like `rank(x)`: the scorer, what it is called with, and the column that its value is found in."""

    scorer: str
    of: str
    column: str


def without_folds(text: str) -> tuple[str, tuple[GlobalFold, ...]]:
    """An expression with a column in place of each `rank(…)` and `zscore(…)`, and what is in these columns.

    The column of `rank(x)` is `rank_x`; that of what is more than a column ends with a hash. What an inner call needs
    comes first. Raises SpecError for a call without exactly one argument.
    """
    if not _CALLS_FOLD.search(text):
        return text, ()
    tree = _tree(text)["statements"][0]["node"]["select_list"][0]
    found: dict[str, GlobalFold] = {}
    rewritten = _without_folds(text, tree, found)
    return (_sql_of(rewritten) if found else text), tuple(found.values())


def _without_folds(text: str, node: Any, found: dict[str, GlobalFold]) -> Any:
    if isinstance(node, list):
        return [_without_folds(text, item, found) for item in node]
    if not isinstance(node, dict):
        return node
    inner = {key: _without_folds(text, value, found) for key, value in node.items()}
    name = str(node.get("function_name", "")).lower()
    if node.get("class") != "FUNCTION" or name not in FOLDS or node.get("schema"):
        return inner
    given = [item["expression"] for item in inner["arguments"]] if "arguments" in inner else inner["children"]
    if len(given) != 1 or node.get("distinct") or node.get("filter"):
        raise SpecError(f"{text!r}: {name} expects one expression over columns, e.g. {name}(importance)")
    of = _sql_of(given[0])
    fold = GlobalFold(name, of, f"{name}_{_name_of(of, given[0])}")
    found[fold.column] = fold
    return _tree(fold.column)["statements"][0]["node"]["select_list"][0]


def _name_of(text: str, node: Mapping[str, Any]) -> str:
    """A column's own name; else what an expression spells, shortened, and a hash of all of it."""
    if node["class"] == "COLUMN_REF" and re.fullmatch(r"\w+", node["column_names"][0]):
        return str(node["column_names"][0])
    spelt = re.sub(r"\W+", "_", text).strip("_")[:30]
    return f"{spelt}_{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def _sql_of(expression: dict[str, Any]) -> str:
    tree = _tree("1")
    tree["statements"][0]["node"]["select_list"] = [expression]
    sql = _value(f"SELECT json_deserialize_sql({_quoted(json.dumps(tree))})")
    text = sql.removeprefix("SELECT ").strip()
    return text[1:-1] if text.startswith("(") and text.endswith(")") and _balanced(text[1:-1]) else text


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


def evaluate(texts: Sequence[str], table: pa.Table | pa.RecordBatch) -> list[pa.Array]:
    """The values of several expressions for every row of the table.

    NaN is taken as NULL, and what cannot be computed for a row (a division by zero, a failed cast) is NULL.
    """
    if table.num_rows == 0:
        table = pa.Table.from_batches([], schema=table.schema)
    elif isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    connection = _connection()
    needed = {column for text in texts for column in Expression(text).columns}
    table = _without_halves(table, needed)
    columns = ", ".join(_nan_is_null(field) for field in table.schema if field.name in needed) or "1"
    chosen = ", ".join(f"TRY(\n{text}\n) AS e{i}" for i, text in enumerate(texts))
    relation = connection.from_arrow(table)  # a relation by value: no name for a query to reach
    result = relation.project(columns).project(chosen).to_arrow_table()
    return [result.column(i).combine_chunks() for i in range(len(texts))]


def _without_halves(table: pa.Table, needed: Collection[str]) -> pa.Table:
    """The table with half floats widened where they are needed, and put away where they are not."""
    for i, field in enumerate(table.schema):
        if (kind := widened(field.type)) != field.type:
            column = table.column(i).cast(kind) if field.name in needed else pa.nulls(table.num_rows)
            table = table.set_column(i, field.name, column)
    return table


def _nan_is_null(field: pa.Field) -> str:
    name: str = '"' + field.name.replace('"', '""') + '"'
    return f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END AS {name}" if pa.types.is_floating(field.type) else name


def kinds(texts: Sequence[str], schema: Mapping[str, pa.DataType]) -> list[pa.DataType]:
    """The Arrow types of expressions over columns of these types. Raises SpecError when they do not type-check."""
    if not texts:
        return []
    empty = pa.schema(list(schema.items())).empty_table()
    try:
        return [array.type for array in evaluate(texts, empty)]
    except duckdb.Error as error:
        raise SpecError(f"{' ; '.join(texts)}: {str(error).splitlines()[0]}") from error
