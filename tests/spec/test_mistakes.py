# ruff: noqa: E501 - a table reads better in rows
"""Every mistake in a stages.yaml is refused with its file, its line, and what to write instead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tamis.errors import SpecError, TamisError
from tamis.pipeline.spec import load_spec

CORPUS = "corpus: pool/*.parquet\n"  # the first line of most cases

MISTAKES = {
    # ---- YAML ----
    "an unknown key": ("corpus: x\nstages: [{score: length}]\nsede: 1\n", 3, "no key 'sede'; did you mean 'seed'?"),
    "a key from nowhere": ("corpus: x\nqqqqq: 1\nstages: []\n", 2, "no key 'qqqqq'; it has corpus, out, seed"),
    "an unknown key of the corpus": ("corpus:\n  paths: x\n  max_bad: 0.1\nstages: [{score: length}]\n", 3, "corpus has no key 'max_bad'; did you mean 'max_bad_fraction'?"),
    "a key twice": ("corpus: x\nseed: 1\nseed: 2\nstages: [{score: length}]\n", 3, "duplicate key"),
    "a nested key twice": (CORPUS + "stages:\n  - score:\n      - importance:\n          target: x\n          target: y\n", 6, "duplicate key"),
    "broken YAML": ("corpus: x\nstages: [{score: length]\n", 2, "expected YAML"),
    "a tab": ("corpus: x\nstages:\n\t- score: length\n", 3, "expected YAML"),
    "no stages": ("corpus: x\n", 1, "expected the key 'stages'"),
    "no corpus": ("stages: [{score: length}]\n", 1, "expected the key 'corpus'"),
    "an empty list of stages": ("corpus: x\nstages: []\n", 2, "expected a list of stages"),
    "stages that are no list": ("corpus: x\nstages: {score: length}\n", 2, "expected a list of stages"),
    "a list on top": ("- corpus: x\n", 1, "expected the keys corpus"),
    "nothing at all": ("", 1, "expected the keys corpus"),
    # ---- the corpus and the settings ----
    "a corpus without paths": ("corpus:\n  text: body\nstages: [{score: length}]\n", 1, "expected paths:"),
    "paths that are numbers": ("corpus:\n  paths: [1, 2]\nstages: [{score: length}]\n", 2, "corpus.paths: expected a path or a list of paths"),
    "an empty list of paths": ("corpus:\n  paths: []\nstages: [{score: length}]\n", 2, "corpus.paths: expected a path or a list of paths"),
    "a text column that is a number": ("corpus:\n  paths: x\n  text: 5\nstages: [{score: length}]\n", 3, "corpus.text: expected str, got 5"),
    "a seed that is text": ("corpus: x\nseed: one\nstages: [{score: length}]\n", 2, "seed: expected int, got 'one'"),
    "a seed that is true": ("corpus: x\nseed: true\nstages: [{score: length}]\n", 2, "seed: expected int, got True"),
    "a seed with a fraction": ("corpus: x\nseed: 1.5\nstages: [{score: length}]\n", 2, "seed: expected int, got 1.5"),
    "an unknown policy": ("corpus:\n  paths: x\n  on_bad_record: ignore\nstages: [{score: length}]\n", 3, "expected quarantine or fail, got 'ignore'"),
    "a fraction above one": ("corpus:\n  paths: x\n  max_bad_fraction: 2\nstages: [{score: length}]\n", 3, "expected a share between 0 and 1"),
    "shards without size": ("corpus:\n  paths: x\n  shard_bytes: 0\nstages: [{score: length}]\n", 3, "expected more than 0"),
    "components from nowhere": ("corpus: x\ncomponents: ./none\nstages: [{score: length}]\n", 2, "components: expected a folder of Python files"),
    # ---- stages and components ----
    "an unknown stage": (CORPUS + "stages:\n  - scoer: length\n", 3, "no key 'scoer'; did you mean 'score'?"),
    "two stages in one item": (CORPUS + "stages:\n  - score: length\n    embed: hashed_ngrams\n", 3, "expected one of embed, deduplicate, train, score, verify"),
    "an unknown component": (CORPUS + "stages:\n  - score:\n      - length\n      - importanse: {target: x}\n", 5, "did you mean 'importance'?"),
    "a component of another family": (CORPUS + "stages:\n  - deduplicate: length\n", 3, "deduplicate: expected one of exact"),
    "an unknown option": (CORPUS + "stages:\n  - score:\n      - importance:\n          target: x\n          bukets: 5\n", 6, "importance has no such option; did you mean 'buckets'?"),
    "a missing option": (CORPUS + "stages:\n  - score:\n      - length\n      - importance\n", 5, "target: importance expects: Field required"),
    "a mistyped option": (CORPUS + "stages:\n  - score:\n      - importance:\n          target: x\n          ngrams: two\n", 6, "ngrams: importance expects: .*integer.*got 'two'"),
    "an option out of range": (CORPUS + "stages:\n  - score:\n      - importance:\n          ngrams: 9\n          target: x\n", 5, "ngrams: importance expects: .*less than or equal to 3, got 9"),
    "a choice that does not exist": (CORPUS + "stages:\n  - deduplicate:\n      by:\n        exact:\n          keep: newest\n", 6, "keep: exact expects: .*'smallest_id'.*got 'newest'"),
    "a number that PyYAML would take for text": (CORPUS + "stages:\n  - score:\n      - importance: {target: x, pseudo_count: -1e-3}\n", 4, "pseudo_count: .*greater than or equal to 0, got -0.001"),
    "no, which is not false": (CORPUS + "tokenizer:\n  exact: nope\nstages:\n  - select: {name: a, by: sample, budget_tokens: 10}\n", 3, "exact: tokens expects"),
    "a name twice": (CORPUS + "stages:\n  - score: length\n  - score:\n      - length\n", 5, r"the name 'length' is taken \(line 3\); give this one another with `as:`"),
    "an arm named like a score": (CORPUS + "stages:\n  - score: length\n  - select: {name: length, by: sample}\n", 4, "the name 'length' is taken"),
    "a name with a space": (CORPUS + "stages:\n  - select: {name: my arm, by: sample}\n", 3, "expected a name of letters, digits and _, got 'my arm'"),
    "an unknown way of fitting": (CORPUS + "stages:\n  - score:\n      - importance: {target: x, fit: thawed}\n", 4, "fit: expected frozen"),
    "a where that is no text": (CORPUS + "stages:\n  - score:\n      - length: {where: 5}\n", 4, "where: expected text, got 5"),
    # ---- select ----
    "a selection without a name": (CORPUS + "stages:\n  - select: {by: sample}\n", 3, "select: expected name: and by:"),
    "an unknown key of select": (CORPUS + "stages:\n  - select:\n      name: a\n      by: sample\n      budget_token: 5\n", 6, "select has no key 'budget_token'; did you mean 'budget_tokens'?"),
    "a budget below one": (CORPUS + "stages:\n  - select:\n      name: a\n      by: sample\n      budget_tokens: 0\n", 6, "budget_tokens: sample expects: .*greater than 0"),
    "a budget that is text": (CORPUS + "stages:\n  - select:\n      name: a\n      by: sample\n      budget_tokens: 5 million\n", 6, "budget_tokens: sample expects"),
    "top without a score": (CORPUS + "stages:\n  - select: {name: a, by: top}\n", 3, "score: top expects: Field required"),
    # ---- train and verify ----
    "a size that is misspelt": (CORPUS + "stages:\n  - train:\n      name: m\n      on: x\n      size: tiney\n", 6, r"^size: 'tiney' does not exist; there are .*; did you mean 'tiny'\?$"),
    "an option of an option": (CORPUS + "stages:\n  - train:\n      name: m\n      on: {random: {tokens: 0}}\n", 5, r"^on\.random\.tokens: train expects: .*greater than 0, got 0$"),
    "an option of an option that is missing": (CORPUS + "stages:\n  - train:\n      name: m\n      on: {random: {}}\n", 5, r"^on\.random\.tokens: train expects: Field required$"),
    "documents that are numbers": (CORPUS + "stages:\n  - train:\n      name: m\n      on: {paths: [5]}\n", 5, r"^on: train expects: paths: expected text or a list of texts, got \[5\]$"),
    "one of several numbers": (CORPUS + "stages:\n  - score:\n      - perplexity:\n          model: x\n          bands: [0.3, 5]\n", 6, r"^bands\.1: perplexity expects: .*less than 1, got 5$"),
    "a start that is a number": (CORPUS + "stages:\n  - train:\n      name: m\n      on: x\n      from: 5\n", 6, "^from: train expects: .*string, got 5$"),
    "a start by the name that Python has for it": (CORPUS + "stages:\n  - verify:\n      score: x\n      target: x\n      start: m\n", 6, "^start: verify has no such option; "),
    "options that do not go together": (CORPUS + "stages:\n  - deduplicate:\n      by: {semantic: {keep_fraction: 0.5, mode: components}}\n", 4, "^semantic: keep_fraction needs mode: reference, .*got components; give epsilon$"),
    # ---- compare ----
    "an arm that does not exist": (
        CORPUS + "stages:\n  - select: {name: a, by: sample}\n  - compare:\n      arms: [a, b]\n      evaluate: {t: x}\n", 5, "no select stage before this one is called 'b'; there are .*a"),
    "one arm alone": (CORPUS + "stages:\n  - select: {name: a, by: sample}\n  - compare:\n      arms: [a]\n      evaluate: {t: x}\n", 5, "arms: compare expects: .*at least 2"),
    "a size that does not exist": (
        CORPUS + "stages:\n  - select: {name: a, by: sample}\n  - select: {name: b, by: sample}\n  - compare:\n      arms: [a, b]\n      evaluate: {t: x}\n      size: gigantic\n",
        8, "gigantic"),
    "a control that is no arm": (
        CORPUS + "stages:\n  - select: {name: a, by: sample}\n  - select: {name: b, by: sample}\n  - compare: {arms: [a, b], evaluate: {t: x}, control: c}\n", 5, "control: expected one of the arms a, b, got 'c'"),
}  # fmt: skip

EXPRESSIONS = {
    "sum(length) > 3": "sum",
    "row_number() over () > 3": "a window function",
    "length > (select 1)": "a subquery",
    "random() < 0.5": "random",
    "read_text('/etc/passwd') = ''": "read_text",
    "getenv('HOME') = ''": "getenv",
    "now() > '2020-01-01'::timestamp": "now",
    "length >": "expected a DuckDB expression",
    "1; select 2": "expected one expression",
    "length > 3 from pool": "expected one expression|expected a DuckDB expression",
    "count(*) > 1": "count",
    "length > ?": "a parameter",
    "*": "a star|expected a DuckDB expression",
    "": "expected a DuckDB expression",
}


def complaint(folder: Path, text: str) -> str:
    file = folder / "stages.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as refused:
        load_spec(file)
    return str(refused.value)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_at_its_line(tmp_path, name):
    text, line, message = MISTAKES[name]
    said = complaint(tmp_path, text)
    where, _, what = said.partition(": ")
    assert re.search(message, what), said
    assert where == f"{tmp_path / 'stages.yaml'}:{line}", said
    assert "\n" not in said
    assert "Value error" not in said, "how pydantic calls it helps nobody"


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("place", ["select where", "score where", "select score"])
def test_an_expression_that_is_not_row_wise_and_deterministic_is_refused(tmp_path, expression, place):
    quoted = "'" + expression.replace("'", "''") + "'"
    stage, line = {
        "select where": (f"  - select:\n      name: a\n      by: sample\n      where: {quoted}\n", 6),
        "score where": (f"  - score:\n      - repetition: {{where: {quoted}}}\n", 4),
        "select score": (f"  - select:\n      name: a\n      by:\n        top:\n          score: {quoted}\n", 7),
    }[place]
    said = complaint(tmp_path, CORPUS + "stages:\n" + stage)
    assert re.search(EXPRESSIONS[expression], said), said
    assert said.startswith(f"{tmp_path / 'stages.yaml'}:{line}: "), said


@pytest.mark.parametrize(
    "expression",
    ["length > 3 and source = 'news'", "coalesce(length, 0) between 1 and 5", "case when length > 3 then true else false end", "source in ('a', 'b')", "log(length + 1) > 2", "regexp_matches(source, '^n')", "length IS NOT NULL"],
)  # fmt: skip
def test_row_wise_expressions_are_taken(tmp_path, expression):
    (tmp_path / "stages.yaml").write_text(
        f'{CORPUS}stages:\n  - score: length\n  - select: {{name: a, by: sample, where: "{expression}"}}\n'
    )
    assert load_spec(tmp_path / "stages.yaml").programs[-1].name == "a"


def test_numbers_mean_what_yaml_1_2_says(tmp_path):
    """1e-3 and 2e9 are numbers, 2_000_000 is two million, no is a word."""
    file = tmp_path / "stages.yaml"
    file.write_text(
        CORPUS
        + "tokenizer: {vocabulary: 2_000}\nstages:\n  - score: [{importance: {target: x, pseudo_count: 1e-3, as: no}}]\n"
        + "  - select: {name: a, by: {sample: {temperature: 2e9}}, budget_tokens: 3_000_000}\n"
    )
    programs = {program.name: program.build() for program in load_spec(file).programs}
    assert programs["no"].pseudo_count == 0.001
    assert programs["a"].temperature == 2e9
    assert programs["a"].budget_tokens == 3_000_000
    assert programs["tokens"].vocabulary == 2000


def test_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "stages.yaml"
    file.write_text(
        "corpus: [../pool/*.parquet, s3://bucket/x, /absolute]\nstages:\n  - score: [{importance: {target: ../t.parquet}}]\n"
    )
    monkeypatch.chdir(tmp_path)
    spec = load_spec("deep/stages.yaml")
    normal = [str(Path(path).resolve()) if "://" not in path else path for path in spec.corpus.paths]
    assert normal == [str((tmp_path / "pool" / "*.parquet").resolve()), "s3://bucket/x", "/absolute"]
    assert Path(spec.programs[-1].build().target.paths[0]).resolve() == (tmp_path / "t.parquet").resolve()
    assert spec.out.resolve() == (tmp_path / "deep" / "runs" / "stages").resolve()


def test_a_bare_name_means_defaults(tmp_path):
    programs = {}
    for text in ("length", "[length]", "[{length: }]", "{by: [length]}", "[{length: {}}]"):
        (tmp_path / "stages.yaml").write_text(f"{CORPUS}stages:\n  - score: {text}\n")
        programs[text] = load_spec(tmp_path / "stages.yaml").programs[-1]
    assert len({(program.component, program.name, program.options) for program in programs.values()}) == 1


def test_the_same_component_twice_has_another_name(tmp_path):
    (tmp_path / "stages.yaml").write_text(f"{CORPUS}stages:\n  - score: [length, {{length: {{as: again}}}}]\n")
    assert [program.name for program in load_spec(tmp_path / "stages.yaml").programs][-2:] == ["length", "again"]


# ---- columns: known once the corpus is looked at ----

COLUMNS = {
    "a column that does not exist": (
        "  - score: length\n  - select: {name: a, by: sample, where: lenght > 3}\n",
        4,
        "no column 'lenght'; did you mean 'length'?",
    ),
    "a column before it is made": (
        "  - select: {name: a, by: sample, where: length > 3}\n  - score: length\n",
        3,
        r"uses the column 'length' before `score length` \(line 4\) makes it; move that stage up",
    ),
    "a score that does not exist": (
        "  - select: {name: a, by: {top: {score: importanze}}}\n",
        3,
        "no column 'importanze'",
    ),
    "a column that a scorer would make": (
        "  - score: length\n  - select: {name: a, by: {cluster_bandit: {score: length, alpha: 1, threshold: 0, portion: 5, most_pulls: 9}}}\n",
        4,
        "no column 'prototypes_centroid'; `- score: prototypes` before it makes one; there are .*length",
    ),
    "a where over a later column": (
        "  - score: [{length: {where: repetition < 1}}]\n  - score: repetition\n",
        3,
        "uses the column 'repetition' before",
    ),
    "types that do not fit": (
        "  - score: length\n  - select: {name: a, by: sample, where: length + source}\n",
        4,
        "select a",
    ),
    "a function that does not exist": (
        "  - score: length\n  - select: {name: a, by: sample, where: lenghten(length)}\n",
        4,
        "lenghten",
    ),
    "a column that the corpus has": ("  - score: [{length: {as: stars}}]\n", 3, "the column 'stars' exists already"),
    "a column of another stage": (
        "  - score: [length, {repetition: {as: length_words}}]\n",
        3,
        "the column 'length_words' exists already",
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("how", ["run", "check"])
def test_columns_are_checked_before_any_work(run_spec, corpus, tmp_path, name, how):
    from tamis.pipeline.rehearsal import rehearse

    stages, line, message = COLUMNS[name]
    text = f"corpus: {{paths: {corpus}, max_bad_fraction: 0.1}}\nstages:\n{stages}"
    (tmp_path / "stages.yaml").write_text(text)
    with pytest.raises(SpecError) as refused:
        run_spec(text, tmp_path) if how == "run" else rehearse(load_spec(tmp_path / "stages.yaml"))
    said = str(refused.value)
    assert said.startswith(f"{tmp_path / 'stages.yaml'}:{line}: "), said
    assert re.search(message, said), said
    assert not (tmp_path / "run" / "layers").exists()


def test_a_target_that_does_not_exist_is_refused_at_its_line(run_spec, corpus, tmp_path):
    text = f"corpus: {{paths: {corpus}, max_bad_fraction: 0.1}}\nstages:\n  - score:\n      - length\n      - importance: {{target: nowhere.parquet}}\n"
    with pytest.raises(TamisError, match=r"stages\.yaml:5: score importance: .*nowhere\.parquet"):
        run_spec(text, tmp_path)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("", "it is empty, or its lines are blank"),
        ("\n\n", "it is empty, or its lines are blank"),
        ('\n{"txt": "a"}\n5\n', "line 2 of t.jsonl: field 'text' is missing, not a string"),
    ],
)
def test_a_target_without_documents_is_named_with_the_first_reason(run_spec, corpus, tmp_path, lines, reason):
    (tmp_path / "t.jsonl").write_text(lines)
    text = (
        f"corpus: {{paths: {corpus}, max_bad_fraction: 0.1}}\nstages:\n  - score: [overlap: {{against: [t.jsonl]}}]\n"
    )
    with pytest.raises(TamisError) as refused:
        run_spec(text, tmp_path)
    assert str(refused.value) == (
        f"{tmp_path / 'stages.yaml'}:3: score overlap: against: expected documents in {tmp_path / 't.jsonl'}, got none: {reason}"
    )


def test_check_tells_of_equal_passes_in_a_row_once(corpus, tmp_path):
    from tamis.pipeline.rehearsal import rehearse

    stages = "  - score: length\n  - select: {name: a, by: {top: {score: length}}, budget_documents: 9}\n"
    (tmp_path / "stages.yaml").write_text(f"corpus: {{paths: {corpus}, max_bad_fraction: 0.1}}\nstages:\n{stages}")
    told = rehearse(load_spec(tmp_path / "stages.yaml"))
    lines = [line.strip() for line in told[told.index("\npasses\n") :].splitlines() if re.match(r" +\d", line)]
    numbers, labels = zip(*(line.split("  ", 1) for line in lines), strict=True)
    *before, (label, times) = [label.rsplit(", ", 1) for label in labels]
    assert label == "a: columns only"
    assert [label] not in before
    assert 7 <= int(times.removesuffix(" times")) <= 13, "up to 4 digits of the cut, 4 of ties, and the arm"
    assert numbers == tuple(str(place) for place in range(1, len(lines) + 1)), "one at most stands for several"


def test_a_corpus_without_the_text_column_says_which_there_are(run_spec, corpus, tmp_path):
    text = f"corpus: {{paths: {corpus}, text: body}}\nstages:\n  - score: length\n"
    with pytest.raises(TamisError, match="no column 'body'"):
        run_spec(text, tmp_path)


# ---- the command line ----


@pytest.fixture(scope="module")
def tamis(command, environment):
    import subprocess

    def run(*arguments, folder):
        return subprocess.run(
            [*command, *map(str, arguments)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run


def test_an_invalid_file_is_status_2_with_one_line(tamis, tmp_path):
    (tmp_path / "stages.yaml").write_text("corpus: x\nstages:\n  - scoer: length\n")
    for verb in ("run", "check"):
        done = tamis(verb, "stages.yaml", folder=tmp_path)
        assert done.returncode == 2
        assert done.stderr == "stages.yaml:3: stages has no key 'scoer'; did you mean 'score'?\n"
        assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("rum",),
        ("run",),
        ("run", "stages.yaml", "--workers", "0"),
        ("run", "nowhere.yaml"),
        ("run", "stages.yaml", "--no-such-option"),
        ("export", "x"),
    ],
)
def test_wrong_usage_is_status_2(tamis, tmp_path, arguments):
    done = tamis(*arguments, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["status", "report", "sql", "why"])
def test_a_folder_that_is_no_run_is_no_traceback(tamis, tmp_path, verb):
    extra = {"sql": ["select 1"], "why": ["x"]}.get(verb, [])
    done = tamis(verb, tmp_path, *extra, folder=tmp_path)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert str(tmp_path) in done.stderr.splitlines()[0]


def test_a_corpus_that_does_not_exist_is_status_1_or_2_without_traceback(tamis, tmp_path):
    (tmp_path / "stages.yaml").write_text("corpus: nowhere/*.parquet\nstages:\n  - score: length\n")
    for verb in (("run", "--serial"), ("check",)):
        done = tamis(verb[0], "stages.yaml", *verb[1:], folder=tmp_path)
        assert done.returncode in (1, 2)
        assert "nowhere" in done.stderr.splitlines()[0]
        assert "Traceback" not in done.stderr


def test_check_does_no_work(tamis, corpus, tmp_path, target):
    (tmp_path / "stages.yaml").write_text(
        f"corpus: {{paths: {corpus}, max_bad_fraction: 0.1}}\nout: run\nstages:\n  - deduplicate: exact\n  - score: [length, {{importance: {{target: {target}}}}}]\n"
        "  - select: {name: a, where: not exact_duplicate, by: {top: {score: importance}}, budget_tokens: 1000}\n"
    )
    done = tamis("check", "stages.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stages.yaml"]
    for expected in (
        "300 documents",
        "4 shards",
        "a_repeats",
        "importance",
        "exact_kept_by",
        "n_tokens",
        "the text is read",
    ):
        assert expected in done.stdout, done.stdout


# ---- mistakes that went unnoticed once ----

ONCE_UNNOTICED = {
    "a seed beyond 64 bits": ("corpus: x\nseed: 99999999999999999999\nstages: [{score: length}]\n", 2, "seed"),
    "an unknown option of a tokenizer that nothing uses": ("corpus: x\ntokenizer: {vocab: 5}\nstages: [{score: length}]\n", 2, "vocab"),
    "an empty list of scores": (CORPUS + "stages:\n  - score: []\n", 3, "score"),
    "where in two places": (CORPUS + "stages:\n  - select:\n      name: a\n      where: y > 1\n      by: {sample: {where: x > 1}}\n", 6, "where"),
    "one column for text and id": ("corpus: {paths: x, text: body, id: body}\nstages: [{score: length}]\n", 1, "body"),
    "a component called base": (CORPUS + "stages:\n  - score: base\n", 3, "expected one of"),
}  # fmt: skip


@pytest.mark.parametrize("name", ONCE_UNNOTICED)
def test_a_mistake_that_once_went_unnoticed_is_refused(tmp_path, name):
    text, line, message = ONCE_UNNOTICED[name]
    said = complaint(tmp_path, text)
    assert said.startswith(f"{tmp_path / 'stages.yaml'}:{line}: ")
    assert re.search(message, said)


def test_a_package_that_is_not_installed_is_told_with_its_extra_before_anything_runs(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "greedy.py").write_text(
        "from dataclasses import dataclass\nfrom tamis.scorers.base import Scorer\n\n\n"
        "@dataclass(frozen=True)\nclass Greedy(Scorer):\n"
        '    """Wants what nobody has."""\n\n    extra = "train"\n    needs = ("no_such_package",)\n\n'
        "    def score(self, batch):\n        return [0.0] * len(batch)\n"
    )
    said = complaint(tmp_path, "corpus: pool/*.parquet\ncomponents: own\nstages:\n  - score: greedy\n")
    assert said.startswith(f"{tmp_path / 'stages.yaml'}:4: ")
    assert "no_such_package" in said
    assert "pip install 'tamis[train]'" in said
