"""paho-mqtt against a cluster: the whole matrix for MQTT 3.1.1 and 5.0 in one process.

Usage: paho_suite.py --endpoints host:port,host:port,host:port
Each endpoint is a node; the same one may be named several times. Prints a JSON line per check.
Knows nothing of zwerm but its endpoints. Start at main.
"""

import argparse
import itertools
import os
import time

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from paho_client import DEADLINE, Client, Timeout, properties, publish_properties
from report import Report, parse_endpoints

RUN = f"paho-{os.getpid()}"  # keeps topics and client ids of parallel runs apart
PER_CELL = 5  # messages for each pair of nodes and QoS


def expect(what, seen, wanted):
    """Fails with both values."""
    if seen != wanted:
        raise AssertionError(f"{what}: expected {wanted!r}, saw {seen!r}")


def texts(messages):
    """Payloads as text."""
    return [message.payload.decode() for message in messages]


class Suite:
    """The checks that both protocol versions share."""

    def __init__(self, report, endpoints, v5):
        self.report = report
        self.endpoints = endpoints
        self.v5 = v5
        self.version = "v5" if v5 else "v4"
        self._names = itertools.count()

    def unique(self, what):
        """A topic or client id nobody else uses."""
        return f"{RUN}/{self.version}/{next(self._names)}/{what}"

    def client(self, node, **arguments):
        """A client of node number `node`, counted from 0."""
        client_id = arguments.pop("client_id", None) or self.unique("c").replace("/", "-")
        return Client(self.endpoints[node], client_id, self.v5, **arguments)

    def pairs(self):
        """Every ordered pair of nodes, each with itself too."""
        return itertools.product(range(len(self.endpoints)), repeat=2)

    def matrix(self):
        """Every pair of nodes and every QoS: in order, whole, once, with the right flags."""
        nodes = range(len(self.endpoints))
        publishers = [self.client(node) for node in nodes]
        subscribers = [self.client(node) for node in nodes]
        for (source, target), qos in itertools.product(self.pairs(), (0, 1, 2)):
            self.report.check(
                f"publish on {source + 1}, subscribe on {target + 1}, qos {qos}",
                lambda p=publishers[source], s=subscribers[target], q=qos: self.cell(p, s, q, q))
        for published, subscribed in itertools.product((0, 1, 2), repeat=2):
            self.report.check(
                f"published with qos {published}, subscribed with qos {subscribed}",
                lambda p=published, s=subscribed: self.cell(publishers[0], subscribers[-1], p, s))
        for client in publishers + subscribers:
            client.close()

    def cell(self, publisher, subscriber, published, subscribed):
        """PER_CELL messages one way."""
        topic = self.unique("cell")
        granted = subscriber.subscribe(topic, subscribed)
        expect("granted", granted, [subscribed])
        sent = [f"message {number} é {topic}" for number in range(PER_CELL)]
        mids = [publisher.publish(topic, text, published, wait=False) for text in sent]
        if published:
            for mid in mids:
                publisher.await_published(mid)
        seen = subscriber.take(PER_CELL)
        expect("payloads", texts(seen), sent)
        expect("topics", {message.topic for message in seen}, {topic})
        expect("qos", {message.qos for message in seen}, {min(published, subscribed)})
        expect("retain flags", {message.retain for message in seen}, {False})
        subscriber.unsubscribe(topic)
        if not subscriber.messages.empty():
            raise AssertionError(f"a message too many: {subscriber.messages.get().payload!r}")

    def first_after_subscribe(self, node, topic, live=b"live", **options):
        """What a new subscriber of `topic` sees before a message published after its SUBACK, and that one."""
        with self.client(node) as subscriber, self.client(node) as publisher:
            subscriber.subscribe(topic, 1, **options)
            publisher.publish(topic, live)
            seen = []
            while not seen or seen[-1].payload != live:
                seen.append(subscriber.next())
            return seen

    def retained(self, source, target):
        """A retained message is there after its PUBACK, replaced by the next, gone after an empty one."""
        topic = self.unique("kept")
        with self.client(source) as publisher:
            for text in ("first", "second"):
                publisher.publish(topic, text, retain=True)
                seen = self.first_after_subscribe(target, topic)
                expect("payloads", texts(seen), [text, "live"])
                expect("retain flags", [m.retain for m in seen], [True, False])
            publisher.publish(topic, b"", retain=True)
            expect("after deletion", texts(self.first_after_subscribe(target, topic)), ["live"])

    def retained_reaches_live_subscribers_unmarked(self):
        """Who is subscribed already gets a retained message without the flag."""
        topic = self.unique("kept")
        with self.client(0) as publisher, self.client(1) as subscriber:
            subscriber.subscribe(topic, 1)
            publisher.publish(topic, "now", retain=True)
            expect("retain flag", subscriber.next().retain, False)
            publisher.publish(topic, b"", retain=True)
            expect("deletion is forwarded", subscriber.next().payload, b"")

    def retained_by_wildcard(self):
        """A wildcard subscription gets every matching retained message, whichever node took it."""
        base = self.unique("many")
        sent = {f"{base}/{room}/{what}": f"{room} {what}" for room in range(8) for what in ("t", "h")}
        clients = [self.client(node) for node in range(len(self.endpoints))]
        for number, (topic, text) in enumerate(sent.items()):
            clients[number % len(clients)].publish(topic, text, retain=True)
        for client in clients:
            client.subscribe(f"{base}/+/t", 1)
            wanted = {topic: text for topic, text in sent.items() if topic.endswith("/t")}
            expect("retained", {m.topic: m.payload.decode() for m in client.take(len(wanted))}, wanted)
        for topic in sent:
            clients[0].publish(topic, b"", retain=True)
        for client in clients:
            client.close()

    def wildcards(self, source, target):
        """+ and # match levels, not prefixes."""
        base = self.unique("w")
        topics = ["a", "a/b", "a/b/c", "a//c", "ab", "b/b/c"]
        table = {"a": ["a"], "a/#": ["a", "a/b", "a/b/c", "a//c"], "a/+": ["a/b"], "a/+/c": ["a/b/c", "a//c"],
                 "+/b/#": ["a/b", "a/b/c", "b/b/c"], "+": ["a", "ab"]}
        with self.client(source) as publisher:
            for pattern, wanted in table.items():
                with self.client(target) as subscriber:
                    subscriber.subscribe(f"{base}/{pattern}", 1)
                    subscriber.subscribe(f"{base}-fence", 1)
                    for topic in topics:
                        publisher.publish(f"{base}/{topic}", topic)
                    publisher.publish(f"{base}-fence", "fence")
                    expect(pattern, texts(self.until_fence(subscriber)), wanted)

    @staticmethod
    def until_fence(subscriber):
        """Everything before the message `fence`, which was published after the rest was acknowledged."""
        seen = []
        while True:
            message = subscriber.next()
            if message.payload == b"fence":
                return seen
            seen.append(message)

    def unsubscribe(self, source, target):
        """After UNSUBACK nothing more comes."""
        topic, fence = self.unique("off"), self.unique("fence")
        with self.client(source) as publisher, self.client(target) as subscriber:
            subscriber.subscribe(topic, 1)
            subscriber.subscribe(fence, 1)
            publisher.publish(topic, "before")
            expect("before", subscriber.next().payload, b"before")
            subscriber.unsubscribe(topic)
            publisher.publish(topic, "after")
            publisher.publish(fence, "fence")
            expect("after", self.until_fence(subscriber), [])

    def takeover(self, first, second):
        """The same client id elsewhere: the old connection ends, the new one works."""
        client_id, topic = self.unique("same").replace("/", "-"), self.unique("t")
        old = self.client(first, client_id=client_id)
        with self.client(second, client_id=client_id) as new:
            reason = old.await_disconnect()
            if self.v5:
                expect("reason", reason, 0x8E)
            new.subscribe(topic, 1)
            with self.client(first) as publisher:
                publisher.publish(topic, "mine")
            expect("payload", new.next().payload, b"mine")
        old.close()

    def will(self, source, target, reset, qos=1):
        """A connection that ends without DISCONNECT publishes the will, once."""
        topic = self.unique("will")
        with self.client(target) as watcher:
            watcher.subscribe(topic, 2)
            doomed = self.client(source, will={"topic": topic, "payload": "gone", "qos": qos})
            doomed.cut(reset)
            message = watcher.next()
            expect("payload", message.payload, b"gone")
            expect("qos", message.qos, qos)
            with self.client(source) as publisher:
                publisher.publish(topic, "fence")
            expect("once", self.until_fence(watcher), [])

    def no_will_after_goodbye(self):
        """DISCONNECT withdraws the will."""
        topic = self.unique("will")
        with self.client(1) as watcher:
            watcher.subscribe(topic, 1)
            self.client(0, will={"topic": topic, "payload": "gone", "qos": 1}).close()
            with self.client(0) as publisher:
                publisher.publish(topic, "fence")
            expect("no will", self.until_fence(watcher), [])

    def retained_will(self):
        """A will with the retain flag is kept."""
        topic = self.unique("will")
        with self.client(1) as watcher:
            watcher.subscribe(topic, 1)
            self.client(0, will={"topic": topic, "payload": "gone", "qos": 1, "retain": True}).cut()
            expect("payload", watcher.next().payload, b"gone")
        expect("kept", texts(self.first_after_subscribe(2, topic)), ["gone", "live"])
        with self.client(0) as publisher:
            publisher.publish(topic, b"", retain=True)

    def large_payload(self):
        """300 KiB, byte for byte, across nodes."""
        topic, payload = self.unique("large"), os.urandom(300 * 1024)
        with self.client(0) as publisher, self.client(2) as subscriber:
            subscriber.subscribe(topic, 2)
            for qos in (0, 1, 2):
                publisher.publish(topic, payload, qos)
                expect(f"qos {qos} intact", subscriber.next().payload == payload, True)

    def burst(self, qos):
        """1,000 messages in one go arrive complete and in order at all nodes."""
        topic = self.unique("burst")
        sent = [str(number) for number in range(1000)]
        subscribers = [self.client(node) for node in range(len(self.endpoints))]
        for subscriber in subscribers:
            subscriber.subscribe(topic, qos)
        with self.client(0) as publisher:
            mids = [publisher.publish(topic, text, qos, wait=False) for text in sent]
            for mid in mids:
                publisher.await_published(mid)
            for subscriber in subscribers:
                expect("burst", texts(subscriber.take(len(sent))), sent)
        for subscriber in subscribers:
            subscriber.close()

    def run(self):
        """Everything both versions can do."""
        self.matrix()
        check = self.report.check
        for source, target in self.pairs():
            between = f"{source + 1} to {target + 1}"
            check(f"retained, {between}", lambda s=source, t=target: self.retained(s, t))
            check(f"takeover, {between}", lambda s=source, t=target: self.takeover(s, t))
            check(f"will, {between}", lambda s=source, t=target: self.will(s, t, reset=(s + t) % 2 == 0))
        for qos in (0, 2):
            check(f"will with qos {qos}", lambda q=qos: self.will(0, 1, False, q))
        check("no will after DISCONNECT", self.no_will_after_goodbye)
        check("retained will", self.retained_will)
        check("retained to live subscribers", self.retained_reaches_live_subscribers_unmarked)
        check("retained by wildcard", self.retained_by_wildcard)
        check("wildcards, 1 to 2", lambda: self.wildcards(0, 1))
        check("wildcards, 3 to 1", lambda: self.wildcards(2, 0))
        check("unsubscribe, 1 to 3", lambda: self.unsubscribe(0, 2))
        check("unsubscribe, 2 to 2", lambda: self.unsubscribe(1, 1))
        check("large payload", self.large_payload)
        for qos in (1, 2):
            check(f"burst with qos {qos}", lambda q=qos: self.burst(q))


class Suite5(Suite):
    """What only 5.0 has."""

    def message_properties(self):
        """What a publisher attaches arrives unaltered and in order."""
        topic = self.unique("props")
        pairs = [("a", "1"), ("b", "zwei"), ("a", "3")]
        sent = publish_properties(UserProperty=pairs, ContentType="text/plain", ResponseTopic="answers/here",
                                  CorrelationData=b"\x00\x01\xff", PayloadFormatIndicator=1)
        with self.client(0) as publisher, self.client(2) as subscriber:
            subscriber.subscribe(topic, 1)
            publisher.publish(topic, "hello", props=sent)
            seen = subscriber.next().properties
        expect("user properties", [tuple(pair) for pair in seen.UserProperty], pairs)
        expect("content type", seen.ContentType, "text/plain")
        expect("response topic", seen.ResponseTopic, "answers/here")
        expect("correlation data", seen.CorrelationData, b"\x00\x01\xff")
        expect("payload format", seen.PayloadFormatIndicator, 1)

    def request_and_response(self):
        """The pattern the two properties are for, across two nodes."""
        question, answers = self.unique("question"), self.unique("answers")
        with self.client(0) as asker, self.client(2) as worker:
            worker.subscribe(question, 1)
            asker.subscribe(answers, 1)
            asker.publish(question, "6*7", props=publish_properties(ResponseTopic=answers, CorrelationData=b"k1"))
            request = worker.next()
            worker.publish(request.properties.ResponseTopic, "42",
                           props=publish_properties(CorrelationData=request.properties.CorrelationData))
            reply = asker.next()
            expect("answer", (reply.payload, reply.properties.CorrelationData), (b"42", b"k1"))

    def topic_alias(self):
        """An alias stands for its topic, and may be given another one."""
        topics = [self.unique("alias"), self.unique("alias")]
        with self.client(0) as publisher, self.client(1) as subscriber:
            maximum = getattr(publisher.connack_properties, "TopicAliasMaximum", 0)
            if maximum == 0:
                raise AssertionError("the broker takes no topic aliases")
            for topic in topics:
                subscriber.subscribe(topic, 1)
            for named, text in [(topics[0], "1"), ("", "2"), (topics[1], "3"), ("", "4")]:
                publisher.publish(named, text, props=publish_properties(TopicAlias=1))
            seen = [(m.topic, m.payload.decode()) for m in subscriber.take(4)]
            expect("seen", seen, [(topics[0], "1"), (topics[0], "2"), (topics[1], "3"), (topics[1], "4")])

    def alias_to_client(self):
        """A broker may use aliases towards a client that allows them; the topics come out the same."""
        topic = self.unique("alias")
        allowed = properties(PacketTypes.CONNECT, TopicAliasMaximum=5)
        with self.client(0) as publisher, self.client(1, connect_properties=allowed) as subscriber:
            subscriber.subscribe(topic, 1)
            for text in ("1", "2", "3"):
                publisher.publish(topic, text)
            aliased = {}
            for message, text in zip(subscriber.take(3), ("1", "2", "3")):
                alias = getattr(message.properties, "TopicAlias", None)
                if message.topic and alias:
                    aliased[alias] = message.topic
                expect("topic", message.topic or aliased.get(alias), topic)
                expect("payload", message.payload.decode(), text)

    def expiry_counts_down(self):
        """A kept message carries what is left of its expiry."""
        topic = self.unique("expiry")
        with self.client(0) as publisher:
            publisher.publish(topic, "kept", retain=True, props=publish_properties(MessageExpiryInterval=1000))
            seen = self.first_after_subscribe(1, topic)[0].properties.MessageExpiryInterval
            if not 900 <= seen <= 1000:
                raise AssertionError(f"expiry left: {seen}")
            publisher.publish(topic, b"", retain=True)

    def expired_retained_is_gone(self):
        """A kept message is not sent after its expiry."""
        topic = self.unique("expiry")
        with self.client(0) as publisher:
            publisher.publish(topic, "kept", retain=True, props=publish_properties(MessageExpiryInterval=2))
        published = time.monotonic()
        while True:
            asked = time.monotonic()
            seen = texts(self.first_after_subscribe(1, topic))
            if seen == ["live"]:
                if time.monotonic() - published < 1.0:
                    raise AssertionError("gone before its time")
                return
            if asked - published > 5.0:
                raise AssertionError(f"still there after {asked - published:.1f} s")

    def subscription_ids(self):
        """Each matching subscription is named, in one message or in several."""
        base = self.unique("ids")
        with self.client(0) as publisher, self.client(2) as subscriber:
            subscriber.subscribe(f"{base}/+", 1, identifier=7)
            subscriber.subscribe(f"{base}/#", 1, identifier=268_435_455)
            subscriber.subscribe(f"{base}/fence", 1)
            publisher.publish(f"{base}/x", "x")
            publisher.publish(f"{base}/fence", "fence")
            seen = self.until_fence(subscriber)
            found = [number for m in seen for number in m.properties.SubscriptionIdentifier]
            expect("identifiers", sorted(found), [7, 268_435_455])

    def no_local(self):
        """A subscription with No Local does not get the client's own messages."""
        topic = self.unique("local")
        with self.client(0) as both, self.client(1) as other:
            both.subscribe(topic, 1, noLocal=True)
            both.publish(topic, "own")
            other.publish(topic, "fence")
            expect("own messages", self.until_fence(both), [])

    def retain_as_published(self):
        """The flag is kept for who asks for it, cleared for the others."""
        topic = self.unique("rap")
        with self.client(0) as publisher, self.client(1) as asks, self.client(1) as other:
            asks.subscribe(topic, 1, retainAsPublished=True)
            other.subscribe(topic, 1)
            publisher.publish(topic, "kept", retain=True)
            publisher.publish(topic, "plain")
            expect("who asks", [m.retain for m in asks.take(2)], [True, False])
            expect("who does not", [m.retain for m in other.take(2)], [False, False])
            publisher.publish(topic, b"", retain=True)

    def retain_handling(self):
        """0: at every subscribe; 1: only for a new subscription; 2: never."""
        topic = self.unique("handling")
        with self.client(0) as publisher:
            publisher.publish(topic, "kept", retain=True)
            for handling, wanted in [(0, ["kept", "kept"]), (1, ["kept"]), (2, [])]:
                with self.client(2) as subscriber:
                    for _ in range(2):
                        subscriber.subscribe(topic, 1, retainHandling=handling)
                    publisher.publish(topic, "fence")
                    expect(f"handling {handling}", texts(self.until_fence(subscriber)), wanted)
            publisher.publish(topic, b"", retain=True)

    def shared(self):
        """Each message goes to one member of a group across all nodes, and to every plain subscriber."""
        topic, count = self.unique("shared"), 60
        members = [self.client(node) for node in (0, 1, 2, 2)]
        with self.client(0) as plain, self.client(1) as publisher:
            for member in members:
                member.subscribe(f"$share/group/{topic}", 1)
            plain.subscribe(topic, 1)
            sent = [str(number) for number in range(count)]
            for text in sent:
                publisher.publish(topic, text)
            expect("plain subscriber", texts(plain.take(count)), sent)
            seen, deadline = [], time.monotonic() + DEADLINE
            while len(seen) < count and time.monotonic() < deadline:
                for member in members:
                    while not member.messages.empty():
                        seen.append(member.messages.get().payload.decode())
            for member in members:
                member.close()
                while not member.messages.empty():
                    seen.append(member.messages.get().payload.decode())
            expect("members together", sorted(seen, key=int), sent)

    def assigned_client_id(self):
        """A client without an id is given one, and two are given different ones."""
        with Client(self.endpoints[0], "", True) as one, Client(self.endpoints[1], "", True) as two:
            ids = [c.connack_properties.AssignedClientIdentifier for c in (one, two)]
            if not all(ids) or ids[0] == ids[1]:
                raise AssertionError(f"ids: {ids}")

    def unsubscribe_reason(self):
        """0x00 for a subscription that was, 0x11 for one that was not."""
        topic = self.unique("off")
        with self.client(0) as client:
            client.subscribe(topic, 1)
            expect("existing", client.unsubscribe(topic), [0x00])
            expect("not existing", client.unsubscribe(topic), [0x11])

    def will_after_disconnect_with_will(self):
        """DISCONNECT with 0x04 publishes the will all the same."""
        topic = self.unique("will")
        with self.client(1) as watcher:
            watcher.subscribe(topic, 1)
            doomed = self.client(0, will={"topic": topic, "payload": "gone", "qos": 1})
            doomed.close(reasoncode=ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message"))
            expect("payload", watcher.next().payload, b"gone")

    def delayed_will(self):
        """A will with a delay comes after it while the session lives on."""
        topic = self.unique("will")
        with self.client(1) as watcher:
            watcher.subscribe(topic, 1)
            doomed = self.client(
                0, will={"topic": topic, "payload": "gone", "qos": 1,
                         "properties": properties(PacketTypes.WILLMESSAGE, WillDelayInterval=2)},
                connect_properties=properties(PacketTypes.CONNECT, SessionExpiryInterval=60))
            doomed.cut()
            cut = time.monotonic()
            expect("payload", watcher.next().payload, b"gone")
            waited = time.monotonic() - cut
            if self.outlives(doomed) and waited < 1.5:
                raise AssertionError(f"came after {waited:.2f} s")
            return f"came after {waited:.2f} s; sessions outlive connections: {self.outlives(doomed)}"

    @staticmethod
    def outlives(client):
        """Whether the broker granted a session that outlives its connection. If it did not, a will with a delay
        comes at once: at the end of the session, when that is earlier (section 3.1.3.2.2)."""
        return getattr(client.connack_properties, "SessionExpiryInterval", 1) > 0

    def delayed_will_is_cancelled(self):
        """Who comes back in time, on another node, is not reported gone."""
        topic, client_id = self.unique("will"), self.unique("back").replace("/", "-")
        expiry = properties(PacketTypes.CONNECT, SessionExpiryInterval=60)
        with self.client(1) as watcher:
            watcher.subscribe(topic, 1)
            doomed = self.client(
                0, client_id=client_id, clean=False, connect_properties=expiry,
                will={"topic": topic, "payload": "gone", "qos": 1,
                      "properties": properties(PacketTypes.WILLMESSAGE, WillDelayInterval=2)})
            if not self.outlives(doomed):
                doomed.close()
                return "not asked: the broker grants no session that outlives its connection"
            doomed.cut()
            cut = time.monotonic()
            with self.client(2, client_id=client_id, clean=False, connect_properties=expiry):
                try:
                    late = watcher.next(timeout=cut + 4.0 - time.monotonic())
                except Timeout:
                    late = None
                expect("will", late, None)
        with self.client(0, client_id=client_id):  # a clean start ends the session
            pass

    def receive_maximum(self):
        """A client that takes one message at a time gets all of them."""
        topic, sent = self.unique("one"), [str(number) for number in range(50)]
        narrow = properties(PacketTypes.CONNECT, ReceiveMaximum=1)
        with self.client(0) as publisher, self.client(1, connect_properties=narrow) as subscriber:
            subscriber.subscribe(topic, 2)
            mids = [publisher.publish(topic, text, 1 + int(text) % 2, wait=False) for text in sent]
            for mid in mids:
                publisher.await_published(mid)
            expect("messages", sorted(texts(subscriber.take(len(sent))), key=int), sent)

    def run(self):
        """Everything, then what only 5.0 has."""
        super().run()
        check = self.report.check
        for name in ("message_properties", "request_and_response", "topic_alias", "alias_to_client",
                     "expiry_counts_down", "expired_retained_is_gone", "subscription_ids", "no_local",
                     "retain_as_published", "retain_handling", "shared", "assigned_client_id", "unsubscribe_reason",
                     "will_after_disconnect_with_will", "delayed_will", "delayed_will_is_cancelled",
                     "receive_maximum"):
            check(name.replace("_", " "), getattr(self, name))


def main():
    """Runs the versions asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoints", required=True, type=parse_endpoints)
    parser.add_argument("--protocol", choices=["4", "5", "both"], default="both")
    arguments = parser.parse_args()
    if len(arguments.endpoints) != 3:
        parser.error("name three endpoints")
    report = Report()
    if arguments.protocol in ("4", "both"):
        report.prefix = "paho 3.1.1: "
        Suite(report, arguments.endpoints, v5=False).run()
    if arguments.protocol in ("5", "both"):
        report.prefix = "paho 5.0: "
        Suite5(report, arguments.endpoints, v5=True).run()
    report.exit()


if __name__ == "__main__":
    main()
