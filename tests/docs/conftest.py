"""A small corpus like the sample, in a folder like a checkout."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
STDLIB = (
    "statistics",
    "_pydecimal",
    "fractions",
    "random",
    "argparse",
    "logging/__init__",
    "tarfile",
    "zipfile",
    "email/message",
    "subprocess",
)
TWIN = (
    "Removes empty values in a `dict` recursively\n\n"
    "This ensures we remove values that Meson could not provide to CONFIG"
)


def small_sample(folder: Path) -> None:
    """A pool of six shards and a target in two files, from a few modules, and the documents of the README."""
    from tamis.sample.documents import Document, read
    from tamis.sample.environment import Package
    from tamis.sample.shards import write

    library = folder / "library"
    for name in STDLIB:
        copy = library / f"{name}.py"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_bytes())
    package = Package("python", "3", library)
    found, _ = read([package], lambda _done, _all: None)
    for where in ("numpy/__config__.py:19 _cleanup", "scipy/__config__.py:14 _cleanup"):
        found.append(
            Document(
                where,
                TWIN,
                Package(where.split("/")[0], "1", library),
                where.split(":")[0],
                14,
                "docstring",
                "_cleanup",
            )
        )
    write(folder / "sample", found)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a checkout: the sample (small), stages.yaml with small budgets, the examples."""
    folder = tmp_path_factory.mktemp("docs")
    small_sample(folder)
    (folder / "stages.yaml").write_text(
        shrunk((REPOSITORY / "stages.yaml").read_text(encoding="utf-8")), encoding="utf-8"
    )
    return folder


def shrunk(stages: str) -> str:
    """The same stages with budgets that fit a few hundred documents."""
    stages = re.sub(r"budget_tokens: [\d_]+", "budget_tokens: 15_000", stages)
    stages = re.sub(r"budget_documents: [\d_]+", "budget_documents: 50", stages)
    stages = re.sub(r"(?m)^( +)(by: \{top: \{score: likely_gain\}\})", r"\1\2\n\1trust: [likely_gain]", stages)
    stages = stages.replace("uniform < 0.1", "uniform < 0.5")
    stages = re.sub(r"([{ ]tokens:) [\d_]+\}", r"\1 4_096}", stages)
    return re.sub(r"(?m)^(\s+)tokens: [\d_]+", r"\1tokens: 4_096", stages)
