"""cluster_bandit: portions of clusters that are worth it, whatever the shards; only what is looked at is computed."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tamis.errors import ContractError, SpecError
from tamis.families import build, find
from tamis.inline import Inline
from tamis.kernels.arrow import text_of
from tamis.pipeline.spec import load_spec
from tamis.seeds import hash64
from tamis.steps import Pool, Use

SIZES = [120, 90, 60, 20, 5]
LEVELS = [0.0, 0.5, 2.0, 1.0, -1.0]
OPTIONS = {
    "clusters": "topic",
    "score": "worth",
    "alpha": 1.0,
    "threshold": 0.5,
    "portion": 20,
    "most_pulls": 40,
    "draws": 4,
}


def bandit(**options):
    return build(find("select", "cluster_bandit"), {**OPTIONS, **options})


def pool_of(order=None, texts=None):
    """Documents of five topics, each with a level of worth; ten without a topic, one without worth, one quarantined."""
    topics = [topic for topic, size in enumerate(SIZES) for _ in range(size)] + [None] * 10
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.3, len(topics)).round(3)
    worth = [(0.0 if topic is None else LEVELS[topic]) + x for topic, x in zip(topics, noise.tolist(), strict=True)]
    worth[7] = None
    n = len(topics)
    table = pa.table(
        {
            "doc_id": pa.array([f"d{i}" for i in range(n)]),
            "text": pa.array(texts or [f"text {i}" for i in range(n)]),
            "topic": pa.array(topics, pa.uint32()),
            "worth": pa.array(worth, pa.float64()),
            "n_tokens": pa.array(rng.integers(5, 60, n), pa.uint32()),
            "quarantined": pa.array(np.arange(n) == 3),
        }
    )
    return table if order is None else table.take(pa.array(order))


def played(component, table, batch_rows=64, seed=5):
    """(columns with doc_id beside them, in the order of ids; findings)."""
    with Inline(table, {}, batch_rows) as inline:
        found = inline.run(component, Pool("arm", seed))
        findings = inline.findings
    table = table.select(["doc_id", "topic", "worth", "n_tokens", "quarantined"])
    for name in found.schema.names:
        table = table.append_column(name, found[name])
    return table.sort_by("doc_id"), findings


def taken(table):
    return [row for row in table.to_pylist() if row["arm_repeats"]]


# ---- what it takes ----


def test_good_clusters_are_taken_whole_and_others_left():
    table, findings = played(bandit(), pool_of())
    assert {row["topic"] for row in taken(table)} == {2, 3}
    reasons = {row["arm_reason"] for row in table.to_pylist() if row["topic"] in (2, 3)}
    assert reasons == {None}
    for row in table.to_pylist():
        expected = None if row["topic"] in (2, 3) else "no cluster" if row["topic"] is None else "cluster not taken"
        assert row["arm_reason"] == ("quarantined" if row["quarantined"] else expected)
    assert findings.file == "findings/arm.json"
    clusters = findings.content["clusters"]
    assert clusters["cluster"] == [0, 1, 2, 3, 4]
    assert clusters["documents"] == [119, 90, 60, 20, 5]  # one is quarantined
    assert clusters["taken"] == [0, 0, 3, 1, 0]
    assert clusters["portions"] == [6, 5, 3, 1, 1]


def slow_arm(table, component, seed=5):
    """The ids that the arm holds, by lists and dictionaries."""
    rows = [row for row in table.to_pylist() if row["topic"] is not None and not row["quarantined"]]
    ids = [row["doc_id"] for row in rows]
    numbers = dict(zip(ids, hash64(seed, "cluster bandit", text_of(pa.array(ids))).tolist(), strict=True))
    ties = dict(zip(ids, hash64(seed, "cut", text_of(pa.array(ids))).tolist(), strict=True))
    topics = sorted({row["topic"] for row in rows})
    first = text_of(pa.array([str(topic) for topic in topics]))
    tie = dict(zip(topics, hash64(seed, "cluster bandit: clusters", first).tolist(), strict=True))
    portions = {}
    for topic in topics:
        of_it = [row for row in rows if row["topic"] == topic]
        pieces = math.ceil(len(of_it) / component.portion)
        cells = [[] for _ in range(pieces)]
        for row in of_it:
            cells[(numbers[row["doc_id"]] >> 32) * pieces >> 32].append(row)
        portions[topic] = [sorted(cell, key=lambda row: numbers[row["doc_id"]]) for cell in cells if cell]
    seen, looked, done = ({topic: [] for topic in topics}, dict.fromkeys(topics, 0), dict.fromkeys(topics, 0))
    centre, spread, order, mass = 0.0, 1.0, [], 0
    budget = component.budget_tokens or component.budget_documents or math.inf

    def standing(topic):
        return (math.fsum(seen[topic]) / len(seen[topic]) - centre) / spread

    def score(topic):
        return standing(topic) + component.alpha * math.sqrt(2 * math.log(sum(looked.values())) / looked[topic])

    chosen = topics
    while chosen and mass < budget and sum(done.values()) < component.most_pulls:
        now = []
        for topic in chosen:
            cell = portions[topic][done[topic]]
            draws = cell[: component.draws]
            seen[topic] += [row["worth"] for row in draws if row["worth"] is not None]
            looked[topic] += len(draws)
            done[topic] += 1
            now.append((topic, cell))
        if sum(done.values()) == len(topics):
            everything = [x for values in seen.values() for x in values]
            centre = math.fsum(everything) / len(everything)
            spread = math.sqrt(math.fsum((x - centre) ** 2 for x in everything) / len(everything))
        for topic, cell in sorted(now, key=lambda each: (-standing(each[0]), tie[each[0]])):
            if standing(topic) > component.threshold and mass < budget:
                order.append(cell)
                mass += sum(row["n_tokens"] if component.budget_tokens else 1 for row in cell)
        left = [topic for topic in topics if done[topic] < len(portions[topic])]
        room = min(component.at_once, component.most_pulls - sum(done.values()))
        chosen = sorted(left, key=lambda topic: (-score(topic), tie[topic]))[:room]
    held, used = [], 0
    for cell in order:
        for row in sorted(cell, key=lambda row: ties[row["doc_id"]]):
            used += row["n_tokens"] if component.budget_tokens else 1
            if used > budget:
                return sorted(held)
            held.append(row["doc_id"])
    return sorted(held)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 0.0, "threshold": -0.5, "budget_tokens": 2500},
        {"threshold": -1.0, "budget_documents": 77, "at_once": 3, "portion": 7, "most_pulls": 30},
        {"threshold": -10.0, "budget_tokens": 5000, "draws": 1, "portion": 1, "most_pulls": 300, "at_once": 2},
    ],
)
@pytest.mark.parametrize("seed", [5, -1])
def test_the_arm_is_that_of_a_slow_twin(options, seed):
    component = bandit(**options)
    table, _ = played(component, pool_of(), seed=seed)
    assert sorted(row["doc_id"] for row in taken(table)) == slow_arm(pool_of(), component, seed)


@pytest.mark.parametrize("options", [{}, {"budget_tokens": 1500, "threshold": 0.0}, {"score": "worth * n_tokens"}])
def test_order_and_batches_change_nothing(options):
    component = bandit(**options)
    expected, findings = played(component, pool_of())
    order = np.random.default_rng(1).permutation(expected.num_rows)
    for batch_rows in (1, 17, 1000):
        found, again = played(component, pool_of(order), batch_rows)
        assert found.equals(expected)
        assert again == findings


def test_documents_that_share_an_id_are_one_draw_whichever_comes_first():
    table = pool_of()
    shared = table.set_column(0, "doc_id", pa.array([f"d{i // 2}" for i in range(table.num_rows)]))
    games = [played(bandit(draws=10), shared.take(pa.array(order)))[1] for order in (range(305), range(304, -1, -1))]
    assert games[0] == games[1]
    assert games[0].content["documents_looked_at"] < played(bandit(draws=10), table)[1].content["documents_looked_at"]


@pytest.mark.parametrize("budget", [1, 30, 31, 800, 2000, 100_000])
def test_the_budget_is_never_exceeded(budget):
    table, findings = played(bandit(threshold=-5.0, budget_tokens=budget), pool_of())
    used = sum(row["n_tokens"] for row in taken(table))
    whole = sum(row["n_tokens"] for row in table.to_pylist() if row["topic"] is not None and not row["quarantined"])
    assert used <= budget
    assert used > budget - 60 or used == whole
    assert findings.content["mass_taken"] >= min(budget, whole)


def test_documents_that_where_leaves_out_are_no_part_of_their_cluster():
    table, findings = played(bandit(where="topic != 2 and n_tokens > 20"), pool_of())
    assert {row["topic"] for row in taken(table)} == {3}
    assert all(row["n_tokens"] > 20 for row in taken(table))
    assert findings.content["clusters"]["cluster"] == [0, 1, 3, 4]
    reasons = {row["arm_reason"] for row in table.to_pylist() if row["topic"] == 2}
    assert reasons == {"where: topic != 2"}


def test_negative_numbers_are_no_cluster_and_other_kinds_are_refused():
    table = pool_of()
    signed = pa.array([-1 if topic is None else topic for topic in table["topic"].to_pylist()], pa.int32())
    same, _ = played(bandit(), table.set_column(2, "topic", signed))
    expected, _ = played(bandit(), table)
    assert same["arm_reason"].equals(expected["arm_reason"])
    with pytest.raises(ContractError, match="whole numbers, got 'worth' of double"):
        played(bandit(clusters="worth"), table)


def test_nothing_above_the_threshold_leaves_an_empty_arm_and_says_so():
    table, findings = played(bandit(threshold=50.0, budget_tokens=1000), pool_of())
    assert not taken(table)
    assert findings.lines[-1] == "the budget was not reached: 0 of 1,000 after all portions"


def test_no_cluster_at_all_leaves_an_empty_arm():
    table, _ = played(bandit(where="topic > 100"), pool_of())
    assert not taken(table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": None}, "either score or influence (the name of a stage), got neither"),
        ({"influence": "x"}, "either score or influence (the name of a stage), got both"),
        ({"target": "x"}, "target: belongs to influence, got score"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(SpecError) as caught:
        bandit(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["alpha", "threshold", "portion", "most_pulls"])
def test_what_results_hang_on_has_no_default(name):
    options = {key: value for key, value in OPTIONS.items() if key != name}
    with pytest.raises(SpecError, match=name):
        build(find("select", "cluster_bandit"), options)


def test_fewer_pulls_than_clusters_are_refused():
    with pytest.raises(ContractError, match="most_pulls: expected at least one for each of 5 clusters, got 4"):
        played(bandit(most_pulls=4), pool_of())


def refusal(tmp_path, bandit, *stages):
    """(line, message) of what the specification is refused for, the bandit after these stages."""
    select = {"name": "a", "where": bandit.pop("where", None), "by": {"cluster_bandit": bandit}}
    select = {key: value for key, value in select.items() if value is not None}
    text = json.dumps({"corpus": "x", "stages": [*stages, {"select": select}]}, indent=1)
    (tmp_path / "stages.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "stages.yaml")
    line, message = re.fullmatch(r".*stages.yaml:(\d+): select a: (.*)", str(caught.value)).groups()
    return text.split("\n")[int(line) - 1].split('"')[1], message


MAKING = [{"embed": {"by": "hashed_ngrams"}}, {"score": [{"prototypes": {"clusters": 5, "as": "p"}}, "length"]}]
SPECIFIED = {"alpha": 1, "threshold": 0, "portion": 5, "most_pulls": 4, "clusters": "p_centroid"}


def test_fewer_pulls_than_a_stage_makes_clusters_are_refused_at_their_line(tmp_path):
    pytest.importorskip("faiss")
    own = {**SPECIFIED, "score": "length"}
    expected = "most_pulls: expected at least one for each of 5 clusters, got 4; raise it, or make fewer clusters"
    assert refusal(tmp_path, dict(own), *MAKING) == ("most_pulls", expected)
    for other in ({"most_pulls": 5}, {"where": "length > 5"}, {"clusters": "of_the_corpus"}):
        select = {"name": "a", "by": {"cluster_bandit": {**own, **other}}}
        if "where" in other:
            select = {"name": "a", "where": other["where"], "by": {"cluster_bandit": own}}
        (tmp_path / "stages.yaml").write_text(json.dumps({"corpus": "x", "stages": [*MAKING, {"select": select}]}))
        load_spec(tmp_path / "stages.yaml")


@pytest.mark.parametrize(
    ("influence", "options", "option", "message"),
    [
        (
            {"target": "x"},
            {"influence": "m"},
            "influence",
            "an `influence` stage before this one, got 'm'; there are h",
        ),
        (
            {"target": "x"},
            {"influence": "g"},
            "influence",
            "an `influence` stage before this one, got 'g'; there are h",
        ),
        (
            {"target": "x", "checkpoints": 2},
            {},
            "influence",
            "influence: expected a stage with one checkpoint, got 2 of h",
        ),
        ({"target": "x"}, {"target": "law"}, "target", r"expected one of the influence stage's \(none\), got 'law'"),
        ({"target": {"law": "x", "art": "y"}}, {}, "cluster_bandit", r"influence stage's \(law, art\), got None"),
    ],
)
def test_what_an_influence_stage_does_not_have_is_refused_at_its_line(tmp_path, influence, options, option, message):
    pytest.importorskip("torch")
    train = {"train": {"name": "m", "on": {"random": {"tokens": 5000}}, "keep": 2}}
    scorer = {"score": {"influence": {"as": "h", "model": "m", **influence}}}
    own = {**SPECIFIED, "most_pulls": 9, "influence": "h", **options}
    where, said = refusal(tmp_path, own, train, scorer)
    assert where == option
    assert re.search(message, said)


def test_a_budget_that_is_full_after_the_first_round_is_told():
    _, findings = played(bandit(threshold=-9, budget_documents=30), pool_of())
    assert (findings.content["rounds"], findings.content["stopped"]) == (1, "budget")
    assert findings.lines[1].startswith("the budget was full after the first round")
    assert "raise threshold (-9), or make portions smaller" in findings.lines[1]
    _, findings = played(bandit(budget_documents=60), pool_of())
    assert findings.content["rounds"] > 1
    assert len(findings.lines) == 1


# ---- influence ----


class WithCompass(Inline):
    """Documents in memory after a stage called `compass` that made one."""

    def __init__(self, table, made, batch_rows=64):
        super().__init__(table, {}, batch_rows)
        self.made = made

    def _result(self, step):
        return self.made if isinstance(step, Use) else super()._result(step)


@pytest.fixture(scope="module")
def compass(language_models, tmp_path_factory):
    """What an `influence` stage hands on: its model, and a compass with two targets."""
    from tamis.models.influence import random_compass
    from tamis.models.language import language_model

    folder = tmp_path_factory.mktemp("compass")
    model = str(language_models["conditional"])
    random_compass(language_model(model), ("_north", "_south")).save(folder)
    how = {"curvature": "ekfac", "wanted": "ekfac"}
    return {"folder": str(folder), "model": model, "most_tokens": 24, "checkpoints": 1, **how}


@pytest.fixture(scope="module")
def texts():
    """Texts of two kinds of words, by topic."""
    rng = np.random.default_rng(0)
    words = {0: ["river", "copper", "garden"], 1: ["theorem", "proof", "matrix", "orbit"]}
    topics = [topic for topic, size in enumerate(SIZES) for _ in range(size)] + [0] * 10
    made = [" ".join(rng.choice(words[topic % 2], rng.integers(3, 40))) for topic in topics]
    return ["", *made[1:]]


def with_influences(compass, table, target):
    """The table with the influence per token of every document in the column `worth`."""
    from tamis.models.influence import Compass
    from tamis.models.language import language_model

    model, made = language_model(compass["model"]), Compass.load(Path(compass["folder"]))
    ids, offsets = model.tokenizer.encode(table["text"].to_pylist())
    with model.device.alone():
        sums, tokens = made.scores(model, ids, offsets, compass["most_tokens"])
    per_token = [
        s / n if n else None
        for s, n in zip(sums[:, made.names.index(f"_{target}")].tolist(), tokens.tolist(), strict=True)
    ]
    return table.set_column(table.schema.get_field_index("worth"), "worth", pa.array(per_token, pa.float64()))


INFLUENCE = {
    "score": None,
    "influence": "compass",
    "target": "south",
    "threshold": 0.0,
    "most_pulls": 9,
    "budget_tokens": 3000,
}


def test_influence_computed_on_the_way_chooses_what_a_column_of_it_would(compass, texts):
    table = pool_of(texts=texts)
    by_column, expected = played(
        bandit(**{**INFLUENCE, "influence": None, "target": None, "score": "worth"}),
        with_influences(compass, table, "south"),
    )
    with WithCompass(table, compass) as inline:
        found = inline.run(bandit(**INFLUENCE), Pool("arm", 5))
        findings = inline.findings
    ordered = found.append_column("doc_id", table["doc_id"]).sort_by("doc_id")
    assert ordered["arm_reason"].equals(by_column["arm_reason"])
    assert findings.content == expected.content
    assert findings.content["documents_looked_at"] <= 9 * 4 < table.num_rows


@pytest.mark.parametrize("target", [None, "east"])
def test_a_target_that_the_compass_does_not_know_is_named(compass, texts, target):
    with (
        pytest.raises(ContractError, match=r"expected one of the influence stage's \(north, south\), got"),
        WithCompass(pool_of(texts=texts), compass) as inline,
    ):
        inline.run(bandit(**{**INFLUENCE, "target": target}), Pool("arm", 5))


def test_a_stage_of_several_checkpoints_is_refused(compass, texts):
    with (
        pytest.raises(ContractError, match="expected a stage with one checkpoint, got 2 of compass"),
        WithCompass(pool_of(texts=texts), {**compass, "checkpoints": 2}) as inline,
    ):
        inline.run(bandit(**INFLUENCE), Pool("arm", 5))


def test_a_stage_that_measured_no_curvature_is_refused(compass, texts):
    with (
        pytest.raises(ContractError, match=r"expected a stage that measured its curvature \(ekfac\) .*, got none that"),
        WithCompass(pool_of(texts=texts), {**compass, "curvature": "identity", "wanted": "ekfac"}) as inline,
    ):
        inline.run(bandit(**INFLUENCE), Pool("arm", 5))


class PowerCutError(Exception):
    """Power is out."""


def test_a_killed_game_goes_on_where_it_was(compass, texts, tmp_path, monkeypatch):
    """Each influence is computed once, texts are read once, and the folder ends up the same."""
    from tamis.models.influence import Compass

    asked, reads = [], []
    honest = Compass.scores

    def counted(self, model, ids, offsets, most_tokens):
        if len(asked) == 3:
            asked.append(-1)
            raise PowerCutError
        asked.append(len(offsets) - 1)
        return honest(self, model, ids, offsets, most_tokens)

    class Bench(Inline):
        folder = tmp_path / "unbroken"

        def _result(self, step):
            if isinstance(step, Use):
                return compass
            if not hasattr(step, "train"):
                return super()._result(step)
            self.folder.mkdir(exist_ok=True)
            return {**step.train(self), "folder": str(self.folder)}

        def documents(self, over=None, columns=()):
            reads.append(self.folder.name)
            yield from self.batches(over, columns)

        def report(self, done, line):
            assert 0 <= done <= 1
            assert "influences" in line

    component, table = bandit(**INFLUENCE), pool_of(texts=texts)
    expected = Bench(table, {}, 50).run(component, Pool("arm", 5))
    monkeypatch.setattr(Compass, "scores", counted)
    Bench.folder = tmp_path / "broken"
    with pytest.raises(PowerCutError):
        Bench(table, {}, 50).run(component, Pool("arm", 5))
    assert (Bench.folder / "_influence.bin").stat().st_size > 0
    found = Bench(table, {}, 50).run(component, Pool("arm", 5))
    assert found.equals(expected)
    assert reads == ["unbroken", "broken"]
    for name in ("place.npy", "bandit.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    looked = json.loads((Bench.folder / "bandit.json").read_text())["documents_looked_at"]
    assert sum(count for count in asked if count > 0) == looked
    assert not list(Bench.folder.glob("*.arrow"))


def test_a_rehearsal_computes_a_few_influences_and_tells_how_long_all_may_take(compass, texts, monkeypatch):
    from tamis.models.influence import Compass

    class Rehearsal(WithCompass):
        def _result(self, step):
            return super()._result(replace(step, train=step.pretend) if hasattr(step, "train") else step)

        def _train(self, step):
            told.append(super()._train(step))
            return told[-1]

    told, asked, honest = [], [], Compass.scores

    def counted(self, model, ids, offsets, most_tokens):
        asked.append(len(offsets) - 1)
        return honest(self, model, ids, offsets, most_tokens)

    monkeypatch.setattr(Compass, "scores", counted)
    with Rehearsal(pool_of(texts=texts), compass) as inline:
        found = inline.run(bandit(**INFLUENCE), Pool("arm", 5))
    assert asked == [1, 8]
    assert told[0]["_seconds"] > 0
    assert set(found["arm_repeats"].to_pylist()) == {0, 1}
    assert "at most 36 influences are computed" in bandit(**INFLUENCE).notes()[-1]


def test_in_a_run_the_influence_of_a_stage_chooses_and_shards_change_nothing(
    run_spec, write_corpus, documents, target, language_models, tmp_path
):
    pytest.importorskip("faiss")
    budget = 3000
    stages = [
        {"embed": {"by": "hashed_ngrams"}},
        {"score": [{"prototypes": {"clusters": 6}}, {"uniform": {"as": "spot"}}]},
        {
            "score": {
                "influence": {
                    "as": "helpful",
                    "model": str(language_models["conditional"]),
                    "target": str(target),
                    "sample_tokens": 2000,
                    "target_tokens": 500,
                    "most_tokens": 48,
                    "where": "spot < 0.3",
                }
            }
        },
        {
            "select": {
                "name": "curated",
                "by": {
                    "cluster_bandit": {
                        "influence": "helpful", "alpha": 0.5, "threshold": 0.0,
                        "portion": 20, "draws": 4, "most_pulls": 9,
                    }
                },
                "budget_tokens": budget,
            }
        },
    ]  # fmt: skip
    arms, findings = [], []
    for shards in (1, 4):
        pool = write_corpus(tmp_path / f"pool{shards}", documents, shards, backwards=shards > 1)
        specification = {"corpus": {"paths": str(pool), "max_bad_fraction": 0.05}, "seed": 3, "stages": stages}
        ran = run_spec(specification, tmp_path / f"run{shards}")
        arms.append(ran.table(["n_tokens", "curated_repeats", "curated_reason"]))
        findings.append((ran.folder / "findings" / "curated.json").read_bytes())
        assert any("documents looked at" in line for line in ran.lines)
    assert arms[0].equals(arms[1])
    assert findings[0] == findings[1]
    used = sum(row["n_tokens"] for row in arms[0].to_pylist() if row["curated_repeats"])
    assert budget / 2 < used <= budget
