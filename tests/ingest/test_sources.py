"""Which files a corpus has, and reading them from stores that fail now and then."""

import io
import shutil
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tamis.errors import ContractError
from tamis.ingest import SourceFile, expand, is_parquet
from tamis.ingest.streams import ATTEMPTS, read_pieces

LAYOUT = [
    "a.jsonl",
    "b/c.jsonl.gz",
    "b/d.parquet",
    "b/e.txt",
    ".hidden.jsonl",
    "_SUCCESS",
    "_temporary/f.jsonl",
    ".git/g.jsonl",
]


@pytest.fixture
def corpus(tmp_path):
    for name in LAYOUT:
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "corpus"


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def names(files):
    return [file.relative_name for file in files]


def test_a_directory_gives_its_document_files_at_any_depth(corpus):
    assert names(expand([str(corpus)])) == ["a.jsonl", "b/c.jsonl.gz", "b/d.parquet"]


def test_a_glob_gives_what_it_matches_but_no_markers(corpus):
    assert names(expand([f"{corpus}/*/*"])) == ["c.jsonl.gz", "d.parquet", "e.txt"]
    assert names(expand([f"{corpus}/*"])) == ["a.jsonl", "b/c.jsonl.gz", "b/d.parquet"]
    assert names(expand([f"{corpus}/**/*.jsonl"])) == ["a.jsonl"]


def test_a_file_is_taken_whatever_its_name(corpus):
    assert names(expand([f"{corpus}/b/e.txt"])) == ["e.txt"]


def test_files_come_once_and_sorted(corpus):
    paths = [f"{corpus}/b", f"{corpus}/a.jsonl", f"{corpus}/*.jsonl", str(corpus)]
    assert names(expand(paths)) == ["a.jsonl", "b/c.jsonl.gz", "b/d.parquet"]


def test_a_bracket_in_a_file_name_is_no_glob(tmp_path):
    (tmp_path / "a[1].jsonl").write_bytes(b"")
    assert names(expand([str(tmp_path / "a[1].jsonl")])) == ["a[1].jsonl"]


def test_names_do_not_depend_on_where_the_corpus_lies(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "else" / "where")
    assert names(expand([str(tmp_path / "else" / "where")])) == names(expand([str(corpus)]))


def test_any_address_will_do(corpus, memory, ingested, monkeypatch):
    memory.pipe("/deep/er/x.jsonl", b'{"text": "x"}\n' * 9)
    memory.pipe("/deep/y.jsonl", b'{"text": "y"}\n')
    assert [file.url for file in expand(["memory://deep/*"])] == ["memory:///deep/er/x.jsonl", "memory:///deep/y.jsonl"]
    assert ingested(["memory://deep"], target_bytes=20).ids == [f"er/x.jsonl:{line}" for line in range(1, 10)] + [
        "y.jsonl:1"
    ]
    assert expand([f"file://{corpus}"]) == expand([str(corpus)])
    monkeypatch.chdir(corpus)
    assert expand(["b"]) == expand([f"{corpus}/b"])


def test_stores_can_be_mixed(corpus, memory):
    memory.pipe("/a.jsonl", b"")
    assert len({file.relative_name for file in expand([f"{corpus}/a.jsonl", "memory://a.jsonl"])}) == 2


@pytest.mark.parametrize("path", ["*.json", "nowhere", "nowhere/*.json", "b/*.jsonl"])
def test_matching_nothing_says_what_there_is(corpus, path):
    with pytest.raises(ContractError, match=r"got none; .*/corpus(/b)? holds \d+ entries: ") as caught:
        expand([f"{corpus}/{path}"])
    assert path in str(caught.value)


def test_fingerprints_follow_size_and_time(corpus):
    path = corpus / "a.jsonl"
    before = expand([str(path)])[0]
    assert expand([str(path)])[0] == before
    path.write_bytes(b"x")
    assert expand([str(path)])[0].fingerprint != before.fingerprint


def test_parquet_is_told_by_its_name(corpus):
    assert [is_parquet(file) for file in expand([str(corpus)])] == [False, False, True]


class Flaky(MemoryFileSystem):
    """A memory store whose reads fail: `failures` times in a row after each success."""

    protocol = "flaky"
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]
    failures: ClassVar = 0
    pending: ClassVar = 0
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("flaky://"))

    def open(self, path, mode="rb", **options):
        handle = super().open(path, mode, **options)
        return FlakyFile(handle.getvalue()) if mode == "rb" else handle


class FlakyFile(io.BytesIO):
    def read(self, size):
        if Flaky.pending:
            Flaky.pending -= 1
            raise OSError("connection reset")
        Flaky.pending = Flaky.failures
        return super().read(min(size, 50))


@pytest.fixture
def flaky(monkeypatch):
    monkeypatch.setattr("tamis.ingest.streams.FIRST_PAUSE", 0.001)
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.failures = Flaky.pending = ATTEMPTS - 1
    Flaky.store.clear()
    return fsspec.filesystem("flaky")


def test_reads_that_fail_now_and_then_change_nothing(flaky, ingested):
    content = b"".join(b'{"id": "%d", "text": "some text"}\n' % index for index in range(30))
    flaky.pipe("/docs.jsonl", content)
    assert ingested(["flaky://docs.jsonl"], target_bytes=300).ids == [str(index) for index in range(30)]


def test_a_store_that_only_fails_is_an_error_with_the_byte(flaky):
    flaky.pipe("/docs.jsonl", b"x" * 100)
    Flaky.failures = Flaky.pending = ATTEMPTS
    (file,) = expand(["flaky://docs.jsonl"])
    with pytest.raises(OSError, match=f"{ATTEMPTS} reads failed at byte 0: connection reset"):
        list(read_pieces(file))


def test_a_file_that_shrank_is_an_error_and_not_a_short_corpus(tmp_path):
    (tmp_path / "docs.jsonl").write_bytes(b"12345")
    with pytest.raises(ContractError, match="listed with 9 bytes, ends at 5"):
        list(read_pieces(SourceFile(str(tmp_path / "docs.jsonl"), "docs.jsonl", 9, "")))


def test_a_file_of_unknown_size_is_read_to_its_end(tmp_path):
    (tmp_path / "docs.jsonl").write_bytes(b"12345")
    assert b"".join(read_pieces(SourceFile(str(tmp_path / "docs.jsonl"), "docs.jsonl", -1, ""))) == b"12345"
