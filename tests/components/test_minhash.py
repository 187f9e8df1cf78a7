"""MinHash deduplication against brute force: which guarantees hold exactly, and what changes nothing."""

from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis import seeds
from tamis.dedup.minhash import Minhash
from tamis.inline import Inline, run_inline
from tamis.kernels.arrow import text_of
from tamis.kernels.lsh import candidate_share
from tamis.kernels.minhash import band_keys, signatures
from tamis.kernels.shingles import characters_of, shingle_sets, words_of
from tamis.kernels.union import forest_of
from tamis.kernels.words import tokenize
from tamis.steps import Pool

VERIFY = ["none", "signature", "exact"]
WORDS = [f"w{i}" for i in range(30)]


def families(seed, originals=12, copies=4, words=14):
    """Texts in families: an original and copies of it with some words changed, a few left out; in no order."""
    draw = np.random.default_rng(seed)
    texts = []
    for _ in range(originals):
        original = draw.choice(WORDS, words)
        texts.append(" ".join(original))
        for _ in range(draw.integers(0, copies + 1)):
            copy = np.where(draw.random(words) < draw.choice([0.0, 0.1, 0.4]), draw.choice(WORDS, words), original)
            texts.append(" ".join(copy[: draw.integers(words - 2, words + 1)]))
    texts += ["", "w1", "w1 w2", "W2, w1!", "w1  w2.", "!?"]
    return [texts[i] for i in draw.permutation(len(texts))]


def table_of(texts, ids=None, **columns):
    ids = [f"d{i:03}" for i in range(len(texts))] if ids is None else ids
    return pa.table({"doc_id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string()), **columns})


def found_in(table, batch_rows=4096, seed=0, **options):
    return run_inline(Minhash(**options), table, "m", batch_rows=batch_rows, seed=seed).to_pydict()


def clusters(found, ids):
    """The clusters as a set of sets of ids."""
    parts = {}
    for doc_id, cluster in zip(ids, found["m_cluster"], strict=True):
        if cluster is not None:
            parts.setdefault(cluster, set()).add(doc_id)
    return {frozenset(members) for members in parts.values()}


def components(pairs):
    """The sets of connected nodes, by the slow way."""
    parts = []
    for pair in pairs:
        touched = [part for part in parts if part & set(pair)]
        parts = [part for part in parts if part not in touched] + [set(pair).union(*touched)]
    return {frozenset(part) for part in parts}


class Brute:
    """What a component should find in a table, pair by pair."""

    def __init__(self, table, component):
        self.ids = table["doc_id"].to_pylist()
        tokens = tokenize(text_of(table["text"]))
        units = words_of(tokens) if component.unit == "word" else characters_of(tokens)
        bands, rows = component.banding
        keys = band_keys(units, component.ngram, bands, rows).tolist()
        start, values = shingle_sets(units, component.ngram)
        self.sets = {doc: {*values[a:b].tolist()} for doc, a, b in zip(self.ids, start[:-1], start[1:], strict=True)}
        minima = signatures(units, component.ngram, bands * rows).tolist()
        self.minima = dict(zip(self.ids, minima, strict=True))
        per = table[component.per].to_pylist() if component.per else [None] * len(self.ids)
        self.buckets = {}
        for doc, found, value in zip(self.ids, keys, per, strict=True):
            for band, key in enumerate(found if self.sets[doc] else []):
                self.buckets.setdefault((band, key, value), []).append(doc)
        order = seeds.hash64(0, "minhash: anchor", text_of(table["doc_id"])).tolist()
        self.order = dict(zip(self.ids, order, strict=True))

    def jaccard(self, one, other):
        return len(self.sets[one] & self.sets[other]) / len(self.sets[one] | self.sets[other])

    def agreement(self, one, other):
        return float(np.mean(np.array(self.minima[one]) == np.array(self.minima[other])))

    def sharing(self):
        """Pairs of documents with a bucket in common."""
        return {pair for members in self.buckets.values() for pair in combinations(sorted(members), 2)}

    def confirmed(self, least, similarity):
        """{(document, anchor): similarity} for all that reach it."""
        found = {}
        for members in self.buckets.values():
            anchor = min(members, key=self.order.__getitem__)
            for doc in members:
                if doc != anchor and (value := similarity(doc, anchor)) >= least:
                    found[doc, anchor] = value
        return found


# ---- against brute force ----


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{"bands": 8, "rows_per_band": 2}, {"bands": 3, "rows_per_band": 4}])
def test_unverified_clusters_are_the_components_of_sharing_a_bucket(seed, options):
    table = table_of(families(seed))
    component = Minhash(ngram=2, **options)
    expected = components(Brute(table, component).sharing())
    assert clusters(found_in(table, ngram=2, **options), table["doc_id"].to_pylist()) == expected
    assert len(expected) > 3


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("verify", ["exact", "signature"])
@pytest.mark.parametrize("options", [{"bands": 64, "rows_per_band": 1}, {"bands": 8, "rows_per_band": 2}])
def test_verified_clusters_are_the_components_of_confirmed_edges_to_anchors(seed, verify, options):
    """A pair is compared if one of it is the anchor (the least hash of an id) of a bucket that both are in."""
    options = {"ngram": 2, "threshold": 0.5, "verify": verify, **options}
    table = table_of(families(seed))
    brute = Brute(table, Minhash(**options))
    confirmed = brute.confirmed(0.5, brute.jaccard if verify == "exact" else brute.agreement)
    found = found_in(table, **options)
    parts = clusters(found, brute.ids)
    assert parts == components(confirmed)
    assert len(components(brute.sharing())) < len(parts) or len(confirmed) < len(brute.sharing()), "verification cuts"
    best = dict.fromkeys(brute.ids)
    for pair, value in confirmed.items():
        for doc in pair:
            best[doc] = max(best[doc] or 0, np.float32(value))
    assert dict(zip(brute.ids, found["m_similarity"], strict=True)) == best


@pytest.mark.parametrize("seed", range(4))
def test_what_exact_verification_promises_whatever_the_anchors(seed):
    """Each member is similar enough to another of its cluster; a pair alone in a bucket is judged by itself."""
    options = {"ngram": 2, "threshold": 0.6, "verify": "exact", "bands": 64, "rows_per_band": 1}
    table = table_of(families(seed))
    brute = Brute(table, Minhash(**options))
    parts = clusters(found_in(table, **options), brute.ids)
    worded = [doc for doc in brute.ids if brute.sets[doc]]
    similar = components(pair for pair in combinations(worded, 2) if brute.jaccard(*pair) >= 0.6)
    for part in parts:
        assert any(part <= other for other in similar)
        assert components(pair for pair in combinations(sorted(part), 2) if brute.jaccard(*pair) >= 0.6) == {part}
    for members in brute.buckets.values():
        if len(members) == 2 and brute.jaccard(*members) >= 0.6:
            assert any(part >= set(members) for part in parts)


def test_exact_and_estimated_verification_agree_on_clear_cases():
    """With 128 minima the estimate is within .16 (four standard deviations) of the similarity."""
    options = {"ngram": 2, "threshold": 0.5, "bands": 64, "rows_per_band": 2}
    draw = np.random.default_rng(3)
    texts = []
    for i in range(40):
        original = [f"x{i}_{j}" for j in range(60)]
        changed = 4 if i % 2 else 30  # a pair of similarity .75 or more, or of .3 or less
        copy = original.copy()
        for place in draw.choice(60, changed, replace=False):
            copy[place] = f"y{i}_{place}"
        texts += [" ".join(original), " ".join(copy)]
    table = table_of(texts)
    exact = found_in(table, verify="exact", **options)
    estimated = found_in(table, verify="signature", **options)
    assert exact["m_duplicate"] == estimated["m_duplicate"]
    assert sum(exact["m_duplicate"]) == 20
    pairs = [(a, b) for a, b in zip(exact["m_similarity"], estimated["m_similarity"], strict=True) if a is not None]
    assert len(pairs) == 40
    assert max(abs(a - b) for a, b in pairs) < 0.16


def test_a_pair_below_the_threshold_leaves_no_trace():
    """Two documents that share buckets but are not similar enough are in no cluster, not even one of their own."""
    words = [f"x{i}" for i in range(40)]
    texts = [" ".join(words), " ".join(words[:20] + [f"y{i}" for i in range(20)])]
    options = {"ngram": 1, "threshold": 0.5, "verify": "exact", "bands": 64, "rows_per_band": 1}
    for partitions in (1, 2, 8):
        found = partitioned(table_of(texts), partitions, **options)
        assert found["m_cluster"] == [None, None]
        assert found["m_similarity"] == [None, None]
        assert found["m_size"] == [1, 1]


class Partitioned(Inline):
    """Decides about so many ranges of keys apart."""

    def __init__(self, documents, partitions):
        super().__init__(documents, {}, 4096)
        self.partitions = partitions

    def decided(self, step, sent):
        part = (sent["key"].to_numpy() >> np.uint64(32)) * np.uint64(self.partitions) >> np.uint64(32)
        slices = [sent.filter(pa.array(part == number)) for number in range(self.partitions)]
        return pa.concat_tables(super(Partitioned, self).decided(step, each) for each in slices)


def partitioned(table, partitions, seed=0, **options):
    return Partitioned(table, partitions).run(Minhash(**options), Pool("m", seed)).to_pydict()


# ---- what changes nothing ----


@pytest.mark.parametrize("verify", VERIFY)
@given(data=st.data())
@settings(max_examples=15)
def test_order_batches_and_partitions_change_nothing(verify, data):
    """Nor does the number of planted copies."""
    texts = families(data.draw(st.integers(0, 3)))
    order = data.draw(st.permutations(range(len(texts))))
    options = {"ngram": 2, "threshold": 0.5, "bands": 8, "rows_per_band": 2, "verify": verify, "keep": "longest"}
    whole = found_in(table_of(texts), canaries=0.0, **options)
    ids = [f"d{i:03}" for i in order]
    moved = table_of([texts[i] for i in order], ids)
    canaries = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    found = [
        found_in(moved, data.draw(st.sampled_from([1, 7, 1000])), canaries=canaries, **options),
        partitioned(moved, data.draw(st.sampled_from([1, 2, 16])), canaries=canaries, **options),
    ]
    for column, values in whole.items():
        for other in found:
            assert [values[i] for i in order] == other[column], column


def test_the_order_and_number_of_a_documents_shingles_change_nothing():
    texts = ["a b c d", "a b c d a b c d a b c", "d a b c d", "x y"]
    found = found_in(table_of(texts), ngram=2, verify="exact", threshold=0.9)
    assert found["m_size"] == [1, 2, 2, 1], "the shingles `d a` are what tells the first from the next two"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("keep", ["smallest_id", "longest", "random"])
def test_a_second_pass_over_the_survivors_removes_nothing(seed, keep):
    options = {"ngram": 2, "bands": 8, "rows_per_band": 2, "keep": keep}
    table = table_of(families(seed))
    first = found_in(table, seed=seed, **options)
    kept = table.filter(pa.array([not gone for gone in first["m_duplicate"]]))
    assert kept.num_rows < table.num_rows
    assert not any(found_in(kept, seed=seed, **options)["m_duplicate"])


def test_columns_of_a_cluster_fit_each_other():
    table = table_of(families(2))
    ids = table["doc_id"].to_pylist()
    found = found_in(table, ngram=2, bands=8, rows_per_band=2)
    known = {doc: i for i, doc in enumerate(ids)}
    for part in clusters(found, ids):
        places = [known[doc] for doc in part]
        (kept,) = [i for i in places if not found["m_duplicate"][i]]
        assert ids[kept] == min(part)
        assert {found["m_kept_by"][i] for i in places if i != kept} == {ids[kept]}
        assert found["m_kept_by"][kept] is None
        assert {found["m_size"][i] for i in places} == {len(part)}
        hashes = seeds.hash64(0, "cluster", text_of(pa.array(sorted(part))))
        assert {found["m_cluster"][i] for i in places} == {int(hashes.min())}
    outside = [i for i, cluster in enumerate(found["m_cluster"]) if cluster is None]
    assert {(found["m_size"][i], found["m_duplicate"][i], found["m_kept_by"][i]) for i in outside} == {(1, False, None)}
    assert set(found["m_similarity"]) == {None}, "nothing was confirmed"


# ---- odd documents ----


@pytest.mark.parametrize("verify", VERIFY)
@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["a"], ["a b c", "x y z"]])
def test_little_or_nothing_to_compare(verify, texts):
    found = found_in(table_of(texts), verify=verify)
    assert found["m_duplicate"] == [False] * len(texts)
    assert found["m_cluster"] == [None] * len(texts)
    assert found["m_size"] == [1] * len(texts)


@pytest.mark.parametrize("verify", VERIFY)
def test_documents_without_words_are_nobodys_duplicates(verify):
    found = found_in(table_of(["", "!!", "", " ", "!!", "…"]), verify=verify)
    assert found["m_size"] == [1] * 6


@pytest.mark.parametrize("verify", VERIFY)
def test_short_documents_are_equal_or_not(verify):
    """Fewer than five words: one shingle of all of them."""
    texts = ["one two", "ONE, two!", "two one", "one two three", "one", "one.", "cafe\u0301", "caf\u00e9", "café au"]
    found = found_in(table_of(texts), verify=verify)
    assert found["m_kept_by"] == [None, "d000", None, None, None, "d004", None, "d006", None]


@pytest.mark.parametrize("verify", VERIFY)
def test_text_without_spaces_is_compared_by_characters(verify):
    chinese = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈" * 2
    thai = "สวัสดีครับยินดีต้อนรับสู่ประเทศไทยเมืองหลวงคือกรุงเทพมหานคร" * 3
    texts = [chinese, chinese[:60] + "、" + chinese[60:-1], thai, "ก" + thai, chinese[::-1]]
    options = {"unit": "character", "ngram": 4, "threshold": 0.6, "verify": verify}
    assert found_in(table_of(texts), **options)["m_kept_by"] == [None, "d000", None, "d002", None]
    by_words = found_in(table_of(texts), **{**options, "unit": "word"})
    assert not by_words["m_duplicate"][1], "by words it is two long ones"


@pytest.mark.parametrize("verify", VERIFY)
def test_documents_that_share_an_id_lose_all_but_one(verify):
    texts = ["a b c d e f", "a b c d e f", "other words stand in this one", "a b c d e f"]
    found = found_in(table_of(texts, ["x", "x", "x", "x"]), verify=verify)
    assert found["m_duplicate"] == [False, True, False, True]
    assert found["m_size"] == [3, 3, 1, 3]


@pytest.mark.parametrize("verify", VERIFY)
def test_documents_of_different_values_of_per_never_meet(verify):
    texts = ["the same words are in all"] * 6
    sources = pa.array(["web", "books", "web", None, "books", None])
    found = found_in(table_of(texts, dump=sources), verify=verify, per="dump")
    assert found["m_kept_by"] == [None, None, "d000", None, "d001", "d003"]
    table = table_of(families(1), dump=[i % 3 for i in range(len(families(1)))])
    options = {"ngram": 2, "bands": 8, "rows_per_band": 2, "per": "dump"}
    assert clusters(found_in(table, **options), table["doc_id"].to_pylist()) == components(
        Brute(table, Minhash(**options)).sharing()
    )


def test_a_giant_bucket_is_verified_against_several_anchors():
    """300 documents share half their words; within three families of 100 nearly all."""
    draw = np.random.default_rng(0)
    shared = [f"s{i}" for i in range(30)]
    texts = []
    for i in range(300):
        words = shared + [f"f{i % 3}_{j}" for j in range(28)] + [f"own{i}_{j}" for j in range(2)]
        texts.append(" ".join(draw.permutation(words)))
    table = table_of(texts)
    options = {"ngram": 1, "threshold": 0.8, "verify": "exact", "bands": 64, "rows_per_band": 1}
    parts = clusters(found_in(table, **options), table["doc_id"].to_pylist())
    assert parts == {frozenset(f"d{i:03}" for i in range(first, 300, 3)) for first in range(3)}


# ---- planted copies ----


def long_documents(count, words=300, seed=0):
    draw = np.random.default_rng(seed)
    return [" ".join(f"t{number}" for number in draw.integers(0, 50_000, words)) for _ in range(count)]


def findings(table, **options):
    inline = Inline(table, {}, 4096)
    columns = inline.run(Minhash(**options), Pool("m", 0))
    return inline.findings, columns


@pytest.mark.parametrize("verify", VERIFY)
def test_the_measured_recall_is_that_of_the_s_curve(verify):
    """One copy of each of 600 documents; each bin within four standard deviations of the curve at its ends."""
    published, columns = findings(table_of(long_documents(600)), canaries=1.0, verify=verify, threshold=None)
    content = published.content
    assert (content["bands"], content["rows_per_band"], content["verify"]) == (14, 8, verify)
    assert sum(entry["planted"] for entry in content["canaries"]) == 600
    assert len([entry for entry in content["canaries"] if entry["planted"] > 20]) >= 8
    for entry in content["canaries"]:
        low, high = (float(candidate_share(entry["low"] + step, 14, 8)) for step in (0, 0.05))
        slack = 4 * np.sqrt(entry["planted"] / 4)
        assert entry["planted"] * low - slack <= entry["found"] <= entry["planted"] * high + slack
        assert entry["confirmed"] <= entry["found"]
        if verify == "none" or (verify == "exact" and entry["low"] >= content["half_point"]):
            assert entry["confirmed"] == entry["found"]
        if verify == "exact" and entry["low"] + 0.05 <= content["half_point"]:
            assert entry["confirmed"] == 0
    assert columns.column_names == [f"m_{name}" for name in ("duplicate", "cluster", "kept_by", "size", "similarity")]
    assert not any(columns["m_duplicate"].to_pylist()), "a copy is no document"
    above = [entry for entry in content["canaries"] if entry["low"] >= 0.8]
    planted, confirmed = sum(entry["planted"] for entry in above), sum(entry["confirmed"] for entry in above)
    assert published.lines[0] == f"{confirmed:,} of {planted:,} planted copies of similarity 0.8 or more were found"


def test_planted_copies_are_drawn_by_id_and_nest():
    table = table_of(long_documents(300, words=30))
    few, more = (findings(table, canaries=share)[0].content["canaries"] for share in (0.1, 0.3))
    count = lambda entries: sum(entry["planted"] for entry in entries)
    assert 15 < count(few) < 50 < count(more) < 130
    by_bin = {entry["low"]: entry["planted"] for entry in more}
    assert all(by_bin[entry["low"]] >= entry["planted"] for entry in few)


def test_without_planted_copies_nothing_is_said_of_them():
    published, _ = findings(table_of(long_documents(20, words=30)), canaries=0.0)
    assert published.content["canaries"] == []
    assert not published.lines


# ---- options ----


def test_bands_follow_from_what_is_given():
    assert Minhash().banding == (14, 8)
    assert Minhash(threshold=0.8, num_perm=128).banding == (9, 13)
    assert Minhash(bands=20, rows_per_band=13, threshold=0.8).banding == (20, 13)
    assert Minhash(bands=20, rows_per_band=13).least_similarity == pytest.approx(0.771, abs=5e-4)
    assert Minhash(bands=20, rows_per_band=13, threshold=0.8).least_similarity == 0.8
    with pytest.raises(ValueError, match="both bands and rows_per_band or neither, got 3 and None"):
        Minhash(bands=3)


def test_notes_say_what_the_options_amount_to():
    (note,) = Minhash().notes()
    assert "14 bands of 8 rows: half of all pairs share a bucket at similarity 0.685" in note
    assert "0.211 at 0.6, 0.565 at 0.7, 0.924 at 0.8, 1 at 0.9" in note
    assert "unverified" in note
    (note,) = Minhash(verify="exact", threshold=0.7).notes()
    assert "exact similarity >= 0.7" in note


def test_a_forest_is_the_same_however_it_is_merged():
    """The fold's merge, on what batches of any size summarize."""
    from tamis.dedup.minhash import _merge_forests

    draw = np.random.default_rng(1)
    first, last = draw.integers(0, 200, (2, 150)).astype(np.uint64)
    parts = [forest_of(a, b)._asdict() for a, b in zip(np.array_split(first, 5), np.array_split(last, 5), strict=True)]
    left = parts[0]
    for part in parts[1:]:
        left = _merge_forests(left, part)
    right = parts[-1]
    for part in parts[-2::-1]:
        right = _merge_forests(part, right)
    whole = forest_of(first, last)._asdict()
    for name in ("node", "root"):
        assert left[name].tolist() == right[name].tolist() == whole[name].tolist()
