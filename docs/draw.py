"""Draw what a lock and a log record cost, as docs/_static/costs-light.svg and costs-dark.svg.

    pip install -e '.[bench]'
    python benchmarks/locks.py 1 --json locks.json
    python benchmarks/log.py --processes 4 --json log.json
    python docs/draw.py locks.json log.json

On a machine with nothing else to do.  Each picture shows the medians for the smallest number of
processes in its file, and says on what machine and when they were measured.
"""

from __future__ import annotations

import json
import math
import sys
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

STATIC = Path(__file__).parent / "_static"
WIDTH = 700
NAMES = 262  # where the bars begin
BARS = 360  # how long the longest may be; behind it stands its figure
HEAD = 24  # how high the title of a panel is
ROW = 26
FIGURE = 72  # how long a figure may be
FONT = "-apple-system, BlinkMacSystemFont, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif"
THICK = 14


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


class Panel(NamedTuple):
    """A part of the picture.

    Attributes:
        title: What costs this.
        ours: What is poollock's, by the benchmark's name: what the picture calls it.
        others: What is not.
    """

    title: str
    ours: dict[str, str]
    others: dict[str, str]


# Those of one file have one scale.
PANELS = [
    [
        Panel(
            "To take a lock and release it",
            {
                "poollock.Lock": "poollock.Lock",
                "poollock.RLock": "poollock.RLock",
                "poollock.Semaphore(3)": "poollock.Semaphore(3)",
                "manager_locked_pool": "poollock.manager_locked_pool",
            },
            {
                "multiprocessing.Lock": "multiprocessing.Lock",
                "multiprocessing.RLock": "multiprocessing.RLock",
                "multiprocessing.Semaphore(3)": "multiprocessing.Semaphore(3)",
                "Manager().Lock()": "multiprocessing.Manager().Lock",
            },
        ),
    ],
    [
        Panel(
            "To write a line to a log",
            {"LockedLogWriter.write": "poollock.LockedLogWriter"},
            {
                "open, append, close under a Lock": "multiprocessing.Lock, append",
                "the same under a manager's": "Manager().Lock, append",
                "portalocker around an append": "portalocker, append",
                "filelock around an append": "filelock, append",
            },
        ),
        Panel(
            "To log a record with its level and logger",
            {"LockedLogHandler": "poollock.LockedLogHandler"},
            {
                "logging.FileHandler, unsafe": "logging.FileHandler, unsafe",
                "QueueHandler and listener": "logging.handlers.QueueListener",
                "concurrent-log-handler": "concurrent-log-handler",
                "loguru, enqueue=True": "loguru, enqueue=True",
            },
        ),
    ],
]


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


def read(panel: Panel, costs: dict[str, Any]) -> list[Bar]:
    """Return the bars of a panel, the cheapest first."""
    names = panel.ours | panel.others
    bars = [Bar(names[name], costs[name]["median"], name in panel.ours) for name in names if name in costs]
    return sorted(bars, key=lambda bar: bar.nanoseconds)


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
    shape = f"M{NAMES} {y + 6:.0f}H{x - 3:.1f}q3 0 3 3v{THICK - 6}q0 3 -3 3H{NAMES}z"
    return [
        *(
            f'<path d="M{line:.1f} {y:.0f}v{ROW}" stroke="{theme.grid}"/>'
            for line in lines
            if not x < line < x + FIGURE
        ),
        label(0, y + 18, bar.name, theme.text, weight),
        f'<path d="{shape}" fill="{theme.ours if bar.ours else theme.others}"/>',
        label(x + 8, y + 18, duration(bar.nanoseconds), theme.text, weight),
    ]


def draw_panel(bars: list[Bar], scale: Scale, top: float, theme: Theme) -> list[str]:
    """Return the elements of a panel below its title."""
    elements: list[str] = []
    for row, bar in enumerate(bars):
        elements += draw_row(bar, scale, top + ROW * row, theme)
    end = top + ROW * len(bars)
    for power in range(scale.low, math.floor(scale.high) + 1):
        more = ' font-size="11" text-anchor="middle"'
        elements.append(label(scale.place(10**power), end + 15, tick(power), theme.muted, more))
    return elements


def draw(files: list[dict[str, Any]], theme: Theme) -> str:
    """Return the picture."""
    elements: list[str] = []
    described: list[str] = []
    y = 4.0
    for panels, file in zip(PANELS, files, strict=True):
        count = min(file["nanoseconds"], key=int)
        read_panels = [(panel.title, read(panel, file["nanoseconds"][count])) for panel in panels]
        scale = fit([bar for _, bars in read_panels for bar in bars])
        for title, bars in read_panels:
            detail = "one process" if count == "1" else f"{count} processes at a time"
            elements += [
                label(0, y + 12, title, theme.text, ' font-size="15" font-weight="600"'),
                label(WIDTH, y + 12, detail, theme.muted, ' text-anchor="end"'),
                *draw_panel(bars, scale, y + HEAD, theme),
            ]
            described.append(f"{title}: " + ", ".join(f"{b.name} {duration(b.nanoseconds)}" for b in bars))
            y += HEAD + ROW * len(bars) + 42
    y += 8
    for caption in ["Medians; the scale is logarithmic.", *dict.fromkeys(file["machine"] for file in files)]:
        elements.append(label(0, y, caption, theme.muted, ' font-size="11"'))
        y += 16
    size = f'viewBox="0 0 {WIDTH} {y - 8:.0f}" width="{WIDTH}" height="{y - 8:.0f}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{FONT}" font-size="13">',
        "<title>What a lock and a log record cost</title>",
        f"<desc>{escape('. '.join(described))}.</desc>",
        *elements,
        "</svg>\n",
    ]
    return "\n".join(lines)


def main() -> None:
    """Draw both variants from the two files named on the command line."""
    if len(sys.argv) != 3:  # noqa: PLR2004 - its own name and two files
        sys.exit(__doc__)
    files = [json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:]]
    STATIC.mkdir(exist_ok=True)
    for name, theme in THEMES.items():
        (STATIC / f"costs-{name}.svg").write_text(draw(files, theme), encoding="utf-8")


if __name__ == "__main__":
    main()
