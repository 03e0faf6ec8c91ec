"""Durable sessions of paho-mqtt over a cluster whose nodes are killed, for MQTT 3.1.1 and 5.0.

Usage: durable_suite.py --endpoints host:port,host:port,host:port
Prints a JSON line per check. {"event": "kill", "node": N} (from 1) asks the caller to kill -9 a node and
{"event": "start", "node": N} to start it again and wait until it is ready; the caller writes a line when it is done.
paho keeps the state of unfinished QoS 2 messages of a client object over its connections, as a client that is to get
messages exactly once must. Start at main.
"""

import argparse
import itertools
import os
import sys
import threading
import time

from paho.mqtt.packettypes import PacketTypes

from paho_client import DEADLINE, Client, Timeout, properties, publish_properties
from report import Report, parse_endpoints

RUN = f"durable-{os.getpid()}"
COUNT = 1_000  # QoS 2 messages around a kill
LONG = 3_600  # seconds: longer than any check


def expect(what, seen, wanted):
    """Fails with both values."""
    if seen != wanted:
        raise AssertionError(f"{what}: expected {wanted!r}, saw {seen!r}")


def texts(messages):
    """Payloads as text."""
    return [message.payload.decode() for message in messages]


def once(what, seen, wanted):
    """Fails unless each of `wanted` was seen exactly once."""
    twice = sorted({text for text in seen if seen.count(text) > 1}) if len(seen) != len(set(seen)) else []
    missing = [text for text in wanted if text not in set(seen)]
    if twice or missing or len(seen) != len(wanted):
        raise AssertionError(f"{what}: {len(seen)} of {len(wanted)}, twice {twice[:5]}, missing {missing[:5]}")


class Nodes:
    """The nodes, which the caller kills and starts."""

    def __init__(self, report, endpoints):
        self.report = report
        self.endpoints = endpoints

    def _ask(self, event, node):
        self.report.event(event, node=node + 1)
        if not sys.stdin.readline():
            raise Timeout(f"nobody answered to {event}")

    def kill(self, node):
        """kill -9 of node number `node`, from 0."""
        self._ask("kill", node)

    def start(self, node):
        """Starts it again and waits until it is ready."""
        self._ask("start", node)


class Durable(Client):
    """A client whose session outlives its connection."""

    def close(self, **arguments):
        """Says goodbye when everything received is acknowledged: paho hands a message over before it does that."""
        if self.paho.is_connected() and not self.disconnected.is_set():
            self.unsubscribe("nothing")
        super().close(**arguments)


class Suite:
    """The checks that both protocol versions share."""

    def __init__(self, nodes, v5):
        self.nodes = nodes
        self.endpoints = nodes.endpoints
        self.v5 = v5
        self._names = itertools.count()

    def unique(self, what):
        """A topic or client id nobody else uses."""
        return f"{RUN}-{'v5' if self.v5 else 'v4'}-{next(self._names)}-{what}"

    def transient(self, node, client_id=None, **arguments):
        """A client of node `node`, from 0, with a clean session."""
        return Client(self.endpoints[node], client_id or self.unique("transient"), self.v5, **arguments)

    def durable(self, node, client_id, expiry=LONG, **arguments):
        """A client of node `node` whose session outlives its connection."""
        if self.v5:
            arguments["connect_properties"] = properties(PacketTypes.CONNECT, SessionExpiryInterval=expiry)
        return Durable(self.endpoints[node], client_id, self.v5, clean=False, **arguments)

    def discard(self, client_id):
        """Ends a session by a clean start."""
        with self.transient(0, client_id) as client:
            expect("session present after a clean start", client.session_present, False)

    @staticmethod
    def until_fence(client):
        """Everything before the message `fence`."""
        seen = []
        while True:
            message = client.next()
            if message.payload == b"fence":
                return seen
            seen.append(message)

    def continued_elsewhere(self):
        """The session, its subscriptions and what came meanwhile are there on every node."""
        client_id, topic = self.unique("client"), self.unique("topic")
        with self.durable(0, client_id) as client:
            expect("session present at first", client.session_present, False)
            client.subscribe(topic, 2)
        for node in (1, 2, 0):
            sent = [f"{node} {number}" for number in range(20)]
            with self.transient(node) as publisher:
                for number, text in enumerate(sent):
                    publisher.publish(topic, text, 1 + number % 2)
            with self.durable(node, client_id) as client:
                expect("session present", client.session_present, True)
                seen = client.take(len(sent))
                # in the order of their quality of service: paho hands a QoS 2 message over at its PUBREL
                for qos in (1, 2):
                    expect(f"qos {qos}", texts(m for m in seen if m.qos == qos), sent[qos - 1::2])
                with self.transient((node + 1) % 3) as publisher:
                    publisher.publish(topic, "live")
                    publisher.publish(topic, "fence")
                expect("live", texts(self.until_fence(client)), ["live"])
        self.discard(client_id)

    def clean_start_ends_it(self):
        """After a clean start neither the subscriptions nor the queue are there."""
        client_id, topic = self.unique("client"), self.unique("topic")
        with self.durable(0, client_id) as client:
            client.subscribe(topic, 1)
        with self.transient(1) as publisher:
            publisher.publish(topic, "lost")
            self.discard(client_id)
            with self.durable(2, client_id) as client:
                expect("session present", client.session_present, False)
                client.subscribe(topic + "/fence", 1)
                publisher.publish(topic, "nobody's")
                publisher.publish(topic + "/fence", "fence")
                expect("messages", texts(self.until_fence(client)), [])
        self.discard(client_id)

    def unsubscribed_stays_unsubscribed(self):
        """What was unsubscribed is not continued."""
        client_id, topic = self.unique("client"), self.unique("topic")
        with self.durable(0, client_id) as client:
            client.subscribe(topic + "/a", 1)
            client.subscribe(topic + "/b", 1)
            client.unsubscribe(topic + "/a")
        with self.transient(1) as publisher:
            publisher.publish(topic + "/a", "a")
            publisher.publish(topic + "/b", "b")
        with self.durable(2, client_id) as client:
            expect("messages", client.next().payload, b"b")
        self.discard(client_id)

    def takeover_of_a_connected_session(self):
        """A second connection elsewhere continues the session and ends the first."""
        client_id, topic = self.unique("client"), self.unique("topic")
        old = self.durable(0, client_id)
        old.subscribe(topic, 1)
        with self.durable(1, client_id) as new:
            expect("session present", new.session_present, True)
            old.await_disconnect()
            with self.transient(2) as publisher:
                publisher.publish(topic, "mine")
            expect("payload", new.next().payload, b"mine")
        old.close()
        self.discard(client_id)

    def retained_at_subscribe(self):
        """A durable client gets retained messages when it subscribes, and not again when it comes back."""
        client_id, topic = self.unique("client"), self.unique("topic")
        with self.transient(0) as publisher:
            publisher.publish(topic, "kept", 1, retain=True)
            with self.durable(1, client_id) as client:
                client.subscribe(topic, 1)
                seen = client.next()
                expect("retained", (seen.payload, seen.retain), (b"kept", True))
            with self.durable(2, client_id) as client:
                publisher.publish(topic, "fence")
                expect("again", texts(self.until_fence(client)), [])
            publisher.publish(topic, b"", 1, retain=True)
        self.discard(client_id)

    def publisher_over_a_kill(self, home, refuge):
        """QoS 2 from a durable publisher whose node is killed on the way: everybody gets each message once."""
        client_id, topic = self.unique("publisher"), self.unique("topic")
        away = self.unique("subscriber")
        with self.durable(refuge, away) as subscriber:
            subscriber.subscribe(topic, 2)
        live = self.transient(3 - home - refuge)
        live.subscribe(topic, 2)
        publisher = self.durable(home, client_id)
        sent = [str(number) for number in range(COUNT)]
        mids = [publisher.publish(topic, text, 2, wait=False) for text in sent]
        self.kill_when(home, lambda: len(publisher.acknowledged_at) >= COUNT // 10)
        self.move(publisher, refuge)
        for mid in mids:
            publisher.await_published(mid)
        once("online subscriber", texts(live.take(COUNT)), sent)
        with self.durable(refuge, away) as subscriber:
            once("durable subscriber", texts(subscriber.take(COUNT)), sent)
            publisher.publish(topic, "fence", 2)
            expect("durable subscriber, more", texts(self.until_fence(subscriber)), [])
        expect("online subscriber, more", texts(self.until_fence(live)), [])
        publisher.close()
        live.close()
        self.nodes.start(home)
        self.discard(client_id)
        self.discard(away)

    def subscriber_over_a_kill(self, home, refuge):
        """QoS 2 to a durable subscriber whose node is killed on the way: it gets each message once."""
        client_id, topic = self.unique("subscriber"), self.unique("topic")
        subscriber = self.durable(home, client_id)
        subscriber.subscribe(topic, 2)
        sent = [str(number) for number in range(COUNT)]
        with self.transient(refuge) as publisher:
            mids = [publisher.publish(topic, text, 2, wait=False) for text in sent]
            self.kill_when(home, lambda: subscriber.messages.qsize() >= COUNT // 10)
            expect("session present", self.move(subscriber, refuge), True)
            for mid in mids:
                publisher.await_published(mid)
            once("subscriber", texts(subscriber.take(COUNT)), sent)
            publisher.publish(topic, "fence", 2)
            expect("more", texts(self.until_fence(subscriber)), [])
        subscriber.close()
        self.nodes.start(home)
        self.discard(client_id)

    def kill_when(self, node, level):
        """Kills a node as soon as `level` holds."""
        deadline = time.monotonic() + DEADLINE
        while not level():
            if time.monotonic() > deadline:
                raise Timeout("what the kill was to wait for did not come")
            threading.Event().wait(0.001)
        self.nodes.kill(node)

    def move(self, client, node):
        """Reconnects a client whose node was killed; tries again while the cluster takes notice."""
        client.await_disconnect()
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                return client.move(self.endpoints[node])
            except (OSError, Timeout):
                if time.monotonic() > deadline:
                    raise

    def checks(self):
        """Names and bodies."""
        yield from ((name.replace("_", " "), getattr(self, name)) for name in (
            "continued_elsewhere", "clean_start_ends_it", "unsubscribed_stays_unsubscribed",
            "takeover_of_a_connected_session", "retained_at_subscribe"))
        for home, refuge in ((0, 1), (2, 0)):
            yield (f"qos 2 in, node {home + 1} killed", lambda h=home, r=refuge: self.publisher_over_a_kill(h, r))
            yield (f"qos 2 out, node {home + 1} killed", lambda h=home, r=refuge: self.subscriber_over_a_kill(h, r))


class Suite5(Suite):
    """What only MQTT 5.0 has."""

    def after(self, seconds):
        """Waits for the broker's own clock: a session ends after so many seconds, and its will tells."""
        topic = self.unique("clock")
        with self.transient(1) as watcher:
            watcher.subscribe(topic, 1)
            will = {"topic": topic, "payload": "now", "qos": 1,
                    "properties": properties(PacketTypes.WILLMESSAGE, WillDelayInterval=LONG)}
            self.durable(0, self.unique("clock"), expiry=seconds, will=will).cut()
            expect("will", watcher.next().payload, b"now")

    def expiry_at_disconnect(self):
        """A DISCONNECT may end the session, or make it last longer."""
        client_id = self.unique("client")
        client = self.durable(0, client_id)
        client.subscribe(client_id, 1)
        client.close(properties=properties(PacketTypes.DISCONNECT, SessionExpiryInterval=0))
        with self.transient(1) as publisher:
            publisher.publish(client_id, "lost")
        with self.durable(1, client_id) as client:
            expect("session present", client.session_present, False)
        self.discard(client_id)
        short = self.durable(0, client_id, expiry=1)
        short.close(properties=properties(PacketTypes.DISCONNECT, SessionExpiryInterval=LONG))
        self.after(2)
        with self.durable(2, client_id) as client:
            expect("session present after its first expiry", client.session_present, True)
        self.discard(client_id)

    def expiry_after_time(self):
        """A session ends when nobody comes back in time, and its will is published then."""
        client_id, topic = self.unique("client"), self.unique("will")
        with self.transient(1) as watcher:
            watcher.subscribe(topic, 1)
            will = {"topic": topic, "payload": "ended", "qos": 1,
                    "properties": properties(PacketTypes.WILLMESSAGE, WillDelayInterval=LONG)}
            client = self.durable(0, client_id, expiry=2, will=will)
            client.subscribe(client_id, 1)
            client.cut()
            with self.transient(2) as publisher:
                publisher.publish(client_id, "lost")
            expect("will", watcher.next().payload, b"ended")
        with self.durable(2, client_id) as client:
            expect("session present", client.session_present, False)
        self.discard(client_id)

    def message_expiry_in_the_queue(self):
        """A message that waits too long is not sent; another says how long it may still live."""
        client_id, topic = self.unique("client"), self.unique("topic")
        with self.durable(0, client_id) as client:
            client.subscribe(topic, 1)
        with self.transient(1) as publisher:
            publisher.publish(topic, "short", props=publish_properties(MessageExpiryInterval=1))
            publisher.publish(topic, "long", props=publish_properties(MessageExpiryInterval=1_000))
        self.after(2)
        with self.durable(2, client_id) as client:
            seen = client.next()
            expect("payload", seen.payload, b"long")
            if not 900 <= seen.properties.MessageExpiryInterval <= 999:
                raise AssertionError(f"expiry left: {seen.properties.MessageExpiryInterval}")
        self.discard(client_id)

    def options_are_kept(self):
        """No Local, Retain As Published and the identifier of a subscription are continued with it."""
        client_id, topic = self.unique("client"), self.unique("topic")
        with self.durable(0, client_id) as client:
            client.subscribe(topic + "/own", 1, noLocal=True)
            client.subscribe(topic + "/kept", 1, retainAsPublished=True, identifier=268_435_455)
        with self.transient(1) as publisher:
            publisher.publish(topic + "/kept", "kept", 1, retain=True)
        with self.durable(2, client_id) as client, self.transient(0) as publisher:
            seen = client.next()
            expect("payload and flag", (seen.payload, seen.retain), (b"kept", True))
            expect("identifier", seen.properties.SubscriptionIdentifier, [268_435_455])
            client.publish(topic + "/own", "own")
            publisher.publish(topic + "/own", "fence")
            expect("own messages", texts(self.until_fence(client)), [])
            publisher.publish(topic + "/kept", b"", 1, retain=True)
        self.discard(client_id)

    def properties_are_kept(self):
        """What travels with a message waits with it."""
        client_id, topic = self.unique("client"), self.unique("topic")
        with self.durable(0, client_id) as client:
            client.subscribe(topic, 2)
        with self.transient(1) as publisher:
            publisher.publish(topic, "whole", 2, props=publish_properties(
                ContentType="text/plain", ResponseTopic="answer", CorrelationData=b"\x00\xff",
                PayloadFormatIndicator=1, UserProperty=[("a", "1"), ("a", "2")]))
        with self.durable(2, client_id) as client:
            seen = client.next().properties
            expect("properties", (seen.ContentType, seen.ResponseTopic, seen.CorrelationData,
                                  seen.PayloadFormatIndicator, seen.UserProperty),
                   ("text/plain", "answer", b"\x00\xff", 1, [("a", "1"), ("a", "2")]))
        self.discard(client_id)

    def one_at_a_time(self):
        """A client with a receive maximum of 1 gets a long queue."""
        client_id, topic = self.unique("client"), self.unique("topic")
        with self.durable(0, client_id) as client:
            client.subscribe(topic, 2)
        sent = [str(number) for number in range(100)]
        with self.transient(1) as publisher:
            for number, text in enumerate(sent):
                publisher.publish(topic, text, 1 + number % 2)
        narrow = properties(PacketTypes.CONNECT, SessionExpiryInterval=LONG, ReceiveMaximum=1)
        with Durable(self.endpoints[2], client_id, True, clean=False, connect_properties=narrow) as client:
            expect("messages", texts(client.take(len(sent))), sent)
        self.discard(client_id)

    def checks(self):
        """Everything, then what only 5.0 has."""
        yield from super().checks()
        yield from ((name.replace("_", " "), getattr(self, name)) for name in (
            "expiry_at_disconnect", "expiry_after_time", "message_expiry_in_the_queue", "options_are_kept",
            "properties_are_kept", "one_at_a_time"))


def main():
    """Both versions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoints", required=True, type=parse_endpoints)
    arguments = parser.parse_args()
    if len(arguments.endpoints) != 3:
        parser.error("name three endpoints")
    report = Report()
    nodes = Nodes(report, arguments.endpoints)
    for prefix, suite in (("paho 3.1.1, durable: ", Suite(nodes, v5=False)), ("paho 5.0, durable: ", Suite5(nodes, v5=True))):
        report.prefix = prefix
        for name, body in suite.checks():
            report.check(name, body)
    report.exit()


if __name__ == "__main__":
    main()
