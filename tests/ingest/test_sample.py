"""A sample of a small environment made here: the same packages give the same bytes, and the target is kept apart."""

import json
import re

import pyarrow.parquet as pq
import pytest

from tamis.sample import build_sample

MODULE = '''"""About the {name} module, which is short."""
def function_{index}(x):
    """Return the {name} of x, number {index}, exactly.

        An indented line.   \t
    And one that is not.
    """
    if x:
        class Inner:
            "too short"
            def method(self): r"""A method of an inner class, {name} {index}."""
'''


def package(site, name, modules, version="1.0", licence="Permission is granted to everybody, always.\n"):
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    files = {f"{name}/{module}.py": MODULE.format(name=name, index=module) for module in modules}
    files[f"{info.name}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nAll about the {name} package.\n"
    )
    files[f"{info.name}/LICENSE"] = licence
    for path, text in files.items():
        (site / path).parent.mkdir(exist_ok=True)
        (site / path).write_text(text)
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in files) + "../../bin/tool.py,,\n")


@pytest.fixture
def environment(tmp_path):
    site, stdlib = tmp_path / "site", tmp_path / "stdlib"
    package(site, "numpy", range(60))
    package(site, "plain", range(20))
    package(site, "tamis", range(5))
    (stdlib / "test").mkdir(parents=True)
    (stdlib / "statistics.py").write_text('"""Basic statistics of several kinds, as text."""')
    (stdlib / "broken.py").write_text("def (:")
    (stdlib / "test" / "t.py").write_text('"""A test module is not a document."""')
    return {"site": [site], "stdlib": stdlib}


def rows(folder, pattern="*/*.parquet"):
    return [row for path in sorted(folder.glob(pattern)) for row in pq.read_table(path).to_pylist()]


def words(row):
    return " ".join(re.findall(r"\w+", row["text"].lower()))


def test_documents_come_from_docstrings_descriptions_and_licences(environment, tmp_path):
    facts = build_sample(tmp_path / "sample", **environment)
    found = {row["id"]: row for row in rows(tmp_path / "sample")}
    assert facts.documents == len(found) == 60 * 3 + 20 * 3 + 4 + 1
    assert facts.sources == {"numpy": 182, "plain": 62, "python": 1}
    assert facts.unreadable == 1
    function = found["plain/7.py:2 function_7"]
    assert (
        function["text"] == "Return the plain of x, number 7, exactly.\n\n    An indented line.\nAnd one that is not."
    )
    assert (function["source"], function["url"]) == ("plain", "plain/7.py#L2")
    assert json.loads(function["metadata"]) == {"kind": "docstring", "version": "1.0", "name": "plain.7.function_7"}
    assert found["plain 1.0: description"]["text"] == "All about the plain package."
    assert "plain/7.py:11 function_7.Inner.method" in found
    assert {json.loads(row["metadata"])["kind"] for row in found.values()} == {"docstring", "description", "licence"}


def test_the_same_packages_give_the_same_bytes_anywhere(environment, tmp_path):
    for name in ("one", "two"):
        build_sample(tmp_path / name, **environment)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 6 + 2 + 1
    for file in files:
        content = (tmp_path / "one" / file).read_bytes()
        assert content == (tmp_path / "two" / file).read_bytes()
        assert str(tmp_path).encode() not in content


def test_the_target_is_half_of_the_domain_and_kept_apart(environment, tmp_path):
    facts = build_sample(tmp_path / "sample", **environment)
    pool = rows(tmp_path / "sample", "pool/*.parquet")
    train, valid = (rows(tmp_path / "sample", f"target/{name}.parquet") for name in ("train", "valid"))
    assert (facts.pool, facts.train, facts.valid) == (len(pool), len(train), len(valid))
    assert not set(map(words, valid)) & set(map(words, train + pool))
    assert not {row["id"] for row in pool} & {row["id"] for row in train + valid}
    assert all(json.loads(row["metadata"])["domain"] == "numerics" for row in train + valid)
    hidden = [row for row in pool if "domain" in json.loads(row["metadata"])]
    assert 40 < len(hidden) < 140


def test_a_complete_sample_is_used_again_and_a_changed_one_is_not(environment, tmp_path):
    folder = tmp_path / "sample"
    first = build_sample(folder, **environment)
    again = build_sample(folder, **environment)
    assert (first.reused, again.reused) == (False, True)
    assert again.sources == first.sources
    assert list(again.sources) == list(first.sources)
    (folder / "pool" / "pool-03.parquet").unlink()
    assert not build_sample(folder, **environment).reused
    package(environment["site"][0], "more", range(3))
    assert build_sample(folder, **environment).documents == first.documents + 11


def test_progress_is_told_up_to_the_end(environment, tmp_path):
    told = []
    build_sample(tmp_path / "sample", **environment, report=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 84)
    assert told[-1] == (84, 84)
