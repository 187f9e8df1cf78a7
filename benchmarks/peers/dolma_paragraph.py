"""dolma: paragraphs that a Bloom filter has seen. Prints one JSON object.

Run by dolma's own interpreter: python dolma_paragraph.py FOLDER, where FOLDER/documents holds the texts as *.jsonl.gz.
"""

import argparse
import gzip
import hashlib
import json
import time
from importlib.metadata import version
from pathlib import Path

import dolma

NAME = "paragraphs"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--min-length", type=int, default=0, help="characters; `min_words` of 1.2.1 finds nothing at all"
    )
    parser.add_argument("--ngram", type=int, default=0, help="words of an n-gram; 0 compares whole paragraphs")
    parser.add_argument(
        "--most", type=int, default=10_000_000, help="paragraphs or n-grams that the filter is made for"
    )
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()  # dolma finds nothing by a relative path
    began = time.perf_counter()
    dolma.deduper(configuration(folder, arguments))
    seconds = time.perf_counter() - began
    spans, lines = 0, []
    for path in sorted((folder / "attributes" / NAME).glob("*.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                document = json.loads(line)
                found = document["attributes"].get(NAME) or []
                spans += len(found)
                lines.append(json.dumps([document["id"], found]))
    lines.sort()
    told = {
        "version": version("dolma"),
        "seconds": {"dedupe": seconds},
        "documents": len(lines),
        "spans": spans,
        "flags": [hashlib.blake2b(line.encode(), digest_size=8).hexdigest() for line in lines],
    }
    print(json.dumps(told))


def configuration(folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """What `dolma dedupe` would be told, with a filter that is not there yet."""
    grams = {"ngram_length": arguments.ngram, "stride": 0, "overlap_threshold": 0.8, "skip_short_paragraphs": True}
    return {
        "documents": [str(folder / "documents" / "*.gz")],
        "dedupe": {
            "name": NAME,
            "paragraphs": {"attribute_name": NAME, **({"by_ngram": grams} if arguments.ngram else {})},
            "skip_empty": True,
            "min_length": arguments.min_length,
            "min_words": 0,
            "num_partitions": 1,
            "partition_index": 0,
            "file_partition": False,
            "document_dir": "documents",
        },
        "bloom_filter": {
            "file": str(folder / "filter.bin"),
            "size_in_bytes": 0,
            "read_only": False,
            "estimated_doc_count": arguments.most,
            "desired_false_positive_rate": 0.01,
        },
        "work_dir": {"input": str(folder / "work-in"), "output": str(folder / "work-out")},
        "is_s3_volume": False,
        "processes": arguments.processes,
        "compression": {"input": "gz", "output": "gz"},
    }


if __name__ == "__main__":
    main()
