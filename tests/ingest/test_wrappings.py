"""Compression and encodings are told by content; damage costs what is damaged."""

import gzip
import json
import zlib

import pytest
import zstandard

GOOD = [{"id": str(index), "text": f"document {index} " + "äöü 漢字 " * (index % 7)} for index in range(300)]
TEXT = b"".join(json.dumps(document, ensure_ascii=False).encode() + b"\n" for document in GOOD)
IDS = [document["id"] for document in GOOD]
NAMES = ["in/docs.jsonl", "in/docs.jsonl.gz", "in/docs.jsonl.zst"]


def crlf(text: bytes) -> bytes:
    return b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")


def halves(compress):
    return lambda text: compress(text[: len(text) // 2]) + compress(text[len(text) // 2 :])


WRAPPED = {
    "plain": lambda text: text,
    "no final newline": lambda text: text[:-1],
    "byte order mark, carriage returns": crlf,
    "gzip": gzip.compress,
    "gzip members": halves(gzip.compress),
    "gzip padding": lambda text: gzip.compress(text) + b"\0" * 512,
    "gzip of a marked file": lambda text: gzip.compress(crlf(text)),
    "zstd": zstandard.compress,
    "zstd frames": halves(zstandard.compress),
    "zstd skippable frame": lambda text: b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + zstandard.compress(text),
    "utf-16": lambda text: text.decode().encode("utf-16"),
    "utf-16 big end first": lambda text: b"\xfe\xff" + text.decode().encode("utf-16-be"),
    "utf-32": lambda text: text.decode().encode("utf-32"),
    "gzip of utf-16": lambda text: gzip.compress(text.decode().encode("utf-16")),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_content_and_not_the_name_says_how_to_read(ingested, wrapped, name):
    result = ingested({name: WRAPPED[wrapped](TEXT)}, target_bytes=5000)
    assert [{"id": row["doc_id"], "text": row["text"]} for row in result.documents] == GOOD
    assert result.total("quarantined") == 0


@pytest.mark.parametrize("content", [b"", gzip.compress(b""), zstandard.compress(b""), b"\n", b"\xef\xbb\xbf"])
def test_an_empty_file_holds_no_documents(ingested, content):
    result = ingested(content)
    assert (result.total("rows"), result.total("quarantined")) == (0, content == b"\xef\xbb\xbf")


def test_files_without_documents_make_no_shard(ingested):
    assert ingested(b"bad\n").results[0].outputs == ()


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
@pytest.mark.parametrize("lost", [1, 4, 8, 500])
def test_a_truncated_file_keeps_what_came_before(ingested, compress, lost):
    result = ingested(compress(TEXT)[:-lost])
    assert result.ids == IDS[: len(result.ids)]
    assert result.total("quarantined") == 1
    assert result.quarantine[0]["reason"].endswith("the rest of the file is missing")
    assert result.quarantine[0]["position"]["line"] == len(result.ids) + 1


def test_a_truncated_gzip_file_loses_no_whole_line(ingested):
    cut = gzip.compress(TEXT)[:2500]
    whole = zlib.decompressobj(wbits=31).decompress(cut).count(b"\n")
    assert ingested(cut).ids == IDS[:whole]
    assert whole > 20


def test_a_truncated_zstd_file_keeps_its_whole_frames(ingested):
    result = ingested(zstandard.compress(TEXT) + zstandard.compress(TEXT)[:-20])
    assert result.ids[:300] == IDS


def test_corrupt_gzip_keeps_what_came_before(ingested):
    content = bytearray(gzip.compress(TEXT) + gzip.compress(TEXT))
    content[len(gzip.compress(TEXT))] ^= 0xFF  # the second member's first byte
    result = ingested(bytes(content))
    assert result.ids == IDS
    assert "corrupt gzip data" in result.reasons[-1]


def test_a_wrong_gzip_check_sum_is_reported(ingested):
    content = bytearray(gzip.compress(TEXT))
    content[-6] ^= 0xFF
    result = ingested(bytes(content))
    assert result.ids == IDS
    assert "incorrect data check" in result.reasons[-1]


def test_corrupt_zstd_is_reported(ingested):
    content = zstandard.compress(TEXT) + b"no frame at all"
    result = ingested(content)
    assert result.ids == IDS
    assert "corrupt zstd data" in result.reasons[-1]


@pytest.mark.parametrize(("head", "kind"), [(b"PAR1", "Parquet"), (b"BZh9", "bzip2"), (b"PK\x03\x04", "zip")])
def test_other_formats_are_one_entry_with_their_name(ingested, head, kind):
    result = ingested(head + b"\n\n\x00" * 50)
    assert result.reasons == [f"{kind} data where JSON lines were promised"]


def test_a_lone_utf16_surrogate_costs_its_line(ingested):
    lines = ['{"id": "1", "text": "one"}', '{"id": "2", "text": "\ud83d"}', '{"id": "3", "text": "three"}']
    content = "\n".join(["\ufeff" + lines[0], *lines[1:]]).encode("utf-16-le", "surrogatepass")
    result = ingested(content)
    assert result.ids == ["1", "3"]
    assert "not UTF-8" in result.reasons[0]


def test_half_a_utf16_character_at_the_end_is_reported(ingested):
    result = ingested(TEXT.decode().encode("utf-16") + b"\x41")
    assert result.ids == IDS
    assert "broken utf-16" in result.reasons[0]
