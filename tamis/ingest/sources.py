"""Which files make up a corpus: paths, globs, directories and fsspec URLs become a sorted list of files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fsspec.core import url_to_fs
from fsspec.utils import get_protocol

from tamis.errors import ContractError

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".gz", ".zst")  # what counts as a document file in a directory
STAMPS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True)
class SourceFile:
    """A file of the corpus.

    url : absolute path or fsspec URL. relative_name : below the folder that all files share.
    bytes : stored size, -1 when the store does not tell. fingerprint : changes when size, time stamp or ETag do.
    """

    url: str
    relative_name: str
    bytes: int
    fingerprint: str


def expand(paths: Sequence[str]) -> list[SourceFile]:
    """The files that `paths` name, each once, sorted by URL.

    A directory gives all its document files (see SUFFIXES), at any depth; a glob what it matches. Both leave out
    names that start with a dot or an underscore. A path that names one file gives that file, whatever its name.

    Raises ContractError when a path matches nothing.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for path in paths:
        matches = dict(_matches(path))
        if not matches:
            raise ContractError(f"paths: expected files of documents at {path!r}, got none; {_nearby(path)}")
        found.update(matches)
    urls = sorted(found)
    shared = _shared_parts(urls)
    return [_source_file(url, "/".join(url.split("/")[shared:]), found[url]) for url in urls]


def is_parquet(file: SourceFile) -> bool:
    """Whether a file is read in place instead of being converted, by its name."""
    return file.url.endswith(".parquet")


def _matches(path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(URL, what the store says about it) of the files one path names."""
    fs, root = url_to_fs(path)
    local = get_protocol(path) in ("file", "local")
    for name, about in _listing(fs, root):
        if about.get("type") != "directory":
            yield name if local else fs.unstrip_protocol(name), about


def _listing(fs: Any, root: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if fs.isfile(root):
        yield root, fs.info(root)
    elif fs.isdir(root):
        yield from _below(fs, root)
    elif _is_glob(root):
        fixed = _fixed_folder(root)
        for name, about in sorted(fs.glob(root, detail=True).items()):
            if not _is_visible(name, fixed):
                continue
            if about.get("type") == "directory":
                yield from _below(fs, name)
            else:
                yield name, about


def _below(fs: Any, folder: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, about in sorted(fs.find(folder, detail=True).items()):
        if name.endswith(SUFFIXES) and _is_visible(name, folder):
            yield name, about


def _is_glob(path: str) -> bool:
    return any(character in path for character in "*?[")


def _fixed_folder(pattern: str) -> str:
    """The folder of a glob above its first wildcard."""
    parts = pattern.split("/")
    first = next(index for index, part in enumerate(parts) if _is_glob(part))
    return "/".join(parts[:first])


def _is_visible(name: str, folder: str) -> bool:
    return not any(part.startswith((".", "_")) for part in name[len(folder) :].split("/"))


def _nearby(path: str) -> str:
    """What there is instead, for an error message."""
    fs, root = url_to_fs(path)
    folder = _fixed_folder(root) if _is_glob(root) else root
    try:
        while folder.rstrip("/") and not fs.isdir(folder):
            folder = folder.rstrip("/").rpartition("/")[0]
        entries = fs.ls(folder or "/", detail=False)
    except OSError as error:
        return f"{folder or '/'} cannot be listed: {error}"
    names = sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries)
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"{folder or '/'} holds {len(names)} entries" + (f": {shown}" if names else "")


def _shared_parts(urls: Sequence[str]) -> int:
    """How many leading parts all URLs share, their file names aside."""
    parts = [url.split("/")[:-1] for url in urls]
    least, most = min(parts, default=[]), max(parts, default=[])
    return next((i for i, (one, other) in enumerate(zip(least, most, strict=False)) if one != other), len(least))


def _source_file(url: str, relative_name: str, about: Mapping[str, Any]) -> SourceFile:
    size = about.get("size")
    stamp = next((str(about[key]) for key in STAMPS if about.get(key) is not None), "")
    return SourceFile(url, relative_name, -1 if size is None else int(size), f"{size}-{stamp}")
