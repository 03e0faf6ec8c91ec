// MQTT.js against a cluster: the matrix for MQTT 3.1.1 and 5.0 in one process.
//
// Usage: node suite.mjs --endpoints host:port,host:port,host:port
// Each endpoint is a node; the same one may be named several times. Prints a JSON line per check.
// Waits for SUBACKs, messages and closes, each with a deadline; never sleeps. Start at main().

import assert from "node:assert/strict";
import { parseArgs } from "node:util";
import mqtt from "mqtt";
import { check, exit, parseEndpoints, within } from "./check.mjs";

const RUN = `mqttjs-${process.pid}`; // keeps topics and client ids of parallel runs apart
const PER_CELL = 5; // messages for each pair of nodes and QoS

/** One connection that queues what it receives. */
class Client {
  constructor(inner) {
    this.inner = inner;
    this.received = [];
    this.waiting = [];
    this.closed = new Promise((resolve) => inner.once("close", resolve));
    this.reason = undefined; // of the broker's DISCONNECT (5.0), if it sent one
    inner.once("disconnect", (packet) => {
      this.reason = packet.reasonCode;
    });
    inner.on("error", () => {}); // a dropped connection is seen by `closed`
    inner.on("message", (topic, payload, packet) => {
      const message = { topic, text: payload.toString(), payload, packet };
      const waiter = this.waiting.shift();
      if (waiter) waiter(message);
      else this.received.push(message);
    });
  }

  static async connect([host, port], version, clientId, options = {}) {
    const inner = mqtt.connect({
      host, port, protocol: "mqtt", protocolVersion: version, clientId, clean: true, reconnectPeriod: 0, ...options,
    });
    const client = new Client(inner);
    await within(new Promise((resolve, reject) => {
      inner.once("connect", resolve);
      inner.once("error", reject);
    }), `CONNACK from port ${port}`);
    return client;
  }

  async subscribe(topic, qos, options = {}) {
    const granted = await within(this.inner.subscribeAsync(topic, { qos, ...options }), `SUBACK for ${topic}`);
    assert.equal(granted.length, 1);
    assert.ok(granted[0].qos < 0x80, `subscription to ${topic} refused`);
  }

  unsubscribe(topic) {
    return within(this.inner.unsubscribeAsync(topic), `UNSUBACK for ${topic}`);
  }

  publish(topic, text, qos = 1, options = {}) {
    return within(this.inner.publishAsync(topic, text, { qos, ...options }), `acknowledgement of ${topic}`);
  }

  next() {
    const message = this.received.shift();
    if (message) return Promise.resolve(message);
    return within(new Promise((resolve) => this.waiting.push(resolve)), "a message");
  }

  async take(count) {
    const messages = [];
    for (let number = 0; number < count; number += 1) messages.push(await this.next());
    return messages;
  }

  /** Everything before the message `fence`, which was published after the rest was acknowledged. */
  async untilFence() {
    const messages = [];
    for (;;) {
      const message = await this.next();
      if (message.text === "fence") return messages;
      messages.push(message);
    }
  }

  /** Drops the connection without a DISCONNECT. */
  cut() {
    this.inner.stream.destroy();
  }

  async end() {
    if (this.inner.connected) await within(this.inner.endAsync(), "the end");
    else this.inner.end(true);
  }
}

class Suite {
  constructor(endpoints, version) {
    this.endpoints = endpoints;
    this.version = version;
    this.count = 0;
    this.prefix = version === 5 ? "MQTT.js 5.0: " : "MQTT.js 3.1.1: ";
    this.open = [];
  }

  unique(what) {
    this.count += 1;
    return `${RUN}/${this.version}/${this.count}/${what}`;
  }

  async client(node, options = {}) {
    const clientId = options.clientId ?? this.unique("c").replaceAll("/", "-");
    const client = await Client.connect(this.endpoints[node], this.version, clientId, options);
    this.open.push(client);
    return client;
  }

  /** One named check; its connections are closed afterwards. */
  async check(name, body) {
    await check(this.prefix + name, body);
    const open = this.open.splice(0);
    await Promise.all(open.map((client) => client.end().catch(() => {})));
  }

  pairs() {
    const nodes = this.endpoints.map((_endpoint, node) => node);
    return nodes.flatMap((source) => nodes.map((target) => [source, target]));
  }

  async cell(source, target, qos) {
    const topic = this.unique("cell");
    const publisher = await this.client(source);
    const subscriber = await this.client(target);
    await subscriber.subscribe(topic, qos);
    const sent = Array.from({ length: PER_CELL }, (_, number) => `message ${number} é ${topic}`);
    await Promise.all(sent.map((text) => publisher.publish(topic, text, qos)));
    const seen = await subscriber.take(PER_CELL);
    assert.deepEqual(seen.map((message) => message.text), sent);
    assert.deepEqual([...new Set(seen.map((message) => message.packet.qos))], [qos]);
    assert.ok(seen.every((message) => message.topic === topic && !message.packet.retain));
    await subscriber.unsubscribe(topic);
    assert.equal(subscriber.received.length, 0, "a message too many");
  }

  async retained(source, target) {
    const topic = this.unique("kept");
    const publisher = await this.client(source);
    for (const text of ["first", "second"]) {
      await publisher.publish(topic, text, 1, { retain: true });
      const subscriber = await this.client(target);
      await subscriber.subscribe(topic, 1);
      const message = await subscriber.next();
      assert.deepEqual([message.text, message.packet.retain], [text, true]);
      await subscriber.end();
    }
    await publisher.publish(topic, "", 1, { retain: true });
    const late = await this.client(target);
    await late.subscribe(topic, 1);
    await publisher.publish(topic, "fence");
    assert.deepEqual(await late.untilFence(), []);
  }

  async will(source, target) {
    const topic = this.unique("will");
    const watcher = await this.client(target);
    await watcher.subscribe(topic, 1);
    const doomed = await this.client(source, { will: { topic, payload: Buffer.from("gone"), qos: 1 } });
    doomed.cut();
    assert.equal((await watcher.next()).text, "gone");
  }

  async wildcards(source, target) {
    const base = this.unique("w");
    const publisher = await this.client(source);
    const table = { "a/#": ["a", "a/b", "a/b/c"], "a/+": ["a/b"], "+/b/#": ["a/b", "a/b/c"], "+": ["a", "ab"] };
    for (const [pattern, wanted] of Object.entries(table)) {
      const subscriber = await this.client(target);
      await subscriber.subscribe(`${base}/${pattern}`, 1);
      await subscriber.subscribe(`${base}-fence`, 1);
      for (const topic of ["a", "a/b", "a/b/c", "ab"]) await publisher.publish(`${base}/${topic}`, topic);
      await publisher.publish(`${base}-fence`, "fence");
      assert.deepEqual((await subscriber.untilFence()).map((message) => message.text), wanted, pattern);
      await subscriber.end();
    }
  }

  async unsubscribed(source, target) {
    const topic = this.unique("off");
    const fence = this.unique("fence");
    const publisher = await this.client(source);
    const subscriber = await this.client(target);
    await subscriber.subscribe(topic, 1);
    await subscriber.subscribe(fence, 1);
    await subscriber.unsubscribe(topic);
    await publisher.publish(topic, "after");
    await publisher.publish(fence, "fence");
    assert.deepEqual(await subscriber.untilFence(), []);
  }

  async takeover(first, second) {
    const clientId = this.unique("same").replaceAll("/", "-");
    const old = await this.client(first, { clientId });
    const fresh = await this.client(second, { clientId });
    await within(old.closed, "the close of the old connection");
    if (this.version === 5) assert.equal(old.reason, 0x8e);
    const topic = this.unique("mine");
    await fresh.subscribe(topic, 1);
    await fresh.publish(topic, "mine");
    assert.equal((await fresh.next()).text, "mine");
  }

  async run() {
    for (const [source, target] of this.pairs()) {
      for (const qos of [0, 1, 2]) {
        await this.check(`publish on ${source + 1}, subscribe on ${target + 1}, qos ${qos}`,
          () => this.cell(source, target, qos));
      }
      const between = `${source + 1} to ${target + 1}`;
      await this.check(`retained, ${between}`, () => this.retained(source, target));
      await this.check(`will, ${between}`, () => this.will(source, target));
      await this.check(`takeover, ${between}`, () => this.takeover(source, target));
    }
    await this.check("wildcards, 1 to 3", () => this.wildcards(0, 2));
    await this.check("unsubscribe, 2 to 1", () => this.unsubscribed(1, 0));
  }
}

class Suite5 extends Suite {
  async messageProperties() {
    const topic = this.unique("props");
    const publisher = await this.client(0);
    const subscriber = await this.client(2);
    await subscriber.subscribe(topic, 1, { properties: { subscriptionIdentifier: 9 } });
    await publisher.publish(topic, "hello", 1, {
      properties: {
        userProperties: { a: ["1", "3"], b: "zwei" }, contentType: "text/plain", responseTopic: "answers/here",
        correlationData: Buffer.from([0, 1, 255]), payloadFormatIndicator: true, messageExpiryInterval: 600,
      },
    });
    const { properties } = (await subscriber.next()).packet;
    assert.deepEqual({ ...properties.userProperties }, { a: ["1", "3"], b: "zwei" });
    assert.equal(properties.contentType, "text/plain");
    assert.equal(properties.responseTopic, "answers/here");
    assert.deepEqual([...properties.correlationData], [0, 1, 255]);
    assert.equal(properties.payloadFormatIndicator, true);
    assert.ok(properties.messageExpiryInterval > 500 && properties.messageExpiryInterval <= 600);
    assert.equal(properties.subscriptionIdentifier, 9);
  }

  async topicAlias() {
    const topic = this.unique("alias");
    const publisher = await this.client(0, { autoAssignTopicAlias: true });
    const subscriber = await this.client(1, { properties: { topicAliasMaximum: 5 } });
    await subscriber.subscribe(topic, 1);
    const sent = ["1", "2", "3", "4"];
    for (const text of sent) await publisher.publish(topic, text);
    const seen = await subscriber.take(sent.length);
    assert.deepEqual(seen.map((message) => [message.topic, message.text]), sent.map((text) => [topic, text]));
  }

  async noLocalAndRetainAsPublished() {
    const topic = this.unique("options");
    const both = await this.client(0);
    const other = await this.client(1);
    await both.subscribe(topic, 1, { nl: true, rap: true });
    await both.publish(topic, "own");
    await other.publish(topic, "kept", 1, { retain: true });
    const message = await both.next();
    assert.deepEqual([message.text, message.packet.retain], ["kept", true]);
    await other.publish(topic, "", 1, { retain: true });
  }

  async shared() {
    const topic = this.unique("shared");
    const sent = Array.from({ length: 30 }, (_, number) => `${number}`);
    const seen = [];
    const complete = new Promise((resolve) => {
      this.arrived = (text) => {
        seen.push(text);
        if (seen.length === sent.length) resolve();
      };
    });
    for (const node of [0, 1, 2]) {
      const member = await this.client(node);
      member.inner.on("message", (_topic, payload) => this.arrived(payload.toString()));
      await member.subscribe(`$share/group/${topic}`, 1);
    }
    const publisher = await this.client(1);
    for (const text of sent) await publisher.publish(topic, text);
    await within(complete, "delivery to the group");
    assert.deepEqual([...seen].sort((a, b) => a - b), sent);
  }

  async run() {
    await super.run();
    await this.check("message properties", () => this.messageProperties());
    await this.check("topic alias", () => this.topicAlias());
    await this.check("no local and retain as published", () => this.noLocalAndRetainAsPublished());
    await this.check("shared", () => this.shared());
  }
}

async function main() {
  const { values } = parseArgs({ options: { endpoints: { type: "string" } } });
  const endpoints = parseEndpoints(values.endpoints);
  if (endpoints.length !== 3) throw new Error("name three endpoints: --endpoints host:port,host:port,host:port");
  await new Suite(endpoints, 4).run();
  await new Suite5(endpoints, 5).run();
  exit();
}

await main();
