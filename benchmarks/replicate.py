"""A corpus with known near-duplicates, as large as wanted: the pool, and edited copies of three of five documents.

A copy is exact, or has words replaced, deleted or put in so that its Jaccard similarity with the original (word
5-grams) is spread evenly between .5 and 1, or has a passage moved. What happens to a document depends on its id, the
round and the seed alone. Beside the shards lies `truth.parquet`: id, origin, edit and the similarity aimed at.

    python benchmarks/replicate.py --gigabytes 1 --folder /somewhere
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import shutil
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pool import need_shared, shards

VERSION = 1  # of the texts made: another one makes another folder
SEED = 17
ROUNDS = 4  # of copies, as long as the pool is large enough for the size asked for
COPIED = 0.6  # of the documents have copies, in every round; the others stay alone
SHARD_BYTES = 90_000_000  # text per shard, about
GROUP_ROWS = 8192
DEFAULT = Path(tempfile.gettempdir()) / "tamis-benchmarks"
KINDS = ("exact", "replace", "delete", "insert", "move")
SHARES = (0.1, 0.35, 0.2, 0.25, 0.1)
LOWEST = 0.5  # Jaccard similarity that an edit aims at
NGRAM = 5
TRUTH = pa.schema([("id", pa.string()), ("origin", pa.string()), ("edit", pa.string()), ("aimed_at", pa.float32())])


def replicated(gigabytes: float, folder: Path | None = None) -> Path:
    """The folder of a corpus of about so many gigabytes of text, made now if it is not there yet.

    It holds `shards/*.parquet` (id, text, source) and `truth.parquet`.
    """
    need_shared()
    root = (folder or DEFAULT) / f"replicated-{gigabytes:g}GB-v{VERSION}"
    if (root / "truth.parquet").is_file():  # written last
        return root
    shutil.rmtree(root, ignore_errors=True)
    (root / "shards").mkdir(parents=True)
    tasks = _tasks(root, gigabytes * 1e9)
    with multiprocessing.get_context("spawn").Pool(2) as processes:
        tables = processes.starmap(_shard, tasks, chunksize=1)
    pq.write_table(pa.concat_tables(tables), root / "truth.parquet", compression="zstd")
    return root


def shard_paths(root: Path) -> list[str]:
    return [str(path) for path in sorted((root / "shards").glob("*.parquet"))]


def _tasks(root: Path, wanted: float) -> list[tuple[str, list[str], float, int, float]]:
    """(shard to write, pool shards to read, share of each, round, share of the documents with copies) each.

    Round 0 is the originals. A small corpus has fewer originals, a large one more rounds.
    """
    paths = shards(100)
    whole = float(sum(_text_bytes(path) for path in paths))
    share = min(1.0, wanted / (whole * (1 + COPIED * ROUNDS)))
    left = wanted - share * whole
    sizes = [(0, 1.0, share * whole)]
    while left > 0.01 * wanted:
        size = min(left, COPIED * share * whole)
        sizes.append((len(sizes), COPIED * size / (COPIED * share * whole), size))
        left -= size
    tasks = []
    for number, copied, size in sizes:
        count = 2 * max(1, round(size / SHARD_BYTES / 2))  # even: two processes can share them fairly
        for index in range(count):
            target = str(root / "shards" / f"{number:02d}-{index:02d}.parquet")
            tasks.append((target, paths[index::count], share, number, copied))
    return tasks


def _text_bytes(path: str) -> int:
    return pc.sum(pc.binary_length(pq.read_table(path, columns=["text"])["text"])).as_py()


def _shard(target: str, paths: list[str], share: float, number: int, copied: float) -> pa.Table:
    """Writes one shard, the documents of some pool shards or one copy of each; the rows of the truth about them."""
    ids, texts, sources, rows = [], [], [], []
    for path in paths:
        table = pq.read_table(path, columns=["id", "text", "source"])
        table = table.slice(0, max(1, round(share * len(table))))
        for name, text, source in zip(*(table[column].to_pylist() for column in table.column_names), strict=True):
            if number and _uniform(name, "copied") >= copied:
                continue
            edit, aimed_at, copy = edited(name, text, number) if number else ("original", 1.0, text)
            ids.append(f"{name}~{number}" if number else name)
            texts.append(copy)
            sources.append(source)
            rows.append((ids[-1], name, edit, aimed_at))
    pq.write_table(
        pa.table({"id": ids, "text": pa.array(texts, pa.string()), "source": sources}),
        target,
        compression="zstd",
        row_group_size=GROUP_ROWS,
    )
    columns = zip(*rows, strict=True) if rows else [[], [], [], []]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, TRUTH, strict=True)], schema=TRUTH)


def _uniform(name: str, purpose: str) -> float:
    return _draw(name, purpose) / 2**64


def _draw(name: str, purpose: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{SEED} {purpose} {name}".encode(), digest_size=8).digest())


def edited(name: str, text: str, number: int) -> tuple[str, float, str]:
    """What was done to the copy, the similarity aimed at, and its text."""
    draw = random.Random(_draw(name, f"round {number}"))
    (edit,) = draw.choices(KINDS, SHARES)
    words = text.split(" ")
    if edit == "exact" or len(words) < 2 * NGRAM:
        return "exact", 1.0, text
    if edit == "move":
        return edit, 1.0, " ".join(_moved(words, draw))
    aimed_at = draw.uniform(LOWEST, 1.0)
    gone, new = {"replace": (NGRAM, NGRAM), "delete": (NGRAM, NGRAM - 1), "insert": (NGRAM - 1, NGRAM)}[edit]
    # m edits apart from each other leave (n - m·gone) of n n-grams and bring m·new: solved for m
    count = max(1, round(len(words) * (1 - aimed_at) / (gone + aimed_at * new)))
    for place in draw.sample(range(len(words)), min(count, len(words) // 3)):
        if edit == "replace":
            words[place] = words[draw.randrange(len(words))] or "word"
        elif edit == "delete":
            words[place] = ""
        else:
            words[place] += " " + (words[draw.randrange(len(words))] or "word")
    return edit, aimed_at, " ".join(words)


def _moved(words: list[str], draw: random.Random) -> list[str]:
    """A passage of about a fifth of the words, put elsewhere."""
    length = max(2, len(words) // 5)
    start = draw.randrange(len(words) - length)
    passage, rest = words[start : start + length], words[:start] + words[start + length :]
    place = draw.randrange(len(rest))
    return rest[:place] + passage + rest[place:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    began = time.perf_counter()
    root = replicated(arguments.gigabytes, arguments.folder)
    paths = shard_paths(root)
    made = {"seconds": round(time.perf_counter() - began, 1), "shards": len(paths)}
    made |= {"documents": sum(pq.read_metadata(path).num_rows for path in paths)}
    made |= {"text_megabytes": round(sum(_text_bytes(path) for path in paths) / 1e6, 1), "folder": str(root)}
    print(json.dumps(made))


if __name__ == "__main__":
    main()
