// What all pages share: words, requests, elements, and the tabs. Data gets into the page as text only, never as HTML.
"use strict";

const Panel = {
  pages: new Map(),
  session: {},
  lang: document.documentElement.dataset.lang,
  texts: {},
  synoToken: "",
  leaving: null,

  // A page: `show(content, left)` fills an element; `left` is a signal that is aborted when the page is left.
  page(name, show) {
    this.pages.set(name, show);
  },
};

// --- Words ---

function t(key, values = {}) {
  const text = Panel.texts[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

// A sentence from the server: a key with values, or one that is there in both languages.
function sentence(message) {
  if (!message) return "";
  if (message.key) return t(message.key, message.values);
  return message[Panel.lang] || message.en || "";
}

function locale() {
  return Panel.lang === "zh" ? "zh-CN" : "en-GB";
}

function formatNumber(number) {
  return new Intl.NumberFormat(locale()).format(number);
}

function formatBytes(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let power = 0;
  let amount = Math.max(0, bytes);
  while (amount >= 1000 && power < units.length - 1) {
    amount /= 1000;
    power += 1;
  }
  const digits = power && amount < 100 ? 1 : 0;
  return `${new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(amount)} ${units[power]}`;
}

function formatTime(iso) {
  const time = new Date(iso);
  if (Number.isNaN(time.getTime())) return "";
  return new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "short" }).format(time);
}

function formatDay(day) {
  const [year, month, date] = day.split("-").map(Number);
  return new Intl.DateTimeFormat(locale(), { dateStyle: "medium" }).format(new Date(year, month - 1, date));
}

// What an association was about: `tally` holds numbers of what was done.
function tallyText(tally) {
  const parts = Object.entries(tally).filter(([what]) => what !== "bytes").map(([what, count]) =>
    t(`tally.${what}`, { number: formatNumber(count) }) + (what === "stored" ? ` (${formatBytes(tally.bytes || 0)})` : ""));
  return parts.join(t("comma")) || t("tally.nothing");
}

// --- Elements ---

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function card(title, ...children) {
  const id = `card-${card.count++}`;
  return el("section", { class: "card", "aria-labelledby": id }, el("h2", { id }, title), ...children);
}
card.count = 0;

// Lines of a text as paragraphs.
function paragraphs(text) {
  return text.split("\n").map((line) => el("p", {}, line));
}

// What people who do not see the page are told.
function announce(text) {
  document.getElementById("said").textContent = text;
}

function notice(kind, ...children) {
  const sign = { good: "✔", bad: "✖", warning: "▲", busy: "…" }[kind];
  return el("div", { class: `notice ${kind}` }, el("span", { class: "sign", "aria-hidden": "true" }, sign),
    el("div", {}, ...children));
}

// --- Requests ---

class Failure extends Error {
  constructor(status, answer) {
    const known = answer.error && answer.error.key;
    super(known ? sentence(answer.error) : answer.message || t("failure.connection"));
    this.status = status;
    this.key = known || "";
    this.problems = answer.problems || {};
    this.fromDoor = typeof answer.error === "string"; // ui/index.cgi or DSM, not the panel itself
  }
}

async function attempt(path, body) {
  const headers = Panel.synoToken ? { "X-SYNO-TOKEN": Panel.synoToken } : {};
  const options = { headers, credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
    headers["X-Requested-With"] = Panel.session.csrf;
  }
  let response;
  let answer;
  try {
    response = await fetch(path, options);
    answer = response.ok || response.status < 500 ? await response.json() : {};
  } catch {
    throw new Failure(0, {});
  }
  if (!response.ok) throw new Failure(response.status, answer);
  return answer;
}

// Asks again once when the panel was started anew meanwhile, or when DSM wants a new token.
async function request(path, body) {
  const token = Panel.synoToken;
  try {
    return await attempt(path, body);
  } catch (failure) {
    if (failure.key === "refused.csrf") Panel.session = await attempt("api/session");
    else if (!(failure.fromDoor && failure.status === 403 && (await renewToken(token)))) throw failure;
    return attempt(path, body);
  }
}

// Returns whether there is another token than the one that was refused: a request beside it may have found that already.
async function renewToken(refused) {
  if (typeof SynoToken === "undefined") return false;
  Panel.synoToken = (await SynoToken.find()) || Panel.synoToken;
  return Panel.synoToken !== refused;
}

// Starts work on the server and waits for its result.
async function task(path, body) {
  const { task: number } = await request(path, body);
  for (;;) {
    let answer;
    try {
      answer = await request(`api/tasks/${number}`);
    } catch (failure) {
      if (failure.status) throw failure;
      await pause(1000); // the connection was lost; the work goes on
      continue;
    }
    if (!answer.done) continue;
    if (answer.result.failed) throw new Failure(500, { error: answer.result.failed });
    return answer.result;
  }
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

// Calls `look` now and then while the page is there and can be seen.
async function repeat(seconds, left, look) {
  while (!left.aborted) {
    if (!document.hidden) await look();
    await Promise.race([
      pause(seconds * 1000),
      new Promise((resolve) => left.addEventListener("abort", resolve, { once: true })),
      new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true })),
    ]);
  }
}

// --- Tabs and language ---

function pageName() {
  const name = location.hash.slice(1);
  return Panel.pages.has(name) ? name : Panel.session.pages[0];
}

function showPage() {
  const name = pageName();
  if (Panel.leaving) Panel.leaving.abort();
  Panel.leaving = new AbortController();
  for (const link of document.querySelectorAll("#pages a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const content = document.getElementById("content");
  content.replaceChildren(el("h1", { tabindex: "-1" }, t(`page.${name}`)));
  announce("");
  Panel.pages.get(name)(content, Panel.leaving.signal);
  document.title = `${t(`page.${name}`)} – ${t("title")}`;
}

async function useLanguage(lang) {
  const answer = await request(`api/texts?lang=${lang}`);
  Panel.lang = answer.lang;
  Panel.texts = answer.texts;
  document.documentElement.lang = answer.lang === "zh" ? "zh-Hans" : "en";
  document.getElementById("language").textContent = t("other-language");
  document.getElementById("language").lang = answer.lang === "zh" ? "en" : "zh-Hans";
  document.querySelector(".skip").textContent = t("skip");
  const tabs = document.getElementById("pages");
  tabs.setAttribute("aria-label", t("pages"));
  tabs.replaceChildren(...Panel.session.pages.map((name) => el("a", { href: `#${name}` }, t(`page.${name}`))));
}

// What was chosen here wins over DSM's desktop, and that over what the server made of the browser's wishes.
function preferredLanguage() {
  const query = new URLSearchParams(location.search).get("lang");
  let desktop = "";
  try {
    desktop = (window.parent !== window && window.parent._S && window.parent._S("lang")) || "";
  } catch {
    desktop = ""; // the frame around us is another site's
  }
  return remembered("angiovault-language") || query || desktop || Panel.lang;
}

function remembered(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null; // the browser forbids it in frames
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // It lasts as long as the page then.
  }
}
