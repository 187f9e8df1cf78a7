"""Who of a cluster stays, who can be in one, and what is said when a source loses much."""

import datetime as dt
import json
import subprocess
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.dedup.base import Best, Prefer, _by_source, _count_sources, _merge_sources
from tamis.dedup.exact import Exact
from tamis.dedup.minhash import Minhash
from tamis.errors import ContractError, RunFailedError, SpecError
from tamis.families import build, find
from tamis.inline import Inline, run_inline
from tamis.steps import Batch, Pool

TEXT = "the sieve lets through what is fine and even"
NAN = float("nan")


def stays(keep, ids=None, texts=None, seed=0, component=Exact, **columns):
    """The id of the one document of a cluster that stays."""
    count = len(next(iter(columns.values()))) if columns else len(texts or ids)
    ids = ids or [f"d{i}" for i in range(count)]
    table = pa.table({"doc_id": ids, "text": texts or [TEXT] * count, **columns})
    found = run_inline(component(keep=keep), table, "x", seed=seed).to_pydict()
    assert set(found["x_size"]) == {count}, "one cluster of all"
    kept = [doc_id for doc_id, gone in zip(ids, found["x_duplicate"], strict=True) if not gone]
    assert len(kept) == 1
    assert set(found["x_kept_by"]) - {None} == set(kept)
    return kept[0]


@pytest.mark.parametrize("component", [Exact, Minhash])
def test_each_policy_keeps_whom_it_says(component):
    sources = pa.array(["web", "books", None, "wiki"])
    assert stays("smallest_id", ["b", "a", "B", "é"], component=component, source=sources) == "B"
    texts = [TEXT, f" {TEXT} ", f"{TEXT}  ", TEXT]
    assert stays("longest", ["d", "c", "b", "a"], texts, component=component, source=sources) == "b"
    assert stays(Prefer(("wiki", "books")), component=component, source=sources) == "d3"
    assert stays(Prefer(("papers", "books")), component=component, source=sources) == "d1"
    assert stays(Prefer(("papers",)), component=component, source=sources) == "d0"
    assert stays(Prefer(()), component=component, source=sources) == "d0"
    assert stays(Best("stars"), component=component, stars=pa.array([1.0, 2.5, None, 2.0])) == "d1"
    drawn = {stays("random", component=component, seed=seed, source=sources) for seed in range(40)}
    assert drawn == {"d0", "d1", "d2", "d3"}


def test_longest_means_bytes_whether_read_from_the_text_or_not():
    """Exact reads the text anyway; minhash looks at `n_bytes` of the members of clusters alone."""
    texts = ["ééé one two three four", "eeeee one two three four", "eeee one two three four"]
    for component in (Exact(keep="longest"), Minhash(keep="longest", ngram=2, bands=64, rows_per_band=1)):
        table = pa.table({"doc_id": ["a", "b", "c"], "text": [texts[0], texts[0] + "!", f"({texts[0]})"]})
        assert run_inline(component, table, "x")["x_kept_by"].to_pylist() == ["c", "c", None]
    table = pa.table({"doc_id": ["a", "b", "c"], "text": texts})  # near duplicates
    assert run_inline(component, table, "x")["x_kept_by"].to_pylist() == [None, "a", "a"], "25 bytes against 24"


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([None, NAN, -1e300], "d2"),
        ([None, NAN, -float("inf")], "d2"),
        ([None, NAN, None], "d0"),  # no numbers: by id
        ([0.0, -0.0, None], "d0"),
        ([-0.0, 0.0, NAN], "d0"),
        ([1.0, 1.0, 0.5], "d0"),
        ([float("inf"), 1e308, float("inf")], "d0"),
        ([-3.0, -2.0, -2.5], "d1"),
    ],
)
def test_the_best_has_the_highest_number_and_missing_ones_come_last(numbers, expected):
    assert stays(Best("stars"), stars=pa.array(numbers, pa.float64())) == expected


def test_the_best_may_be_any_number_or_time():
    day = dt.date(2020, 1, 1)
    later = dt.date(2021, 6, 1)
    for values in (
        pa.array([2**60, 2**60 + 2**20, 5]),
        pa.array([2**63, 2**64 - 1, 0], pa.uint64()),
        pa.array([False, True, None]),
        pa.array([day, later, None]),
        pa.array([day, later, day], pa.date64()),
        pa.array([day, later, None]).cast(pa.timestamp("ns")),
        pa.array([1.5, 2.5, None], pa.float16()),
        pa.array([1, 2, None]).cast(pa.decimal128(20)),
    ):
        assert stays(Best("when"), when=values) == "d1", values.type
    assert stays(Best("when"), when=pa.nulls(2)) == "d0"


def test_text_is_not_compared_as_numbers():
    with pytest.raises(
        ContractError, match=r"keep: best: expected numbers or times in 'grade', got string; name another column"
    ):
        stays(Best("grade"), grade=pa.array(["1", "2"]))


@given(st.lists(st.tuples(st.none() | st.floats(width=32), st.sampled_from("abcdef")), min_size=2, max_size=8))
def test_the_best_is_the_one_that_sorting_puts_first(members):
    ids = [f"{letter}{i}" for i, (_, letter) in enumerate(members)]
    numbers = [number for number, _ in members]
    missing = [number is None or np.isnan(number) for number in numbers]
    first = min(range(len(ids)), key=lambda i: (missing[i], 0 if missing[i] else -numbers[i], ids[i]))
    assert stays(Best("stars"), ids, stars=pa.array(numbers, pa.float32())) == ids[first]


def test_policies_read_the_columns_that_they_need():
    for cls in (Exact, Minhash):
        assert set(cls(keep=Best("stars")).reads) == {"doc_id", "text", "stars"}
        assert set(cls(keep=Prefer(("web",)), per="dump").reads) == {"doc_id", "text", "source", "dump"}
        assert cls(keep="random").seeded
        assert not cls(keep=Best("stars")).seeded


@pytest.mark.parametrize("options", [{"keep": "best"}, {"keep": {"best": 3}}, {"keep": {"worst": "x"}}, {"per": 3}])
@pytest.mark.parametrize("name", ["exact", "minhash"])
def test_a_policy_that_is_none_is_an_error(name, options):
    with pytest.raises(SpecError, match=rf"^{next(iter(options))}.*{name} expects"):
        build(find("deduplicate", name), options)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["web", "", None, "7"])), max_size=10))
def test_per_keeps_documents_of_different_values_apart(members):
    """A null is a value of its own, the same as the empty string."""
    table = pa.table(
        {
            "doc_id": pa.array([f"d{i}" for i in range(len(members))], pa.string()),
            "text": pa.array([text for text, _ in members], pa.string()),
            "dump": pa.array([dump for _, dump in members], pa.string()),
        }
    )
    for component in (Exact(per="dump"), Minhash(per="dump")):
        found = run_inline(component, table, "x")["x_kept_by"].to_pylist()
        first = {}
        for i, (text, dump) in enumerate(members):
            first.setdefault((text, dump or ""), i)
        expected = [first[text, dump or ""] for text, dump in members]
        assert found == [None if i == place else f"d{place}" for i, place in enumerate(expected)]


def test_per_may_be_a_number():
    table = pa.table({"doc_id": ["a", "b", "c"], "text": [TEXT] * 3, "year": [1, 2, 1]})
    assert run_inline(Exact(per="year"), table, "x")["x_kept_by"].to_pylist() == [None, None, "a"]


# ---- guards ----


def with_losses():
    """300 documents: `web` loses 60 %, `books` a tenth, `tiny` all but one; some have no source."""
    texts, sources = [], []
    for source, count, copies in (("web", 150, 90), ("books", 100, 10), ("tiny", 20, 19), (None, 30, 0)):
        own = [" ".join(f"{source}{i}_{j}" for j in range(8)) for i in range(count - copies)]
        texts += own + own[:1] * copies
        sources += [source] * count
    return pa.table({"id": [f"d{i:03}" for i in range(len(texts))], "text": texts, "source": pa.array(sources)})


@pytest.mark.parametrize("component", [Exact, Minhash])
def test_losses_are_counted_by_source(component):
    inline = Inline(with_losses().rename_columns(["doc_id", "text", "source"]), {}, 7)
    inline.run(component(), Pool("x", 0))
    published = inline.findings
    assert published.file == "findings/x.json"
    assert published.content["sources"] == [
        {"source": "", "documents": 30, "removed": 0},
        {"source": "books", "documents": 100, "removed": 10},
        {"source": "tiny", "documents": 20, "removed": 19},
        {"source": "web", "documents": 150, "removed": 90},
    ]
    assert [line for line in published.lines if "source" in line] == [
        "source 'web' loses 90 of 150 documents (60.0%), more than 50%"
    ]
    assert published.problem is None
    json.dumps(published.content)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "a\0", "", None, "é", "x" * 300]), st.booleans()), max_size=20),
    st.lists(st.integers(0, 20), max_size=3),
)
def test_counts_by_source_are_those_of_the_slow_way_however_they_are_merged(documents, cuts):
    sources = pa.array([source for source, _ in documents], pa.string())
    table = pa.record_batch({"source": sources, "duplicate": pa.array([gone for _, gone in documents], pa.bool_())})
    edges = sorted({0, *cuts, len(documents)} - set(range(len(documents) + 1, 21)))
    parts = [_count_sources(Batch(table.slice(a, b - a))) for a, b in pairwise(edges)] or [_count_sources(Batch(table))]
    merged = parts[0]
    for part in parts[1:]:
        merged = _merge_sources(part, merged)
    names = sorted({source or "" for source, _ in documents}, key=str.encode)
    gone = [source or "" for source, removed in documents if removed]
    assert _by_source(merged).to_pylist() == [
        {
            "source": name,
            "documents": [source or "" for source, _ in documents].count(name),
            "removed": gone.count(name),
        }
        for name in names
    ]
    assert {key: array.dtype for key, array in merged.items()} == {key: array.dtype for key, array in parts[0].items()}


@pytest.mark.parametrize(
    ("options", "warned", "stopped"),
    [
        ({"warn_removed": None}, 0, 0),
        ({"warn_removed": 0.05}, 2, 0),
        ({"warn_removed": 0.6, "stop_removed": 0.6}, 0, 0),  # 60 % is not more than 60 %
        ({"stop_removed": 0.59}, 1, 1),
        ({"stop_removed": 0.09}, 1, 2),
    ],
)
def test_shares_above_the_limit_warn_or_stop(options, warned, stopped):
    inline = Inline(with_losses().rename_columns(["doc_id", "text", "source"]), {}, 1000)
    inline.run(Exact(**options), Pool("x", 0))
    assert len(inline.findings.lines) == warned
    assert (inline.findings.problem or "").count("loses") == stopped


def test_a_million_sources_fill_neither_the_findings_nor_the_terminal():
    sources = [f"s{i}" for i in range(1500) for _ in range(2)] + [
        f"large{i}" for i in range(12) for _ in range(100 + i)
    ]
    table = pa.table({"doc_id": [f"d{i:05}" for i in range(len(sources))], "text": [TEXT] * len(sources)})
    inline = Inline(table.append_column("source", pa.array(sources)), {}, 1000)
    inline.run(Exact(), Pool("x", 0))
    published = inline.findings
    assert published.content["sources_in_all"] == 1512
    assert len(published.content["sources"]) == 1000
    assert [entry["documents"] for entry in published.content["sources"][:12]] == [100, 101, 110, 111, *range(102, 110)]
    assert len(published.lines) == 11
    assert published.lines[0].startswith("source 'large10' loses 110 of 110 documents (100.0%)")
    assert published.lines[-1] == "and so do 2 more sources"


@pytest.fixture
def guarded(tmp_path, write_corpus):
    """stop_removed, where → a specification of three deduplicators over documents of which `web` loses most."""
    pool = write_corpus(tmp_path / "pool", with_losses(), 3)

    def of(stop=None, **settings):
        options = {"stop_removed": stop, **settings}
        stages = [{"deduplicate": {"by": {name: options}}} for name in ("exact", "minhash")]
        return {"corpus": str(pool), "stages": [*stages, {"score": "length"}]}

    return of


def test_a_run_that_was_stopped_goes_on_with_a_higher_limit_and_computes_nothing_again(
    guarded, run_spec, opened, tmp_path
):
    with pytest.raises(RunFailedError, match=r"deduplicate exact: source 'web' loses 90 of 150 documents \(60\.0%\)"):
        run_spec(guarded(0.3), tmp_path / "a")
    stopped = opened(tmp_path / "a" / "run")
    found = json.loads((stopped.folder / "findings" / "exact.json").read_text())
    assert {"source": "web", "documents": 150, "removed": 90} in found["sources"]
    before = len(stopped.receipts())
    with pytest.raises(RunFailedError, match="deduplicate exact: source 'web'"):
        run_spec(guarded(0.3), tmp_path / "a")
    assert len(stopped.receipts()) == before, "the same again stops at once"
    ran = run_spec(guarded(0.9), tmp_path / "a")
    assert ran.catalog["finished"]
    units = [(receipt["key"], receipt["unit"]) for receipt in ran.receipts()]
    assert len(set(units)) == len(units), "nothing is done twice"
    fresh = run_spec(guarded(None, warn_removed=None), tmp_path / "b")
    assert ran.files("layers") == fresh.files("layers"), "guards change no result"
    assert any("source 'web' loses" in line for line in ran.lines)
    assert not any("source 'web' loses" in line for line in fresh.lines)


def test_the_command_line_says_what_was_lost(guarded, command, environment, tmp_path):
    (tmp_path / "stages.yaml").write_text(json.dumps({**guarded(0.5), "out": "run"}))
    ran = subprocess.run(
        [*command, "run", "stages.yaml", "--serial"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 1
    assert "deduplicate exact: source 'web' loses 90 of 150 documents (60.0%), more than 50%" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert (tmp_path / "run" / "findings" / "exact.json").exists()
