// How the JavaScript client programs tell the Rust tests what happened, and how they wait. Knows no MQTT.

export const DEADLINE = 20_000; // milliseconds; generous because CI machines are busy

let failed = 0;

/** Runs body(); the check holds when it resolves and fails when it throws. Prints a JSON line. */
export async function check(name, body) {
  const started = performance.now();
  let ok = true;
  let detail = "";
  try {
    await body();
  } catch (error) {
    ok = false;
    failed += 1;
    detail = `${error.name}: ${error.message}`;
  }
  const seconds = Math.round(performance.now() - started) / 1000;
  console.log(JSON.stringify({ name, ok, detail, seconds }));
}

/** The promise, or an error when it takes too long. */
export function within(promise, what) {
  let timer;
  const late = new Promise((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not happen within ${DEADLINE} ms`)), DEADLINE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Ends the program; the exit code tells whether all checks held. */
export function exit() {
  process.exit(failed ? 1 : 0);
}

/** `host:port,host:port` as a list of pairs. */
export function parseEndpoints(text) {
  return (text ?? "").split(",").map((item) => {
    const colon = item.lastIndexOf(":");
    return [item.slice(0, colon), Number(item.slice(colon + 1))];
  });
}
