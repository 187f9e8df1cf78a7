"""Why a document stayed or went, as plain text for the terminal."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

from tamis.audit.deduplicators import SPANS
from tamis.audit.evidence import Cut, Evidence, Fate, Standing, evidence
from tamis.audit.reader import Run, Stage
from tamis.audit.sql import one_line
from tamis.audit.why_duplicates import TOLD_OF_CLUSTERS, duplicate_lines, loss_lines, quoted_text
from tamis.expressions import Expression

WHERE = "where: "  # how the reasons begin that an arm's conditions give
WIDTH = 100
LEAST_WIDTH, MOST_WIDTH = 60, 160  # of the terminal
TIES_WORTH_SAYING = 0.005


def why(run: Run, doc_id: str, width: int | None = None) -> str:
    """Every column and decision about the documents with this id, stage by stage; texts are laid out to `width`.

    Raises ColumnError, with close ids, if there is none. `evidence` has the same as values.
    """
    found = evidence(run, doc_id)
    columns = width or min(MOST_WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    pages = ["\n".join(_page(run, document, max(LEAST_WIDTH, columns))) for document in found]
    if len(found) > 1:
        pages.insert(0, f"{len(found)} documents share the id {one_line(doc_id)}")
    return "\n\n".join(pages)


def _page(run: Run, document: Evidence, width: int) -> Iterator[str]:
    yield one_line(document.doc_id)
    yield f"  {_verdict(document)}"
    if not run.finished:
        yield "  (the run has not finished: later stages have said nothing yet)"
    yield ""
    yield "document"
    yield from _pairs(_own(run, document))
    before: dict[str, str] = {}
    for stage in run.stages:
        lines = list(_stage(run, stage, document, before, width))
        if lines:
            yield ""
            yield f"{stage.label}{_by(stage)}"
            yield from lines
    if document.quarantine:
        yield ""
        yield "quarantine"
        yield from (f"  {one_line(entry['reason'])}" for entry in document.quarantine)


def _verdict(document: Evidence) -> str:
    if not document.fates:
        return "no arm has decided about it"
    kept = [fate.arm for fate in document.fates if fate.kept]
    parts = [f"kept by {', '.join(kept)}"] if kept else []
    parts += [f"dropped by {fate.arm}: {_reason(fate)}" for fate in document.fates if not fate.kept]
    return "; ".join(parts)


def _reason(fate: Fate) -> str:
    return "not usable" if fate.reason is None else one_line(fate.reason)


def _own(run: Run, document: Evidence) -> Iterator[tuple[str, str]]:
    """What the document brings: where it lies, its source, its own columns, its beginning."""
    yield "file", f"{document.file}, record {document.record:,}"
    for column in run.columns.values():
        if not column.layer and column.name not in ("row", "doc_id", "text"):
            yield column.name, _value(document.values[column.name])
    yield "text", "missing" if document.text is None else quoted_text(document.text)


def _by(stage: Stage) -> str:
    if stage.verb != "select":
        return "" if stage.component == stage.name else f" · {stage.component}"
    budgets = [
        f"{stage.options[key]:,} {key[7:]}" for key in ("budget_tokens", "budget_documents") if stage.options.get(key)
    ]
    budget = budgets[0] if budgets else "no budget"
    score = stage.options.get("score")
    return f" · {stage.component}{f' by {score}' if score else ''}, {budget}"


def _stage(run: Run, stage: Stage, document: Evidence, before: dict[str, str], width: int) -> Iterator[str]:
    if stage.verb == "select":
        yield from (line for fate in document.fates if fate.arm == stage.name for line in _fate(fate, document))
        return
    for entry in document.duplicates:
        if entry.stage == stage.name:
            yield from duplicate_lines(entry, width, before)
    for losses in document.losses:
        if losses.stage == stage.name:
            yield from loss_lines(losses, width)
    told = {f"{entry.stage}_{suffix}" for entry in document.duplicates for suffix in TOLD_OF_CLUSTERS}
    told |= {f"{entry.stage}_{suffix}" for entry in document.losses for suffix in SPANS}
    names = [column.name for column in run.columns.values() if column.stage == stage.name and column.name not in told]
    yield from _pairs(
        (name, _value(document.values[name]), _standing(document.standings.get(name), document)) for name in names
    )


def _pairs(pairs: Any) -> Iterator[str]:
    rows = [tuple(pair) for pair in pairs]
    if not rows:
        return
    name = max(len(row[0]) for row in rows)
    value = max((len(row[1]) for row in rows if len(row) > 2), default=0)
    for first, second, *rest in rows:
        yield f"  {first.ljust(name)}  {second.ljust(value)}  {' '.join(rest)}".rstrip()


def _standing(standing: Standing | None, document: Evidence) -> str:
    if standing is None:
        return ""
    like = f" and like {standing.equal:.1%}" if standing.equal >= TIES_WORTH_SAYING else ""
    within = standing.below_in_source
    of_source = "" if within is None else f", above {within:.1%} of {one_line(document.source or '')}"
    return f"above {standing.below:.1%}{like} of the pool{of_source}"


def _fate(fate: Fate, document: Evidence) -> Iterator[str]:
    if fate.kept:
        times = f", {fate.repeats} times" if fate.repeats and fate.repeats > 1 else ""
        yield f"  kept{times}"
    else:
        yield f"  dropped: {_reason(fate)}{_values_in(fate.reason, document)}"
    if fate.cut is not None:
        yield f"  {_cut(fate.cut, is_kept=fate.kept)}"


def _values_in(reason: str | None, document: Evidence) -> str:
    """The values that a condition was about, in brackets."""
    if reason is None or not reason.startswith(WHERE):
        return ""
    names = [name for name in Expression(reason.removeprefix(WHERE)).columns if name in document.values]
    told = [f"{name} is {_value(document.values[name])}" for name in names]
    return f" ({', '.join(told)})" if told else ""


def _cut(cut: Cut, *, is_kept: bool) -> str:
    place = f"rank {cut.rank:,} of {cut.candidates:,} candidates, {cut.kept:,} were kept"
    last = f"the last document kept, {one_line(cut.last_id)}, has {cut.last:.6g}"
    if is_kept:
        return f"{place}; its priority {cut.own:.6g} is {cut.own - cut.last:.6g} above the cut ({last})"
    if cut.own == cut.last:
        return f"{place}; its priority {cut.own:.6g} equals the cut, and a hash of the id decided ({last})"
    if cut.own > cut.last:
        return f"{place}; its priority {cut.own:.6g} is above the cut, but it did not fit into the budget ({last})"
    return f"{place}; its priority {cut.own:.6g} missed the cut by {cut.last - cut.own:.6g} ({last})"


def _value(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return f"{len(value):,} values"
    text = one_line(str(value))
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"
