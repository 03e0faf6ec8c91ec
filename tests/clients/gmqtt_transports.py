"""gmqtt over TCP and TLS, in MQTT 3.1.1 and 5.0.

Usage: gmqtt_transports.py --endpoints N1,N2,N3 --tls N1,N2,N3 --ca FILE (other arguments are ignored)
The publisher is on node 1, the subscriber on node 3. Prints a JSON line per check. Start at main.
"""

import argparse
import asyncio
import itertools
import os
import ssl

from gmqtt import Client, Subscription
from gmqtt.mqtt.constants import MQTTv50, MQTTv311

from report import Report, parse_endpoints

DEADLINE = 20.0  # seconds; generous because CI machines are busy
RUN = f"gmqtt-{os.getpid()}"
VERSIONS = {"3.1.1": MQTTv311, "5.0": MQTTv50}


class Connection:
    """One client whose messages and acknowledgements are waited for."""

    def __init__(self, client_id):
        self.client = Client(client_id)
        self.messages = asyncio.Queue()
        self.subscribed = asyncio.Queue()
        self.client.on_message = self._on_message
        self.client.on_subscribe = lambda _client, mid, qos, _properties: self.subscribed.put_nowait((mid, qos))

    def _on_message(self, _client, topic, payload, qos, properties):
        self.messages.put_nowait((topic, bytes(payload), qos, properties))
        return 0

    async def open(self, endpoint, version, context):
        """Connects and waits for CONNACK."""
        host, port = endpoint
        await asyncio.wait_for(
            self.client.connect(host, port, ssl=context or False, version=version, raise_exc=True), DEADLINE)

    async def subscribe(self, topic, qos):
        """Subscribes and waits for SUBACK."""
        mid = self.client.subscribe(Subscription(topic, qos=qos))
        seen, granted = await asyncio.wait_for(self.subscribed.get(), DEADLINE)
        if seen != mid or granted[0] != qos:
            raise AssertionError(f"granted {granted} for packet {seen}, wanted {qos} for {mid}")

    async def next(self):
        """The next message."""
        return await asyncio.wait_for(self.messages.get(), DEADLINE)

    async def close(self):
        """Says goodbye."""
        try:
            await asyncio.wait_for(self.client.disconnect(), DEADLINE)
        except ssl.SSLError as error:
            # what the node sent before it heard of the goodbye (the last acknowledgement) is an error to OpenSSL
            if error.reason != "APPLICATION_DATA_AFTER_CLOSE_NOTIFY":
                raise


async def exchange(endpoints, version, context, base):
    """Every QoS and a large message, from node 1 to node 3, and the properties of 5.0."""
    publisher, subscriber = Connection(f"{base}-p"), Connection(f"{base}-s")
    await publisher.open(endpoints[0], version, context)
    await subscriber.open(endpoints[2], version, context)
    for qos in (0, 1, 2):
        topic = f"{RUN}/{base}/{qos}"
        await subscriber.subscribe(topic, qos)
        sent = [f"message {number}".encode() for number in range(20)] + [os.urandom(300_000)]
        extra = {"user_property": ("a", "b")} if version == MQTTv50 else {}
        for payload in sent:
            publisher.client.publish(topic, payload, qos=qos, **extra)
        seen = [await subscriber.next() for _ in sent]
        if [message[1] for message in seen] != sent:
            raise AssertionError(f"qos {qos}: {[len(message[1]) for message in seen]} bytes came")
        if {(message[0], message[2]) for message in seen} != {(topic, qos)}:
            raise AssertionError(f"topics and qos: {[message[::2] for message in seen]}")
        if extra and seen[0][3].get("user_property") != [("a", "b")]:
            raise AssertionError(f"properties: {seen[0][3]}")
    await publisher.close()
    await subscriber.close()


def main():
    """Both versions over both transports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoints", required=True, type=parse_endpoints)
    parser.add_argument("--tls", required=True, type=parse_endpoints)
    parser.add_argument("--ca", required=True)
    arguments, _ = parser.parse_known_args()
    report = Report("gmqtt: ")
    context = ssl.create_default_context(cafile=arguments.ca)
    places = {"tcp": (arguments.endpoints, None), "tls": (arguments.tls, context)}
    for number, (transport, version) in enumerate(itertools.product(places, VERSIONS)):
        endpoints, secure = places[transport]
        report.check(
            f"{transport}, {version}",
            lambda e=endpoints, v=VERSIONS[version], s=secure, n=number: asyncio.run(exchange(e, v, s, f"g{n}")))
    report.exit()


if __name__ == "__main__":
    main()
