"""Ways in which other pipelines were seen to lose documents while reading, without a word; and the dirty corpus."""

import json

import pytest

from tamis.errors import ContractError
from tamis.ingest import expand


def documents(count):
    return [b'{"id": "%d", "text": "document number %d"}' % (index, index) for index in range(count)]


@pytest.mark.parametrize("target_bytes", [1 << 30, 500_000])
def test_one_invalid_byte_in_100_000_documents_costs_one_document(ingested, target_bytes):
    lines = documents(100_000)
    lines[3000] = lines[3000].replace(b"number", b"num\xffber")
    result = ingested(b"\n".join(lines) + b"\n", target_bytes=target_bytes)
    assert result.ids == [str(index) for index in range(100_000) if index != 3000]
    (entry,) = result.quarantine
    assert entry["position"] == {"line": 3001, "byte": sum(len(line) + 1 for line in lines[:3000])}
    assert entry["reason"].startswith("not UTF-8: byte 0xff")
    assert result.total("quarantined") == 1


def test_one_malformed_line_of_ten_is_counted_and_named(ingested):
    lines = documents(10)
    lines[4] = lines[4][:-3]
    result = ingested(b"\n".join(lines))
    assert len(result.documents) == 9
    assert [entry["position"]["line"] for entry in result.quarantine] == [5]


def test_a_document_put_in_front_moves_no_id_to_another_document(ingested):
    before = ingested(b"\n".join(documents(200)))
    after = ingested(b"\n".join([b'{"id": "new", "text": "new"}', *documents(200)]))
    assert after.documents[1:] == before.documents


@pytest.mark.parametrize("target_bytes", [100, 1000, 1 << 20])
def test_another_number_of_tasks_moves_no_id_to_another_document(ingested, target_bytes):
    lines = [line.replace(b'"id"', b'"other"') for line in documents(200)]
    result = ingested(b"\n".join(lines), target_bytes=target_bytes)
    assert result.ids == [f"docs.jsonl:{line}" for line in range(1, 201)]
    assert result.texts == [f"document number {index}" for index in range(200)]


def test_one_bad_document_costs_no_batch_of_a_thousand(ingested):
    lines = documents(5000)
    lines[2500] = b'{"id": "2500", "text": null}'
    assert len(ingested(b"\n".join(lines)).documents) == 4999


def test_a_glob_that_matches_nothing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ContractError, match=r"expected files of documents at .*, got none"):
        expand(["documents/*.gz"])


def test_ids_and_dates_are_not_guessed_into_numbers(ingested):
    ids = ["007", "1234567890123456789", "12345678901234567890123", "2024-01-31", "1e5", "NaN", "true"]
    content = "\n".join(json.dumps({"id": each, "text": "t", "date": each}) for each in ids)
    result = ingested(content.encode())
    assert result.ids == ids
    assert [json.loads(row["metadata"])["date"] for row in result.documents] == ids


# (documents, quarantined, blank, ids made) where expected.jsonl leaves them to the reader's policy
POLICY = {
    "empty_docs.jsonl": (6, 2, 2, 2),
    "wrong_types.jsonl": (2, 9, 0, 0),
    "broken_json.jsonl": (6, 6, 0, 0),
    "lone_surrogate.jsonl": (2, 1, 0, 0),
    "deep_metadata.jsonl": (1, 1, 0, 0),
    "truncated.jsonl.gz": (186, 1, 0, 0),
    "truncated.jsonl.zst": (0, 1, 0, 0),  # one block, of which nothing is whole
    "utf16.jsonl": (50, 0, 0, 0),
}
JSON_LINES = [
    *("invalid_utf8.jsonl", "nul_bytes.jsonl", "empty_docs.jsonl", "big_single_line.jsonl.gz", "huge_token.jsonl.gz"),
    *("many_tiny.jsonl.gz", "wrong_types.jsonl", "broken_json.jsonl", "lone_surrogate.jsonl", "duplicate_ids.jsonl"),
    *("deep_metadata.jsonl", "truncated.jsonl.gz", "corrupt.jsonl.gz", "not_gzip.jsonl.gz", "multi_member.jsonl.gz"),
    *("no_final_newline.jsonl", "bom_crlf.jsonl", "good.jsonl.zst", "truncated.jsonl.zst", "empty.jsonl"),
    *("empty.jsonl.gz", "unicode.jsonl", "utf16.jsonl"),
]


@pytest.mark.shared
@pytest.mark.parametrize("target_bytes", [1 << 30, 1000])
@pytest.mark.parametrize("name", JSON_LINES)
def test_the_dirty_corpus_gives_what_it_holds(ingested, dirty, name, target_bytes):
    truth = {each["file"]: each for each in map(json.loads, (dirty / "expected.jsonl").read_text().splitlines())}[name]
    result = ingested([str(dirty / name)], target_bytes=target_bytes)
    found = tuple(result.total(count) for count in ("rows", "quarantined", "blank", "ids_made"))
    if truth["docs_valid"] is not None:
        assert found[0] == truth["docs_valid"]
    if truth["lines_bad"] is not None:
        assert found[1] == truth["lines_bad"]
    assert found == POLICY.get(name, found)


@pytest.mark.shared
def test_every_file_of_json_lines_in_the_dirty_corpus_is_tried(dirty):
    files = {path.name for path in dirty.iterdir() if ".jsonl" in path.name} - {"expected.jsonl"}
    assert files == set(JSON_LINES)


@pytest.mark.shared
def test_a_corrupt_gzip_file_keeps_its_first_documents_as_they_were(ingested, dirty):
    corrupt = ingested([str(dirty / "corrupt.jsonl.gz")])
    truncated = ingested([str(dirty / "truncated.jsonl.gz")])
    assert corrupt.documents[:186] == truncated.documents  # both were made of one good file
    assert corrupt.total("quarantined") >= 1
