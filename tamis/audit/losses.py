"""Which passages of a document were struck, where they stand instead, and what remains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tamis.audit.reader import Run, Stage

SOUGHT = 12  # passages whose other place is looked for: the first ones
SCANNED = 256 << 20  # bytes of text that are read for it
PART = 200  # bytes of a passage that are looked for where the whole is nowhere


@dataclass(frozen=True)
class Struck:
    """A passage, as bytes [start, end) of the UTF-8. keeper: a document where it stands and stays, None if not found.

    at : the byte where it begins there. is_whole : whether all of it stands there, or only its beginning.
    """

    start: int
    end: int
    text: str
    keeper: str | None = None
    at: int | None = None
    is_whole: bool = True

    @property
    def bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Losses:
    """What a deduplicator of passages strikes.

    remains : the text between the passages, with each passage's bytes. scanned : bytes of text in which their other
    places were looked for; is_searched : whether that was all there is, or enough.
    """

    stage: str
    component: str
    duplicate: bool
    kept_by: str | None
    bytes: int
    n_bytes: int
    struck: Sequence[Struck]
    remains: Sequence[str | int]
    scanned: int
    is_searched: bool


def losses_of(run: Run, stage: Stage, values: Mapping[str, Any]) -> Losses:
    """What `stage` strikes of one document. values: all its columns, the text included."""
    content = (values["text"] or "").encode()
    struck = [
        Struck(span["start"], span["end"], _text(content[span["start"] : span["end"]]))
        for span in values[f"{stage.name}_spans"] or ()
    ]
    scanned, is_searched = 0, True
    if struck:
        struck, scanned, is_searched = Search(run, stage, values["row"]).found(struck, values[f"{stage.name}_kept_by"])
    return Losses(
        stage.name, stage.component, bool(values[f"{stage.name}_duplicate"]), values[f"{stage.name}_kept_by"],
        values[f"{stage.name}_bytes"] or 0, len(content), struck, list(_remains(content, struck)), scanned,
        is_searched,
    )  # fmt: skip


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _remains(content: bytes, struck: Sequence[Struck]) -> Iterator[str | int]:
    """Pieces of text that stay, and the bytes of each passage between them."""
    end = 0
    for passage in struck:
        if passage.start > end:
            yield _text(content[end : passage.start])
        yield passage.bytes
        end = passage.end
    if end < len(content):
        yield _text(content[end:])


@dataclass(frozen=True)
class Search:
    """Looks through the corpus for the places where passages of the document at `row` stay."""

    run: Run
    stage: Stage
    row: int

    def found(self, struck: Sequence[Struck], kept_by: str | None) -> tuple[list[Struck], int, bool]:
        """The passages with their keepers; how many bytes of text were read for it, and whether that was enough.

        The document that keeps the longest is looked at first, then the others in the order of the corpus.
        """
        found = list(struck)
        missing = list(range(min(SOUGHT, len(found))))
        scanned = 0
        for batch in self._batches(kept_by):
            scanned += batch["text"].nbytes
            missing = [i for i in missing if not self._take(batch, found, i)]
            if not missing or scanned > SCANNED:
                return found, scanned, not missing
        return found, scanned, True

    def _batches(self, kept_by: str | None) -> Iterator[pa.RecordBatch]:
        columns = ["row", "doc_id", "text", f"{self.stage.name}_spans"]
        if kept_by is not None:
            with self.run.connect() as connection:
                found = connection.execute("SELECT row FROM documents WHERE doc_id = ?", [kept_by]).fetchall()
            yield pa.RecordBatch.from_pylist(
                list(self.run.at([row for (row,) in found], columns).values()),
                pa.schema([(name, self.run.columns[name].kind) for name in columns]),
            )
        yield from self.run.batches(columns)

    def _take(self, batch: pa.RecordBatch, found: list[Struck], i: int) -> bool:
        """Looks for passage i in the batch; whether all of it was found."""
        passage, whole = found[i], found[i].text.strip()
        for is_whole, wanted in ((True, whole), (False, _beginning(whole))):
            if not is_whole and (passage.keeper is not None or len(wanted) == len(whole)):
                break
            for index in pc.indices_nonzero(pc.fill_null(pc.match_substring(batch["text"], wanted), False)).to_pylist():
                at = self._kept_at(batch, index, wanted)
                if at is not None:
                    doc_id = batch["doc_id"][index].as_py()
                    found[i] = replace(passage, keeper=doc_id, at=at, is_whole=is_whole)
                    return is_whole
        return False

    def _kept_at(self, batch: pa.RecordBatch, index: int, wanted: str) -> int | None:
        """Where in the document the text stands and is not struck, in bytes; None if nowhere."""
        content: bytes = batch["text"][index].as_py().encode()
        sought = wanted.encode()
        spans = batch[f"{self.stage.name}_spans"][index].as_py() or ()
        at = content.find(sought)
        while at >= 0:
            end = at + len(sought)
            if not any(span["start"] < end and at < span["end"] for span in spans):
                return at
            at = content.find(sought, at + 1)
        return None


def _beginning(text: str) -> str:
    return text.encode()[:PART].decode("utf-8", "ignore")
