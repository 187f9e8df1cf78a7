"""Model tests run on one thread: with more, sums differ by machine, and tiny products wait for each other."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TEXTS = [f"{a} {b} {a} {c}. " * 4 for a in ("the", "a", "my") for b in ("old", "red", "odd") for c in ("mill", "sea")]


@pytest.fixture
def one_thread():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy_size() -> Any:
    """A model of one narrow layer, rows of 16 tokens, four a step."""
    from tamis.models import sizes

    tiny = sizes.size("tiny")
    return dataclasses.replace(tiny, layers=1, width=16, heads=2, ffn=32, row_tokens=16, batch_rows=4)


@pytest.fixture(scope="session")
def toy_texts() -> list[str]:
    return TEXTS


@pytest.fixture(scope="session")
def toy_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tokenizer of 300 tokens."""
    from tamis.models.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, 300, folder)
    return folder


@pytest.fixture(scope="session")
def toy_rows(toy_tokenizer: Path, toy_size: Any) -> Any:
    """Training rows of the texts."""
    from tamis.models.packing import pack
    from tamis.models.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(toy_tokenizer)
    return pack(*tokenizer.encode(TEXTS), toy_size.row_tokens, tokenizer.end)


@pytest.fixture
def run(toy_rows: Any, toy_tokenizer: Path, toy_size: Any) -> Callable[..., dict[str, Any]]:
    """(folder, seed, tokens, size, **options of train) → what `train` returns: 16 steps by default."""
    from tamis.models.train import train

    def run(folder: Path, seed: int = 3, tokens: int = 1_000, size: Any = toy_size, **options: Any) -> dict[str, Any]:
        given = {"rows": toy_rows, **options}
        return train(
            given.pop("rows"), size, seed=seed, tokens=tokens, folder=folder, tokenizer_folder=toy_tokenizer, **given
        )

    return run
