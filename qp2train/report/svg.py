"""Line plots as inline SVG, in the page's own colours, so that they follow its dark and light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 400, 320
LEFT, TOP, RIGHT, BOTTOM = 52, 12, 12, 48
COLOURS, DASHES = 6, 3  # as many as the style sheet has

Range = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line, and where its numbers come from.

    Args:
        name: In the legend.
        points: (x, y); drawn in this order.
        source: The place of its numbers: an object of lists, or a list of objects.
        keys: Which of them are x and y.
        number: What the legend says beside the name, as HTML.
    """

    name: str
    points: Sequence[tuple[float, float]]
    source: str
    keys: tuple[str, str]
    number: str = ""


@dataclass(frozen=True)
class Bar:
    """A bar from the bottom: centre x, height y, and the place of y."""

    x: float
    y: float
    source: str


@dataclass(frozen=True)
class Plot:
    """Lines over two axes.

    Args:
        title: Above it.
        about: One sentence for those who cannot see it, and for those who do not know such plots.
        lines: Colours are given out in their order.
        x: Label of the axis.
        y: Label of the axis.
        x_range: From where to where.
        y_range: From where to where.
        bars: Drawn pale, behind the lines.
        bar_width: In units of x.
        diagonal: A thin line from corner to corner.
        whole_x: x has only whole ticks.
    """

    title: str
    about: str
    lines: Sequence[Line]
    x: str
    y: str
    x_range: Range = (0.0, 1.0)
    y_range: Range = (0.0, 1.0)
    bars: Sequence[Bar] = field(default=())
    bar_width: float = 0.0
    diagonal: bool = False
    whole_x: bool = False

    def svg(self, number: int) -> Markup:
        """The plot; `number` makes its ids unique in the page."""
        parts = [*self._axes()]
        x, y = self._x, self._y
        for bar in self.bars:
            left, width = x(bar.x - self.bar_width / 2), x(bar.x + self.bar_width / 2) - x(bar.x - self.bar_width / 2)
            parts.append(
                Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}" data-source="{}"/>').format(
                    _f(left), _f(y(bar.y)), _f(width), _f(y(self.y_range[0]) - y(bar.y)), bar.source
                )
            )
        if self.diagonal:
            ends = (x(self.x_range[0]), y(self.y_range[0]), x(self.x_range[1]), y(self.y_range[1]))
            parts.append(Markup('<line class="diagonal" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(*map(_f, ends)))
        for i, line in enumerate(self.lines):
            points = " ".join(f"{_f(x(a))},{_f(y(b))}" for a, b in line.points)
            # A single point has no line to be seen.
            lone = " lone" if len(line.points) == 1 else ""
            parts.append(
                Markup(
                    '<polyline class="line {}{}" points="{}" data-source="{}" data-x="{}" data-y="{}"><title>{}</title>'
                    "</polyline>"
                ).format(style_of(i), lone, points, line.source, *line.keys, line.name)
            )
            if lone:
                parts.append(_dot(x(line.points[0][0]), y(line.points[0][1]), i))
        frame = f"{LEFT} {TOP} {WIDTH - LEFT - RIGHT} {HEIGHT - TOP - BOTTOM}"
        edges = " ".join(map(repr, (*self.x_range, *self.y_range)))
        return Markup(
            '<svg class="plot" role="img" aria-labelledby="plot{0}-title plot{0}-about" viewBox="0 0 {1} {2}" '
            'data-frame="{3}" data-range="{4}"><title id="plot{0}-title">{5}</title><desc id="plot{0}-about">{6}</desc>'
            "{7}</svg>"
        ).format(number, WIDTH, HEIGHT, frame, edges, self.title, self.about, Markup("").join(parts))

    def _axes(self) -> Sequence[Markup]:
        x_ticks = MaxNLocator(5, steps=[1, 2, 5, 10], integer=self.whole_x).tick_values(*self.x_range)
        y_ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(*self.y_range)
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts: list[Markup] = []
        for tick in _inside(y_ticks, self.y_range):
            at = _f(self._y(tick))
            parts.append(
                Markup('<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(LEFT, at, right, at)
                + Markup('<text class="tick" x="{}" y="{}" dy=".32em" text-anchor="end">{}</text>').format(
                    LEFT - 7, at, f"{tick:g}"
                )
            )
        for tick in _inside(x_ticks, self.x_range):
            at = _f(self._x(tick))
            parts.append(
                Markup('<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(at, TOP, at, bottom)
                + Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                    at, bottom + 17, f"{tick:g}"
                )
            )
        middle = (TOP + bottom) / 2
        parts.append(
            Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                (LEFT + right) / 2, HEIGHT - 8, self.x
            )
        )
        parts.append(
            Markup('<text class="axis" transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
                middle, self.y
            )
        )
        return parts

    def _x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def _y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def style_of(index: int) -> str:
    """The style sheet's classes of the line with this index: colours first, then dashes."""
    return f"c{index % COLOURS} d{index // COLOURS % DASHES}"


def swatch(index: int) -> Markup:
    """A piece of line for the legend."""
    return Markup(
        '<svg class="swatch-line" aria-hidden="true" viewBox="0 0 28 10"><line class="line {}" x1="1" y1="5" x2="27" '
        'y2="5"/></svg>'
    ).format(style_of(index))


def range_of(values: Sequence[float], *, least: Range | None = None) -> Range:
    """From the smallest to the largest, never empty, and `least` within it."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if least is not None:
        low, high = min(low, least[0]), max(high, least[1])
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _dot(x: float, y: float, index: int) -> Markup:
    return Markup('<circle class="dot {}" cx="{}" cy="{}" r="4"/>').format(style_of(index), _f(x), _f(y))


def _inside(ticks: Sequence[float], edges: Range) -> list[float]:
    room = 1e-9 * (edges[1] - edges[0])
    return [float(t) + 0.0 for t in ticks if edges[0] - room <= t <= edges[1] + room]


def _f(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
