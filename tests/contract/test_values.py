"""What every component promises about its values: they belong to documents, not to batches or their order."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

BATCHES = (29, 100, 299)


def ipc(table: pa.Table) -> bytes:
    """The table's values as bytes: equal tables, equal bytes, NaN included."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()


def same(one: pa.Table, other: pa.Table) -> bool:
    """Equal to the bit; cluster ids only have to part the documents in the same way."""
    partitions = [name for name in one.schema.names if name.endswith("_cluster")]
    if any(parts(one[name]) != parts(other[name]) for name in partitions):
        return False
    return ipc(canonical(one.drop_columns(partitions))) == ipc(canonical(other.drop_columns(partitions)))


def parts(column: pa.ChunkedArray) -> set[frozenset[int]]:
    found: dict[object, set[int]] = {}
    for row, value in enumerate(column.to_pylist()):
        if value is not None:
            found.setdefault(value, set()).add(row)
    return {frozenset(rows) for rows in found.values()}


def canonical(table: pa.Table) -> pa.Table:
    """The same values in fresh buffers: what lies under nulls and before slices does not count."""
    return pa.table(
        {
            name: pa.concat_arrays([column.take(pa.array(np.arange(len(column)))) for column in table[name].chunks])
            for name in table.schema.names
        }
    )


@pytest.fixture(scope="session")
def whole(usable):
    """case → its columns over all documents in one batch, made once."""
    made = {}

    def of(case):
        key = (case.verb, case.name)
        if key not in made:
            made[key] = case.run(usable)
        return made[key]

    return of


def test_a_component_writes_the_columns_it_promises(case, whole):
    promised = dict(case.component().columns("x"))
    found = whole(case)
    assert {field.name: field.type for field in found.schema} == promised
    assert promised, "a component writes at least one column"
    assert all(name == "x" or name.startswith("x_") for name in promised)


def test_every_usable_document_gets_one_value(case, whole, usable):
    found = whole(case)
    assert found.num_rows == usable.num_rows
    first = next(iter(case.component().columns("x")))
    assert found[first].null_count < usable.num_rows


@pytest.mark.parametrize("batch_rows", BATCHES)
def test_splitting_a_batch_changes_nothing(case, whole, usable, batch_rows):
    assert same(case.run(usable, batch_rows), whole(case))


def test_batches_of_one_document_give_what_larger_ones_give(case, usable):
    some = usable.slice(0, 25).combine_chunks()
    assert same(case.run(some, 1), case.run(some, 25))


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_documents_moves_no_value(case, whole, usable, seed):
    order = np.random.default_rng(seed).permutation(usable.num_rows)
    found = case.run(usable.take(pa.array(order)).combine_chunks(), 128)
    assert same(found.take(pa.array(np.argsort(order))), whole(case))


def test_an_empty_batch_gives_an_empty_result_of_the_same_type(case, whole, usable):
    found = case.run(usable.slice(0, 0))
    assert found.num_rows == 0
    assert found.schema == whole(case).schema


def test_a_corpus_of_one_document_works(case, whole, usable):
    for row in (0, usable.num_rows - 1):
        found = case.run(usable.slice(row, 1).combine_chunks())
        assert found.num_rows == 1
        assert found.schema == whole(case).schema


def test_a_slice_of_a_larger_table_gives_the_same_as_its_copy(case, usable):
    part = usable.slice(33, 100)
    copied = pa.Table.from_pylist(part.to_pylist(), schema=part.schema)
    assert same(case.run(part, 30), case.run(copied, 30))


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string()], ids=str)
def test_the_width_of_string_offsets_does_not_matter(case, whole, usable, kind):
    column = usable.schema.names.index("text")
    assert same(case.run(usable.set_column(column, "text", usable["text"].cast(kind)), 50), whole(case))


def test_documents_are_not_written_to(case, usable):
    before = ipc(usable)
    case.run(usable, 100)
    assert ipc(usable) == before


def test_a_second_time_gives_the_same_bytes(case, whole, usable):
    assert ipc(canonical(case.run(usable))) == ipc(canonical(whole(case)))


@pytest.fixture(scope="module")
def ran(tmp_path_factory, run_spec, corpus, target, every_case):
    """One run of all components together, on their smallest options."""
    stages = dict(stage for case in every_case for stage in case.stages(target))
    specification = {
        "corpus": {"paths": str(corpus), "max_bad_fraction": 0.05},
        "seed": 5,
        "stages": list(stages.values()),
    }
    return run_spec(specification, tmp_path_factory.mktemp("all"))


def test_a_run_gives_what_the_component_gives_in_memory(case, ran, documents):
    component = case.component()
    name = case.called
    columns = list(component.columns(name))
    facts = documents.rename_columns(["doc_id", "text", "source", "stars"]).sort_by("doc_id")
    read = ("n_bytes", "n_tokens", "vector")
    layers = ran.table(list(dict.fromkeys([*read, *columns])))
    for column in read:
        facts = facts.append_column(column, layers[column])
    facts = facts.append_column("quarantined", pc.is_null(facts["text"]))
    has_text = facts["text"].is_valid()
    expected = case.run(facts.filter(has_text).combine_chunks(), name=name)
    assert same(layers.filter(has_text).select(columns).cast(expected.schema), expected)  # Parquet renames list items


def test_a_document_without_text_is_null_in_the_layers_and_in_no_arm(case, ran, documents):
    name = case.called
    missing = documents.filter(pc.is_null(documents["text"]))["id"].to_pylist()
    assert len(missing) == 2
    for column in case.component().columns(name):
        values = ran.values(column)
        expected = 0 if column.endswith("_repeats") else "quarantined" if column.endswith("_reason") else None
        assert [values[doc_id] for doc_id in missing] == [expected, expected], column
