"""Model tests run on one thread: with more, sums differ by machine, and tiny products wait for each other."""

import pytest


@pytest.fixture
def one_thread():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
