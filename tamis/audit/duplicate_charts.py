"""Charts about duplicates: the S-curve with planted copies, similarities, what epsilon keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from tamis.audit.charts import number, round_numbers
from tamis.audit.duplicate_figures import BINS, Banding, EpsilonCurve, Similarities
from tamis.kernels.lsh import candidate_share

WIDTH, HEIGHT = 420, 190
LEFT, BOTTOM, TOP = 40, 36, 22  # pixels around the plot, for labels
RIGHT = 10
STEPS = 120

Place = Callable[[float], float]


def s_curve(banding: Banding) -> str:
    """The chance that a pair shares a bucket by its similarity, and the share of planted copies that did."""
    low = min([0.4, *(point.low for point in banding.planted)])
    x, y = _across(low, 1.0), _up(1.0)
    similarity = np.linspace(low, 1, STEPS)
    chance = candidate_share(similarity, banding.bands, banding.rows)
    parts = [
        *_grid(x, y, low, 1.0, 1.0),
        _mark(x, banding.half_point, f"s½ = {banding.half_point:.3f}", below=True, leans_right=True),
    ]
    parts.append(_line([(x(s), y(p)) for s, p in zip(similarity.tolist(), chance.tolist(), strict=True)]))
    for point in banding.planted:
        middle = min(1.0, point.low + 0.025) if point.low < 1 else 1.0
        under, over = point.found.interval
        told = f"{point.found.count} of {point.found.total} copies of similarity {point.low:.2f} and more were found"
        parts.append(
            f'<g class="point"><title>{told}: {point.found.value:.2f} [{under:.2f}, {over:.2f}]</title>'
            f'<line x1="{x(middle):.1f}" x2="{x(middle):.1f}" y1="{y(under):.1f}" y2="{y(over):.1f}"/>'
            f'<circle cx="{x(middle):.1f}" cy="{y(point.found.value):.1f}" r="3.5"/></g>'
            f'<text class="count" x="{x(middle):.1f}" y="{TOP - 8}" text-anchor="middle">{point.found.total}</text>'
        )
    label = "Jaccard similarity; above: how many copies were planted" if banding.planted else "Jaccard similarity"
    return _svg("Chance to share a bucket by similarity", [*parts, _title(label)])


def similarity_histogram(found: Similarities, name: str) -> str:
    """Documents by similarity; the line is what is asked of a pair."""
    top = max(*found.counts, 1)
    x, y = _across(found.low, 1.0), _up(float(top))
    step = (1 - found.low) / BINS
    parts = _grid(x, y, found.low, 1.0, float(top))
    for i, count in enumerate(found.counts):
        if count:
            start, stop = x(found.low + i * step), x(found.low + (i + 1) * step)
            told = f"{found.low + i * step:.3g} to {found.low + (i + 1) * step:.3g}: {count:,}"
            parts.append(
                f'<rect x="{start:.1f}" y="{y(count):.1f}" width="{stop - start - 0.6:.1f}" '
                f'height="{y(0) - y(count):.1f}"><title>{told}</title></rect>'
            )
    if found.least is not None:
        parts.append(_mark(x, found.least, f"{found.least:.3g}"))
    return _svg(f"{name}: documents by similarity", [*parts, _title("similarity")])


def epsilon_curve(curve: EpsilonCurve) -> str:
    """The share of documents that stays, by epsilon on a logarithmic axis."""
    pairs = [(e, k) for e, k in zip(curve.epsilons, curve.kept, strict=True) if e >= 1e-4]
    low, high = math.log10(pairs[0][0]), math.log10(pairs[-1][0])
    across, y = _across(low, high), _up(1.0)

    def x(epsilon: float) -> float:
        return across(math.log10(epsilon))

    parts = []
    for power in range(math.ceil(low), math.floor(high) + 1):
        at = across(power)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{y(0):.1f}"/>')
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{number(10.0**power)}</text>')
    parts += [*_lines_up(y, 1.0), _line([(x(epsilon), y(kept)) for epsilon, kept in pairs])]
    kept = float(np.interp(curve.epsilon, curve.epsilons, curve.kept))
    parts.append(_mark(x, curve.epsilon, f"ε = {curve.epsilon:g}, {kept:.1%} stay", below=True))
    return _svg(
        "Share of documents that stay, by epsilon", [*parts, _title("epsilon; share of the documents that stay")]
    )


def _across(low: float, high: float) -> Place:
    return lambda value: LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)


def _up(top: float) -> Place:
    return lambda value: HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - TOP)


def _grid(x: Place, y: Place, low: float, high: float, top: float) -> list[str]:
    parts = []
    for tick in round_numbers(low, high, 6):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{y(0):.1f}"/>')
        parts.append(
            f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{number(round(tick, 9))}</text>'
        )
    return [*parts, *_lines_up(y, top)]


def _lines_up(y: Place, top: float) -> list[str]:
    parts = []
    for tick in round_numbers(0, top, 4):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{number(round(tick, 9))}</text>')
    return parts


def _mark(x: Place, value: float, label: str, *, below: bool = False, leans_right: bool = False) -> str:
    """A dashed line with its label, at the top or the bottom, on the side that has more room or on the right."""
    at = x(value)
    anchor, shift = ("end", -5) if at > WIDTH / 2 and not leans_right else ("start", 5)
    height = HEIGHT - BOTTOM - 8 if below else TOP + 12
    return (
        f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="mark" x="{at + shift:.1f}" y="{height}" text-anchor="{anchor}">{escape(label)}</text>'
    )


def _line(points: Sequence[tuple[float, float]]) -> str:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path class="curve" d="M{path}"/>'


def _title(label: str) -> str:
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    return f'<text x="{middle:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(label)}</text>'


def _svg(title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
