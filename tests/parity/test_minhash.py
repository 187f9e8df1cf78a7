"""Parity of MinHash with the PyPI package `datasketch`, and with published similarities of real pages' revisions."""

import gzip
import json
import re
from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
import pytest

from tamis.dedup.minhash import Minhash
from tamis.inline import run_inline
from tamis.kernels.arrow import text_of
from tamis.kernels.lsh import bands_for, candidate_share
from tamis.kernels.minhash import band_keys
from tamis.kernels.shingles import shingle_sets
from tamis.kernels.wordhash import hash_words

BANDS, ROWS = 14, 8


@pytest.mark.parametrize("k", [32, 64, 112, 128, 256])
def test_bands_for_a_threshold_are_those_of_datasketch(k):
    datasketch = pytest.importorskip("datasketch", reason="the dev extra brings datasketch")
    for threshold in np.arange(0.05, 0.9, 0.1):
        theirs = datasketch.MinHashLSH(threshold=float(threshold), num_perm=k)
        assert bands_for(float(threshold), k) == (theirs.b, theirs.r)


@pytest.fixture(scope="module")
def revisions(shared):
    """Documentation pages at different commits: doc_id, text; pages together."""
    return pq.read_table(shared / "dups" / "docs_revisions.parquet", columns=["doc_id", "text"]).sort_by("doc_id")


@pytest.fixture(scope="module")
def few(revisions):
    """300 of them."""
    return revisions.slice(0, 300)


@pytest.fixture(scope="module")
def similarity(few):
    """{(i, j): J} of all pairs of the few."""
    sets = list(sets_of(few).values())
    return {(i, j): jaccard(sets[i], sets[j]) for i, j in combinations(range(len(sets)), 2)}


def sets_of(table):
    start, values = shingle_sets(hash_words(text_of(table["text"])), 5)
    ids = table["doc_id"].to_pylist()
    return {doc: {*values[a:b].tolist()} for doc, a, b in zip(ids, start[:-1], start[1:], strict=True)}


def jaccard(one, other):
    return len(one & other) / len(one | other)


@pytest.mark.shared
def test_similarities_are_the_recorded_ones(shared, revisions):
    """`jaccard_w5` of 10,137 pairs, made elsewhere with Python's own sets of five words, in four decimals."""
    sets = sets_of(revisions)
    with gzip.open(shared / "dups" / "docs_revisions_pairs.jsonl.gz", "rt") as lines:
        pairs = [json.loads(line) for line in lines]
    assert len(pairs) > 10_000
    for pair in pairs:
        assert jaccard(sets[pair["a"]], sets[pair["b"]]) == pytest.approx(pair["jaccard_w5"], abs=5.1e-5)


def candidates_of_datasketch(datasketch, texts):
    """Pairs of places that share a bucket, by words and shingles of plain Python."""
    lsh = datasketch.MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    signatures = []
    for i, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower())
        minhash = datasketch.MinHash(num_perm=BANDS * ROWS, seed=1)
        minhash.update_batch([" ".join(words[at : at + 5]).encode() for at in range(max(1, len(words) - 4))])
        lsh.insert(i, minhash)
        signatures.append(minhash)
    return {(j, i) for i, minhash in enumerate(signatures) for j in lsh.query(minhash) if j < i}


@pytest.mark.shared
def test_as_many_pairs_share_a_bucket_as_with_datasketch(few, similarity):
    """300 pages. Counts of pairs by similarity, ours and theirs, against the S-curve; and the pairs that both find.

    Versions of a page share shingles, so their hits do not fall independently: five standard deviations of
    independent ones, on a count of some hundred pairs, and each bin of similarity by itself.
    """
    datasketch = pytest.importorskip("datasketch", reason="the dev extra brings datasketch")
    keys = band_keys(hash_words(text_of(few["text"])), 5, BANDS, ROWS)
    ours = {(i, j) for i, j in similarity if (keys[i] == keys[j]).any()}
    theirs = candidates_of_datasketch(datasketch, few["text"].to_pylist())
    for low, high in ((0, 0.5), (0.5, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.01)):
        inside = {pair for pair, s in similarity.items() if low <= s < high}
        shares = candidate_share([similarity[pair] for pair in inside], BANDS, ROWS)
        slack = 5 * np.sqrt((shares * (1 - shares)).sum()) + 1
        for found in (ours, theirs):
            assert abs(len(found & inside) - shares.sum()) < slack, (low, len(inside))
    similar = {pair for pair, s in similarity.items() if s >= 0.8}
    assert len(similar) > 100
    recall, reference = len(ours & similar) / len(similar), len(theirs & similar) / len(similar)
    assert recall > 0.95
    assert abs(recall - reference) < 0.03
    assert len(ours & theirs & similar) > 0.93 * len((ours | theirs) & similar)


@pytest.mark.shared
def test_exact_verification_joins_what_brute_force_joins(few, similarity):
    """All but 2 % of the pairs of J >= .8, and no similarity but that of a pair is reported."""
    found = run_inline(Minhash(threshold=0.8, bands=50, rows_per_band=8, verify="exact"), few, "m").to_pydict()
    clusters, values = found["m_cluster"], found["m_similarity"]
    similar = {pair: s for pair, s in similarity.items() if s >= 0.8}
    together = [clusters[i] is not None and clusters[i] == clusters[j] for i, j in similar]
    assert np.mean(together) > 0.98
    known: dict[int, set[np.float32]] = {}
    for pair, s in similar.items():
        for i in pair:
            known.setdefault(i, set()).add(np.float32(s))
    assert sum(value is not None for value in values) > 100
    assert all(value in known[i] for i, value in enumerate(values) if value is not None)
