"""The reference pages name every component, option, column and key, with the defaults of the code.

`python tests/docs/test_reference.py` writes the generated parts of docs/components.md anew.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import MISSING, fields
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
MARK = "<!-- options -->"


def components():
    """(family, name) of every component, those that the engine adds last."""
    from tamis.families import FAMILIES, names

    return [(verb, name) for verb in FAMILIES for name in names(verb)] + [
        ("pipeline", name) for name in ("census", "identities", "tokens", "compare", "verify", "diversity")
    ]


def facts(verb: str, name: str) -> str:
    """Options with defaults, and columns with types, as the code has them."""
    from tamis.families import build, find

    cls = find(verb, name)
    options = [
        (field.name, field.default is MISSING and field.default_factory is MISSING, field.default)
        for field in fields(cls)
    ]
    told = [
        f"{option}, required" if required else f"{option}: {default!r}" for option, required, default in options
    ] or ["none"]
    lines = [f"{'options' if i == 0 else '':<9}{text}" for i, text in enumerate(told)]
    needed = {"target": ["x"], "against": ["x"], "arms": ["a", "b"], "evaluate": {"x": ["x"]}, "score": "x"}
    needed |= {"of": "x", "features": ["y"], "model": "m", "prior": "a", "conditional": "b"}
    needed |= {"alpha": 1, "threshold": 0, "portion": 1000, "most_pulls": 1000}
    required = {option: needed[option] for option, is_required, _ in options if is_required}
    required |= {"score": "x"} if name == "cluster_bandit" else {}  # one of two that it needs
    shown = {"select": "ARM", "embed": "vector"}.get(verb, name)
    columns = build(cls, required, texts=True).columns(shown)
    lines += [f"{'columns' if i == 0 else '':<9}{column} ({kind})" for i, (column, kind) in enumerate(columns.items())]
    if cls.extra:
        lines.append(f"needs    pip install 'tamis[{cls.extra}]'")
    return "```text\n" + "\n".join(lines) + "\n```"


def written(page: str) -> str:
    """The page with its generated parts anew."""
    page = re.sub(rf"{MARK}\n```text\n.*?\n```", MARK, page, flags=re.DOTALL)
    for verb, name in components():
        page = page.replace(f"### {name}\n\n{MARK}", f"### {name}\n\n{MARK}\n{facts(verb, name)}")
    return page


def test_the_component_page_says_what_the_code_says():
    page = (DOCS / "components.md").read_text(encoding="utf-8")
    missing = [name for _, name in components() if f"### {name}\n" not in page]
    assert not missing, f"docs/components.md: add a section for {', '.join(missing)}"
    assert page == written(page), "docs/components.md is behind the code: run `python tests/docs/test_reference.py`"


def test_every_section_of_the_component_page_is_a_component():
    page = (DOCS / "components.md").read_text(encoding="utf-8")
    known = {name for _, name in components()}
    assert set(re.findall(r"(?m)^### (\w+)$", page)) == known


def test_the_stages_page_names_every_key():
    from tamis.pipeline.stages.compare import Compare
    from tamis.pipeline.stages.diversity import Diversity
    from tamis.pipeline.stages.tokens import Tokens
    from tamis.selectors.base import Selector

    page = (DOCS / "stages-yaml.md").read_text(encoding="utf-8")
    options = [field.name for cls in (Compare, Diversity, Tokens, Selector) for field in fields(cls)]
    known = re.compile(r"(?m)^(?:TOP|CORPUS|VERBS|STAGE_KEYS) = (\(.*?\))")
    sources = [path.read_text(encoding="utf-8") for path in (DOCS.parent / "tamis" / "pipeline").glob("*.py")]
    tuples = [ast.literal_eval(found) for source in sources for found in known.findall(source)]
    assert len(tuples) == 4
    keys = {*options, *(key for keys in tuples for key in keys)}
    missing = sorted(key for key in keys if f"`{key}`" not in page and f"`{key}:`" not in page)
    assert not missing, f"docs/stages-yaml.md does not say what these are: {', '.join(missing)}"


def test_the_run_directory_page_names_every_folder(tmp_path):
    """What a small run leaves behind is on the page."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    import tamis
    from tamis.pipeline.work import Receipt

    pq.write_table(pa.table({"id": ["a", "b"], "text": ["one two", None]}), tmp_path / "x.parquet")
    (tmp_path / "stages.yaml").write_text(
        "corpus: {paths: x.parquet, max_bad_fraction: 0.5}\nout: run\n"
        "stages:\n  - deduplicate: exact\n  - score: length\n"
    )
    tamis.run(tmp_path / "stages.yaml", serial=True, quiet=True)
    page = (DOCS / "run-directory.md").read_text(encoding="utf-8")
    missing = sorted(path.name for path in (tmp_path / "run").iterdir() if path.name not in page)
    assert not missing, f"docs/run-directory.md does not say what these are: {', '.join(missing)}"
    catalog = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    keys = [*catalog, *(field.name for field in fields(Receipt))]
    unnamed = sorted(key for key in keys if f"`{key}`" not in page)
    assert not unnamed, f"docs/run-directory.md does not say what these are: {', '.join(unnamed)}"


if __name__ == "__main__":
    target = DOCS / "components.md"
    target.write_text(written(target.read_text(encoding="utf-8")), encoding="utf-8")
