"""Digests of every column over a small fixed corpus. They move with the meaning of a component, and with nothing else.

Renew them, after raising the `version` of what changed, with:  python -m pytest tests/golden --renew-golden
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pytest

from tamis.families import FAMILIES, find, names

COMMITTED = Path(__file__).with_name("digests.json")


def canonical(column: pa.ChunkedArray) -> pa.Array:
    """The values alone: fresh buffers, and one name for list items."""
    array = column.combine_chunks()
    array = array.take(pa.array(range(len(array))))
    return (
        array.cast(pa.list_(array.type.value_type, array.type.list_size))
        if pa.types.is_fixed_size_list(array.type)
        else array
    )


def digest(ids: pa.ChunkedArray, column: pa.ChunkedArray) -> str:
    """BLAKE2b of the values as an Arrow stream, with the documents they belong to."""
    table = pa.table({"doc_id": canonical(ids), "value": canonical(column)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return hashlib.blake2b(sink.getvalue(), digest_size=16).hexdigest()


@pytest.fixture(scope="module")
def found(run_spec, corpus, target, tmp_path_factory, stages):
    """Column → digest, and component → version."""
    more = [
        {"deduplicate": {"by": {"exact": {"keep": "random", "as": "lots"}}}},
        {"deduplicate": {"by": {"minhash": {"per": "source", "keep": "longest", "as": "near"}}}},
        {"deduplicate": {"by": {"paragraph": {"min_words": 4}}}},
        {"deduplicate": {"by": {"paragraph": {"min_words": 4, "ngram_words": 3, "as": "lines"}}}},
        {"deduplicate": {"by": {"substring": {"min_tokens": 6}}}},
        {"deduplicate": {"by": {"semantic": {"epsilon": 0.1}}}},
        {"score": ["prototypes", "uniform", {"rank": {"of": "length"}}, {"zscore": {"of": "length"}}]},
        {"score": {"distill": {"of": "length", "features": ["vector"]}}},
        {
            "select": {
                "name": "pulled",
                "by": {
                    "cluster_bandit": {
                        "score": "importance", "alpha": 1.0, "threshold": 0.0, "portion": 10, "most_pulls": 60,
                    }
                },
                "budget_documents": 40,
            }
        },
        {"select": {"name": "all_of_them", "by": "sample"}},
    ]  # fmt: skip
    ran = run_spec(
        {"corpus": {"paths": str(corpus), "max_bad_fraction": 0.1}, "seed": 1, "stages": stages + more},
        tmp_path_factory.mktemp("golden"),
    )
    table = ran.table(sorted(ran.columns))
    columns = {name: digest(table["doc_id"], table[name]) for name in table.schema.names if name != "doc_id"}
    stage_of = {}
    for stage in ran.catalog["stages"]:
        component = find(stage["verb"], stage["component"])
        for column in table.schema.names:
            if column == stage["name"] or column.startswith(stage["name"] + "_"):
                stage_of[column] = (stage["component"], component.version)
    stage_of |= {
        "n_bytes": ("census", find("pipeline", "census").version),
        "n_tokens": ("tokens", find("pipeline", "tokens").version),
    }
    return {
        name: {"component": stage_of[name][0], "version": stage_of[name][1], "digest": value}
        for name, value in columns.items()
    }


def test_values_are_what_they_were(found, request):
    if request.config.getoption("--renew-golden"):
        before = json.loads(COMMITTED.read_text("utf-8"))
        changed = [name for name, now in found.items() if name in before and now["digest"] != before[name]["digest"]]
        raised = [name for name, now in found.items() if name in before and now["version"] > before[name]["version"]]
        assert raised or not changed, f"{changed} changed under the same versions: raise `version` first"
        COMMITTED.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    known = json.loads(COMMITTED.read_text("utf-8"))
    assert set(found) == set(known), "the columns changed; renew the digests with --renew-golden"
    for column, now in found.items():
        before = known[column]
        if now["digest"] == before["digest"]:
            assert now["version"] == before["version"], (
                f"{column}: the version was raised and nothing changed; renew with --renew-golden"
            )
            continue
        raised = now["version"] > before["version"]
        what = (
            "renew the digests with --renew-golden"
            if raised
            else f"raise `version` of {now['component']} (it is {now['version']}), or undo the change"
        )
        pytest.fail(f"{column}: its values changed; {what}")


def test_every_component_that_needs_no_model_has_a_digest(found):
    has = {values["component"] for values in found.values()}
    missing = {name for verb in FAMILIES for name in names(verb) if find(verb, name).extra is None} - has
    assert not missing, (
        f"add {sorted(missing)} to the `stages` fixture in tests/conftest.py, then renew with --renew-golden"
    )
