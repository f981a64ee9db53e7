"""Tables of text and how a benchmark writes its numbers in them."""

from __future__ import annotations

from dataclasses import dataclass

from .verdict import Ratio

NOTHING = "–"
"""In the place of a value that there is not."""


@dataclass(frozen=True)
class TextTable:
    """A table of text: rows have as many cells as there are headings.

    words: how many of the first columns are words. details: columns that a terminal leaves out.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    details: tuple[str, ...] = ()

    def short(self) -> TextTable:
        """Return the table without its details and without columns in which no row has a value."""
        kept = [i for i, name in enumerate(self.headings)
                if name not in self.details and any(row[i] != NOTHING for row in self.rows)]  # fmt: skip
        rows = tuple(tuple(row[i] for i in kept) for row in self.rows)
        return TextTable(self.title, tuple(self.headings[i] for i in kept), rows, self.words)


def ratio_text(ratio: Ratio) -> str:
    """Return "2.31× (2.25 … 2.40)"; with a question mark where it is inconclusive."""
    interval = "" if ratio.low is None or ratio.high is None else f" ({ratio.low:.2f} … {ratio.high:.2f})"
    return f"{ratio.value:.2f}×{interval}{'' if ratio.conclusive else ' ?'}"


def seconds_text(value: float | None) -> str:
    """Return seconds in milliseconds' digits, NOTHING for none."""
    if value is None:
        return NOTHING
    return f"{value:.3f}" if value < 100 else f"{value:.1f}"
