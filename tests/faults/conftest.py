"""A corpus of seven shards, user's components that misbehave on demand, and the command line as a process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

COMPONENTS = {
    "trap": '''"""Falls into a trap that a text may hold, unless a file says that the trap is repaired."""
import os
import signal
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from tamis.scorers.base import Scorer


@dataclass(frozen=True)
class Trap(Scorer):
    """Length in bytes; `kind` is what a text with the word `poison` does while the file `repaired` does not exist."""

    kind: str
    repaired: str = "/nowhere"

    def score(self, batch):
        texts = batch["text"].to_pylist()
        if any("poison" in text for text in texts) and not Path(self.repaired).exists():
            if self.kind == "raise":
                raise ValueError("poison in the text")
            if self.kind == "exit":
                os._exit(3)
            if self.kind == "kill once":
                Path(self.repaired).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return np.array([len(text.encode()) for text in texts], np.float32)
''',
    "loud": '''"""How loud a document is."""
from dataclasses import dataclass
import numpy as np
from tamis.scorers.base import Scorer


@dataclass(frozen=True)
class Loud(Scorer):
    """Exclamation marks."""

    def score(self, batch):
        return np.array([text.count("!") for text in batch["text"].to_pylist()], np.float32)
''',
}


@pytest.fixture
def own_components(tmp_path: Path) -> Path:
    """A user's folder of components, that a test may edit."""
    folder = tmp_path / "components"
    folder.mkdir()
    for name, text in COMPONENTS.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def seven(tmp_path_factory: pytest.TempPathFactory, documents: pa.Table, write_corpus: Callable[..., Path]) -> Path:
    """The documents as seven shards."""
    return write_corpus(tmp_path_factory.mktemp("seven") / "pool", documents, 7)


@pytest.fixture
def poisoned(tmp_path: Path, documents: pa.Table, write_corpus: Callable[..., Path]) -> Path:
    """Four shards; the document `doc-bad` in the third holds the word that traps wait for."""
    usable = documents.filter(documents["text"].is_valid()).slice(0, 119)
    bad = pa.table(
        {"id": ["doc-bad"], "text": ["there is poison in it"], "source": ["web"], "stars": [5.0]},
        schema=documents.schema,
    )
    return write_corpus(tmp_path / "pool", pa.concat_tables([usable.slice(0, 70), bad, usable.slice(70)]), 4)


@pytest.fixture(scope="session")
def tamis(command: list[str], environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """(arguments, folder) → the finished command, run there."""

    def run(*arguments: str | Path, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *map(str, arguments)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def written() -> Callable[[Path, Any], Path]:
    """(folder, specification) → folder/stages.yaml."""

    def write(folder: Path, specification: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stages.yaml").write_text(json.dumps({**specification, "out": "run"}), encoding="utf-8")
        return folder / "stages.yaml"

    return write
