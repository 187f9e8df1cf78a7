"""A corpus of a few files, ingested in one call."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tamis.ingest import ChunkResult, convert, count_lines, expand, numbered, plan


@dataclass(frozen=True)
class Ingested:
    documents: list[dict[str, str | None]]
    quarantine: list[dict[str, object]]
    results: list[ChunkResult]
    folder: Path

    def total(self, name: str) -> int:
        return sum(getattr(result, name) for result in self.results)

    @property
    def texts(self) -> list[str | None]:
        return [document["text"] for document in self.documents]

    @property
    def ids(self) -> list[str | None]:
        return [document["doc_id"] for document in self.documents]

    @property
    def reasons(self) -> list[object]:
        return [entry["reason"] for entry in self.quarantine]


def ingest(paths: Sequence[str], folder: Path, target_bytes: int = 1 << 20, **options: object) -> Ingested:
    files = expand(paths)
    chunks = plan(files, target_bytes)
    chunks = numbered(chunks, [count_lines(chunk) for chunk in chunks if chunk.is_split])
    results = [
        convert(chunk, folder, f"{index:05}", target_bytes=target_bytes, **options)
        for index, chunk in enumerate(chunks)
    ]
    documents = [
        row
        for result in results
        for output in result.outputs
        for row in pq.read_table(folder / output.name).to_pylist()
    ]
    refused = [folder / result.quarantine for result in results if result.quarantine]
    quarantine = [json.loads(line) for path in refused for line in path.read_text("utf-8").splitlines()]
    for result in results:
        assert result.lines == result.rows + result.quarantined + result.blank
        assert result.rows == sum(output.rows for output in result.outputs)
    assert len(documents) == sum(result.rows for result in results)
    assert len(quarantine) == sum(result.quarantined for result in results)
    assert not list(folder.glob(".*"))
    return Ingested(documents, quarantine, results, folder)


@pytest.fixture
def ingested(tmp_path: Path) -> Callable[..., Ingested]:
    """Writes {name: bytes} into a new folder (or takes paths) and ingests them."""

    def run(corpus: Mapping[str, bytes] | bytes | Sequence[str], **options: object) -> Ingested:
        root = tmp_path / uuid.uuid4().hex
        out = root / "out"
        out.mkdir(parents=True)
        if isinstance(corpus, bytes):
            corpus = {"in/docs.jsonl": corpus}
        if isinstance(corpus, Mapping):
            for name, content in corpus.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            corpus = [str(root / name) for name in corpus]
        return ingest(corpus, out, **options)

    return run


@pytest.fixture(scope="session")
def dirty() -> Path:
    """The hostile inputs that are kept beside the checkout."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "dirty"
    if not folder.is_dir():
        pytest.skip("the shared corpus is not beside this checkout")
    return folder
