"""A recorded weather table sent through the cluster row by row, and checked on the other side.

Usage: dataset.py --endpoints N1,N2,N3 [--kill]
The 1,461 daily records of Seattle (vega_datasets) go through node 1 with QoS 1: four publishers, a quarter of
the rows and a topic each. Subscribers on nodes 2 and 3 must see them complete, in order, byte for byte.
With --kill, prints {"event": "kill"} in mid-stream, whereupon the caller kills node 3 and writes a line to
standard input. The subscriber of node 3 then connects to node 2, and again to node 1 if that fails.
Prints JSON lines; {"event": "stall", "seconds"} is the longest wait for a PUBACK. Start at main.
"""

import argparse
import importlib.util
import pathlib
import sys
import threading
import time

from paho_client import Client, Timeout
from report import Report, parse_endpoints

QUARTERS = 4
WINDOW = 20  # unacknowledged rows a publisher allows itself
PACE = 0.008  # seconds between two rows of one publisher: the shape of the load, nothing waits for it


def read_rows():
    """The table's lines as bytes, without the header. vega_datasets itself is not imported: it needs pandas."""
    package = importlib.util.find_spec("vega_datasets")
    path = pathlib.Path(package.submodule_search_locations[0]) / "_data" / "seattle-weather.csv"
    rows = path.read_bytes().splitlines()[1:]
    if len(rows) < 1000:
        raise SystemExit(f"{path} has only {len(rows)} rows")
    return rows


def quarters_of(rows):
    """The rows in four runs, keyed by topic."""
    size = (len(rows) + QUARTERS - 1) // QUARTERS
    return {f"weather/seattle/q{n + 1}": rows[n * size:(n + 1) * size] for n in range(QUARTERS)}


class Publisher(threading.Thread):
    """Sends one quarter; keeps the longest time any row waited for its PUBACK."""

    def __init__(self, endpoint, topic, rows, pace, gate):
        super().__init__(name=topic, daemon=True)
        self.client = Client(endpoint, "station-" + topic.rsplit("/", 1)[1], True)
        self.topic, self.rows, self.pace, self.gate = topic, rows, pace, gate
        self.stall = 0.0
        self.sent = 0
        self.error = None

    def run(self):
        try:
            self._send_all()
        except Exception as error:  # reported by the main thread
            self.error = error

    def _send_all(self):
        waiting = []
        for row in self.rows:
            self.gate(self)
            if len(waiting) == WINDOW:
                self._await(*waiting.pop(0))
            waiting.append((time.monotonic(), self.client.publish(self.topic, row, 1, wait=False)))
            self.sent += 1
            if self.pace:
                time.sleep(self.pace)
            while waiting and self.client.is_published(waiting[0][1]):
                self._await(*waiting.pop(0))
        for item in waiting:
            self._await(*item)
        self.client.close()

    def _await(self, since, mid):
        reason = self.client.await_published(mid)
        if reason >= 0x80:
            raise Timeout(f"{self.topic}: row refused with {reason:#x}")
        self.stall = max(self.stall, self.client.acknowledged_at.pop(mid) - since)


class Subscriber(threading.Thread):
    """Receives the whole table; with `elsewhere` it reconnects there when its node dies."""

    def __init__(self, endpoint, name, total, elsewhere=()):
        super().__init__(name=name, daemon=True)
        self.client = Client(endpoint, name, True)
        self.client.subscribe("weather/seattle/+", 1)
        self.total = total
        self.elsewhere = elsewhere
        self.seen = []
        self.before_reconnect = None
        self.reconnected = threading.Event()
        self.reconnect_seconds = None
        self.finished = threading.Event()

    def run(self):
        while len(self.seen) < self.total and not self.finished.is_set():
            try:
                message = self.client.next(timeout=0.02)
                self.seen.append((message.topic, message.payload))
            except Timeout:
                if self.elsewhere and not self.reconnected.is_set() and self.client.disconnected.is_set():
                    self._reconnect()

    def _reconnect(self):
        lost = time.monotonic()
        self.before_reconnect = len(self.seen)
        for endpoint in self.elsewhere:
            try:
                self.client = Client(endpoint, self.name, True)
                self.client.subscribe("weather/seattle/+", 1)
                break
            except (OSError, Timeout):
                continue
        else:
            raise Timeout("no other node took the subscriber")
        self.reconnect_seconds = time.monotonic() - lost
        self.reconnected.set()

    def by_topic(self, seen):
        """What came, topic by topic."""
        found = {}
        for topic, payload in seen:
            found.setdefault(topic, []).append(payload)
        return found

    def complete(self, quarters):
        """Raises unless every row came once, in order, unaltered."""
        self.join(60)
        found = self.by_topic(self.seen)
        for topic, rows in quarters.items():
            got = found.get(topic, [])
            if got != rows:
                wrong = next((n for n, pair in enumerate(zip(got, rows)) if pair[0] != pair[1]), min(len(got), len(rows)))
                raise AssertionError(f"{topic}: {len(got)} of {len(rows)} rows, the first difference at row {wrong}")
        if len(self.seen) != self.total:
            raise AssertionError(f"{len(self.seen)} messages for {self.total} rows")
        return f"{self.total} rows"

    def ordered_with_one_gap(self, quarters):
        """Raises unless rows came in order, unaltered, with at most one gap: while it was away."""
        if self.before_reconnect is None:
            raise AssertionError("the connection to the killed node did not end")
        self.join(60)
        before, after = self.seen[:self.before_reconnect], self.seen[self.before_reconnect:]
        lost = 0
        for topic, rows in quarters.items():
            head, tail = self.by_topic(before).get(topic, []), self.by_topic(after).get(topic, [])
            if head != rows[:len(head)]:
                raise AssertionError(f"{topic}: what came before the kill is no run of the first rows")
            if not tail or tail != rows[-len(tail):]:
                raise AssertionError(f"{topic}: what came after reconnecting is no run up to the last row")
            lost += max(0, len(rows) - len(head) - len(tail))
        return f"back after {self.reconnect_seconds:.3f} s, {lost} of {self.total} rows went by meanwhile"


class MidStream:
    """Holds the publishers at two thirds until the kill is confirmed, so that it falls into the stream."""

    def __init__(self, report):
        self.report = report
        self.killed = threading.Event()
        self.asked = threading.Event()
        self.lock = threading.Lock()

    def gate(self, publisher):
        """Called before each row."""
        share = publisher.sent / len(publisher.rows)
        with self.lock:
            ask = share >= 0.33 and not self.asked.is_set()
            if ask:
                self.asked.set()
                self.report.event("kill")
                threading.Thread(target=self._confirm, daemon=True).start()
        if share >= 0.66 and not self.killed.wait(30):
            raise Timeout("the kill was not confirmed")

    def _confirm(self):
        sys.stdin.readline()
        self.killed.set()


def stream(report, endpoints, kill):
    """One pass of the table."""
    rows = read_rows()
    quarters = quarters_of(rows)
    elsewhere = (endpoints[1], endpoints[0]) if kill else ()
    two = Subscriber(endpoints[1], "reader-2", len(rows))
    three = Subscriber(endpoints[2], "reader-3", len(rows), elsewhere)
    gate = MidStream(report).gate if kill else (lambda _publisher: None)
    publishers = [Publisher(endpoints[0], topic, part, PACE if kill else 0, gate) for topic, part in quarters.items()]
    started = time.monotonic()
    for thread in [two, three, *publishers]:
        thread.start()
    for publisher in publishers:
        report.check(f"publisher of {publisher.topic}", lambda p=publisher: publisher_done(p))
    report.event("published", rows=len(rows), seconds=round(time.monotonic() - started, 3))
    report.event("stall", seconds=round(max(publisher.stall for publisher in publishers), 3))
    report.check("subscriber of node 2: complete, in order, byte for byte", lambda: two.complete(quarters))
    if kill:
        report.check("subscriber of node 3: in order but for the time it was away", lambda: after_kill(three, quarters))
    else:
        report.check("subscriber of node 3: complete, in order, byte for byte", lambda: three.complete(quarters))


def publisher_done(publisher):
    """Waits for a publisher and raises what it raised."""
    publisher.join(120)
    if publisher.error:
        raise publisher.error
    if publisher.is_alive():
        raise Timeout(f"{publisher.topic} did not finish")
    return f"{publisher.sent} rows, longest wait {publisher.stall:.3f} s"


def after_kill(subscriber, quarters):
    """Ends the moved subscriber when the last row of every quarter has come, and checks it."""
    deadline = time.monotonic() + 60
    last = {(topic, rows[-1]) for topic, rows in quarters.items()}
    while subscriber.is_alive() and not last <= set(subscriber.seen) and time.monotonic() < deadline:
        subscriber.join(0.05)
    subscriber.finished.set()
    return subscriber.ordered_with_one_gap(quarters)


def main():
    """One pass, quiet or with a kill."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoints", required=True, type=parse_endpoints)
    parser.add_argument("--kill", action="store_true")
    arguments = parser.parse_args()
    if len(arguments.endpoints) != 3:
        parser.error("name three endpoints")
    report = Report("weather: ")
    stream(report, arguments.endpoints, arguments.kill)
    report.exit()


if __name__ == "__main__":
    main()
