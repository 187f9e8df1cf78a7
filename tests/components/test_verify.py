"""The accuracy gate: what random subsets say of a score, and select stages that refuse what predicts nothing."""

from __future__ import annotations

import json
import math
import random
import shutil
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import ColumnError, RunFailedError, SpecError
from tamis.expressions import Expression
from tamis.families import build, find
from tamis.kernels.arrow import text_of
from tamis.models.lds import lds_interval, spearman
from tamis.pipeline.export import export
from tamis.pipeline.gates import Gates
from tamis.pipeline.rehearsal import rehearse
from tamis.pipeline.spec import load_spec
from tamis.pipeline.stages.reliability import judge_scores
from tamis.pipeline.stages.subsets import MARGIN, MOST, Lottery, deal, first_documents, scores_of, share_of
from tamis.pipeline.workers import Serial
from tamis.selectors.base import Gate
from tamis.steps import Batch

WANTED = [f"{a}{b}" for a in "bdfgk" for b in ("ala", "elo", "imi", "opo")]
OTHER = [f"{a}{b}" for a in "lmnpr" for b in ("usu", "ere", "aka", "ini")]
END = 0


class Words:
    """A stand-in for a tokenizer: a word is a token, as long as the tests like."""

    end = END

    def encode(self, texts):
        words = [text.split() for text in texts]
        ids = np.array([1 + sum(word.encode()) % 500 for each in words for word in each], np.uint16)
        return ids, np.concatenate([[0], np.cumsum([len(each) for each in words])]).astype(np.int64)


def documents(count, seed=1):
    """doc_id, text, good (null for some), noise."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choice(WANTED) for _ in range(draw.randint(1, 12))) for _ in range(count)]
    good = [draw.choice([None, draw.random(), 1.0]) for _ in range(count)]
    columns = {"doc_id": [f"d{i}" for i in range(count)], "text": texts, "good": good, "noise": [draw.random()] * count}
    return pa.RecordBatch.from_pydict({**columns, "good": pa.array(good, pa.float64())})


def cut(batch, edges):
    places = sorted({0, batch.num_rows, *(edge % (batch.num_rows + 1) for edge in edges)})
    return [Batch(batch.slice(a, b - a)) for a, b in pairwise(places)]


# ---- subsets ----


@pytest.mark.parametrize(("subsets", "share", "rounds"), [(10, 0.05, 1), (30, 0.05, 2), (7, 0.4, 4), (3, 0.5, 2)])
def test_subsets_of_a_round_share_no_document_and_hold_their_share(subsets, share, rounds):
    ids = text_of(pa.array([str(i) for i in range(20_000)]))
    lottery = Lottery(5, subsets, share)
    hashes, dealt = lottery.dealt(ids)
    assert hashes.shape == dealt.shape == (rounds, 20_000)
    members = [np.flatnonzero((dealt == number).any(axis=0)) for number in range(subsets)]
    for found in members:  # a binomial number of documents: four deviations
        assert abs(len(found) - share * 20_000) < 4 * math.sqrt(share * (1 - share) * 20_000)
    for number in range(subsets - 1):
        side_by_side = number // lottery.side_by_side == (number + 1) // lottery.side_by_side
        both = len(np.intersect1d(members[number], members[number + 1]))
        assert both == 0 if side_by_side else both > 0
    again = lottery.dealt(text_of(pa.array(["17"])))
    assert (again[1][:, 0] == dealt[:, 17]).all()
    assert (Lottery(6, subsets, share).dealt(ids)[1] != dealt).any()


def slow_subset(batch, lottery, number, tokens, row_tokens):
    """(tokens of the rows, mean score, documents) of a subset, word by word."""
    turn = number // lottery.side_by_side
    hashes, dealt = lottery.dealt(text_of(batch["doc_id"]))
    rows = zip(batch["text"].to_pylist(), batch["good"].to_pylist(), hashes[turn].tolist(), dealt[turn], strict=True)
    members = sorted((key, text, good) for text, good, key, subset in rows if subset == number and good is not None)
    stream, values, owners = [END], [], []
    for place, (_, text, good) in enumerate(members):
        ids = Words().encode([text])[0].tolist()
        stream += [*ids, END]
        values += [good] * (len(ids) + 1)
        owners += [place] * (len(ids) + 1)
    whole = min(-(-tokens // row_tokens), len(values) // row_tokens) * row_tokens
    return stream[: whole + 1], sum(values[:whole]) / max(1, whole), len(set(owners[:whole]))


@settings(max_examples=30)
@given(st.lists(st.integers(0, 10_000), max_size=4), st.integers(1, 60), st.sampled_from([0.1, 0.3, 0.5]))
def test_a_subset_is_what_a_slow_reading_makes_it_however_documents_are_cut(edges, tokens, share):
    batch, lottery = documents(150), Lottery(3, 6, share)
    dealt = deal(cut(batch, edges), ["good", "good * 2"], lottery, Words())
    for number in range(6):
        found = dealt.subset(number, tokens, 8, END)
        stream, mean, count = slow_subset(batch, lottery, number, tokens, 8)
        joined = [] if not len(found.rows) else [*found.rows[:, :-1].ravel().tolist(), int(found.rows[-1, -1])]
        assert joined == (stream if len(stream) > 1 else [])
        assert found.documents == count
        assert found.predicted.tolist() == pytest.approx([mean, 2 * mean], abs=1e-12)


def test_the_order_of_documents_changes_no_bit():
    batch, lottery = documents(300), Lottery(3, 6, 0.3)
    backwards = batch.take(pa.array(range(299, -1, -1)))
    for number in range(6):
        one, other = (
            deal([Batch(each)], ["good"], lottery, Words()).subset(number, 50, 8, END) for each in (batch, backwards)
        )
        assert one.rows.tobytes() == other.rows.tobytes()
        assert one.predicted.tobytes() == other.predicted.tobytes()


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_more_subsets_leave_the_first_ones_as_they_were(share):
    batch = documents(300)
    few, many = (deal([Batch(batch)], ["good"], Lottery(3, subsets, share), Words()) for subsets in (10, 20))
    held = []
    for number in range(10):
        one, other = (dealt.subset(number, 50, 8, END) for dealt in (few, many))
        assert one.rows.tobytes() == other.rows.tobytes()
        assert one.predicted.tobytes() == other.predicted.tobytes()
        held.append(one.documents)
    assert min(held) > 0


def pool_of_lengths(lengths):
    """Documents of so many words each."""
    texts = [" ".join(["word"] * length) for length in lengths]
    return pa.RecordBatch.from_pydict(
        {"doc_id": [f"d{i}" for i in range(len(texts))], "text": texts, "good": [1.0] * len(texts)}
    )


@pytest.mark.parametrize("words", [(40, 40), (1, 7), (3, 400)])
def test_subsets_of_few_tokens_have_a_row_each(words):
    """2,000 subsets: by the bound one is without a row for 0.15 % of all seeds. Dealt by tokens alone, some are."""
    draw, row_tokens, tokens = random.Random(8), 16, 40
    lengths = [draw.choice(words) for _ in range(1500)]
    total, in_rows = sum(lengths), sum(min(length, row_tokens) for length in lengths)
    share = share_of(tokens, row_tokens, total, in_rows)
    assert tokens / total < share <= MOST
    without = []
    for each in (share, MARGIN * tokens / total):
        dealt = deal([Batch(pool_of_lengths(lengths))], ["good"], Lottery(3, 2000, each), Words())
        without.append(sum(not len(dealt.subset(number, tokens, row_tokens, END).rows) for number in range(2000)))
    assert without[0] == 0
    assert without[1] > 0


def test_the_share_of_larger_subsets_is_what_their_tokens_need():
    assert share_of(10_000, 128, 1_000_000, 600_000) == MARGIN * 10_000 / 1_000_000
    assert share_of(10, 128, 1_000, 900) == MOST, "a pool of few rows is dealt as far as it goes"
    assert share_of(1_000, 128, 1_000, 900) > MOST, "which is refused"


def test_a_score_that_is_null_or_has_no_end_is_missing():
    batch = Batch(pa.RecordBatch.from_pydict({"a": [1.0, None, math.nan, math.inf], "b": [1, 2, 3, 0]}))
    found = scores_of(["a", "b > 1", "a / b"], batch)
    assert np.isnan(found).tolist() == [[False, True, True, True], [False] * 4, [False, True, True, True]]
    assert found[1].tolist() == [0, 1, 1, 0]


@settings(max_examples=20)
@given(st.lists(st.integers(0, 10_000), max_size=4), st.integers(1, 3000))
def test_the_target_is_drawn_by_document(edges, most):
    batch = documents(80)
    found = first_documents(cut(batch, edges), 9, most)
    everything = first_documents([Batch(batch)], 9, 1 << 40)
    assert sorted(everything) == sorted(batch["text"].to_pylist())
    assert found == everything[: len(found)]
    size = sum(len(text.encode()) for text in found)
    assert len(found) == 1 or size <= most
    assert len(found) == len(everything) or size + len(everything[len(found)].encode()) > most


# ---- the verdict ----


def test_a_verdict_is_the_rank_correlation_with_the_mean_loss_of_the_seeds():
    draw = np.random.default_rng(4)
    good, tokens = draw.normal(size=20), np.array([5, 0, 7])
    noise = draw.normal(scale=0.3, size=(20, 2, 3))
    nats = (30 - good[:, None, None] + noise) * tokens
    found = judge_scores({"good": good, "bad": -good}, nats, tokens, 0.9, 1)
    losses = nats.sum(axis=2) / 12
    assert found["nats_per_token"] == pytest.approx(losses.mean(axis=1), abs=1e-12)
    verdict = found["scores"]["good"]
    expected = lds_interval(good, -losses.mean(axis=1), 0.9, seed=1)
    assert (verdict["lds"], verdict["low"], verdict["high"]) == expected
    assert verdict["reliable"]
    assert verdict["predicted"] == good.tolist()
    assert verdict["by_document"]["documents"] == 2
    each = [spearman(good, -nats[:, :, place].mean(axis=1)) for place in (0, 2)]
    assert verdict["by_document"]["lds"] == pytest.approx(np.mean(each), abs=1e-12)
    assert found["scores"]["bad"]["lds"] == -verdict["lds"]
    assert not found["scores"]["bad"]["reliable"]
    assert found["agreement_of_seeds"] == pytest.approx(float(spearman(losses[:, 0], losses[:, 1])))
    assert judge_scores({"good": good}, nats[:, :1], tokens, 0.9, 1)["agreement_of_seeds"] is None


# ---- which verdicts a select stage waits for ----


def stand_in(columns, **options):
    """What a stage list hands over: something with columns and options."""
    written = {"columns": lambda _, name: {f"{name}{end}": kind for end, kind in columns.items()}}
    return type("StandIn", (), {**written, **options})()


def top(score, where=None, trust=()):
    return build(find("select", "top"), {"score": score, "where": where, "trust": list(trust)})


@pytest.fixture
def known():
    """A run's stages: influence (with a sum and a flag), what is distilled of it, importance."""
    gates = Gates()
    gates.made("influence", "influence", stand_in({"": pa.float64(), "_sum": pa.float32(), "_truncated": pa.bool_()}))
    gates.made("cheap", "distill", stand_in({"": pa.float64()}, of="influence / 2 + length"))
    gates.made("importance", "importance", stand_in({"": pa.float64()}))
    return gates


VERDICT = ("verify_influence", "influence")


@pytest.mark.parametrize(
    ("score", "where", "expected"),
    [
        ("influence", None, [Gate("influence", *VERDICT)]),
        ("importance - 2 * influence_sum", None, [Gate("influence_sum", *VERDICT)]),
        ("importance", "influence > 0 and importance > 1", [Gate("influence", *VERDICT)]),
        ("cheap", None, [Gate("cheap", "cheap", "cheap"), Gate("cheap", *VERDICT)]),
        ("importance", "not influence_truncated", []),
    ],
)
def test_a_verdict_speaks_for_all_that_its_stage_made_and_what_is_made_of_it(known, score, where, expected):
    known.verified("verify_influence", ["influence"])
    assert list(known.before(top(score, where)).gates) == expected


def test_a_column_with_a_verdict_of_its_own_needs_no_other(known):
    known.verified("both", ["influence", "cheap", "importance"])
    gates = known.before(top("influence_sum + cheap + importance")).gates
    assert set(gates) == {
        Gate("cheap", "both", "cheap"),
        Gate("importance", "both", "importance"),
        Gate("influence_sum", "both", "influence"),
    }


def test_a_verdict_on_an_expression_speaks_for_the_same_expression(known):
    known.verified("mixed", ["importance +  2 * length"])
    assert known.before(top("importance + 2 * length")).gates == (
        Gate("importance + 2 * length", "mixed", "importance +  2 * length"),
    )
    assert known.before(top("importance")).gates == ()
    assert [gate.stage for gate in known.before(top("(importance+(2*length))")).gates] == ["mixed"]


@pytest.mark.parametrize(
    ("text", "spelling"),
    [("a+b", "a + b"), ("( (a)+\n b )", "a + b"), ('"rank"', "rank"), ('"my column"', "my column"), ("b + a", "b + a")],
)
def test_an_expression_has_one_spelling(text, spelling):
    assert Expression(text).spelling == spelling


def test_a_verdict_on_an_expression_speaks_for_what_is_made_of_it(known):
    known.made("ranked", "rank", stand_in({"": pa.float64()}, of="(importance+length)"))
    known.made("nested", "zscore", stand_in({"": pa.float64()}, of="ranked + length"))
    known.made("other", "zscore", stand_in({"": pa.float64()}, of="importance - length"))
    known.verified("mixed", ["importance +  length"])
    for column in ("ranked", "nested"):
        assert known.before(top(column)).gates == (Gate(column, "mixed", "importance +  length"),)
    assert known.before(top("other")).gates == ()
    known.verified("single", ["importance"])
    assert [gate.stage for gate in known.before(top("nested")).gates] == ["mixed", "single"]


def test_a_whole_that_was_verified_needs_no_verdict_on_its_parts(known):
    known.made("ranked", "rank", stand_in({"": pa.float64()}, of="influence + length"))
    assert known.before(top("ranked")).gates == (Gate("ranked", "", ""),)
    known.verified("mixed", ["influence + length"])
    assert known.before(top("ranked")).gates == (Gate("ranked", "mixed", "influence + length"),)


@pytest.mark.parametrize(
    ("verified", "score"),
    [
        ("good + noise", "rank( good+noise )"),
        ("(good+noise)", "2 * zscore(good + noise)"),
        ("zscore(good)+noise", "rank(zscore( good ) + noise)"),
        ("good + noise", "rank(zscore(good + noise) + good)"),
        ("good", "rank(zscore(good) + noise)"),
    ],
)
def test_verdicts_reach_ranks_in_the_expressions_of_a_file(tmp_path, verified, score):
    stages = [{"verify": {"score": verified, "target": "x", "as": "looked"}}, select("a", score)]
    file = tmp_path / "stages.yaml"
    file.write_text(json.dumps({"corpus": "x", "stages": stages}), encoding="utf-8")
    chosen = load_spec(file).programs[-1].build()
    assert {gate.stage for gate in chosen.gates} == {"looked"}


# ---- several targets ----


@pytest.fixture
def toward():
    """Influence toward targets of which one begins like another, as a stage list hands it over."""
    targets = {name: str(name) for name in ("law", "law_eu", "news")}
    gates = Gates()
    gates.made("influence", "influence", build(find("score", "influence"), {"model": "proxy", "target": targets}))
    gates.made("cheap", "rank", stand_in({"": pa.float64()}, of="influence_law_sum + length"))
    gates.verified("looked", ["influence_law"])
    return gates


@pytest.mark.parametrize("column", ["influence_law", "influence_law_sum", "cheap"])
def test_a_verdict_speaks_for_all_measures_toward_its_target(toward, column):
    assert toward.before(top(column)).gates == (Gate(column, "looked", "influence_law"),)


@pytest.mark.parametrize("column", ["influence_law_eu", "influence_law_eu_sum", "influence_news"])
def test_toward_other_targets_it_says_nothing(toward, column):
    told = toward.before(top(column))
    assert told.gates == (Gate(column, "", ""),)
    assert [note.split(",")[0] for note in told.notes()] == [f"uses {column}"]


def test_verdicts_on_several_targets_speak_for_one_each(toward):
    toward.verified("again", ["influence_law_eu_sum"])
    gates = toward.before(top("influence_law_sum + influence_law_eu", "influence_news > 0")).gates
    assert set(gates) == {
        Gate("influence_law_sum", "looked", "influence_law"),
        Gate("influence_law_eu", "again", "influence_law_eu_sum"),
        Gate("influence_news", "", ""),
    }


def test_attribution_toward_several_targets_is_judged_one_by_one():
    gates, targets = Gates(), {"law": "x", "law_sum": "y"}
    gates.made("attribution", "attribution", build(find("score", "attribution"), {"target": targets}))
    gates.verified("looked", ["attribution_law"])
    assert gates.before(top("attribution_law")).gates == (Gate("attribution_law", "looked", "attribution_law"),)
    assert gates.before(top("attribution_law_sum")).gates == (Gate("attribution_law_sum", "", ""),)


@pytest.mark.parametrize(("target", "stage"), [("law", "looked"), ("news", "")])
def test_a_bandit_waits_for_the_verdict_on_its_target(toward, target, stage):
    options = {"alpha": 1.0, "threshold": 0.0, "portion": 5, "most_pulls": 9, "influence": "influence"}
    bandit = toward.before(build(find("select", "cluster_bandit"), {**options, "target": target}))
    assert [(gate.column, gate.stage) for gate in bandit.gates] == [("influence", stage)]


def test_an_estimate_that_nobody_verified_is_told_of(known):
    assert known.before(top("cheap")).gates == (Gate("cheap", "cheap", "cheap"), Gate("cheap", "", ""))
    selector = known.before(top("influence", "cheap > 0 and importance > 0"))
    assert {note.split(",")[0] for note in selector.notes()} == {"uses cheap", "uses influence"}
    assert selector.uses == ("cheap",), "what was learnt from an estimate is judged by its own stage at least"
    assert known.before(top("influence", trust=["influence"])).notes() == []


def test_a_selector_that_takes_influence_itself_waits_for_the_verdict_on_its_stage(known):
    options = {"alpha": 1.0, "threshold": 0.0, "portion": 5, "most_pulls": 9, "influence": "influence"}
    bandit = build(find("select", "cluster_bandit"), options)
    assert known.before(bandit).gates == (Gate("influence", "", ""),)
    known.verified("verify_influence", ["influence_sum / n_tokens", "influence_sum"])
    waiting = known.before(bandit)
    assert waiting.gates == (Gate("influence", "verify_influence", "influence_sum"),)
    assert set(waiting.uses) == {"influence", "verify_influence"}


def test_a_score_that_was_verified_needs_no_verdict_on_its_columns(known):
    score = "influence_sum / n_tokens"
    assert Gate("influence_sum", "", "") in known.before(top(score)).gates
    known.verified("quotient", [score])
    of_score = Gate(score, "quotient", score)
    assert known.before(top(score)).gates == (of_score,)
    assert known.before(top(score)).notes() == []
    filtered = known.before(top(score, "influence_sum > 0"))
    assert set(filtered.gates) == {of_score, Gate("influence_sum", "", "")}, "a filter is another use of it"
    known.verified("single", ["influence_sum"])
    assert set(known.before(top(score)).gates) == {of_score, Gate("influence_sum", "single", "influence_sum")}


@pytest.mark.parametrize(
    ("score", "where", "expected"),
    [
        ("importance", "length >= 100 and repetition < 0.3 and n_tokens > 5", []),
        ("importance", "length >= 100 and rating > 3", ["rating"]),
        ("length", "length >= 100", ["length"]),
        ("importance - length", "repetition < 0.3", ["length"]),
        ("rating", None, ["rating"]),
    ],
)
def test_a_filter_by_a_fact_about_the_text_waits_for_no_verdict_on_it(known, score, where, expected):
    known.made("length", "length", stand_in({"": pa.uint32()}))
    known.made("repetition", "repetition", stand_in({"": pa.float32()}))
    known.made("tokens", "tokens", build(find("pipeline", "tokens"), {}))
    known.verified("baselines", ["length", "repetition", "n_tokens", "rating"])
    selector = build(find("select", "top"), {"score": score, "where": where, "budget_tokens": 9})
    assert [gate.column for gate in known.before(selector).gates] == expected


def test_trust_is_of_columns_that_are_used(known):
    known.verified("verify_influence", ["influence"])
    assert known.before(top("influence", trust=["influence"])).gates == ()
    with pytest.raises(SpecError, match=r"trust: expected columns that this stage uses \(influence\), got 'influense'"):
        known.before(top("influence", trust=["influense"]))


# ---- in a run ----


@pytest.fixture(scope="module")
def table():
    """400 documents, of the wanted words or not; `good` is the share of them, `noise` is nothing."""
    draw = random.Random(0)
    shares = [draw.choice([0, 0, 0.5, 1]) for _ in range(400)]
    texts = [" ".join(draw.choice(WANTED if draw.random() < s else OTHER) for _ in range(60)) for s in shares]
    good = [None if place % 50 == 7 else share for place, share in enumerate(shares)]
    columns = {"id": [f"d{i}" for i in range(400)], "text": texts, "good": pa.array(good, pa.float64())}
    return pa.table({**columns, "noise": [draw.random() for _ in texts]})


@pytest.fixture(scope="module")
def pool(table, tmp_path_factory, write_corpus):
    for package in ("torch", "transformers", "tokenizers", "safetensors"):
        pytest.importorskip(package)
    return write_corpus(tmp_path_factory.mktemp("verify") / "pool", table, 2)


@pytest.fixture(scope="module")
def like(tmp_path_factory):
    """The target: wanted words only."""
    draw = random.Random(2)
    path = tmp_path_factory.mktemp("like") / "target.parquet"
    texts = [" ".join(draw.choice(WANTED) for _ in range(30)) for _ in range(20)]
    pq.write_table(pa.table({"id": [f"t{i}" for i in range(20)], "text": texts}), path)
    return path


@pytest.fixture(scope="module")
def specification(pool, like):
    """stages → a file whose first stage verifies `good` and `noise`; options of that stage."""

    def of(*stages, paths=pool, **options):
        verify = {"score": ["good", "noise"], "target": str(like), "subsets": 12, "tokens": 1000, **options}
        return {
            "corpus": {"paths": str(paths)},
            "seed": 3,
            "tokenizer": {"vocabulary": 300},
            "stages": [{"verify": verify}, *stages],
        }

    return of


def select(name, score, **others):
    return {"select": {"name": name, "by": {"top": {"score": score}}, "budget_documents": 20, **others}}


@pytest.fixture(scope="module")
def finished(specification, run_spec, tmp_path_factory):
    """The run of both verdicts, and of an arm that uses the good one."""
    return run_spec(specification(select("best", "good")), tmp_path_factory.mktemp("finished"))


def verdict_of(ran, name="verify"):
    return json.loads((ran.folder / "findings" / f"{name}.json").read_text("utf-8"))


@pytest.mark.train
def test_a_score_that_says_what_helps_is_reliable_and_noise_is_not(finished):
    found = verdict_of(finished)
    good, noise = found["scores"]["good"], found["scores"]["noise"]
    assert good["reliable"]
    assert good["low"] > 0
    assert good["low"] <= good["lds"] <= good["high"]
    assert not noise["reliable"]
    assert len(found["nats_per_token"]) == len(good["predicted"]) == len(found["documents"]) == 12
    assert good["lds"] == spearman(good["predicted"], [-loss for loss in found["nats_per_token"]])
    assert any(line.startswith("verify: good predicts what training does: LDS +0.") for line in finished.lines)
    assert any(line.startswith("verify: noise is not reliable: LDS ") for line in finished.lines)
    assert any("trains 12 models (size tiny), 1,000 tokens each, 12,000 in all" in line for line in finished.lines)
    assert len(finished.kept("best")) == 20


@pytest.mark.train
def test_of_the_models_only_what_was_measured_is_kept(finished):
    (folder,) = (finished.folder / "models").glob("verify-subset-003-*")
    assert sorted(path.name for path in folder.iterdir()) == ["nats.npy", "result.json"]
    nats = np.load(folder / "nats.npy", allow_pickle=False)
    told = json.loads((folder / "result.json").read_text("utf-8"))
    found = verdict_of(finished)
    assert len(nats) == found["target_documents"] == 20
    assert told["nats_per_token"] == nats.sum() / found["target_tokens"] == found["nats_per_token"][3]


@pytest.mark.train
@pytest.mark.parametrize(
    "stage",
    [
        select("noisy", "noise"),
        select("mixed", "good - 0.01 * noise"),
        select("filtered", "good", where="noise < 0.5"),
    ],
)
def test_an_arm_that_uses_what_predicts_nothing_is_refused_until_it_is_trusted(
    finished, specification, run_spec, opened, tmp_path_factory, stage
):
    folder, name, before = finished.folder.parent, stage["select"]["name"], len(finished.receipts())
    expected = rf"select {name}: uses noise, .*, got LDS .* over 12 subsets \(verify\); give verify more"
    with pytest.raises(RunFailedError, match=expected):
        run_spec(specification(select("best", "good"), stage), folder)
    refused = opened(folder / "run")
    assert not list((refused.folder / "layers").glob(f"{name}*"))
    assert len(refused.receipts()) == before, "nothing is trained again, nothing is written"
    trusting = {"select": {**stage["select"], "trust": ["noise"]}}
    ran = run_spec(specification(select("best", "good"), trusting), folder)
    plain = {**specification(), "stages": [stage]}
    alone = run_spec(plain, tmp_path_factory.mktemp("alone"))
    for column in (f"{name}_repeats", f"{name}_reason"):
        assert ran.values(column) == alone.values(column)


@pytest.mark.train
def test_what_one_arm_refuses_stops_no_other(finished, specification, run_spec, opened, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder.parent, folder)
    trained = {"train": {"name": "late", "on": {"arm": "noisy"}, "size": "tiny"}}
    arms = [select("noisy", "noise"), select("also", "noise + good"), trained, select("last", "good", where="good > 0")]
    arms.append(select("waits", "good", where="in_training_late"))
    with pytest.raises(RunFailedError) as refused:
        run_spec(specification(select("best", "good"), *arms), folder)
    first, second, rest = str(refused.value).splitlines()
    assert first.startswith("select noisy: uses noise, ")
    assert second.startswith("select also: uses noise, ")
    assert rest == "train late, select waits: not done for want of that"
    ran = opened(folder / "run")
    assert {name: counts["kept"] for name, counts in ran.catalog["arms"].items()} == {"best": 20, "last": 20}
    assert not ran.catalog["finished"]
    unfinished = [stage["name"] for stage in ran.catalog["stages"] if not stage["finished"]]
    assert unfinished == ["noisy", "also", "late", "waits"]
    for arm, why in {
        "noisy": "; it was refused: select noisy: uses noise, expected one that predicts",
        "waits": " yet; run again to finish it",
        "nosy": "; it has best, last$",
    }.items():
        with pytest.raises(ColumnError, match=f"no arm '{arm}'{why}"):
            export(folder / "run", arm, tmp_path / "out", "parquet", Serial())
    before = len(ran.receipts())
    with pytest.raises(RunFailedError, match="select noisy"):
        run_spec(specification(select("best", "good"), *arms), folder)
    assert len(ran.receipts()) == before, "nothing is done twice"


@pytest.mark.train
def test_other_shards_give_the_same_verdict(finished, specification, run_spec, tmp_path, table, write_corpus):
    pool = write_corpus(tmp_path / "pool", table, 3, backwards=True, with_empty=True)
    other = run_spec(specification(paths=pool), tmp_path / "other")
    assert verdict_of(other) == verdict_of(finished)


@pytest.mark.train
@pytest.mark.dask
@pytest.mark.slow
def test_other_workers_give_the_same_verdict(finished, specification, run_spec, tmp_path, dask_workers):
    other = run_spec(specification(), tmp_path, dask_workers)
    assert verdict_of(other) == verdict_of(finished)


class Killed(BaseException):
    """What nobody catches."""


@pytest.mark.train
def test_what_was_trained_before_a_kill_is_not_trained_again(finished, specification, run_spec, tmp_path, monkeypatch):
    from tamis.models import loss, train

    trained, measured = [], []
    real_train, real_losses = train.train, loss.document_losses

    def recorded(*arguments, **options):
        trained.append(options["folder"])
        return real_train(*arguments, **options)

    def deadly(*arguments, **options):
        measured.append(None)
        if len(measured) == 5:
            raise Killed
        return real_losses(*arguments, **options)

    monkeypatch.setattr(train, "train", recorded)
    monkeypatch.setattr(loss, "document_losses", deadly)
    with pytest.raises(Killed):
        run_spec(specification(), tmp_path)
    resumed = run_spec(specification(), tmp_path)
    assert len(measured) == 13
    assert len(set(trained)) == 12
    assert verdict_of(resumed) == verdict_of(finished)


@pytest.mark.train
def test_a_model_to_start_from_and_several_seeds(finished, specification, run_spec, tmp_path):
    train = {"train": {"name": "prior", "on": {"random": {"tokens": 4000}}, "size": "tiny"}}
    told = specification(score="good", seeds=2, subsets=10, where="noise < 0.9", **{"from": "prior"})
    told["stages"].insert(0, train)
    ran = run_spec(told, tmp_path)
    found = verdict_of(ran, "verify_good")
    assert found["seeds"] == 2
    assert -1 <= found["agreement_of_seeds"] <= 1
    assert len(list((ran.folder / "models").glob("verify_good-subset-*"))) == 20
    assert max(found["nats_per_token"]) < min(verdict_of(finished)["nats_per_token"])


@pytest.mark.train
def test_a_pool_that_is_too_small_is_refused(specification, run_spec, tmp_path):
    with pytest.raises(
        RunFailedError, match=r"expected a pool of .* scored tokens or more for subsets of 20,000, got "
    ):
        run_spec(specification(tokens=20_000), tmp_path)


@pytest.mark.train
@pytest.mark.parametrize("kind", ["parquet", "json lines"])
def test_a_pool_that_is_too_small_is_refused_by_check(specification, table, pool, tmp_path, kind):
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), "utf-8")
    paths = pool if kind == "parquet" else tmp_path / "lines.jsonl"
    file = tmp_path / "stages.yaml"
    told = specification(score=["n_bytes"], **{"as": "verify"}, tokens=50_000, paths=paths)
    file.write_text(json.dumps(told, indent=0), "utf-8")
    line = 1 + file.read_text("utf-8").splitlines().index('"verify": {')
    complaint = r"verify: tokens: expected a pool of 125,000 tokens or more for subsets of 50,000, got about "
    with pytest.raises(SpecError, match=rf"stages\.yaml:{line}: .*{complaint}[2-9]\d,\d+; lower `tokens:`"):
        rehearse(load_spec(file))


@pytest.mark.train
@pytest.mark.parametrize("how", ["run", "check"])
def test_a_target_without_text_is_refused(specification, run_spec, tmp_path, how):
    (tmp_path / "blank.jsonl").write_text('{"text": ""}\n', "utf-8")
    told = specification(target=str(tmp_path / "blank.jsonl"))
    (tmp_path / "stages.yaml").write_text(json.dumps(told), "utf-8")
    with pytest.raises((RunFailedError, SpecError)) as refused:
        run_spec(told, tmp_path) if how == "run" else rehearse(load_spec(tmp_path / "stages.yaml"))
    assert "verify: target: expected documents with text, got none; check its paths" in str(refused.value)
    if how == "check":
        assert str(refused.value).startswith(f"{tmp_path / 'stages.yaml'}:1: verify: target: ")


@pytest.mark.train
def test_check_says_what_it_costs_and_trains_nothing(specification, tmp_path):
    file = tmp_path / "stages.yaml"
    file.write_text(json.dumps({**specification(select("bad", "noise"), tokens=5_000), "out": "run"}), "utf-8")
    told = rehearse(load_spec(file))
    assert "verify: trains 12 models (size tiny), 5,000 tokens each, 60,000 in all\n" in told
    (line,) = [line for line in told.splitlines() if "verify: 14 steps, subsets to verdict: training, about " in line]
    assert 1 <= float(line.split("about ")[1].split(" ")[0].replace(",", "")) < 10_000
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "good + noise"}, "expected a name for the verdict on an expression; add `as:`"),
        ({"score": "sum(good)"}, "score: .*sum"),
        ({"score": "good", "subsets": 3}, "subsets: verify expects: .*greater than or equal to 10, got 3"),
        ({"score": "good", "from": "nobody"}, "expected the name of a stage before this one that trains, got 'nobody'"),
        ({"score": "good", "from": "nobody", "size": "tiny"}, "size: expected none beside `from:`"),
        ({"score": "good", "tokns": 3}, "tokns: verify has no such option; did you mean 'tokens'"),
        ({"score": []}, "score: verify expects: .*at least 1"),
    ],
)
def test_mistakes_are_refused_with_their_line(tmp_path, options, message):
    file = tmp_path / "stages.yaml"
    stages = [{"verify": {"target": "x", **options}}]
    file.write_text(json.dumps({"corpus": "x", "stages": stages}, indent=0), encoding="utf-8")
    with pytest.raises(SpecError, match=rf"stages\.yaml:\d+: .*{message}"):
        load_spec(file)


def test_gates_are_not_for_users(tmp_path):
    file = tmp_path / "stages.yaml"
    gates = [{"column": "good", "stage": "", "score": ""}]
    stages = [{"select": {"name": "a", "by": {"top": {"score": "good", "gates": gates}}}}]
    file.write_text(json.dumps({"corpus": "x", "stages": stages}), encoding="utf-8")
    with pytest.raises(SpecError, match="gates: a select stage does not say them itself"):
        load_spec(file)


def test_trust_changes_no_key():
    from tamis.pipeline.program import ProgramSpec

    def key(**options):
        return ProgramSpec("select", "top", "a", json.dumps({"score": "good", **options})).key({})

    assert key() == key(trust=["good"]) == key(gates=[{"column": "good", "stage": "v", "score": "good"}])
    assert key() != key(where="good > 1")
