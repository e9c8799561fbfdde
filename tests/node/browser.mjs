/**
 * Chromium for tests, controlled by lines of JSON on standard input; answers are lines on standard output.
 *
 * Request `{"do": <verb>, …}`; answer `{"value": …}` or `{"error": "…"}`, one each, in order. Selectors are
 * playwright's (CSS, `role=button[name="Pause"]`, `text=…`). The browser ends with standard input.
 */

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(new URL("../../frontend/package.json", import.meta.url));
const { chromium } = require("playwright-core");

const QUIET = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-breakpad",
];
const LIMIT_MS = 15_000;

const browser = await chromium.launch({ executablePath: process.argv[2], args: QUIET });
let page = null;
/** What the page complained of: exceptions, errors on the console, broken rules of the security policy. */
let problems = [];

const verbs = {
  async open({ url, width = 1280, height = 900, scheme = "light" }) {
    await page?.context().close();
    problems = [];
    const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme });
    context.setDefaultTimeout(LIMIT_MS);
    page = await context.newPage();
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
    await page.goto(url);
  },
  wait: ({ selector, state = "visible", timeout_ms = LIMIT_MS }) =>
    page.locator(selector).first().waitFor({ state, timeout: timeout_ms }),
  click: ({ selector }) => page.locator(selector).first().click(),
  fill: ({ selector, text }) => page.locator(selector).first().fill(text),
  value: ({ selector }) => page.locator(selector).first().inputValue(),
  text: ({ selector }) => page.locator(selector).first().innerText(),
  count: ({ selector }) => page.locator(selector).count(),
  enabled: ({ selector }) => page.locator(selector).first().isEnabled(),
  address: () => page.url(),
  reload: () => page.reload().then(() => null),
  screenshot: ({ path }) => page.screenshot({ path, fullPage: true }).then(() => null),
  problems: () => problems,
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: verb, ...rest } = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await verbs[verb](rest)) ?? null };
  } catch (error) {
    answer = { error: String(error), problems };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
