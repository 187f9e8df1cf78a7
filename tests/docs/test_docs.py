"""The documentation is true: commands run, their output looks as shown, links lead somewhere, files are valid.

Commands run on a small corpus in a temporary folder, `tamis` itself in this process (one start instead of twenty).
A line of shown output must occur in the real one, modulo numbers, units, paths and space. A comment above a block says
when that is not so: `first lines: N` compares only the first N lines, because the rest is content of the corpus;
`not run in tests: REASON` is for what cannot run here.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"
NOT_RUN = "not run in tests: "
FIRST_LINES = "first lines: "
FAILS = {"typo.yaml": 2, "s/0.01/0.001/": 1}  # commands that are shown to fail, by what they mention


@dataclass(frozen=True)
class Block:
    """A fenced block. comment: the HTML comment right above it, or ""."""

    page: Path
    line: int
    language: str
    comment: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    start = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        above = lines[start - 1] if start else ""
        comment = re.fullmatch(r"<!-- (.*) -->", above)
        yield Block(
            page,
            start + 1,
            lines[start][3:].strip(),
            comment.group(1) if comment else "",
            "\n".join(lines[start + 1 : number]),
        )
        start = None


def pages() -> list[Path]:
    return [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def plain(line: str) -> str:
    """A line without what differs from corpus to corpus and machine to machine."""
    line = re.sub(r"(?<![\w.])/[\w./-]+", "PATH", line)
    line = re.sub(r"[-−+]?\d[\d,._]*", "#", line)
    line = (
        re.sub(r"# ([kMGT]?B|s)\b", "# U", line).replace("kB/s", "U/s").replace("MB/s", "U/s").replace("docs/s", "U/s")
    )
    line = re.sub(r"─+", "─", line)
    return " ".join(line.split())


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """(command, output lines shown) of a console block."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def run_here(arguments: list[str], folder: Path) -> tuple[int, str]:
    """`tamis` in this process, with all it prints."""
    from tamis.__main__ import main

    printed = io.StringIO()
    before = sys.argv
    sys.argv = ["tamis", *arguments]
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                main()
            except SystemExit as stop:
                return int(stop.code or 0), printed.getvalue()
    finally:
        sys.argv = before
    return 0, printed.getvalue()


def run(command: str, folder: Path) -> tuple[int, str]:
    """One line of a console block: parts between `;` one after the other, `tamis` here and the rest in a shell."""
    status, printed = 0, ""
    parts = command.split("; ") if "tamis" in command else [command]
    for part in parts:
        words = shlex.split(part)
        if words[0] == "tamis":
            status, text = run_here(words[1:], folder)
        else:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            done = subprocess.run(
                part,
                shell=True,
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PATH": path},
            )
            status, text = done.returncode, done.stdout + done.stderr
        printed += text
    return status, printed


def check_output(block: Block, command: str, shown: list[str], printed: str) -> None:
    lines = [line for line in shown if line.strip() and line.strip() != "…"]
    if block.comment.startswith(FIRST_LINES):
        lines = lines[: int(block.comment.removeprefix(FIRST_LINES))]
    real = {plain(line) for line in printed.splitlines()}
    missing = [line for line in lines if plain(line) not in real]
    assert not missing, (
        f"{block.page.name}:{block.line}: `{command}` does not print\n"
        + "\n".join(missing)
        + f"\nit prints\n{printed[:6000]}"
    )


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one core needs no cluster: starting one is tested elsewhere."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


@pytest.mark.train
@pytest.mark.slow
def test_the_readme_tells_what_happens(workplace, one_core):
    pytest.importorskip("torch")
    for block in blocks(README):
        if block.comment.startswith(NOT_RUN):
            continue
        if block.language == "console":
            for command, shown in commands(block):
                status, printed = run(command, workplace)
                expected = next((code for word, code in FAILS.items() if word in command), 0)
                assert status == expected, f"README.md:{block.line}: `{command}` ends with {status}: {printed[-2000:]}"
                check_output(block, command, shown, printed)
        elif block.language == "python":
            printed = io.StringIO()
            with contextlib.chdir(workplace), contextlib.redirect_stdout(printed):
                exec(compile(block.text, f"README.md:{block.line}", "exec"), {})
            shown = [line.partition("# ")[2] for line in block.text.splitlines() if line.startswith("print")]
            assert printed.getvalue().split("\n")[:-1] == shown


def test_what_is_not_run_says_why():
    for page in pages():
        for block in blocks(page):
            if block.comment.startswith(NOT_RUN):
                assert len(block.comment) > len(NOT_RUN) + 10, f"{page.name}:{block.line}: give a reason"
            elif block.language == "console":
                assert page == README or "tests/docs" in block.comment, (
                    f"{page.name}:{block.line}: commands outside the README are not run; say so"
                )


def test_the_readme_shows_the_real_stages():
    own = (REPOSITORY / "stages.yaml").read_text(encoding="utf-8").split("\n", 1)[1].strip()
    shown = [block.text.strip() for block in blocks(README) if block.language == "yaml"]
    assert own in shown, "README.md: its stages.yaml differs from the file"


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"(?m)^#+ (.*)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_relative_link_leads_somewhere():
    broken = []
    for page in pages():
        text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in target or target.startswith("mailto:"):
                continue
            path, _, anchor = target.partition("#")
            found = (page.parent / path).resolve() if path else page
            if not found.exists():
                broken.append(f"{page.relative_to(REPOSITORY)}: {target}")
            elif anchor and found.suffix == ".md" and anchor not in _anchors(found):
                broken.append(f"{page.relative_to(REPOSITORY)}: {target} (no such heading)")
    assert not broken, "\n".join(broken)


def test_every_path_that_a_page_names_exists():
    """`tamis/pipeline/ledger.py` and the like, in code marks."""
    broken = []
    for page in pages():
        text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
        for path in re.findall(r"`((?:tamis|tests|examples|benchmarks)/[\w./]+)`", text):
            if not (REPOSITORY / path).exists() and "capitals" not in path:  # the guide's example
                broken.append(f"{page.relative_to(REPOSITORY)}: {path}")
    assert not broken, "\n".join(broken)


def stages_files() -> list[tuple[str, str]]:
    found = [
        (path.name, path.read_text(encoding="utf-8"))
        for path in [REPOSITORY / "stages.yaml", *sorted((REPOSITORY / "examples").glob("*.yaml"))]
    ]
    for page in pages():
        found += [
            (f"{page.relative_to(REPOSITORY)}:{block.line}", block.text)
            for block in blocks(page)
            if block.language == "yaml" and "stages:" in block.text and not block.comment.startswith(NOT_RUN)
        ]
    return found


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in stages_files()])
def test_every_stages_file_is_valid(text, tmp_path):
    """The paths are those of a checkout with a sample; a specification is checked without opening them."""
    from tamis.pipeline.spec import load_spec

    pytest.importorskip("tokenizers")
    if "components:" in text:
        (tmp_path / "mine").mkdir()
        scorer = next(
            block.text for block in blocks(REPOSITORY / "CONTRIBUTING.md") if block.comment.endswith("capitals.py")
        )
        (tmp_path / "mine" / "capitals.py").write_text(scorer, encoding="utf-8")
        text = re.sub(r"(?m)^components: .*$", "components: mine", text)
    (tmp_path / "stages.yaml").write_text(text, encoding="utf-8")
    spec = load_spec(tmp_path / "stages.yaml")
    assert spec.programs


@pytest.mark.parametrize("name", ["dedup-only", "web-quality"])
def test_a_recipe_without_training_runs(name, workplace, one_core, tmp_path):
    text = (
        (REPOSITORY / "examples" / f"{name}.yaml")
        .read_text(encoding="utf-8")
        .replace("../sample", str(workplace / "sample"))
    )
    (tmp_path / "stages.yaml").write_text(text, encoding="utf-8")
    status, printed = run_here(["run", "stages.yaml", "--out", "out"], tmp_path)
    assert status == 0, printed


def test_the_scorer_of_the_contributors_guide_works(workplace, one_core, monkeypatch):
    """The files of the guide, written where it says; its commands, its test, and its kernel against its scorer."""
    import importlib

    import numpy as np
    import pyarrow as pa

    import tamis.inline
    from tamis.kernels.arrow import text_of

    guide = REPOSITORY / "CONTRIBUTING.md"
    files = {
        block.comment.removeprefix("tests/docs: "): block.text
        for block in blocks(guide)
        if block.comment.startswith("tests/docs: ")
    }
    assert set(files) == {"capitals.py", "mine.yaml", "test_capitals.py", "letters.py"}
    mine = workplace / "mine"
    mine.mkdir()
    for name, text in files.items():
        (workplace if name == "mine.yaml" else mine).joinpath(name).write_text(text, encoding="utf-8")
    (mine / "letters.py").rename(workplace / "letters.py")
    (mine / "test_capitals.py").unlink()
    for block in blocks(guide):
        if block.language == "console":
            for command, shown in commands(block):
                status, printed = run(command, workplace)
                assert status == 0, printed
                check_output(block, command, shown, printed)
    find = tamis.inline.find
    monkeypatch.setattr(tamis.inline, "find", lambda verb, name: find(verb, name, str(mine)))
    scope: dict[str, object] = {}
    exec(compile(files["test_capitals.py"], "test_capitals.py", "exec"), scope)
    scope["test_capitals_are_a_share_of_letters"]()
    monkeypatch.syspath_prepend(str(workplace))
    letters = importlib.import_module("letters")
    texts = ["AbC d", "", "ÄÖ z[@`{", "ZZZ"]
    text = text_of(pa.array(texts))
    found = np.zeros((2, len(texts)), np.int64)
    letters.count_letters(text.offsets, text.data, *found)
    assert found.tolist() == [
        [sum("A" <= c <= "Z" for c in t) for t in texts],
        [sum(c.isascii() and c.isalpha() for c in t) for t in texts],
    ]
