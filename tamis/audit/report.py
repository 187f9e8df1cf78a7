"""RUN/report/index.html: one page that says what a run did and whether it helped, and opens without a network.

Charts are inline SVG rather than an inlined plotting library: they weigh kilobytes instead of a megabyte, print, and
follow the reader's light or dark mode.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tamis.audit import charts, duplicate_charts
from tamis.audit.books import books, quarantine
from tamis.audit.distributions import Distribution, distributions
from tamis.audit.diversity import load_diversity
from tamis.audit.duplicate_figures import ClusterFigures, cluster_figures
from tamis.audit.estimates import load_estimates
from tamis.audit.figures import KEPT, Funnel, Mass, flags, funnel, largest_sources, used_numbers
from tamis.audit.models import load_models
from tamis.audit.reader import Run
from tamis.audit.span_figures import span_figures
from tamis.audit.sql import one_line
from tamis.audit.verdict import Comparison, chart_rows, load_comparison
from tamis.corpus import publish
from tamis.errors import missing_extra

COLUMNS = 12  # distributions that are drawn
SHIFTS = 14
PACKAGES = ("tamis", "numpy", "pyarrow", "numba", "duckdb", "dask", "torch", "transformers", "tokenizers")
HERE = Path(__file__).parent
TRAINING = {
    "documents": "documents at hand", "tokens": "tokens read", "epochs": "epochs", "steps": "steps",
    "parameters": "parameters", "final_loss": "final loss, nats per token", "seconds": "seconds",
}  # fmt: skip


def write_report(run: Run) -> Path:
    """Writes the page and returns where it is. Raises MissingExtraError if jinja2 is not installed."""
    path = run.path / "report" / "index.html"
    publish(path, render_page(run).encode())
    return path


def render_page(run: Run) -> str:
    """The page as HTML: self-contained, without any address to load from."""
    try:
        import jinja2
    except ImportError as error:
        raise missing_extra("jinja2", "audit", "tamis report") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        n=_integer, mb=_megabytes, millions=_millions, pct=_percent, num=_number, bits=_bits, signed=_signed,
        line=one_line, plain=_plain, effective=_effective,
    )  # fmt: skip
    return environment.get_template("report.html").render(**_contents(run))


def safe(markup: str) -> Any:
    """Marks a chart of ours as HTML; what it holds of the corpus was escaped when it was drawn."""
    from markupsafe import Markup

    return Markup(markup)  # noqa: S704


def _contents(run: Run) -> dict[str, Any]:
    with run.connect() as connection:
        sources = largest_sources(connection)
        funnels = [funnel(run, connection, arm, sources) for arm in run.arms.values()]
        drawn = distributions(run, connection, used_numbers(run, COLUMNS))
        marks = flags(run, connection)
        clusters = cluster_figures(run, connection)
        passages = span_figures(run, connection)
        pool = funnels[0].pool if funnels else _pool(run, connection)
    comparison = load_comparison(run)
    shifts = {funnel.arm.name: _shifts(funnel) for funnel in funnels}
    return {
        "run": run,
        "name": run.path.resolve().name,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "style": safe((HERE / "report.css").read_text(encoding="utf-8")),
        "pool": pool,
        "headlines": _headlines(funnels, comparison),
        "funnels": funnels,
        "fate_class": fate_class,
        "by_source": _by_source(funnels),
        "shifts": shifts,
        "largest_shift": max((abs(row[3]) for rows in shifts.values() for row in rows), default=0) or 1,
        "distributions": [(drawing, _histograms(drawing)) for drawing in drawn],
        "flags": marks,
        "duplicates": [(found, _duplicate_charts(found)) for found in clusters],
        "passages": passages,
        "comparison": comparison,
        "training_columns": _training_columns(comparison),
        "interval_charts": _interval_charts(comparison),
        "diversity": load_diversity(run),
        "models": load_models(run),
        "estimates": load_estimates(run),
        "safe": safe,
        "books": books(run),
        "quarantine": quarantine(run),
        "ingest": run.catalog.get("ingest", {}),
        "stages_yaml": _text(run.path / "stages.yaml"),
        "versions": run.catalog.get("versions") or _versions(),
        "versions_are_recorded": "versions" in run.catalog,
        "kept_name": KEPT,
    }


def _pool(run: Run, connection: Any) -> Mass:
    tokens = "sum(n_tokens)" if "n_tokens" in run.columns else "NULL"
    size = "sum(n_bytes)" if "n_bytes" in run.columns else "0"
    ((documents, held, counted),) = connection.execute(f"SELECT count(*), {size}, {tokens} FROM documents").fetchall()  # noqa: S608
    return Mass(documents, int(held or 0), None if counted is None else int(counted))


def _headlines(funnels: Sequence[Funnel], comparison: Comparison | None) -> list[str]:
    if comparison and comparison.sentences:
        return list(comparison.sentences)
    kept = [
        f"{f.arm.name} keeps {f.kept.documents:,} of {f.pool.documents:,} documents "
        f"({_megabytes(f.kept.bytes)} of {_megabytes(f.pool.bytes)} MB)."
        for f in funnels
    ]
    return [*kept, "No proxy models were compared, so nothing here says whether it helps."]


def fate_class(fate: str, funnel_: Funnel) -> str:
    """The colour of a fate: kept, the cut, or one of the reasons before it."""
    if fate in (KEPT, "cut"):
        return fate
    reasons = [other for other in funnel_.fates if other not in (KEPT, "cut")]
    return f"reason{reasons.index(fate) % 6}"


def _by_source(funnels: Sequence[Funnel]) -> list[str]:
    """All sources, the largest first, the rest last."""
    if not funnels:
        return []
    named = sorted(funnels[0].by_source, key=lambda source: -funnels[0].source_pool(source).bytes)
    return [source for source in named if source != "all other sources"] + [
        source for source in named if source == "all other sources"
    ]


def _shifts(one: Funnel) -> list[tuple[str, float, float, float]]:
    """Source, share of the pool, share of the arm, and the change in points; the largest changes first."""
    pool, kept = max(1, one.pool.weight), max(1, one.kept.weight)
    rows = []
    for source in one.by_source:
        before, after = one.source_pool(source).weight / pool, one.source_kept(source).weight / kept
        rows.append((source, before, after, after - before))
    return sorted(rows, key=lambda row: (-abs(row[3]), row[0]))[:SHIFTS]


def _histograms(drawing: Distribution) -> list[Any]:
    name = drawing.column.name
    return [
        safe(
            charts.histogram(
                drawing.scale, counts.kept, counts.dropped, f"{name}: kept and dropped by {counts.arm.name}"
            )
        )
        for counts in drawing.arms
    ]


def _duplicate_charts(found: ClusterFigures) -> dict[str, Any]:
    """The charts that a deduplicator has something to draw for."""
    drawn: dict[str, Any] = dict.fromkeys(("similarities", "banding", "curve"))
    if found.similarities:
        drawn["similarities"] = safe(duplicate_charts.similarity_histogram(found.similarities, found.name))
    if found.banding:
        drawn["banding"] = safe(duplicate_charts.s_curve(found.banding))
    if found.curve:
        drawn["curve"] = safe(duplicate_charts.epsilon_curve(found.curve))
    return drawn


def _interval_charts(comparison: Comparison | None) -> list[tuple[str, str, Any]]:
    if comparison is None:
        return []
    arms = dict.fromkeys((d.arm, d.control) for d in comparison.differences)
    found = []
    for arm, control in arms:
        rows = chart_rows([d for d in comparison.differences if (d.arm, d.control) == (arm, control)])
        axis = f"{arm} minus {control}, bits per byte (below zero is better)"
        found.append((arm, control, safe(charts.intervals(rows, axis))))
    return found


def _training_columns(comparison: Comparison | None) -> list[tuple[str, str]]:
    """The facts about training that the comparison has, with their units."""
    entries = comparison.raw.get("training", ()) if comparison else ()
    return [(key, label) for key, label in TRAINING.items() if any(entry.get(key) is not None for entry in entries)]


def _versions() -> Mapping[str, str]:
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


# ---- how numbers are written ----


def _integer(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _plain(value: float | None) -> str:
    """A whole number in full, any other with two decimals."""
    return f"{value:,.2f}" if isinstance(value, float) else _integer(value)


def _megabytes(value: int | None, digits: int = 1) -> str:
    if value is None:
        return "–"
    least = 10.0**-digits
    return f"<{least:.{digits}f}" if 0 < value / 1e6 < least / 2 else f"{value / 1e6:,.{digits if value < 1e9 else 0}f}"


def _millions(value: int | None) -> str:
    return "–" if value is None else f"{value / 1e6:,.2f}" if value < 1e8 else f"{value / 1e6:,.0f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value * 100:,.{digits}f} %".replace("-", "−")


def _number(value: float | None) -> str:
    return "–" if value is None else charts.number(value)


def _effective(value: float | None, digits: int = 4) -> str:
    """An effective number; what stands before the point is written in full."""
    return "–" if value is None else f"{value:,.0f}" if value >= 10 ** (digits - 1) else f"{value:#,.{digits}g}"


def _bits(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")
