import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.dedup.exact import Exact

TEXTS = [
    "Hello, World!",
    "hello  world",
    "",
    "caf\u00e9",
    "",
    "!!",
    "CAFE\u0301",
    "world hello",
    "HELLO\nWORLD",
    "hello worlds",
]
WORDS = st.lists(st.sampled_from(["a", "A", "b", ".", "\n", "é", "e\u0301", ""]), max_size=4).map(" ".join)


def deduplicated(run, batches, texts, ids=None, cuts=(), seed=0, **options):
    return run(Exact(**options), batches(texts, ids, cuts), name="exact", seed=seed).to_pydict()


def test_equal_words_make_a_cluster_and_one_of_it_stays(run, batches):
    found = deduplicated(run, batches, TEXTS)
    assert found["exact_duplicate"] == [False, True, False, False, False, False, True, False, True, False]
    assert found["exact_kept_by"] == [None, "d000", None, None, None, None, "d003", None, "d000", None]
    assert found["exact_size"] == [3, 3, 1, 2, 1, 1, 2, 1, 3, 1]
    assert found["exact_cluster"][0] == found["exact_cluster"][1] == found["exact_cluster"][8] is not None
    assert found["exact_cluster"][2] is None


def test_documents_without_words_are_nobodys_duplicates(run, batches):
    assert not any(deduplicated(run, batches, ["", " ", "!", "!", ""])["exact_duplicate"])


@pytest.mark.parametrize("keep", ["smallest_id", "longest", "random"])
@given(st.lists(WORDS, min_size=1, max_size=12), st.data())
def test_what_is_removed_balances_and_a_second_pass_removes_nothing(run, batches, keep, texts, data):
    cut = data.draw(st.integers(0, len(texts)))
    found = deduplicated(run, batches, texts, cuts=(cut,), keep=keep, seed=5)
    sizes = {
        cluster: size for cluster, size in zip(found["exact_cluster"], found["exact_size"], strict=True) if size > 1
    }
    assert sum(size - 1 for size in sizes.values()) == sum(found["exact_duplicate"])
    assert [by is not None for by in found["exact_kept_by"]] == found["exact_duplicate"]
    kept = [text for text, gone in zip(texts, found["exact_duplicate"], strict=True) if not gone]
    assert not any(deduplicated(run, batches, kept, keep=keep)["exact_duplicate"])


@given(st.permutations(range(len(TEXTS))))
def test_the_order_of_documents_changes_no_decision(run, batches, order):
    ids = [f"id {i}" for i in range(len(TEXTS))]
    whole = deduplicated(run, batches, TEXTS, ids, keep="random", seed=1)
    moved = deduplicated(
        run, batches, [TEXTS[i] for i in order], [ids[i] for i in order], (3, 7), keep="random", seed=1
    )
    for column, values in whole.items():
        assert [values[i] for i in order] == moved[column]


def test_each_policy_keeps_whom_it_says(run, batches):
    texts, ids = ["a b", "a,   b", "A b"], ["3", "2", "1"]
    assert deduplicated(run, batches, texts, ids)["exact_kept_by"] == ["1", "1", None]
    assert deduplicated(run, batches, texts, ids, keep="longest")["exact_kept_by"] == ["2", None, "2"]
    stays = {
        deduplicated(run, batches, texts, ids, keep="random", seed=seed)["exact_duplicate"].index(False)
        for seed in range(30)
    }
    assert stays == {0, 1, 2}


def test_the_seed_matters_to_a_draw_alone():
    assert Exact(keep="random").seeded
    assert not Exact().seeded


def test_documents_that_share_an_id_lose_all_but_one(run, batches):
    found = deduplicated(run, batches, ["a", "a", "a"], ["x", "x", "x"], (1,))
    assert found["exact_duplicate"] == [False, True, True]
