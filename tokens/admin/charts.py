"""Charts as SVG made here: they need no script, follow dark and light, and each has its numbers
in words and in a table as well. Lengths are percentages of the drawing, as SVG takes them."""

from collections.abc import Sequence
from dataclasses import dataclass

# A bar that stands for something is seen, however small beside the others.
_LEAST = 2.0
# How much of a column its bar takes; the rest is the gap.
_BAR = 0.82


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of a column. ``tone``: the class that gives it its colour."""

    tone: str
    number: int


@dataclass(frozen=True, kw_only=True)
class Column:
    """``title``: what is said of it in words. ``tick``: what stands below it, if anything."""

    title: str
    parts: Sequence[Part]
    tick: str = ""

    @property
    def number(self) -> int:
        return sum(part.number for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Piece:
    x: str
    y: str
    width: str
    height: str
    tone: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """A whole column, to point at: its words."""

    x: str
    width: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Tick:
    x: str
    anchor: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """``words``: all of it in a sentence, for who does not see it. ``most``: the number that the
    highest column stands for."""

    words: str
    most: int
    pieces: Sequence[Piece]
    places: Sequence[Place]
    ticks: Sequence[Tick]

    @property
    def height(self) -> str:
        """Of the columns, which leave room for the ticks below them."""
        return "82%" if self.ticks else "100%"


def chart(columns: Sequence[Column], *, words: str) -> Chart:
    most = max((column.number for column in columns), default=0)
    width = 100 / max(1, len(columns))
    return Chart(
        words=words,
        most=most,
        pieces=[
            piece
            for place, column in enumerate(columns)
            for piece in _pieces(column, x=place * width, width=width, most=most)
        ],
        places=[
            Place(x=_percent(place * width), width=_percent(width), title=column.title)
            for place, column in enumerate(columns)
        ],
        ticks=[
            _tick(column.tick, place * width) for place, column in enumerate(columns) if column.tick
        ],
    )


def share(parts: Sequence[Part]) -> list[Piece]:
    """One bar that lies, divided as the parts are of their sum."""
    total, x, pieces = sum(part.number for part in parts), 0.0, []
    for part in parts:
        if part.number:
            width = 100 * part.number / total
            pieces.append(
                Piece(x=_percent(x), y="0", width=_percent(width), height="100%", tone=part.tone)
            )
            x += width
    return pieces


def _pieces(column: Column, *, x: float, width: float, most: int) -> list[Piece]:
    """The parts on top of each other, the first at the bottom."""
    pieces, top = [], 100.0
    for part in column.parts:
        if not part.number:
            continue
        height = min(top, max(_LEAST, 100 * part.number / most))
        top -= height
        pieces.append(
            Piece(
                x=_percent(x + width * (1 - _BAR) / 2),
                y=_percent(top),
                width=_percent(width * _BAR),
                height=_percent(height),
                tone=part.tone,
            )
        )
    return pieces


def _tick(text: str, x: float) -> Tick:
    anchor = "start" if x < 4 else "end" if x > 94 else "middle"
    return Tick(x=_percent(x), anchor=anchor, text=text)


def _percent(number: float) -> str:
    return f"{number:.2f}%"
