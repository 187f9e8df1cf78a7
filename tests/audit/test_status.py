import json
import os

import pytest

from tamis.audit.reader import open_run
from tamis.audit.status import status
from tamis.errors import LedgerError


def _line(text: str, stage: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(stage))


def test_a_finished_run_shows_every_stage_done(audited_folder):
    text = status(audited_folder)
    assert "finished; best keeps 20 of 97; drawn keeps 30 of 97" in text
    for stage in ("census", "deduplicate exact", "score length", "select best", "select drawn"):
        assert "done" in _line(text, stage)
    assert "3/3" in _line(text, "score length")
    assert "MB/s" in _line(text, "score length")
    assert "docs/s" in _line(text, "select best")


def test_a_run_or_its_folder_will_do(audited_folder):
    assert status(open_run(audited_folder)) == status(str(audited_folder))


def test_a_killed_run_shows_how_far_it_came(copied):
    (copied / "run.json").unlink()
    (copied / "ledger" / "lock").unlink()
    (segment,) = (copied / "ledger").glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if b'"label":"score length"' in line)
    segment.write_bytes(b"".join(lines[: first + 1]) + lines[first + 1][:20])
    text = status(copied)
    assert "not finished" in text
    assert "1/3" in _line(text, "score length")
    assert "writing" in _line(text, "score length")


def test_a_run_that_goes_on_names_its_driver(copied):
    catalog = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps({**catalog, "finished": False}))
    (copied / "ledger" / "lock").write_text(str(os.getpid()))
    assert f"going on (process {os.getpid()})" in status(copied)


def test_what_failed_is_shown_until_the_run_has_finished(copied):
    catalog = json.loads((copied / "run.json").read_text())
    (copied / "failures.txt").write_text("shard 1 (c.parquet): OSError: gone\nTraceback")
    assert "OSError" not in status(copied)
    (copied / "run.json").write_text(json.dumps({**catalog, "finished": False}))
    assert "  shard 1 (c.parquet): OSError: gone" in status(copied)


def test_a_folder_that_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(LedgerError, match="expected a run directory"):
        status(tmp_path)
