"""Charts as inline SVG: a page that opens offline, weighs little, prints, and follows light and dark by itself.

Colours come from the page's style sheet by class, so that a chart holds shapes and labels only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 340
HEIGHT = 128
AXIS = 20  # pixels below a histogram for its ticks


@dataclass(frozen=True)
class Scale:
    """The axis of a histogram: values between low and high, as they are or as log(1 + value); the rest at the ends."""

    low: float
    high: float
    is_log: bool
    bins: int

    @property
    def ends(self) -> tuple[float, float]:
        return self.forth(self.low), self.forth(self.high)

    def forth(self, value: float) -> float:
        return math.log1p(value) if self.is_log else value

    def place(self, value: float) -> float:
        """Where a value lies on the axis, in [0, 1]."""
        start, stop = self.ends
        return min(1.0, max(0.0, (self.forth(value) - start) / (stop - start))) if stop > start else 0.5

    @property
    def ticks(self) -> list[float]:
        """Round numbers within the axis, at most six."""
        if self.is_log:
            steps = [float(f * 10**i) for i in range(12) for f in (1, 3) if self.low <= f * 10**i <= self.high]
            powers = [step for step in steps if math.log10(step).is_integer()]
            return (powers if len(powers) > 3 else steps) or [self.low, self.high]
        return round_numbers(self.low, self.high)


def round_numbers(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` multiples of 1, 2 or 5 times a power of ten between low and high."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: float) -> str:
    """A number for an axis: three digits, with a proper minus."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        text = f"{value / 1e6:,.3g}M"
    elif abs(value) >= 1e4:
        text = f"{value / 1e3:,.3g}k"
    else:
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "−")


def histogram(scale: Scale, kept: Sequence[int], dropped: Sequence[int], title: str) -> str:
    """Two distributions over the same bins, each drawn as shares of its own total."""
    shares = [[count / max(1, sum(counts)) for count in counts] for counts in (dropped, kept)]
    top = max([*shares[0], *shares[1], 1e-12])
    parts = []
    for share, name in zip(shares, ("dropped", "kept"), strict=True):
        if any(share):
            parts.append(f'<path class="{name}" d="{_outline(share, top)}"/>')
    for tick in scale.ticks:
        x = scale.place(tick) * WIDTH
        anchor = "start" if x < 12 else "end" if x > WIDTH - 12 else "middle"
        parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT}" y2="{HEIGHT + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT + 16}" text-anchor="{anchor}">{number(tick)}</text>')
    axis = f'<line class="axis" x1="0" x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/>'
    return _svg(WIDTH, HEIGHT + AXIS, title, [*parts, axis], "histogram")


def _outline(shares: Sequence[float], top: float) -> str:
    """The steps of a histogram as a closed path."""
    step = WIDTH / len(shares)
    points = [f"M0 {HEIGHT}"]
    for i, share in enumerate(shares):
        y = HEIGHT - share / top * (HEIGHT - 4)
        points.append(f"V{y:.1f}H{(i + 1) * step:.1f}")
    return "".join([*points, f"V{HEIGHT}Z"])


@dataclass(frozen=True)
class Interval:
    """A difference with its interval (None if there is none). verdict: better, worse or level."""

    label: str
    value: float
    low: float | None
    high: float | None
    verdict: str


LABEL_WIDTH = 190
PLOT_WIDTH = 500
NUMBERS_WIDTH = 190
LINE = 28


def intervals(rows: Sequence[Interval], axis: str) -> str:
    """Differences with their intervals around zero, one line each, with the numbers to the right."""
    ends = [0.0, *(end for row in rows for end in (row.value, row.low, row.high) if end is not None)]
    low, high = min(ends), max(ends)
    margin = (high - low or 1.0) * 0.06
    low, high = low - margin, high + margin
    height = LINE * len(rows)

    def place(value: float) -> float:
        return LABEL_WIDTH + (value - low) / (high - low) * PLOT_WIDTH

    parts = []
    for tick in round_numbers(low, high, 6):
        x, zero = place(tick), " zero" if tick == 0 else ""
        parts.append(f'<line class="grid{zero}" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>')
        parts.append(f'<text x="{x:.1f}" y="{height + 16}" text-anchor="middle">{number(tick)}</text>')
    parts += [_interval(row, i * LINE + LINE / 2, place) for i, row in enumerate(rows)]
    middle = LABEL_WIDTH + PLOT_WIDTH / 2
    parts.append(f'<text x="{middle}" y="{height + 34}" text-anchor="middle">{escape(axis)}</text>')
    return _svg(LABEL_WIDTH + PLOT_WIDTH + NUMBERS_WIDTH, height + 42, axis, parts, "intervals")


def _interval(row: Interval, y: float, place: Callable[[float], float]) -> str:
    numbers, whisker = f"{row.value:+.3f}", ""
    if row.low is not None and row.high is not None:
        numbers += f" [{row.low:+.3f}, {row.high:+.3f}]"
        ends = f'x1="{place(row.low):.1f}" x2="{place(row.high):.1f}"'
        whisker = f'<line class="whisker" {ends} y1="{y:.1f}" y2="{y:.1f}"/>'
    numbers = numbers.replace("-", "−")
    label = row.label if len(row.label) <= 26 else row.label[:25] + "…"
    end = LABEL_WIDTH + PLOT_WIDTH + NUMBERS_WIDTH
    return (
        f'<g class="{row.verdict}"><title>{escape(row.label)}: {numbers}</title>'
        f'<text class="label" x="{LABEL_WIDTH - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>'
        f"{whisker}"
        f'<circle cx="{place(row.value):.1f}" cy="{y:.1f}" r="5"/>'
        f'<text class="numbers" x="{end}" y="{y + 4:.1f}" text-anchor="end">{numbers}</text></g>'
    )


@dataclass(frozen=True)
class Curve:
    """A line of points (x, y), both above zero."""

    label: str
    points: Sequence[tuple[float, float]]


CURVE_WIDTH = 420
CURVE_HEIGHT = 220
CURVE_LEFT = 52  # pixels for the numbers of the vertical axis
CURVE_BELOW = 38


def curves(lines: Sequence[Curve], across: str, up: str) -> str:
    """Lines on two logarithmic axes; their colours go by their order. across, up : what the axes show."""
    xs, ys = ([point[axis] for line in lines for point in line.points] for axis in (0, 1))
    if not xs:
        return ""
    place_x, ticks_x = _logarithmic(xs, CURVE_LEFT, CURVE_LEFT + CURVE_WIDTH)
    place_y, ticks_y = _logarithmic(ys, CURVE_HEIGHT, 6)
    parts = _grid(place_x, ticks_x, place_y, ticks_y)
    for i, line in enumerate(lines):
        points = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="curve{i}" points="{points}"><title>{escape(line.label)}</title></polyline>')
    end = CURVE_LEFT + CURVE_WIDTH
    parts.append(f'<text x="{end}" y="{CURVE_HEIGHT + 32}" text-anchor="end">{escape(across)}</text>')
    parts.append(f'<text x="{end}" y="14" text-anchor="end">{escape(up)}</text>')
    return _svg(end + 18, CURVE_HEIGHT + CURVE_BELOW, f"{up} by {across}", parts, "curves")


def scatter(points: Sequence[tuple[float, float]], across: str, up: str) -> str:
    """Points on two linear axes. across, up : what the axes show."""
    if not points:
        return ""
    place_x, ticks_x = _linear([x for x, _ in points], CURVE_LEFT, CURVE_LEFT + CURVE_WIDTH)
    place_y, ticks_y = _linear([y for _, y in points], CURVE_HEIGHT, 22)
    end = CURVE_LEFT + CURVE_WIDTH
    parts = _grid(place_x, ticks_x, place_y, ticks_y)
    parts += [f'<circle cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="3.5"/>' for x, y in points]
    parts.append(f'<text x="{end}" y="{CURVE_HEIGHT + 32}" text-anchor="end">{escape(across)}</text>')
    parts.append(f'<text x="{CURVE_LEFT}" y="12">{escape(up)}</text>')
    return _svg(end + 18, CURVE_HEIGHT + CURVE_BELOW, f"{up} by {across}", parts, "scatter")


Place = Callable[[float], float]


def _grid(place_x: Place, ticks_x: Sequence[float], place_y: Place, ticks_y: Sequence[float]) -> list[str]:
    """Lines and numbers at the ticks of both axes."""
    parts = []
    for tick in ticks_x:
        x = place_x(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{CURVE_HEIGHT}"/>')
        parts.append(f'<text x="{x:.1f}" y="{CURVE_HEIGHT + 15}" text-anchor="middle">{number(tick)}</text>')
    for tick in ticks_y:
        y = place_y(tick)
        parts.append(
            f'<line class="grid" x1="{CURVE_LEFT}" x2="{CURVE_LEFT + CURVE_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(f'<text x="{CURVE_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    return parts


def _linear(values: Sequence[float], start: float, stop: float) -> tuple[Place, list[float]]:
    """(where a value lies between `start` and `stop`, with a margin, and round numbers in the values' range)."""
    low, high = min(values), max(values)
    margin = 0.05 * (high - low or abs(high) or 1.0)
    low, high = low - margin, high + margin
    return lambda value: start + (value - low) / (high - low) * (stop - start), round_numbers(low, high)


def _logarithmic(values: Sequence[float], start: float, stop: float) -> tuple[Callable[[float], float], list[float]]:
    """(where a value lies between `start` and `stop`, and ticks in the values' range).

    Ticks are powers of ten, or 1, 2 and 5 times them, or within a narrow range any round numbers.
    """
    low, high = math.log10(min(values)), math.log10(max(values))
    span = high - low or 1.0
    powers = range(math.floor(low), math.floor(high) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    ticks = [tick for tick in ticks if low - 1e-9 <= math.log10(tick) <= high + 1e-9]
    whole = [tick for tick in ticks if math.isclose(math.log10(tick), round(math.log10(tick)), abs_tol=1e-9)]
    if len(ticks) < 3:
        ticks = round_numbers(min(values), max(values))
    return lambda value: start + (math.log10(value) - low) / span * (stop - start), whole if len(whole) > 2 else ticks


def _svg(width: float, height: float, title: str, parts: Sequence[str], name: str) -> str:
    return (
        f'<svg class="{name}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
