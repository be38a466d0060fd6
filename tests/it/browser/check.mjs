// Looks at the pages of a running `meter` with a headless Chromium, as a person would: on a desk and on a phone, in light and in dark,
// with the keyboard alone.
//
//   PLAYWRIGHT_CORE=…/node_modules/playwright-core BASE_URL=http://127.0.0.1:9464 OUT=screenshots \
//     EXPECT='["All is well"]' node check.mjs
//
// EXPECT: texts that `/` must show. MORE: other pages, `{"name": "/path"}`. CHROMIUM: the browser, if it is not /usr/bin/chromium.
// Leaves status-light.png, status-dark.png, status-narrow.png, status-print.png, jobs.png, and the same four of each page of MORE in
// OUT; ends with 1 and says why when a promise is broken.

import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

const need = (name) => {
  const value = process.env[name];
  if (!value) {
    console.error(`check: set ${name}`);
    process.exit(2);
  }
  return value;
};

const { chromium } = createRequire(import.meta.url)(resolve(need("PLAYWRIGHT_CORE")));
const base = new URL(need("BASE_URL"));
const out = need("OUT");
const expected = JSON.parse(process.env.EXPECT ?? "[]");
const more = JSON.parse(process.env.MORE ?? "{}");
const PAGES = ["/", "/jobs", "/customers", "/runbook", ...Object.values(more)];
const NAMES = { "/": "status", ...Object.fromEntries(Object.entries(more).map(([name, path]) => [path, name])) };
const DESK = { width: 1280, height: 900 };
const PHONE = { width: 360, height: 740 };
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const broken = [];
const promise = (kept, what) => {
  if (!kept) broken.push(what);
};

/** Runs in the page: what its text looks like on what lies behind it, where that is below the 4.5:1 of WCAG AA (3:1 for large text). */
function faintTexts() {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const part = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = rgba(getComputedStyle(e).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const faint = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility() || ["TITLE", "DESC", "title", "desc"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const color = rgba(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(color), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) faint.set(`${color} on ${behind(element)}`, `${ratio.toFixed(2)}:1 "${text.slice(0, 40)}"`);
  }
  return [...faint.values()];
}

/** Runs in the page: what a page must be, however it looks. */
function structure() {
  const problems = [];
  const headings = document.querySelectorAll("h1").length;
  if (headings !== 1) problems.push(`${headings} headings of the first level`);
  if (document.querySelectorAll("main").length !== 1) problems.push("not exactly one main part");
  if (!document.documentElement.lang) problems.push("no language");
  if (!document.title) problems.push("no title");
  if (document.scripts.length) problems.push("a script");
  for (const image of document.querySelectorAll("img")) if (!image.alt && !image.title) problems.push("a picture without words");
  for (const svg of document.querySelectorAll("svg:not([aria-hidden=true])"))
    if (!svg.querySelector(":scope > title")?.textContent) problems.push("a drawing without a title");
  for (const input of document.querySelectorAll("input, select"))
    if (!input.labels?.length && !input.ariaLabel) problems.push(`a field without a label: ${input.name}`);
  for (const link of document.querySelectorAll("a, button:not([hidden])"))
    if (!link.textContent.trim() && !link.ariaLabel) problems.push("a link or button without words");
  for (const link of document.querySelectorAll('a[href^="#"]'))
    if (!document.getElementById(decodeURIComponent(link.hash.slice(1)))) problems.push(`${link.hash} leads nowhere`);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) problems.push(`two elements have the id ${id}`);
  return problems;
}

/** Runs in the page: what reaches over the right edge, if the page can be scrolled sideways. */
function overflow() {
  const { scrollWidth, clientWidth } = document.documentElement;
  if (scrollWidth <= clientWidth) return null;
  const wide = [...document.querySelectorAll("body *")].find(
    (e) => e.getBoundingClientRect().right > clientWidth + 1 && !e.parentElement.closest(".scroll, pre, svg"),
  );
  return `${scrollWidth} px wide on ${clientWidth}: <${wide?.tagName.toLowerCase()} class="${wide?.getAttribute("class") ?? ""}">`;
}

/** Presses Tab until a link has the focus, and says whether one sees that. */
async function focusIsSeen(page) {
  for (let i = 0; i < 10; i++) {
    await page.keyboard.press("Tab");
    const seen = await page.evaluate(() => {
      const e = document.activeElement;
      if (e?.tagName !== "A") return null;
      const { outlineStyle, outlineWidth } = getComputedStyle(e);
      const box = e.getBoundingClientRect();
      return outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 && box.left >= 0 && box.top >= 0 && box.width > 0;
    });
    if (seen !== null) return seen;
  }
  return false;
}

/** A page whose every misstep is noted. */
async function open(browser, name, path, options) {
  const context = await browser.newContext({ serviceWorkers: "block", ...options });
  const page = await context.newPage();
  page.on("console", (m) => ["error", "warning"].includes(m.type()) && broken.push(`${name}: the console says: ${m.text()}`));
  page.on("pageerror", (e) => broken.push(`${name}: ${e}`));
  page.on("requestfailed", (r) => broken.push(`${name}: ${r.url()} failed: ${r.failure()?.errorText}`));
  page.on("response", (r) => r.status() >= 400 && broken.push(`${name}: ${r.url()} answered ${r.status()}`));
  page.on("request", (r) => {
    const url = new URL(r.url());
    promise(url.protocol === "data:" || url.host === base.host, `${name}: asks another host: ${r.url()}`);
  });
  const response = await page.goto(new URL(path, base).href, { waitUntil: "load", timeout: 30_000 });
  const policy = response.headers()["content-security-policy"] ?? "";
  promise(policy.includes("default-src 'none'"), `${name}: no strict Content-Security-Policy, but "${policy}"`);
  return { context, page };
}

/** Enter in the field of the token must not press the first button of the list: that would act on some job. */
async function enterActsOnNothing(page, name) {
  const field = page.locator("input[type=password]");
  if ((await field.count()) === 0) return;
  let posted = false;
  page.on("request", (r) => (posted ||= r.method() === "POST"));
  await field.fill("not the token");
  await field.press("Enter");
  await page.waitForTimeout(300);
  promise(!posted, `${name}: Enter in the field of the token acts on a job`);
}

async function look(browser, path, scheme, viewport) {
  const name = `${path} (${scheme}, ${viewport.width} px)`;
  const { context, page } = await open(browser, name, path, { viewport, colorScheme: scheme });
  for (const problem of await page.evaluate(structure)) broken.push(`${name}: ${problem}`);
  for (const text of await page.evaluate(faintTexts)) broken.push(`${name}: too little contrast: ${text}`);
  const wide = await page.evaluate(overflow);
  promise(!wide, `${name}: scrolls sideways: ${wide}`);
  if (path === "/") {
    const shown = (await page.locator("body").innerText()).replace(/\s+/g, " ");
    for (const text of expected) promise(shown.includes(text), `${name}: does not show "${text}"`);
  }
  const file = shot(path, scheme, viewport);
  if (file) await page.screenshot({ path: join(out, file), fullPage: true });
  // a document without navigation may have no link
  const links = await page.locator("a").count();
  promise(links === 0 || (await focusIsSeen(page)), `${name}: no link gets a focus that one sees by Tab`);
  // everything folded is looked at too
  await page.evaluate(() => document.querySelectorAll("details").forEach((d) => (d.open = true)));
  const unfolded = await page.evaluate(overflow);
  promise(!unfolded, `${name}: scrolls sideways when unfolded: ${unfolded}`);
  for (const text of await page.evaluate(faintTexts)) broken.push(`${name}: too little contrast when unfolded: ${text}`);
  await enterActsOnNothing(page, name);
  if (NAMES[path] && scheme === "light" && viewport === DESK) await print(page, path);
  await context.close();
}

/** On paper: black on white, without the navigation, and no wider than the sheet. */
async function print(page, path) {
  await page.setViewportSize({ width: 720, height: 1000 });
  await page.emulateMedia({ media: "print" });
  promise(!(await page.locator("header.top").isVisible().catch(() => false)), `${path} (print): the navigation is printed`);
  const wide = await page.evaluate(overflow);
  promise(!wide, `${path} (print): wider than the sheet: ${wide}`);
  await page.screenshot({ path: join(out, `${NAMES[path]}-print.png`), fullPage: true });
}

function shot(path, scheme, viewport) {
  if (path === "/jobs" && scheme === "light" && viewport === DESK) return "jobs.png";
  const name = NAMES[path];
  if (!name) return null;
  if (viewport === DESK) return `${name}-${scheme}.png`;
  return scheme === "light" ? `${name}-narrow.png` : null;
}

mkdirSync(out, { recursive: true });
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
try {
  for (const path of PAGES)
    for (const scheme of ["light", "dark"]) for (const viewport of [DESK, PHONE]) await look(browser, path, scheme, viewport);
} catch (error) {
  broken.push(String(error));
} finally {
  await browser.close();
}
for (const what of [...new Set(broken)]) console.error(`check: ${what}`);
if (broken.length) process.exit(1);
console.log(`check: ${PAGES.join(", ")} are as promised; screenshots are in ${out}`);
