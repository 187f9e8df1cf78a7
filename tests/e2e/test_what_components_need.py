"""What a component may need beside columns, in a run: a GPU, documents for its training, other components, files."""

from __future__ import annotations

import re

import pyarrow.compute as pc
import pytest

from tamis.errors import SpecError
from tamis.pipeline.passes import run_shards
from tamis.pipeline.work import load_pass
from tamis.pipeline.workers import Dask, Serial

HEADER = """
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
import hashlib
import numpy as np
import pyarrow as pa
from tamis.scorers.base import Scorer
from tamis.steps import Ask, Fold, Train, Use


"""
COMPONENTS = {
    "heavy": '''
@dataclass(frozen=True)
class Heavy(Scorer):
    """Bytes of the text, after a count, where there is a GPU."""

    def steps(self, pool):
        found = yield Fold(self.reads, self.count)
        return replace(self.map(pool, partial(self.tell, int(found["n"]))), gpu=True)

    def count(self, batch):
        return {"n": np.array(len(batch))}

    def tell(self, n, batch):
        return np.diff(batch.text.offsets).astype(np.float32) / n
''',
    "taught": '''
@dataclass(frozen=True)
class Taught(Scorer):
    """What it saw in training: `of`, a column, of each document, in order."""

    trains = True

    of: str = "source"

    @property
    def reads(self):
        return ("doc_id", self.of)

    def columns(self, name):
        return {name: pa.uint32()}

    def steps(self, pool):
        seen = yield Train("see", self.reads, self.see, gpu=False)
        return self.map(pool, partial(self.tell, seen["documents"]))

    def see(self, workshop):
        rows = [row for batch in workshop.documents(columns=self.reads) for row in batch.table.to_pylist()]
        (workshop.folder / "seen.txt").write_text("\\n".join(f"{row['doc_id']} {row[self.of]}" for row in rows))
        return {"documents": len(rows)}

    def tell(self, number, batch):
        return np.full(len(batch), number, np.uint32)
''',
    "long": '''
@dataclass(frozen=True)
class Long(Scorer):
    """Whether a document is longer than `bytes`, by the length that another component tells."""

    bytes: int = 100
    words: str = "any"

    @property
    def reads(self):
        return ("shared_length",)

    def asks(self):
        options = {} if self.words == "any" else {"words": self.words}
        return [Ask("score", "length", "shared_length", options)]

    def columns(self, name):
        return {name: pa.bool_()}

    def score(self, batch):
        return pa.array(batch["shared_length"].to_numpy(zero_copy_only=False) > self.bytes)
''',
    "longest": '''
@dataclass(frozen=True)
class Longest(Scorer):
    """What `long` says: it asks for one that asks."""

    @property
    def reads(self):
        return ("asked_long",)

    def asks(self):
        return [Ask("score", "long", "asked_long", {"bytes": 70})]

    def columns(self, name):
        return {name: pa.bool_()}

    def score(self, batch):
        return batch["asked_long"]
''',
    "listed": '''
@dataclass(frozen=True)
class Listed(Scorer):
    """How many of the words in a `file` a document has."""

    file: str

    def contents(self):
        return [hashlib.sha256(Path(self.file).read_bytes()).hexdigest()]

    def score(self, batch):
        words = set(Path(self.file).read_text().split())
        return np.array([len(words & set(text.split())) for text in batch["text"].to_pylist()], np.float32)
''',
    "thrifty": '''
@dataclass(frozen=True)
class Thrifty(Scorer):
    """The length of the text, made once for all that want it, with a line in `log` whenever it is made."""

    log: str
    times: int = 1

    def score(self, batch):
        return batch.once("lengths", partial(self.lengths, batch)) * np.float32(self.times)

    def lengths(self, batch):
        with open(self.log, "a") as log:
            log.write(f"{len(batch)}\\n")
        return np.diff(batch.text.offsets).astype(np.float32)
''',
    "apprentice": '''
@dataclass(frozen=True)
class Apprentice(Scorer):
    """How many documents the stage `of` saw in its training."""

    of: str

    @property
    def uses(self):
        return (self.of,)

    def steps(self, pool):
        seen = yield Use(self.of)
        lines = (Path(seen["folder"]) / "seen.txt").read_text().count("\\n") + 1
        return self.map(pool, partial(self.tell, lines))

    def tell(self, number, batch):
        return np.full(len(batch), number, np.float32)
''',
}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("components")
    for name, text in COMPONENTS.items():
        (folder / f"{name}.py").write_text(f'"""A component of a user\'s."""\n{HEADER}{text.lstrip()}')
    return folder


@pytest.fixture(scope="module")
def said(corpus, own):
    """Stages → a file with a user's components."""
    return lambda *stages, **more: {
        "corpus": {"paths": str(corpus), "max_bad_fraction": 0.05},
        "components": str(own),
        "stages": list(stages),
        **more,
    }


class Watched(Serial):
    """Notes what every task of a pass is: (whether it wants a GPU, the kinds and names of its works)."""

    def __init__(self):
        self.passes = []

    def run(self, tasks):
        for outcome in super().run(tasks):
            if outcome.task.function is run_shards:
                run, path, indices, _ = outcome.task.arguments
                works = [load_pass(f"{run}/{path}").works[index] for index in indices]
                self.passes.append((outcome.task.gpu, {(work.kind, work.program.name) for work in works}))
            yield outcome


# ---- a GPU ----


def test_maps_for_a_gpu_share_passes_with_one_another_alone(run_spec, said, tmp_path):
    workers = Watched()
    stages = said({"score": ["length", "heavy", {"heavy": {"as": "heavier"}}, "repetition"]})
    ran = run_spec(stages, tmp_path, workers)
    wanting = [works for gpu, works in workers.passes if gpu]
    others = [works for gpu, works in workers.passes if not gpu]
    assert wanting
    assert set.union(*wanting) == {("map", "heavy"), ("map", "heavier")}, (
        "the fold of the same component is no such work"
    )
    assert all(works == wanting[0] for works in wanting), "both read the text together"
    assert {("fold", "heavy"), ("map", "length"), ("map", "repetition")} <= set.union(*others)
    assert workers.passes.index((True, wanting[0])) > workers.passes.index((False, others[-1])), "last of all"
    assert ran.values("heavy") == ran.values("heavier")


@pytest.mark.dask
def test_a_map_for_a_gpu_runs_on_the_worker_that_has_one(run_spec, said, tmp_path, monkeypatch, corpus):
    monkeypatch.setenv("TAMIS_GPUS", "1")
    for variable in ("CUDA_VISIBLE_DEVICES", "TAMIS_DEVICE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("tamis.pipeline.execute.TASK_BYTES", 1)
    with Dask(2) as workers:
        ran = run_spec(said({"score": ["heavy", "length"]}), tmp_path, workers)
    own = {
        label: {r["worker"] for r in ran.receipts() if r["label"] == f"score {label}"} for label in ("heavy", "length")
    }
    maps = {r["worker"] for r in ran.receipts() if r["label"] == "score heavy" and r["key"] == ran_key(ran, "heavy")}
    assert len(maps) == 1
    assert len(own["length"]) == 2, "what needs none runs on both"


def ran_key(ran, name):
    """The key of the receipts of a layer."""
    folder = ran.catalog["columns"][name]["layer"]
    return next(r["key"] for r in ran.receipts() if folder.endswith(r["key"][:8]))


# ---- training ----


def seen(ran):
    (folder,) = (ran.folder / "models").glob("taught-*")
    return (folder / "seen.txt").read_text().splitlines()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, lambda row: True),
        ("source = 'web'", lambda row: row["source"] == "web"),
        ("stars > 2", lambda row: row["stars"] is not None and row["stars"] > 2),
        ("length > 100 and source is not null", lambda row: len(row["text"]) > 100 and row["source"]),
        ("length < 0", lambda row: False),
    ],
)
def test_where_restricts_what_a_training_reads(run_spec, said, documents, tmp_path, where, expected):
    """Of the columns in `where`, some are the documents' own and one is a layer's; null is not true."""
    ran = run_spec(said({"score": "length"}, {"score": {"taught": {"where": where} if where else {}}}), tmp_path)
    usable = documents.filter(documents["text"].is_valid()).to_pylist()
    chosen = sorted(row["id"] for row in usable if expected(row))
    told = seen(ran) if chosen else []
    assert sorted(line.rsplit(" ", 1)[0] for line in told) == chosen
    assert {value for value in ran.values("taught").values() if value is not None} == (
        {len(chosen)} if chosen else set()
    )
    assert [doc_id for doc_id, value in ran.values("taught").items() if value is not None] == chosen


def test_a_training_reads_columns_of_layers(run_spec, said, documents, tmp_path):
    ran = run_spec(said({"score": "length"}, {"score": {"taught": {"of": "length"}}}), tmp_path)
    lengths = ran.values("length")
    usable = documents.filter(documents["text"].is_valid())["id"].to_pylist()
    assert sorted(seen(ran)) == sorted(f"{doc_id} {lengths[doc_id]}" for doc_id in usable)


def test_a_training_is_used_by_the_name_of_its_stage(run_spec, said, documents, tmp_path):
    ran = run_spec(said({"score": "taught"}, {"score": {"apprentice": {"of": "taught"}}}), tmp_path)
    assert {value for value in ran.values("apprentice").values() if value is not None} == {298.0}
    before = len(ran.receipts())
    changed = said({"score": {"taught": {"where": "source = 'web'"}}}, {"score": {"apprentice": {"of": "taught"}}})
    ran = run_spec(changed, tmp_path)
    web = documents.filter(pc.and_(documents["text"].is_valid(), pc.equal(documents["source"], "web"))).num_rows
    assert {value for value in ran.values("apprentice").values() if value is not None} == {float(web)}
    assert {r["label"].split(":")[0] for r in ran.receipts()[before:]} == {"score taught", "score apprentice"}


@pytest.mark.parametrize(
    ("stages", "line"),
    [
        ("  - score:\n      - length\n      - apprentice: {of: taught}\n", 6),
        ("  - score: {apprentice: {of: taught}}\n  - score: taught\n", 4),
        ("  - score: length\n  - score: {apprentice: {of: length}}\n", 5),
    ],
    ids=["nowhere", "too late", "trains nothing"],
)
def test_what_is_used_and_trains_nothing_before_is_refused_at_its_line(run_spec, corpus, own, tmp_path, stages, line):
    name = re.search(r"of: (\w+)", stages)[1]
    text = f"corpus: {corpus}\ncomponents: {own}\nstages:\n{stages}"
    message = rf"stages\.yaml:{line}: score apprentice: expected the name of a stage .* that trains, got '{name}'"
    with pytest.raises(SpecError, match=message):
        run_spec(text, tmp_path)


# ---- other components ----


def programs(ran):
    return [stage["name"] for stage in ran.catalog["stages"]]


def test_what_several_ask_for_is_there_once_and_before_them(run_spec, said, documents, tmp_path):
    ran = run_spec(said({"score": [{"long": {"bytes": 50}}, {"long": {"bytes": 200, "as": "longer"}}]}), tmp_path)
    assert programs(ran).count("shared_length") == 1
    assert programs(ran).index("shared_length") < programs(ran).index("long")
    lengths = {row["id"]: len(row["text"]) for row in documents.to_pylist() if row["text"] is not None}
    assert {k: v for k, v in ran.values("shared_length").items() if v is not None} == lengths
    for name, bound in (("long", 50), ("longer", 200)):
        assert {k: v for k, v in ran.values(name).items() if v is not None} == {
            k: n > bound for k, n in lengths.items()
        }


def test_what_is_asked_for_stands_under_the_same_where(run_spec, said, documents, tmp_path):
    ran = run_spec(said({"score": {"long": {"where": "source = 'web'"}}}), tmp_path)
    web = {row["id"] for row in documents.to_pylist() if row["text"] is not None and row["source"] == "web"}
    for name in ("shared_length", "long"):
        assert {doc_id for doc_id, value in ran.values(name).items() if value is not None} == web


def test_a_stage_of_the_same_name_and_options_is_the_same_work(run_spec, said, tmp_path):
    stages = ({"score": {"length": {"as": "shared_length"}}}, {"score": "long"})
    ran = run_spec(said(*stages), tmp_path)
    assert programs(ran).count("shared_length") == 1
    asked = run_spec(said({"score": "long"}), tmp_path / "asked")
    assert asked.files("layers") == ran.files("layers")


@pytest.mark.parametrize(
    ("stages", "first", "line"),
    [
        ("  - score: {long: {where: stars > 1}}\n  - score: {long: {as: longer}}\n", 4, 5),
        ("  - score: {repetition: {as: shared_length}}\n  - score: long\n", 4, 5),
        ("  - score:\n      - long\n      - repetition\n      - long: {as: l, where: stars > 1}\n", 5, 7),
    ],
    ids=["another where", "another component", "the third of three"],
)
def test_two_meanings_of_one_name_are_refused_at_the_line_of_the_second(
    run_spec, corpus, own, tmp_path, stages, first, line
):
    text = f"corpus: {corpus}\ncomponents: {own}\nstages:\n{stages}"
    message = (
        rf"stages\.yaml:{line}: shared_length: is there with other options or another `where:` \(line {first}\); give"
    )
    with pytest.raises(SpecError, match=message):
        run_spec(text, tmp_path)


def test_a_later_stage_may_not_take_the_name_of_what_was_asked_for(run_spec, said, tmp_path):
    with pytest.raises(SpecError, match=r"the name 'shared_length' is taken \(line \d+\)"):
        run_spec(said({"score": "long"}, {"score": {"repetition": {"as": "shared_length"}}}), tmp_path)


def test_what_an_asked_component_asks_for_is_there_too(run_spec, said, tmp_path):
    ran = run_spec(said({"score": ["longest", {"long": {"bytes": 70}}]}), tmp_path)
    order = [name for name in programs(ran) if name in ("shared_length", "asked_long", "longest", "long")]
    assert order == ["shared_length", "asked_long", "longest", "long"]
    assert ran.values("longest") == ran.values("asked_long") == ran.values("long")


# ---- files ----


def test_the_content_of_a_named_file_is_part_of_what_a_layer_is_known_by(run_spec, said, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("sieve drum")
    stages = said({"score": ["length", {"listed": {"file": str(words)}}]})
    first = run_spec(stages, tmp_path / "a").values("listed")
    before = len(run_spec(stages, tmp_path / "a").receipts())
    words.write_text("sieve drum flour")
    ran = run_spec(stages, tmp_path / "a")
    assert {r["label"] for r in ran.receipts()[before:]} == {"score listed"}
    assert ran.values("listed") != first
    words.write_text("sieve drum")
    before = len(ran.receipts())
    ran = run_spec(stages, tmp_path / "a")
    assert ran.values("listed") == first
    assert len(ran.receipts()) == before, "what was computed for these bytes is still there"


# ---- once for a pass ----


def test_what_components_share_is_made_once_per_batch(run_spec, said, documents, tmp_path, monkeypatch):
    monkeypatch.setattr("tamis.corpus.BATCH_ROWS", 30)
    log = tmp_path / "log.txt"
    stages = said(
        {"score": [{"thrifty": {"log": str(log)}}, {"thrifty": {"log": str(log), "times": 2, "as": "twice"}}]}
    )
    ran = run_spec(stages, tmp_path)
    sizes = [int(line) for line in log.read_text().split()]
    assert sum(sizes) == documents["text"].drop_null().length(), "every document once, for both"
    assert len(sizes) > 8
    one, two = ran.values("thrifty"), ran.values("twice")
    assert {k: v and 2 * v for k, v in one.items()} == two
