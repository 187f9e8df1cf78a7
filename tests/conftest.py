"""What every test may ask for: a small hostile corpus, the same in other shards, a run of a few lines of YAML."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings

settings.register_profile("tamis", deadline=None)  # the first example may have to compile a kernel
settings.load_profile("tamis")


def pytest_addoption(parser: pytest.Parser) -> None:
    """One switch: to commit to new values."""
    parser.addoption(
        "--renew-golden", action="store_true", help="write tests/golden/digests.json from what is computed now"
    )


REPOSITORY = Path(__file__).parents[1]
WORDS = [
    "sieve",
    "drum",
    "flour",
    "grain",
    "shard",
    "river",
    "matrix",
    "proof",
    "market",
    "engine",
    "quiet",
    "number",
    "letter",
    "window",
    "theorem",
    "copper",
    "garden",
    "signal",
    "harvest",
    "mirror",
    "vector",
    "paper",
    "island",
    "winter",
    "tensor",
    "model",
    "kitchen",
    "bridge",
    "captain",
    "lesson",
    "orbit",
    "pepper",
]
BENCHMARK = "which of these kitchen tools is used to sift flour until what falls through it is fine and even all over"
ODD_TEXTS = (
    "",
    " \n\t ",
    "é" * 3 + " e\u0301e\u0301e\u0301 ﬁne Straße STRASSE İstanbul",
    "天地玄黄 宇宙洪荒 日月盈昃 辰宿列张",
    "한국어 문장 하나 그리고 日本語の文章もある。カタカナ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🙂🙂🙂 12:30 \u200b\u200d\ufeff",
    "مرحبا بالعالم هذا نص قصير",
    "zero\0byte \x01\x02 and a bell \x07",
    "a" * 5000,
    "\r\n\r\n".join(["same line"] * 40),
    "no-words: !!! ??? ... --- ***",
    "\n".join(f"{number},{number * number},{number**3}" for number in range(200)),
    f"a question about cooking: {BENCHMARK}? the answer is a tamis",
    BENCHMARK.upper(),
    "7",
)


def _sentence(draw: random.Random) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(3, 25))).capitalize() + draw.choice(".!?;")


def _made_documents(count: int = 300, seed: int = 7) -> pa.Table:
    """id, text (two of them null), source, stars (with nulls and NaN): varied, with duplicates, in no order."""
    draw = random.Random(seed)
    texts: list[str | None] = [*ODD_TEXTS, None, None]
    texts += [" ".join(_sentence(draw) for _ in range(2500))]  # a document of some hundred kilobytes
    while len(texts) < count:
        if draw.random() < 0.2:
            copied = draw.choice([text for text in texts if text and len(text) < 5000])
            texts.append(draw.choice([copied, copied.upper(), f"  {copied} \n"]))
        else:
            texts.append(draw.choice(" \n").join(_sentence(draw) for _ in range(draw.randint(1, 30))))
    ids = ["007", "12345678901234567890", "ключ", "a b/c:d", "x" * 300] + [
        f"doc-{number:04d}" for number in range(5, len(texts))
    ]
    sources = [draw.choice(["web", "books", "code", None]) for _ in texts]
    stars = [draw.choice([None, float("nan"), round(draw.uniform(0, 5), 2)]) for _ in texts]
    order = list(range(len(texts)))
    draw.shuffle(order)
    return pa.table(
        {
            "id": pa.array([ids[i] for i in order], pa.string()),
            "text": pa.array([texts[i] for i in order], pa.string()),
            "source": pa.array([sources[i] for i in order], pa.string()),
            "stars": pa.array([stars[i] for i in order], pa.float64()),
        }
    )


@pytest.fixture(scope="session")
def documents() -> pa.Table:
    """Three hundred documents with ids, sources and a number; every oddity that text may have."""
    return _made_documents()


@pytest.fixture(scope="session")
def target_texts() -> list[str]:
    """What the tests' target looks like: some of the vocabulary only."""
    draw = random.Random(99)
    return [" ".join(draw.choice(WORDS[:8]) for _ in range(60)) for _ in range(40)]


@pytest.fixture(scope="session")
def write_corpus() -> Callable[..., Path]:
    """(folder, table, shards=1, backwards=False, with_empty=False) → a folder of Parquet files in row groups of 40.

    backwards : the last documents come first in path order. with_empty : one more file, without rows.
    """

    def write(
        folder: Path, table: pa.Table, shards: int = 1, *, backwards: bool = False, with_empty: bool = False
    ) -> Path:
        folder.mkdir(parents=True)
        edges = np.linspace(0, table.num_rows, shards + 1).astype(int)
        for number in range(shards):
            place = shards - 1 - number if backwards else number
            part = table.slice(edges[number], edges[number + 1] - edges[number])
            pq.write_table(part, folder / f"part-{place:02d}.parquet", row_group_size=40)
        if with_empty:
            pq.write_table(table.slice(0, 0), folder / "part-01-empty.parquet")
        return folder

    return write


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, documents: pa.Table, write_corpus: Callable[..., Path]) -> Path:
    """The documents as three shards and an empty one; never to be changed."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "pool", documents, 3, with_empty=True)


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory, target_texts: list[str]) -> Path:
    """The target as a Parquet file; never to be changed."""
    path = tmp_path_factory.mktemp("target") / "target.parquet"
    pq.write_table(pa.table({"id": [f"t{i}" for i in range(len(target_texts))], "text": target_texts}), path)
    return path


@dataclass
class Ran:
    """A run directory as a test sees it: values by document, bytes by file, receipts by key."""

    folder: Path
    lines: list[str] = field(default_factory=list)

    @property
    def catalog(self) -> dict[str, Any]:
        return json.loads((self.folder / "run.json").read_text("utf-8"))

    @property
    def columns(self) -> list[str]:
        """The columns that layers hold, in the order in which stages made them."""
        return [name for name, place in self.catalog["columns"].items() if place["layer"]]

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """doc_id and columns of layers (by default all), sorted by doc_id."""
        from tamis.corpus import layer_file, read_batches
        from tamis.pipeline.layout import CorpusRef

        catalog = self.catalog
        ref = CorpusRef.from_json(catalog["corpus"])
        parts = []
        for number, shard in sorted(ref.shards(self.folder).items()):
            ids = [batch.column("doc_id") for batch, _ in read_batches(shard, ref.fields, ("doc_id",))]
            part = pa.table({"doc_id": pa.chunked_array(ids, pa.string())})
            for name in columns if columns is not None else self.columns:
                layer = pq.read_table(
                    self.folder / catalog["columns"][name]["layer"] / layer_file(number), partitioning=None
                )
                assert layer.num_rows == part.num_rows, f"{name}, shard {number}: a layer has the rows of its shard"
                part = part.append_column(name, layer.column(name))
            parts.append(part)
        return pa.concat_tables(parts).sort_by("doc_id").combine_chunks()

    def values(self, column: str) -> dict[str, Any]:
        """doc_id → value."""
        table = self.table([column])
        return dict(zip(table["doc_id"].to_pylist(), table[column].to_pylist(), strict=True))

    def kept(self, arm: str) -> set[str]:
        return {doc_id for doc_id, repeats in self.values(f"{arm}_repeats").items() if repeats}

    def files(self, folder: str = "layers") -> dict[str, str]:
        """Relative path → digest of the bytes, of every file below a folder of the run."""
        root = self.folder / folder
        return {
            str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }

    def receipts(self) -> list[dict[str, Any]]:
        """All lines of the ledger that are receipts, in the order of writing."""
        lines = [
            line
            for path in sorted((self.folder / "ledger").glob("*.jsonl"))
            for line in path.read_text("utf-8").splitlines()
        ]
        return [values for values in map(json.loads, lines) if "unit" in values]

    def quarantine(self) -> list[dict[str, Any]]:
        """All entries of RUN/quarantine."""
        lines = [
            line
            for path in sorted((self.folder / "quarantine").glob("*.jsonl"))
            for line in path.read_text("utf-8").splitlines()
        ]
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def opened() -> Callable[[Path], Ran]:
    """A run directory that exists already."""
    return Ran


@pytest.fixture(scope="session")
def run_spec() -> Callable[..., Ran]:
    """(specification, folder, workers=None, **driver options) → the finished run in folder/run.

    specification : the content of a stages.yaml, as text or as what JSON would hold.
    """
    import io

    from tamis.pipeline.progress import Progress
    from tamis.pipeline.run import Driver
    from tamis.pipeline.spec import load_spec
    from tamis.pipeline.workers import Serial

    def run(specification: str | dict[str, Any], folder: Path, workers: Any = None, **options: Any) -> Ran:
        folder.mkdir(parents=True, exist_ok=True)
        text = specification if isinstance(specification, str) else json.dumps(specification, indent=1)
        (folder / "stages.yaml").write_text(text, encoding="utf-8")
        told = io.StringIO()
        Driver(
            load_spec(folder / "stages.yaml"), folder / "run", workers or Serial(), Progress(told), **options
        ).drive()
        return Ran(folder / "run", told.getvalue().splitlines())

    return run


@pytest.fixture(scope="session")
def stages(target: Path) -> list[dict[str, Any]]:
    """Every kind of stage but training: dedup by exchange, scores by fold, arms by tokens and by documents."""
    return [
        {"embed": {"hashed_ngrams": {"dimensions": 16, "as": "vector"}}},
        {"deduplicate": {"by": "exact"}},
        {"deduplicate": {"by": {"minhash": {"ngram": 2, "verify": "exact", "threshold": 0.5, "canaries": 0.1}}}},
        {
            "score": [
                "length",
                {"repetition": {"where": "not exact_duplicate"}},
                {"importance": {"target": str(target), "buckets": 512}},
            ]
        },
        {"score": {"overlap": {"against": {"paths": [str(target)]}, "ngram_words": 4}}},
        {"score": "vendi"},
        {
            "select": {
                "name": "best",
                "where": "not exact_duplicate and length > 20",
                "by": {"top": {"score": "importance"}},
                "budget_tokens": 9000,
            }
        },
        {
            "select": {
                "name": "drawn",
                "where": "stars > 1",
                "by": {"sample": {"score": "importance"}},
                "budget_documents": 40,
            }
        },
    ]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence model of one narrow layer with fixed random weights, windows of 16 tokens; never to be changed."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tiny_model")
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *sorted({*"abcdefghijklmnopqrstuvwxyz0123456789.,!?-"}),
        *WORDS,
    ]
    vocabulary = dict.fromkeys([*pieces, *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789")])
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        transformers.BertModel(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    for path, content in {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": 16},
        "1_Pooling/config.json": pooling,
    }.items():
        (folder / path).write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def language_models(tmp_path_factory: pytest.TempPathFactory, documents: pa.Table) -> dict[str, Path]:
    """`prior` and `conditional`: folders with language models of one narrow layer; never to be changed.

    Random weights of two seeds, one tokenizer of 512 entries trained on the documents, windows of 32 tokens; the
    conditional one has two checkpoints, told of in result.json as a stage that trained it would.
    """
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tamis.models import build, sizes, tokenizer

    folder = tmp_path_factory.mktemp("language_models")
    shape = sizes.Size("narrow", layers=1, width=16, heads=2, ffn=32, row_tokens=32)
    folders = {name: folder / name for name in ("prior", "conditional")}
    checkpoints = [folders["conditional"] / "checkpoints" / step for step in ("1", "2")]
    texts = documents["text"].drop_null().to_pylist()
    for seed, place in enumerate((*checkpoints, *folders.values())):
        vocabulary = tokenizer.train_tokenizer(texts, 512, place)["vocab_size"] if place in folders.values() else 512
        model = build.build(shape, int(vocabulary), seed)
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(4)  # opinions that differ, where fresh weights have hardly any
        build.save(model, place)
    told = [
        {"folder": f"checkpoints/{path.name}", "step": int(path.name), "learning_rate": 0.01} for path in checkpoints
    ]
    (folders["conditional"] / "result.json").write_text(json.dumps({"checkpoints": told}), encoding="utf-8")
    return folders


@pytest.fixture(scope="session")
def dask_workers() -> Iterator[Any]:
    """A local cluster of two processes, started once."""
    from tamis.pipeline.workers import Dask

    with Dask(2) as workers:
        yield workers


@pytest.fixture(scope="session")
def command() -> list[str]:
    """The command line of this environment: `python -m tamis`."""
    return [sys.executable, "-m", "tamis"]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """What a subprocess should see: this environment, the checkout importable from anywhere."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1", "COLUMNS": "200"}


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared corpus that is kept beside the checkout."""
    folder = REPOSITORY / ".." / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared corpus is not beside this checkout")
    return folder.resolve()
