"""What one line of JSON becomes."""

import json

import pytest

LONG = "98765432109876543210"  # beyond 64 bits


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


@pytest.mark.parametrize(
    ("written", "doc_id"),
    [
        (b'"007"', "007"),
        (b"7", "7"),
        (b'"' + LONG.encode() + b'"', LONG),
        (LONG.encode(), LONG),
        (b"-" + LONG.encode(), "-" + LONG),
        (b"18446744073709551615", "18446744073709551615"),
        (b"18446744073709551616", "18446744073709551616"),
        (b'"2024-01-31"', "2024-01-31"),
        (b'"1e3"', "1e3"),
        (b'"\\u0000"', "\0"),
    ],
)
def test_ids_survive_as_they_are_written(ingested, written, doc_id):
    assert ingested(b'{"id": ' + written + b', "text": "t"}\n').ids == [doc_id]


@pytest.mark.parametrize("written", [b"1.5", b"1.0", b"1e3", b"1e25", b"true", b"[]", b"{}"])
def test_an_id_of_another_type_is_quarantined(ingested, written):
    result = ingested(b'{"id": ' + written + b', "text": "t"}\n{"id": "good", "text": "t"}\n')
    assert result.ids == ["good"]
    assert "field 'id' is " in result.reasons[0]


def test_a_missing_id_is_made_of_file_and_line(ingested):
    lines = [
        b'{"text": "a"}',
        b"",
        b'{"id": null, "text": "b"}',
        b"bad",
        b'{"id": "", "text": "c"}',
        b'{"id": "d", "text": ""}',
    ]
    result = ingested({"in/x/a.jsonl": b"\n".join(lines), "in/b.jsonl": b'{"text": "e"}'})
    assert result.ids == ["b.jsonl:1", "x/a.jsonl:1", "x/a.jsonl:3", "x/a.jsonl:5", "d"]
    assert result.total("ids_made") == 4


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "field 'text' is missing"),
        ({"text": None}, "field 'text' is null"),
        ({"text": 42}, "field 'text' is number"),
        ({"text": True}, "field 'text' is boolean"),
        ({"text": ["a"]}, "field 'text' is array"),
        ({"text": {"body": "a"}}, "field 'text' is object"),
    ],
)
def test_a_document_without_text_is_quarantined_with_its_reason(ingested, fields, reason):
    result = ingested(line(id="bad", **fields) + line(id="good", text="t"))
    assert result.ids == ["good"]
    assert result.reasons == [reason + ", not a string"]


def test_empty_and_blank_texts_are_documents(ingested):
    assert ingested(line(id="a", text="") + line(id="b", text=" \t\n")).texts == ["", " \t\n"]


def test_blank_lines_are_counted_and_nothing_else(ingested):
    result = ingested(b"\n \t\n" + line(id="a", text="t") + b"\r\n\n")
    assert (result.total("blank"), result.total("rows"), result.total("quarantined")) == (4, 1, 0)


@pytest.mark.parametrize(
    "bad",
    [
        b'{"id": "b", "text": "caf\xe9"}',
        b'{"id": "b", "text": "\\ud83d"}',
        b'{"id": "b", "text": "\xed\xa0\xbd"}',
        b'{"id": "b", "text": "raw \x00"}',
        b"\x00\x00\x00",
        b'{"id": "b", "text": "t", "score": NaN}',
        b'{"id": "b", "text": "t", "score": -Infinity}',
        b'{"id": "b", "text": "t"},',
        b'{"id": "b", "text": "t"} {"id": "c", "text": "t"}',
        b'{"id": "b", "text": "t"',
        b'[{"id": "b", "text": "t"}]',
        b'"text"',
        b"null",
        b'{"id": "b", "text": "t", "deep": ' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'{"id": "b", "text": "t", "deep": ' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"id": ' + b"9" * 400 + b', "text": "t"}',
        b"\xff\xfe",
    ],
)
def test_a_bad_line_costs_itself_only(ingested, bad):
    result = ingested(line(id="1", text="one") + bad + b"\n" + line(id="2", text="two"))
    assert result.ids == ["1", "2"]
    (entry,) = result.quarantine
    assert entry["file"] == "docs.jsonl"
    assert entry["position"] == {"line": 2, "byte": len(line(id="1", text="one"))}
    assert entry["reason"]
    assert len(entry["sample"]) <= 200


def metadata_of(ingested, content):
    (document,) = ingested(content).documents
    return document["metadata"] and json.loads(document["metadata"])


def test_known_fields_become_columns_and_the_rest_metadata(ingested):
    (document,) = ingested(line(id="a", text="t", source="s", url="u", lang="de", n=[1, 2])).documents
    assert document["source"] == "s"
    assert document["url"] == "u"
    assert json.loads(document["metadata"]) == {"lang": "de", "n": [1, 2]}


def test_no_other_fields_no_metadata(ingested):
    (document,) = ingested(line(id="a", text="t", source=None)).documents
    assert document["source"] is document["url"] is document["metadata"] is None


def test_a_source_that_is_no_string_goes_to_the_metadata(ingested):
    (document,) = ingested(line(id="a", text="t", source=5, url=["u"])).documents
    assert document["source"] is document["url"] is None
    assert json.loads(document["metadata"]) == {"source": 5, "url": ["u"]}


@pytest.mark.parametrize(
    ("fields", "metadata"),
    [
        ({"metadata": {"a": 1}}, {"a": 1}),
        ({"metadata": {"a": 1}, "b": 2}, {"a": 1, "b": 2}),
        ({"metadata": '{"a": 1}', "b": 2}, {"a": 1, "b": 2}),
        ({"metadata": {"a": 1}, "a": 2}, {"metadata": {"a": 1}, "a": 2}),
        ({"metadata": {"metadata": 1}}, {"metadata": 1}),
        ({"metadata": "{not json"}, {"metadata": "{not json"}),
        ({"metadata": [1]}, {"metadata": [1]}),
        ({"metadata": "plain"}, {"metadata": "plain"}),
        ({"metadata": None}, {"metadata": None}),
        ({"metadata": {}}, {}),
    ],
)
def test_metadata_is_opened_unless_a_name_would_mean_two_things(ingested, fields, metadata):
    assert metadata_of(ingested, line(id="a", text="t", **fields)) == metadata


def test_large_integers_in_the_metadata_keep_their_digits(ingested):
    content = line(id=int(LONG), text="t", source=1, n=int(LONG), deep=[{"m": -int(LONG)}], metadata={"k": int(LONG)})
    expected = {"source": 1, "n": int(LONG), "deep": [{"m": -int(LONG)}], "k": int(LONG)}
    assert metadata_of(ingested, content) == expected
    assert metadata_of(ingested, line(id="a", text="t", metadata=json.dumps({"k": int(LONG)}))) == {"k": int(LONG)}


def test_columns_can_have_other_names(ingested):
    from tamis.ingest import Fields

    content = line(uid="a", content="t", domain="d", link="l", text=3)
    (document,) = ingested(content, fields=Fields(text="content", id="uid", source="domain", url="link")).documents
    assert document == {"doc_id": "a", "text": "t", "source": "d", "url": "l", "metadata": '{"text":3}'}
