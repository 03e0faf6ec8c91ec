"""How the Python client programs tell the Rust tests what happened.

One JSON object a line: {"name", "ok", "detail"} for a check, anything with "event" for a milestone.
Knows no MQTT. Start at Report.check.
"""

import json
import sys
import threading
import time
import traceback


class Report:
    """Collects the outcome of named checks and prints each as soon as it is known."""

    def __init__(self, prefix=""):
        self.prefix = prefix
        self.failed = 0
        self._lock = threading.Lock()

    def check(self, name, body):
        """Runs body(); the check holds when it returns and fails when it raises."""
        started = time.monotonic()
        try:
            detail = body()
            ok = True
        except Exception as error:  # a failed check is a result, not the end of the run
            where = traceback.extract_tb(error.__traceback__)[-1]
            detail = f"{type(error).__name__}: {error} (line {where.lineno})"
            ok = False
            self.failed += 1
        self.emit(name=self.prefix + name, ok=ok, detail=detail or "", seconds=round(time.monotonic() - started, 3))

    def event(self, event, **fields):
        """A milestone or a measurement."""
        self.emit(event=event, **fields)

    def emit(self, **fields):
        """Prints one line."""
        with self._lock:
            print(json.dumps(fields), flush=True)

    def exit(self):
        """Ends the program; the exit code tells whether all checks held."""
        sys.exit(1 if self.failed else 0)


def parse_endpoints(text):
    """`host:port,host:port` as a list of pairs."""
    endpoints = []
    for item in text.split(","):
        host, port = item.rsplit(":", 1)
        endpoints.append((host, int(port)))
    return endpoints
