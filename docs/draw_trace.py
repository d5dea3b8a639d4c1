"""Draw the runs of docs/howto/trace.md, as docs/_static/trace-light.svg and trace-dark.svg.

Run the page's program, which writes before.json and after.json, and then

    python docs/draw_trace.py before.json after.json
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html import escape
from typing import Any, NamedTuple

from draw import FONT, STATIC, Theme, label
from draw import THEMES as COLOURS

from poollock._trace.summary import read_events

WIDTH = 460
NAMES = 66  # where the time begins
ROW = 22
BAR = 14
HEAD = 26
GAP = 18
SECONDS = 1e6  # of the events' microseconds


class Kind(NamedTuple):
    """A kind of span: what the legend calls it, and its colours in light and in dark."""

    legend: str
    light: str
    dark: str


KINDS = {
    "task": Kind("runs", "#9ec5f0", "#2f5f94"),
    "wait": Kind("waits for the lock", "#e5534b", "#e5534b"),
    "hold": Kind("has the lock", "#0a3069", "#a5d6ff"),
}


class Run(NamedTuple):
    """A trace: the number of its workers, and its spans, from the begin of the first task."""

    title: str
    workers: int
    seconds: float
    spans: list[tuple[str, int, float, float]]


def read(title: str, path: str) -> Run:
    """Return the run that a trace has recorded."""
    events: list[dict[str, Any]] = [event for event in read_events(path) if event["ph"] == "X"]
    begin = min(event["ts"] for event in events)
    spans = [
        (event["cat"], event["tid"], (event["ts"] - begin) / SECONDS, event["dur"] / SECONDS)
        for event in events
    ]
    order = list(KINDS)
    spans.sort(key=lambda span: order.index(span[0]))  # what lies within another is drawn after it
    return Run(title, max(row for _, row, _, _ in spans), max(at + long for _, _, at, long in spans), spans)


def draw_run(run: Run, scale: float, top: float, variant: str) -> Iterator[str]:
    """Yield the elements of one run."""
    theme = COLOURS[variant]
    yield label(0, top + 13, run.title, theme.text, ' font-size="15" font-weight="600"')
    yield label(WIDTH, top + 13, f"{run.seconds * 1000:.0f} ms", theme.muted, ' text-anchor="end"')
    for row in range(1, run.workers + 1):
        yield label(0, top + HEAD + ROW * row - 9, f"worker {row}", theme.muted)
    for category, row, at, long in run.spans:
        x, y = NAMES + at * scale, top + HEAD + ROW * (row - 1) + 2
        size = f'width="{max(0.8, long * scale - 0.6):.1f}" height="{BAR}"'
        yield f'<rect x="{x:.1f}" y="{y:.0f}" {size} fill="{getattr(KINDS[category], variant)}"/>'


def draw_legend(top: float, variant: str, theme: Theme) -> Iterator[str]:
    """Yield the elements of the legend."""
    x = 0.0
    for kind in KINDS.values():
        yield f'<rect x="{x:.0f}" y="{top:.0f}" width="12" height="12" fill="{getattr(kind, variant)}"/>'
        yield label(x + 18, top + 11, kind.legend, theme.muted)
        x += 38 + 6.5 * len(kind.legend)


def draw(runs: list[Run], variant: str) -> str:
    """Return the picture."""
    theme = COLOURS[variant]
    scale = (WIDTH - NAMES) / max(run.seconds for run in runs)
    elements: list[str] = []
    y = 4.0
    for run in runs:
        elements += draw_run(run, scale, y, variant)
        y += HEAD + ROW * run.workers + GAP
    elements += draw_legend(y, variant, theme)
    y += 18
    described = ". ".join(f"{run.title}: {run.seconds * 1000:.0f} ms" for run in runs)
    size = f'viewBox="0 0 {WIDTH} {y:.0f}" width="{WIDTH}" height="{y:.0f}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{FONT}" font-size="13">',
        "<title>What four workers did, before and after</title>",
        f"<desc>{escape(described)}.</desc>",
        *elements,
        "</svg>\n",
    ]
    return "\n".join(lines)


def main() -> None:
    """Draw both variants from the two traces named on the command line."""
    if len(sys.argv) != 3:  # noqa: PLR2004 - its own name and two files
        sys.exit(__doc__)
    titles = ["The lock is held for the whole request", "The lock is held for the line in the file"]
    runs = [read(title, path) for title, path in zip(titles, sys.argv[1:], strict=True)]
    for variant in COLOURS:
        (STATIC / f"trace-{variant}.svg").write_text(draw(runs, variant), encoding="utf-8")


if __name__ == "__main__":
    main()
