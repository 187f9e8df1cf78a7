"""The sample corpus, and the repository's own stages.yaml run over a part of it by the installed command: made once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
SMALLER = {
    "budget_tokens: 400_000": "budget_tokens: 60_000",
    "tokens: 300_000": "tokens: 30_000",
    "seeds: 3": "seeds: 2",
}


def called(*arguments: str | Path, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """The installed `tamis` command, beside this environment's Python."""
    command = Path(sys.executable).with_name("tamis")
    if not command.exists():
        pytest.skip("the command `tamis` is not installed beside this Python")
    environment = {**os.environ, "COLUMNS": "160"}
    return subprocess.run(
        [command, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        **options,
    )


@pytest.fixture(scope="session")
def tamis() -> Callable[..., subprocess.CompletedProcess[str]]:
    """(arguments, folder) → the finished command."""
    return called


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample corpus and the root stages.yaml, with smaller budgets."""
    folder = tmp_path_factory.mktemp("e2e")
    done = called("sample", "sample", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "documents in sample" in done.stdout
    text = (REPOSITORY / "stages.yaml").read_text("utf-8")
    for before, after in SMALLER.items():
        assert before in text, f"stages.yaml no longer says {before!r}; change SMALLER"
        text = text.replace(before, after)
    (folder / "stages.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def finished(place: Path) -> Path:
    """The run directory of the finished run over the first shard of the sample."""
    done = called("run", "stages.yaml", "--serial", "--limit", "1", folder=place)
    assert done.returncode == 0, done.stderr
    (place / "first-run.txt").write_text(done.stderr + done.stdout, encoding="utf-8")
    return place / "runs" / "first"
