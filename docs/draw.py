"""Draw what a lock and a log record cost, as docs/_static/costs-*.svg.

    pip install -e '.[bench]'
    python benchmarks/locks.py 1 --json locks.json
    python benchmarks/log.py --processes 4 --json log.json
    python docs/draw.py locks.json log.json

On a machine with nothing else to do.  Each picture shows the medians for the smallest number of
processes in its file, and says on what machine and when they were measured.  It is as wide as a
phone, and two fit into README's column side by side.
"""

from __future__ import annotations

import json
import math
import sys
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

STATIC = Path(__file__).parent / "_static"
WIDTH = 360
NAMES = 184  # where the bars begin
BARS = 112  # how long the longest may be; behind it stands its figure
HEAD = 28  # how high the title is
ROW = 20
FIGURE = 62  # how long a figure may be
FONT = "-apple-system, BlinkMacSystemFont, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif"
THICK = 12


class Theme(NamedTuple):
    """The colours of a variant."""

    text: str
    muted: str
    grid: str
    ours: str
    others: str


THEMES = {
    "light": Theme(text="#1f2328", muted="#636c76", grid="#e4e8ec", ours="#0a66c2", others="#b9c3cd"),
    "dark": Theme(text="#e6edf3", muted="#8d96a0", grid="#2d333b", ours="#58a6ff", others="#545d68"),
}


class Picture(NamedTuple):
    """What is in a picture, in light and in dark.

    Attributes:
        name: The beginning of its files' names.
        title: What costs this.
        ours: What is poollock's, by the benchmark's name: what the picture calls it.
        others: What is not.
        in_pairs: Whether each of ours is followed by the other in the same place; else the cheapest is first.
    """

    name: str
    title: str
    ours: dict[str, str]
    others: dict[str, str]
    in_pairs: bool = False


LOCKS = Picture(
    "costs-locks",
    "Take a free lock and release it",
    {
        "poollock.Lock": "poollock.Lock",
        "poollock.RLock": "poollock.RLock",
        "poollock.Semaphore(3)": "poollock.Semaphore(3)",
        "manager_locked_pool": "manager_locked_pool's lock",
    },
    {
        "multiprocessing.Lock": "multiprocessing.Lock",
        "multiprocessing.RLock": "multiprocessing.RLock",
        "multiprocessing.Semaphore(3)": "multiprocessing.Semaphore(3)",
        "Manager().Lock()": "Manager().Lock()",
    },
    in_pairs=True,
)
LOG = Picture(
    "costs-log",
    "Write a line to a log",
    {"LockedLogWriter.write": "poollock.LockedLogWriter"},
    {
        "open, append, close under a Lock": "append with a Lock()",
        "the same under a manager's": "append with Manager().Lock()",
        "portalocker around an append": "append with portalocker",
        "filelock around an append": "append with filelock",
    },
)
LOGGING = Picture(
    "costs-logging",
    "Log a record with logging",
    {"LockedLogHandler": "poollock.LockedLogHandler"},
    {
        "logging.FileHandler, unsafe": "logging.FileHandler, unsafe",
        "QueueHandler and listener": "QueueHandler, QueueListener",
        "concurrent-log-handler": "concurrent-log-handler",
        "loguru, enqueue=True": "loguru, enqueue=True",
    },
)


class Bar(NamedTuple):
    """A name and its cost."""

    name: str
    nanoseconds: float
    ours: bool


class Scale(NamedTuple):
    """A logarithmic scale, from a power of ten to the greatest cost."""

    low: int
    high: float

    def place(self, nanoseconds: float) -> float:
        """Return where a bar of that cost ends."""
        return NAMES + BARS * (math.log10(nanoseconds) - self.low) / (self.high - self.low)


def read(picture: Picture, costs: dict[str, Any]) -> list[Bar]:
    """Return the bars of a picture, in their order."""
    names = picture.ours | picture.others
    if picture.in_pairs:
        order = [name for pair in zip(picture.ours, picture.others, strict=True) for name in pair]
    else:
        order = sorted(names, key=lambda name: costs[name]["median"])
    return [Bar(names[name], costs[name]["median"], name in picture.ours) for name in order]


def fit(bars: list[Bar]) -> Scale:
    """Return the scale for these bars, on which the shortest can be seen."""
    costs = [bar.nanoseconds for bar in bars]
    return Scale(math.floor(math.log10(min(costs) / 1.5)), math.log10(max(costs)))


def duration(nanoseconds: float) -> str:
    """Return a time with its unit, to three digits."""
    figure, unit = nanoseconds, "ns"
    for larger in ("µs", "ms"):
        if figure >= 999.5:  # noqa: PLR2004 - what three digits can say
            figure, unit = figure / 1000, larger
    return f"{figure:.{max(0, 2 - math.floor(math.log10(figure)))}f} {unit}"


def tick(power: int) -> str:
    """Return that power of ten nanoseconds, as the scale has it."""
    return f"{10 ** (power % 3)} {('ns', 'µs', 'ms')[power // 3]}"


def label(x: float, y: float, words: str, colour: str, more: str = "") -> str:
    """Return a text at a place."""
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}"{more}>{escape(words)}</text>'


def draw_row(bar: Bar, scale: Scale, y: float, theme: Theme) -> list[str]:
    """Return the elements of a bar: the scale's lines behind it, its name, itself and its figure."""
    x = scale.place(bar.nanoseconds)
    lines = [scale.place(10**power) for power in range(scale.low, math.floor(scale.high) + 1)]
    weight = ' font-weight="600"' if bar.ours else ""
    shape = f"M{NAMES} {y + 4:.0f}H{x - 3:.1f}q3 0 3 3v{THICK - 6}q0 3 -3 3H{NAMES}z"
    return [
        *(
            f'<path d="M{line:.1f} {y:.0f}v{ROW}" stroke="{theme.grid}"/>'
            for line in lines
            if not x < line < x + FIGURE
        ),
        label(0, y + 15, bar.name, theme.text, weight),
        f'<path d="{shape}" fill="{theme.ours if bar.ours else theme.others}"/>',
        label(x + 6, y + 15, duration(bar.nanoseconds), theme.text, weight),
    ]


def draw(picture: Picture, file: dict[str, Any], theme: Theme) -> str:
    """Return the picture as SVG."""
    count = min(file["nanoseconds"], key=int)
    detail = "one process" if count == "1" else f"{count} processes at a time"
    bars = read(picture, file["nanoseconds"][count])
    scale = fit(bars)
    elements = [
        label(0, 18, picture.title, theme.text, ' font-size="14" font-weight="600"'),
        label(WIDTH, 18, detail, theme.muted, ' text-anchor="end"'),
    ]
    y = HEAD
    for bar in bars:
        elements += draw_row(bar, scale, y, theme)
        y += ROW
    for power in range(scale.low, math.floor(scale.high) + 1):
        more = ' font-size="11" text-anchor="middle"'
        elements.append(label(scale.place(10**power), y + 13, tick(power), theme.muted, more))
    for below, caption in ((13, "medians, logarithmic scale"), (36, file["machine"])):
        elements.append(label(0, y + below, caption, theme.muted, ' font-size="11"'))
    costs = ", ".join(f"{bar.name} {duration(bar.nanoseconds)}" for bar in bars)
    size = f'viewBox="0 0 {WIDTH} {y + 46}" width="{WIDTH}" height="{y + 46}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{FONT}" font-size="12.5">',
        f"<title>{picture.title}</title>",
        f"<desc>{escape(costs)}.</desc>",
        *elements,
        "</svg>\n",
    ]
    return "\n".join(lines)


def main() -> None:
    """Draw all pictures from the two files named on the command line."""
    if len(sys.argv) != 3:  # noqa: PLR2004 - its own name and two files
        sys.exit(__doc__)
    locks, log = (json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:])
    STATIC.mkdir(exist_ok=True)
    for picture, file in ((LOCKS, locks), (LOG, log), (LOGGING, log)):
        for name, theme in THEMES.items():
            (STATIC / f"{picture.name}-{name}.svg").write_text(draw(picture, file, theme), encoding="utf-8")


if __name__ == "__main__":
    main()
