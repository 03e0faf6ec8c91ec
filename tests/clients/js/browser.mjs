// A web page in headless Chromium, with MQTT.js in it, that talks to node 1 over WebSocket with a client of node 3.
//
// Usage: node browser.mjs --endpoints N1,N2,N3 --ws N1,N2,N3 --wss N1,N2,N3 --chromium PROGRAM (other arguments are
// ignored). Serves the page itself, on loopback. Prints a JSON line per check. Start at main().

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import mqtt from "mqtt";
import { chromium } from "playwright-core";
import { check, DEADLINE, exit, parseEndpoints, within } from "./check.mjs";

const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
  "--ignore-certificate-errors", // the authority is the test's own
];

const PAGE = `<!doctype html><meta charset="utf-8"><title>zwerm</title><ul id="seen"></ul>
<script src="/mqtt.min.js"></script>
<script>
  window.start = (url, version, topic) => new Promise((resolve, reject) => {
    const client = mqtt.connect(url, { protocolVersion: version, reconnectPeriod: 0 });
    window.client = client;
    client.on("error", reject);
    client.on("close", () => reject(new Error("closed before it was subscribed")));
    client.on("message", (_topic, payload, packet) => {
      const item = document.createElement("li");
      item.textContent = packet.qos + " " + payload.toString();
      document.getElementById("seen").append(item);
    });
    client.on("connect", () => client.subscribe(topic, { qos: 2 }, (error) => error ? reject(error) : resolve()));
  });
</script>`;

async function serve() {
  const script = await readFile(new URL("node_modules/mqtt/dist/mqtt.min.js", import.meta.url));
  const server = createServer((request, response) => {
    const isScript = request.url === "/mqtt.min.js";
    response.setHeader("Content-Type", isScript ? "text/javascript" : "text/html; charset=utf-8");
    response.end(isScript ? script : PAGE);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

async function exchange(page, url, version, peer) {
  const [down, up] = [`browser/${process.pid}/${version}/down`, `browser/${process.pid}/${version}/up`].map(
    (topic) => `${topic}/${url.slice(0, 3)}`,
  );
  const heard = [];
  peer.removeAllListeners("message");
  const answered = new Promise((resolve) => {
    peer.on("message", (topic, payload, packet) => {
      heard.push([topic, packet.qos, payload.toString()]);
      if (heard.length === 3) resolve();
    });
  });
  await within(peer.subscribeAsync(up, { qos: 2 }), "SUBACK");
  const started = page.evaluate(
    ([address, protocol, topic]) => window.start(address, protocol, topic), [url, version, down],
  );
  await within(started, "the page's SUBACK");
  // down: what the page shows
  for (const qos of [0, 1, 2]) await within(peer.publishAsync(down, `grüße ${qos}`, { qos }), "acknowledgement");
  await page.waitForFunction(() => document.querySelectorAll("#seen li").length >= 3, null, { timeout: DEADLINE });
  const shown = await page.locator("#seen li").allTextContents();
  assert.deepEqual(shown, ["0 grüße 0", "1 grüße 1", "2 grüße 2"]);
  // up: what the client of the other node hears, one of it too large for one frame of ours
  const large = "x".repeat(300_000);
  const said = page.evaluate(async ([topic, text]) => {
    await window.client.publishAsync(topic, "from the page", { qos: 0 });
    await window.client.publishAsync(topic, text, { qos: 1 });
    await window.client.publishAsync(topic, "and goodbye", { qos: 2 });
  }, [up, large]);
  await within(said, "acknowledgements to the page");
  await within(answered, "what the page said");
  assert.deepEqual(heard, [[up, 0, "from the page"], [up, 1, large], [up, 2, "and goodbye"]]);
  // closing: the browser sees the socket closed cleanly, with both Close frames
  const closed = page.evaluate(() => new Promise((resolve) => {
    window.client.stream.socket.addEventListener("close", (event) => resolve([event.wasClean, event.code]));
    window.client.end();
  }));
  const [wasClean, code] = await within(closed, "the end of the WebSocket");
  assert.equal(wasClean, true, `closed with ${code}`);
}

async function main() {
  const names = ["endpoints", "ws", "wss", "chromium"];
  const options = Object.fromEntries(names.map((name) => [name, { type: "string" }]));
  const { values } = parseArgs({ options, strict: false });
  const server = await serve();
  const profile = await mkdtemp(join(tmpdir(), "zwerm-browser-"));
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: values.chromium, args: FLAGS,
  });
  const [host, port] = parseEndpoints(values.endpoints)[2];
  const peer = await mqtt.connectAsync({ host, port, protocol: "mqtt", protocolVersion: 5, reconnectPeriod: 0 });
  const address = `http://127.0.0.1:${server.address().port}/`;
  for (const kind of ["ws", "wss"]) {
    const [nodeHost, nodePort] = parseEndpoints(values[kind])[0];
    for (const version of [4, 5]) {
      await check(`browser: ${kind}, version ${version}`, async () => {
        const page = await browser.newPage();
        await page.goto(address);
        await exchange(page, `${kind}://${nodeHost}:${nodePort}/mqtt`, version, peer);
        await page.close();
      });
    }
  }
  await check("browser: a page that asks for another path is refused", async () => {
    const page = await browser.newPage();
    await page.goto(address);
    const [nodeHost, nodePort] = parseEndpoints(values.ws)[0];
    const opening = page.evaluate((url) => new Promise((resolve) => {
      const socket = new WebSocket(url, "mqtt");
      socket.onopen = () => resolve(true);
      socket.onerror = () => resolve(false);
    }), `ws://${nodeHost}:${nodePort}/elsewhere`);
    assert.equal(await within(opening, "an answer"), false);
  });
  await peer.endAsync();
  await browser.close();
  server.close();
  await rm(profile, { recursive: true, force: true });
  exit();
}

await main();
