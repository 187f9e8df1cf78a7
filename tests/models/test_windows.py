"""Windows leave no token out, and the batch that a window is in moves no bit of what it comes out as."""

# ruff: noqa: E402  (what imports torch comes after the check that torch is here)

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tamis.models import build, head, sizes
from tamis.models.device import Device, choose
from tamis.models.windows import STEP, batches_of, chunks_of, padded, windows_of

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]

CPU = Device("cpu", "float32")


def covered(windows):
    triples = zip(windows.document.tolist(), windows.first.tolist(), windows.tokens.tolist(), strict=True)
    return [(d, t) for d, first, n in triples for t in range(first, first + n)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 12), st.one_of(st.none(), st.integers(1, 30)))
def test_windows_cover_every_token_once(lengths, context, most):
    offsets = np.concatenate([[3], 3 + np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    windows = windows_of(offsets, context, most)
    ends = offsets[1:] if most is None else np.minimum(offsets[:-1] + most, offsets[1:])
    assert covered(windows) == [(d, t) for d in range(len(lengths)) for t in range(offsets[d], ends[d])]
    assert all(1 <= n <= context for n in windows.tokens.tolist())
    assert [d for d, opens in zip(windows.document, windows.opens, strict=True) if opens] == np.flatnonzero(
        lengths
    ).tolist()


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 12))
def test_chunks_are_whole_and_start_at_the_beginning(lengths, chunk):
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    chunks = chunks_of(offsets, chunk)
    assert chunks.opens.all()
    assert covered(chunks) == [(d, offsets[d] + t) for d, n in enumerate(lengths) for t in range(n // chunk * chunk)]


@given(st.integers(1, 1 << 16))
def test_a_window_is_padded_by_an_eighth_at_most(tokens):
    (length,) = padded(np.array([tokens]))
    assert tokens <= length
    assert length < tokens + max(STEP, tokens // 8)
    assert length % STEP == 0


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 70), min_size=1, max_size=15), st.integers(0, 99))
def test_batches_hold_every_window_with_its_own_tokens(lengths, seed):
    ids = np.random.default_rng(seed).integers(1, 50, sum(lengths)).astype(np.uint16)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    windows = windows_of(offsets, 24)
    seen = []
    for batch in batches_of(ids, windows, 0, CPU, 64):
        assert batch.inputs.shape == batch.targets.shape == batch.real.shape
        assert batch.inputs.shape[1] <= 24
        assert not batch.real[len(batch.index) :].any()
        for row, index in enumerate(batch.index.tolist()):
            first, n = windows.first[index], windows.tokens[index]
            before = 0 if windows.opens[index] else ids[first - 1]
            assert batch.targets[row, :n].tolist() == ids[first : first + n].tolist()
            assert batch.inputs[row, :n].tolist() == [before, *ids[first : first + n - 1].tolist()]
            assert batch.real[row].tolist() == [i < n for i in range(batch.real.shape[1])]
            seen.append(index)
    assert sorted(seen) == list(range(len(windows)))


@pytest.mark.parametrize(("name", "dtype"), [("tiny", "float32"), ("small", "float32"), ("small", "bfloat16")])
def test_company_and_place_move_no_bit_of_a_loss(name, dtype):
    size = sizes.size(name)
    model, device = build.build(size, 1000, 1), choose(size.width, "cpu", dtype)
    rng = np.random.default_rng(0)
    lengths = [size.row_tokens, 7, 16, 100, 33, size.row_tokens]
    ids = rng.integers(1, 1000, sum(lengths)).astype(np.uint16)
    offsets = np.concatenate([[0], np.cumsum(lengths)])

    def losses(order):
        windows = windows_of(offsets, size.row_tokens)
        some = type(windows)(*(getattr(windows, f)[order] for f in ("document", "first", "tokens", "opens")), 10**9)
        found = {}
        for batch in batches_of(ids, some, 0, device):
            with torch.inference_mode(), device.autocast():
                lost = head.token_losses(model, batch.inputs, batch.targets)
            for row, index in enumerate(batch.index.tolist()):
                found[int(some.document[index])] = lost[row][batch.real[row]].tolist()
        return found

    together = losses(np.arange(len(lengths)))
    assert losses(np.arange(len(lengths))[::-1]) == together
    for i in range(len(lengths)):
        assert losses(np.array([i])) == {i: together[i]}
