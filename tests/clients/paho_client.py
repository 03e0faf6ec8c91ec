"""A paho-mqtt client that is waited for instead of slept for.

Every callback puts an event into a queue; every wait has a deadline. Knows no test. Start at Client.
"""

import os
import queue
import socket
import struct
import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

DEADLINE = 20.0  # seconds; generous because CI machines are busy


class Timeout(Exception):
    """Something that had to happen did not."""


def properties(packet, **values):
    """Properties of one packet kind from keyword arguments."""
    made = Properties(packet)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def publish_properties(**values):
    """Properties of a PUBLISH."""
    return properties(PacketTypes.PUBLISH, **values)


class Transport:
    """What carries the bytes: TCP unless told otherwise. `ca` makes it TLS, `certificate` is a pair of files."""

    def __init__(self, *, websocket=False, ca=None, certificate=(None, None), v3=mqtt.MQTTv311):
        self.websocket = websocket
        self.ca = ca
        self.certificate = certificate
        self.v3 = v3

    def set_up(self, client):
        """Applies it to a client of paho's."""
        if self.websocket:
            client.ws_set_options(path="/mqtt")
        if self.ca:
            client.tls_set(ca_certs=self.ca, certfile=self.certificate[0], keyfile=self.certificate[1])


class Client:
    """One connection. `v5` chooses MQTT 5.0, otherwise 3.1.1; `over`, if given, a transport (and may choose 3.1)."""

    def __init__(self, endpoint, client_id, v5, *, clean=True, will=None, connect_properties=None, keepalive=30,
                 over=None):
        self.v5 = v5
        self.endpoint = endpoint
        self.messages = queue.Queue()
        self.connected = threading.Event()
        self.disconnected = threading.Event()
        self.connect_reason = None
        self.connack_properties = None
        self.session_present = None
        self.disconnect_reason = None
        self._acks = queue.Queue()
        self.acknowledged_at = {}  # packet id -> when its PUBACK or PUBCOMP came
        self._published = {}
        self._published_changed = threading.Condition()
        over = over or Transport()
        arguments = {"client_id": client_id, "protocol": mqtt.MQTTv5 if v5 else over.v3, "reconnect_on_failure": False,
                     "transport": "websockets" if over.websocket else "tcp"}
        if not v5:
            arguments["clean_session"] = clean
        self.paho = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, **arguments)
        over.set_up(self.paho)
        self._register()
        if will is not None:
            self.paho.will_set(**will)
        self.keepalive = keepalive
        self._extra = {"clean_start": clean, "properties": connect_properties} if v5 else {}
        self.paho.connect(endpoint[0], endpoint[1], keepalive, **self._extra)
        self.paho.loop_start()
        if not self.connected.wait(DEADLINE):
            raise Timeout(f"no CONNACK from {endpoint}")
        if self.connect_reason != 0:
            raise Timeout(f"refused by {endpoint}: {self.connect_reason}")

    def _register(self):
        self.paho.on_connect = self._on_connect
        self.paho.on_disconnect = self._on_disconnect
        self.paho.on_message = lambda _client, _data, message: self.messages.put(message)
        self.paho.on_subscribe = lambda _c, _d, mid, reasons, _p: self._acks.put((mid, [r.value for r in reasons]))
        self.paho.on_unsubscribe = lambda _c, _d, mid, reasons, _p: self._acks.put(
            (mid, [r.value for r in reasons] if isinstance(reasons, list) else [reasons.value]))
        self.paho.on_publish = self._on_publish

    def _on_connect(self, _client, _data, flags, reason, props):
        self.session_present = flags.session_present
        self.connect_reason = reason.value
        self.connack_properties = props
        self.connected.set()

    def _on_disconnect(self, _client, _data, flags, reason, _props):
        if flags.is_disconnect_packet_from_server or not self.disconnected.is_set():
            self.disconnect_reason = reason.value  # paho calls again, without a code, for the closed socket
        self.disconnected.set()

    def _on_publish(self, _client, _data, mid, reason, _props):
        with self._published_changed:
            self._published[mid] = reason.value
            self.acknowledged_at[mid] = time.monotonic()
            self._published_changed.notify_all()

    def _await_ack(self, mid, what):
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                seen, reasons = self._acks.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise Timeout(f"no {what} from {self.endpoint}") from None
            if seen == mid:
                return reasons

    def subscribe(self, topic, qos=0, **options):
        """Subscribes and waits for SUBACK; returns the codes. `identifier` and options need 5.0."""
        identifier = options.pop("identifier", None)
        if self.v5:
            props = None
            if identifier is not None:
                props = properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=identifier)
            _, mid = self.paho.subscribe(topic, options=SubscribeOptions(qos=qos, **options), properties=props)
        else:
            _, mid = self.paho.subscribe(topic, qos)
        reasons = self._await_ack(mid, f"SUBACK for {topic}")
        if any(code >= 0x80 for code in reasons):
            raise Timeout(f"subscription to {topic} refused with {reasons}")
        return reasons

    def unsubscribe(self, topic):
        """Unsubscribes and waits for UNSUBACK; returns the codes (5.0)."""
        _, mid = self.paho.unsubscribe(topic)
        return self._await_ack(mid, f"UNSUBACK for {topic}")

    def publish(self, topic, payload, qos=1, retain=False, props=None, wait=True):
        """Publishes; with `wait` returns only when the broker has acknowledged (QoS 1 and 2)."""
        info = self.paho.publish(topic, payload, qos, retain, properties=props)
        if info.rc != mqtt.MQTT_ERR_SUCCESS:
            raise Timeout(f"publish to {topic} failed with {info.rc}")
        if wait and qos > 0:
            return self.await_published(info.mid)
        return info.mid

    def is_published(self, mid):
        """Whether the acknowledgement of a packet id has come and was not taken yet."""
        with self._published_changed:
            return mid in self._published

    def await_published(self, mid):
        """Waits for PUBACK or PUBCOMP of a packet id; returns its reason code."""
        with self._published_changed:
            if not self._published_changed.wait_for(lambda: mid in self._published, DEADLINE):
                raise Timeout(f"no acknowledgement from {self.endpoint}")
            return self._published.pop(mid)

    def next(self, timeout=DEADLINE):
        """The next message."""
        try:
            return self.messages.get(timeout=timeout)
        except queue.Empty:
            raise Timeout(f"no message at {self.endpoint} within {timeout} s") from None

    def take(self, count):
        """The next `count` messages."""
        return [self.next() for _ in range(count)]

    def await_disconnect(self):
        """Waits until the broker ends the connection; returns the reason code paho saw."""
        if not self.disconnected.wait(DEADLINE):
            raise Timeout(f"{self.endpoint} kept the connection")
        return self.disconnect_reason

    def move(self, endpoint):
        """Connects the same client, with what it has not finished, to another node; returns whether the broker
        continues its session. The client must not have asked for a clean start."""
        self.paho.loop_stop()
        self.endpoint = endpoint
        self.connected.clear()
        self.disconnected.clear()
        self.paho.connect(endpoint[0], endpoint[1], self.keepalive, **self._extra)
        self.paho.loop_start()
        if not self.connected.wait(DEADLINE):
            raise Timeout(f"no CONNACK from {endpoint}")
        if self.connect_reason != 0:
            raise Timeout(f"refused by {endpoint}: {self.connect_reason}")
        return self.session_present

    def cut(self, reset=False):
        """Drops the connection without a DISCONNECT: by FIN, or by RST with `reset`."""
        sock = self.paho.socket()
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        else:
            # below TLS and WebSocket, if there are any
            with socket.socket(fileno=os.dup(sock.fileno())) as below:
                below.shutdown(socket.SHUT_RDWR)
        self.paho.loop_stop()

    def close(self, **arguments):
        """Says goodbye; the will is not published."""
        if self.paho.is_connected():
            self.paho.disconnect(**arguments)
        self.paho.loop_stop()

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.close()
