"""paho-mqtt over TCP, TLS, WebSocket and secure WebSocket, in MQTT 3.1, 3.1.1 and 5.0.

Usage: paho_transports.py --endpoints N1,N2,N3 --tls N1,N2,N3 --ws N1,N2,N3 --wss N1,N2,N3 --ca FILE --cert FILE --key FILE
The publisher is on node 1, the subscriber on node 3. Prints a JSON line per check. Start at main.
"""

import argparse
import itertools
import os

import paho.mqtt.client as mqtt

from paho_client import Client, Transport
from report import Report, parse_endpoints

RUN = f"transports-{os.getpid()}"
VERSIONS = {"3.1": (False, mqtt.MQTTv31), "3.1.1": (False, mqtt.MQTTv311), "5.0": (True, None)}
LARGE = 700_000  # bytes: more than any buffer or record on the way


def expect(what, seen, wanted):
    """Fails with both values, as far as they can be read."""
    if seen != wanted:
        raise AssertionError(f"{what}: expected {str(wanted)[:80]!r}, saw {str(seen)[:80]!r}")


class Suite:
    """Where each transport is, and how it is spoken."""

    def __init__(self, report, arguments):
        self.report = report
        secure = {"ca": arguments.ca}
        self.places = {
            "tcp": (arguments.endpoints, {}),
            "tls": (arguments.tls, secure),
            "tls with a certificate": (arguments.tls, {**secure, "certificate": (arguments.cert, arguments.key)}),
            "ws": (arguments.ws, {"websocket": True}),
            "wss": (arguments.wss, {"websocket": True, **secure}),
        }
        self._names = itertools.count()

    def client(self, transport, node, version):
        """A client of node number `node`, from 0."""
        endpoints, how = self.places[transport]
        v5, v3 = VERSIONS[version]
        client_id = f"c{os.getpid()}-{next(self._names)}"  # 3.1 allows 23 characters
        return Client(endpoints[node], client_id, v5, over=Transport(v3=v3, **how))

    def exchange(self, transport, version, to=None):
        """Every QoS, many messages at once, a large one, and a retained one, from node 1 to node 3."""
        base = f"{RUN}/{next(self._names)}"
        with self.client(transport, 0, version) as publisher, self.client(to or transport, 2, version) as subscriber:
            for qos in (0, 1, 2):
                topic = f"{base}/{qos}"
                subscriber.subscribe(topic, qos)
                sent = [f"message {number}".encode() for number in range(50)] + [os.urandom(LARGE), b""]
                mids = [publisher.publish(topic, payload, qos, wait=False) for payload in sent]
                for mid in mids if qos else []:
                    publisher.await_published(mid)
                seen = subscriber.take(len(sent))
                expect("payloads", [message.payload for message in seen], sent)
                expect("qos", {message.qos for message in seen}, {qos})
            publisher.publish(f"{base}/kept", "kept", 1, retain=True)
            subscriber.subscribe(f"{base}/kept", 1)
            message = subscriber.next()
            expect("retained", (message.payload, message.retain), (b"kept", True))
            publisher.publish(f"{base}/kept", b"", 1, retain=True)

    def will(self, transport, version):
        """A connection that is cut below the transport is noticed."""
        topic = f"{RUN}/{next(self._names)}/will"
        endpoints, how = self.places[transport]
        v5, v3 = VERSIONS[version]
        with self.client(transport, 2, version) as watcher:
            watcher.subscribe(topic, 1)
            doomed = Client(endpoints[0], f"d{os.getpid()}-{next(self._names)}", v5, over=Transport(v3=v3, **how),
                            will={"topic": topic, "payload": "gone", "qos": 1})
            doomed.cut()
            expect("will", watcher.next().payload, b"gone")

    def run(self):
        """All versions over all transports, then from each transport to each other one."""
        for transport, version in itertools.product(self.places, VERSIONS):
            self.report.check(f"{transport}, {version}", lambda t=transport, v=version: self.exchange(t, v))
        for transport in self.places:
            self.report.check(f"{transport}, will", lambda t=transport: self.will(t, "5.0"))
        for one, other in itertools.permutations(("tcp", "tls", "ws", "wss"), 2):
            self.report.check(f"{one} to {other}", lambda a=one, b=other: self.exchange(a, "5.0", b))


def main():
    """Runs everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--endpoints", "--tls", "--ws", "--wss"):
        parser.add_argument(name, required=True, type=parse_endpoints)
    for name in ("--ca", "--cert", "--key"):
        parser.add_argument(name, required=True)
    report = Report("paho: ")
    Suite(report, parser.parse_args()).run()
    report.exit()


if __name__ == "__main__":
    main()
