"""Send items to an HTTP API from a pool of workers; write how long each request took to one log.

Without --url, the requests go to a small server that this program starts itself.

The exit status is 1 if requests have failed, 2 if the job could not begin, 3 if the log could not be
written, and 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shlex
import statistics
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from poollock import LockedLogWriter, locked_pool, manager_locked_pool

NOT_BEGUN, LOG_FAILED, INTERRUPTED = 2, 3, 130  # exit statuses
LONGEST = 86_400  # seconds that a server may be silent: more than a day is a mistake


class LogError(Exception):
    """The log cannot be written, so there is no use in sending more requests."""


class Outcome(NamedTuple):
    """What became of one request."""

    cost: float
    failed: bool


def send_request(data: str, *, url: str, log: LockedLogWriter, timeout: float, stamp: bool) -> Outcome:
    """Send *data* to *url* and log the cost: the task that each worker runs."""
    target = url.replace("{data}", urllib.parse.quote(data, safe="", errors="replace"))
    timer = log.timed(f"request {data}", stamp=stamp)
    try:
        with timer, urllib.request.urlopen(target, timeout=timeout) as reply:
            reply.read()
    except Exception as error:  # noqa: BLE001 - whatever a server does, the next request is sent
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it has the answer's connection
        if timer.log_error is not None:
            raise LogError(f"{log.name} cannot be written: {timer.log_error}") from None
        return Outcome(timer.seconds, failed=True)
    return Outcome(timer.seconds, failed=False)


class Echo(BaseHTTPRequestHandler):
    """Answers each request with its path, a little later."""

    def do_GET(self) -> None:
        """Answer a GET request."""
        time.sleep(random.uniform(0.005, 0.03))  # noqa: S311 - a delay, not a secret
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Leave the terminal to the progress bar."""


class LoopbackServer(ThreadingHTTPServer):
    """The server that stands in for the API; many workers connect at once."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that left early, as workers do on Ctrl-C."""

    def serve_forever(self, poll_interval: float = 0.05) -> None:
        """Serve until it is closed, before this begins if Ctrl-C comes then."""
        with suppress(ValueError):
            super().serve_forever(poll_interval)


@contextmanager
def served(url: str | None) -> Generator[str, None, None]:
    """Yield *url*, or that of a server on the loopback interface that runs inside the block."""
    if url is not None:
        yield url
        return
    with LoopbackServer(("127.0.0.1", 0), Echo) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{{data}}"
        finally:
            server.shutdown()


def read_items(source: str | None) -> list[str]:
    """Return the items of a file, one a line, or 200 made-up ones."""
    if source is None:
        return [f"item-{number}" for number in range(1, 201)]
    if source == "-":
        return [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
    with Path(source).open(encoding="utf-8", errors="replace") as file:
        return [line.rstrip("\r\n") for line in file if line.strip()]


def progress(outcomes: Iterable[Outcome], total: int) -> Iterable[Outcome]:
    """Show how far the job is, on a terminal."""
    if not sys.stderr.isatty():
        return outcomes
    try:
        from tqdm import tqdm  # noqa: PLC0415 - the job runs the same without it
    except ImportError:
        return counted(outcomes, total)
    return tqdm(outcomes, total=total, unit="request")


def counted(outcomes: Iterable[Outcome], total: int) -> Iterator[Outcome]:
    """Show how many requests are done, at most ten times a second, in place of tqdm's bar."""
    shown = 0.0
    try:
        for number, outcome in enumerate(outcomes, start=1):
            if time.monotonic() >= shown + 0.1 or number == total:
                shown = time.monotonic()
                print(f"\r{number} of {total} requests", end="", file=sys.stderr, flush=True)
            yield outcome
    finally:
        print(file=sys.stderr)


def summary(outcomes: list[Outcome], seconds: float) -> str:
    """Return the job's figures in one line."""
    failures = sum(outcome.failed for outcome in outcomes)
    line = f"{len(outcomes)} requests, {failures} failed, {len(outcomes) / seconds:.1f} requests/s"
    costs = sorted(outcome.cost for outcome in outcomes)
    if not costs:
        return line
    percentile = costs[-(-95 * len(costs) // 100) - 1]
    return f"{line}, median {statistics.median(costs):.4f} s, 95th percentile {percentile:.4f} s"


def seconds(text: str) -> float:
    """Return the number of seconds that an argument stands for."""
    number = float(text)
    if not 0 < number <= LONGEST:  # not a number among them
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most {LONGEST}, not {text}")
    return number


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input", metavar="FILE", help="items, one a line; - is standard input; default: 200 made up"
    )
    parser.add_argument(
        "--url", help="where to send an item, with {data} in it; default: a server of our own"
    )
    parser.add_argument("--workers", type=int, default=8, metavar="N", help="how many workers (%(default)s)")
    parser.add_argument(
        "--log", default="request.log", metavar="FILE", help="the log to append to (%(default)s)"
    )
    parser.add_argument(
        "--timeout", type=seconds, default=30, metavar="S", help="seconds of a server's silence (%(default)g)"
    )
    parser.add_argument("--manager", action="store_true", help="share the lock by a manager process")
    parser.add_argument("--stamp", action="store_true", help="begin each line with the time and the process")
    methods = multiprocessing.get_all_start_methods()
    parser.add_argument(
        "--start-method", choices=methods, help=f"how the workers are started; default: {methods[0]}"
    )
    options = parser.parse_args()
    if options.url is not None and "{data}" not in options.url:
        parser.error("--url must have {data} in it, where the item goes")
    if options.workers < 1:
        parser.error("--workers must be at least 1")
    return options


def main() -> int:
    """Run the job and return its exit status: 1 if requests have failed."""
    options = parse_arguments()
    items = read_items(options.input)
    make_pool = manager_locked_pool if options.manager else locked_pool
    if options.url is None:
        os.environ["no_proxy"] = "127.0.0.1"  # the server of our own; workers inherit this
    with (
        make_pool(options.workers, context=options.start_method) as pool,
        LockedLogWriter(options.log, lock=pool.lock) as log,
        served(options.url) as url,
    ):
        task = partial(send_request, url=url, log=log, timeout=options.timeout, stamp=options.stamp)
        start = time.monotonic()
        outcomes = list(progress(pool.imap_unordered(task, items), len(items)))
        duration = time.monotonic() - start
    print(summary(outcomes, duration))
    failed = any(outcome.failed for outcome in outcomes)
    if failed:
        print(f"for the reasons: grep 'failed after' {shlex.quote(options.log)}")
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (LogError, OSError) as error:
        print(f"request_log.py: {error}", file=sys.stderr)
        sys.exit(LOG_FAILED if isinstance(error, LogError) else NOT_BEGUN)
