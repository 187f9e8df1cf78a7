"""JSON lines to Parquet shards, at any fsspec address: what is read, what is refused, and why.

A corpus is found (`expand`), cut into tasks (`plan`, with `count_lines` and `numbered` for files that are cut), and
each task is converted on its own (`convert`). How a corpus is cut changes neither its documents nor their ids.

What counts as what:

- The first bytes tell gzip, zstd, UTF-16, UTF-32 and plain text apart; names do not. Gzip members and zstd frames may
  follow one another. UTF-16 and UTF-32 need their byte order mark and are decoded; all else is UTF-8, where a byte
  order mark at the start of a line, carriage returns and a missing last newline do no harm.
- A line is blank, a document, or quarantined with file, line, byte, reason and its first 200 characters. Bytes count
  in the decompressed, decoded text. JSON is read strictly: no NaN, no comments, nothing after the object.
- `text` must be a string; the empty string is a document, null and a missing field are not.
- `id` is a string or an integer, whose digits are kept however many there are; a missing, null or empty one becomes
  `relative/path.jsonl:line`; anything else is quarantined.
- `source` and `url` are strings or null; another value goes to the metadata instead.
- All other fields become `metadata`, one JSON object as text. A field `metadata` that is an object, or a string that
  holds one, is opened into it, unless a name would then stand for two things. Of a repeated key the last one counts.
- Metadata nested deeper than 254 levels and lines longer than 256 MB are quarantined.
- A compressed file that is cut short or corrupt keeps what came out before, and one quarantine entry says the rest is
  missing. A few kilobytes before corrupt bytes may be lost or altered, as gzip and zstd check sums come late.
"""

from tamis.ingest.chunks import Chunk, Part, count_lines, numbered, plan
from tamis.ingest.convert import SCHEMA, ChunkResult, Output, convert
from tamis.ingest.documents import Fields
from tamis.ingest.sources import SourceFile, expand, is_parquet

__all__ = [
    "SCHEMA", "Chunk", "ChunkResult", "Fields", "Output", "Part", "SourceFile",
    "convert", "count_lines", "expand", "is_parquet", "numbered", "plan",
]  # fmt: skip
