"""Texts to try kernels on: real alphabets, awkward characters, slices."""

import pyarrow as pa
import pytest
from hypothesis import strategies as st

from tamis.kernels.arrow import text_of

AWKWARD = [
    "", " ", "\n", "\r\n", "\t", "a", "A", "_", "0", "'", "don't", "wörld", "ÉCOLE", "cafe\u0301", "\u0301", "İstanbul",
    "ΣΊΣΥΦΟΣ", "ſt", "\u212a", "ß", "日本語", "한국어", "\u1112\u1161\u11ab", "हिन्दी", "ไทย",
    "😀", "👩‍👩‍👧", "\u00a0", "\u2028",
    "\u200b", "“quoted”", "…", "\x00", "\x1f", "\ufffd", "\U0010ffff", "eight888", "seventeen_letters", "x" * 40, "!!!",
    "\u0378", "q\u0323\u0307", "q\u0307\u0323", "ⅷ", "²", "٣", "\x85",
]  # fmt: skip

TEXTS = st.lists(
    st.one_of(
        st.lists(st.sampled_from(AWKWARD), max_size=12).map(" ".join),
        st.lists(st.sampled_from(AWKWARD), max_size=12).map("".join),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
        st.lists(st.sampled_from(["a", "b", "the", "cat", "."]), max_size=60).map(" ".join),
    ),
    max_size=8,
)


@pytest.fixture(scope="session")
def texts():
    """A strategy of lists of strings."""
    return TEXTS


@pytest.fixture(scope="session")
def sliced():
    """strings → Text of a slice in the middle of a longer column, so that offsets do not start at 0."""

    def make(strings, large=False):
        kind = pa.large_string() if large else pa.string()
        return text_of(pa.array(["before é", *strings, "after"], kind).slice(1, len(strings)))

    return make
