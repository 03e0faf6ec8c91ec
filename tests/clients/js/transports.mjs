// MQTT.js over TCP, TLS, WebSocket and secure WebSocket, in MQTT 3.1, 3.1.1 and 5.0, from node 1 to node 3.
//
// Usage: node transports.mjs --endpoints N1,N2,N3 --tls N1,N2,N3 --ws N1,N2,N3 --wss N1,N2,N3 --ca FILE
//        --cert FILE --key FILE
// Prints a JSON line per check. Start at main().

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import mqtt from "mqtt";
import { check, exit, parseEndpoints, within } from "./check.mjs";

const RUN = `mqttjs-transports-${process.pid}`;
const VERSIONS = {
  3.1: { protocolId: "MQIsdp", protocolVersion: 3 },
  "3.1.1": { protocolVersion: 4 },
  "5.0": { protocolVersion: 5 },
};

let count = 0;

async function open(place, node, version) {
  count += 1;
  const [host, port] = place.endpoints[node];
  const client = mqtt.connect({
    host, port, clientId: `j${process.pid}-${count}`, clean: true, reconnectPeriod: 0, ...VERSIONS[version], ...place.how,
  });
  client.seen = [];
  client.on("message", (topic, payload, packet) => client.seen.push({ topic, payload, packet }));
  await within(new Promise((resolve, reject) => {
    client.once("connect", resolve);
    client.once("error", reject);
  }), `CONNACK from port ${port}`);
  return client;
}

function all(client, wanted) {
  const complete = new Promise((resolve) => {
    const look = () => {
      if (client.seen.length < wanted) return;
      client.off("message", look);
      resolve(client.seen.splice(0, wanted));
    };
    client.on("message", look);
    look();
  });
  return within(complete, `${wanted} messages`);
}

async function exchange(from, to, version) {
  const publisher = await open(from, 0, version);
  const subscriber = await open(to, 2, version);
  for (const qos of [0, 1, 2]) {
    count += 1;
    const topic = `${RUN}/${count}`;
    await within(subscriber.subscribeAsync(topic, { qos }), "SUBACK");
    const sent = Array.from({ length: 30 }, (_, number) => Buffer.from(`message ${number} é`));
    sent.push(randomBytes(700_000));
    await within(Promise.all(sent.map((payload) => publisher.publishAsync(topic, payload, { qos }))), "acknowledgements");
    const seen = await all(subscriber, sent.length);
    assert.ok(seen.every((message, place) => message.payload.equals(sent[place])), "payloads in order");
    assert.ok(seen.every((message) => message.topic === topic && message.packet.qos === qos));
  }
  await Promise.all([publisher, subscriber].map((client) => within(client.endAsync(), "the end")));
}

async function main() {
  const names = ["endpoints", "tls", "ws", "wss", "ca", "cert", "key"];
  const { values } = parseArgs({ options: Object.fromEntries(names.map((name) => [name, { type: "string" }])) });
  const ca = readFileSync(values.ca);
  const own = { cert: readFileSync(values.cert), key: readFileSync(values.key) };
  const places = {
    tcp: { endpoints: parseEndpoints(values.endpoints), how: { protocol: "mqtt" } },
    tls: { endpoints: parseEndpoints(values.tls), how: { protocol: "mqtts", ca } },
    "tls with a certificate": { endpoints: parseEndpoints(values.tls), how: { protocol: "mqtts", ca, ...own } },
    ws: { endpoints: parseEndpoints(values.ws), how: { protocol: "ws", path: "/mqtt" } },
    wss: { endpoints: parseEndpoints(values.wss), how: { protocol: "wss", path: "/mqtt", ca } },
  };
  for (const [name, place] of Object.entries(places)) {
    for (const version of Object.keys(VERSIONS)) {
      await check(`MQTT.js: ${name}, ${version}`, () => exchange(place, place, version));
    }
  }
  await check("MQTT.js: ws to tls", () => exchange(places.ws, places.tls, "5.0"));
  await check("MQTT.js: tcp to wss", () => exchange(places.tcp, places.wss, "5.0"));
  exit();
}

await main();
