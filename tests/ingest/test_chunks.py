"""However a corpus is cut into tasks, the documents are the same."""

import gzip
import itertools
import json
import pickle

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.ingest import Part, SourceFile, convert, count_lines, expand, numbered, plan
from tamis.ingest.lines import cut

COMPRESS = {"plain": lambda text: text, "gzip": gzip.compress, "zstd": zstandard.compress}
BAD = [
    b"{",
    b"\xff",
    b"\x00",
    b"[1]",
    b'{"id":"x"}',
    b'{"id":"x","text":null}',
    b'{"id":1.5,"text":"t"}',
    b'"a"',
    b'{"a":1},{"b":2}',
]
BLANK = [b"", b" ", b"\t", b"\r"]

good_line = st.builds(
    lambda text, doc_id, more: json.dumps({"text": text, **doc_id, **more}, ensure_ascii=len(text) % 2 == 0).encode(),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=30),
    st.one_of(
        st.just({}),
        st.text("abc\u00e9", min_size=1, max_size=4).map(lambda i: {"id": i}),
        st.integers().map(lambda i: {"id": i}),
    ),
    st.one_of(st.just({}), st.just({"lang": "de"}), st.just({"source": "s"})),
)
corpus = st.lists(st.one_of(good_line, good_line, st.sampled_from(BAD), st.sampled_from(BLANK)), max_size=25)


def expected(lines, name):
    """The most boring reader: (id, text) of the good lines, and the numbers of the bad ones."""
    rows, bad = [], []
    for number, line in enumerate(lines, start=1):
        if line in BAD:
            bad.append(number)
        elif line not in BLANK:
            document = json.loads(line)
            rows.append((str(document.get("id", f"{name}:{number}")), document["text"]))
    return rows, bad


@settings(deadline=None, max_examples=150)
@given(
    lines=corpus,
    end=st.sampled_from([b"\n", b""]),
    compression=st.sampled_from(list(COMPRESS)),
    target=st.integers(1, 400),
)
def test_exactly_the_good_lines_survive_in_order(tmp_path_factory, lines, end, compression, target):
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "docs.jsonl").write_bytes(COMPRESS[compression](b"\n".join(lines) + end))
    rows, bad = expected(lines, "docs.jsonl")
    chunks = plan(expand([str(folder / "docs.jsonl")]), target)
    chunks = numbered(chunks, [count_lines(chunk) for chunk in chunks if chunk.is_split])
    results = [convert(chunk, folder, f"{index:04}", target_bytes=target) for index, chunk in enumerate(chunks)]
    assert read(folder, results) == rows
    entries = quarantine(folder, results)
    assert [entry["position"]["line"] for entry in entries] == bad
    starts = [sum(len(line) + 1 for line in lines[: number - 1]) for number in bad]
    assert [entry["position"]["byte"] for entry in entries] == starts
    text = b"\n".join(lines) + end
    assert sum(result.lines for result in results) == text.count(b"\n") + (text[-1:] not in (b"", b"\n"))
    assert sum(result.lines for result in results) == sum(r.rows + r.quarantined + r.blank for r in results)


def read(folder, results):
    import pyarrow.parquet as pq

    tables = [pq.read_table(folder / output.name) for result in results for output in result.outputs]
    return [(row["doc_id"], row["text"]) for table in tables for row in table.to_pylist()]


def quarantine(folder, results):
    refused = [folder / result.quarantine for result in results if result.quarantine]
    return [json.loads(line) for path in refused for line in path.read_text("utf-8").splitlines()]


@settings(deadline=None)
@given(lines=corpus, cuts=st.lists(st.integers(0, 300), max_size=6))
def test_lines_do_not_depend_on_where_the_pieces_break(lines, cuts):
    text = b"\n".join(lines)
    edges = [0, *sorted(min(each, len(text)) for each in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    found = [(block.offset, line) for block in cut(pieces) for line in block.lines]
    assert [line for _, line in found] == (lines[:-1] if lines and not lines[-1] else lines)
    assert all(block.offset == 0 or text[block.offset - 1] == ord("\n") for block in cut(pieces))


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_a_line_that_is_too_long_is_one_bad_line_and_is_not_held(size):
    text = b"ab\n" + b"x" * 5000 + b"\ncd\n" + b"y" * 3000
    found = list(cut([text[start : start + size] for start in range(0, len(text), size)], longest_line=100))
    assert [line for block in found if not block.reason for line in block.lines] == [b"ab", b"cd"]
    assert [block.reason for block in found if block.reason] == [
        "a line of 5000 bytes, longer than 100",
        "a line of 3000 bytes, longer than 100",
    ]
    assert [block.offset for block in found] == [0, 3, 5004, 5007]
    assert max(len(block.lines[0]) for block in found) <= 1024


def source(name, size):
    return SourceFile(f"/corpus/{name}", name, size, "")


def test_small_files_share_a_chunk_and_order_is_kept():
    files = [source(f"{index:02}.jsonl", 10) for index in range(10)]
    chunks = plan(files, 30)
    assert [[part.file for part in chunk.parts] for chunk in chunks] == [files[0:3], files[3:6], files[6:9], files[9:]]


def test_many_tiny_files_do_not_make_a_large_task():
    chunks = plan([source(f"{index:05}.jsonl", 1) for index in range(1000)], 1 << 30)
    assert max(len(pickle.dumps(chunk)) for chunk in chunks) < 10_000


def test_compressed_files_are_never_cut(tmp_path):
    for name, compress in COMPRESS.items():
        (tmp_path / f"{name}.jsonl").write_bytes(compress(json.dumps({"text": "t" * 500}).encode() * 20))
    chunks = plan(expand([str(tmp_path)]), 20)
    cut_files = {chunk.parts[0].file.relative_name for chunk in chunks if chunk.is_split}
    assert cut_files == {"plain.jsonl"}


def test_a_compressed_file_becomes_several_shards(tmp_path, ingested):
    text = b"".join(b'{"id": "%d", "text": "%s"}\n' % (index, b"x" * 2_000_000) for index in range(40))
    result = ingested({"docs.jsonl.zst": zstandard.compress(text)}, target_bytes=20_000_000)
    assert len(result.results) == 1
    assert [output.name for output in result.results[0].outputs] == [
        "00000-000.parquet",
        "00000-001.parquet",
        "00000-002.parquet",
    ]
    assert result.ids == [str(index) for index in range(40)]


def test_a_cut_file_needs_its_line_numbers(tmp_path):
    (tmp_path / "docs.jsonl").write_bytes(b'{"text": "t"}\n' * 10)
    chunks = plan(expand([str(tmp_path)]), 50)
    with pytest.raises(ValueError, match="line numbers; see count_lines"):
        convert(chunks[1], tmp_path, "x", target_bytes=50)


def test_a_target_must_be_positive():
    with pytest.raises(ValueError, match="target_bytes: must be positive, got 0"):
        plan([], 0)


def test_converting_twice_gives_the_same_bytes(ingested):
    content = b"".join(b'{"text": "document %d", "n": %d}\n' % (index, index) for index in range(5000))
    first, second = ingested(content), ingested(content)
    for result in first.results:
        for output in result.outputs:
            assert (first.folder / output.name).read_bytes() == (second.folder / output.name).read_bytes()


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "t"}\nbad\n')
    (file,) = expand([str(tmp_path / "a.jsonl")])
    gone = SourceFile(str(tmp_path / "gone.jsonl"), "gone.jsonl", 10, "")
    (chunk,) = plan([file, gone], 1000)
    assert chunk.parts == (Part(file), Part(gone))
    with pytest.raises(FileNotFoundError):
        convert(chunk, tmp_path / "out", "x", target_bytes=1000)
    assert list((tmp_path / "out").glob("*")) == []
