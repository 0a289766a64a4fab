// The status page: takes over DSM's language and token, and follows the state of the archive.
"use strict";

const SECONDS = 5;
const page = document.documentElement.dataset;
const state = "/webman/3rdparty/angiovault/index.cgi/stub/state.json";
const token = SynoToken.fromAddress();

function go(changes) {
  const address = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) address.searchParams.set(name, value);
  location.replace(address);
}

// DSM's desktop knows the language of the user who is logged in; a choice made on this page wins.
function languageOfDesktop() {
  if (new URLSearchParams(location.search).has("lang")) return page.lang;
  try {
    const name = window.parent !== window && window.parent._S && window.parent._S("lang");
    return name ? (["chs", "cht"].includes(name) ? "chs" : "enu") : page.lang;
  } catch {
    return page.lang;  // the frame around us is another site's
  }
}

function show(parts) {
  for (const [name, html] of Object.entries(parts)) {
    const place = document.getElementById(name);
    if (show.last[name] === html) continue;
    const before = place.querySelector(".log");
    const atEnd = !before || before.scrollTop + before.clientHeight >= before.scrollHeight - 4;
    const top = before ? before.scrollTop : 0;
    const focused = before !== null && before === document.activeElement;
    place.innerHTML = html;  // escaped by the server, which makes the page of the same parts
    show.last[name] = html;
    const log = place.querySelector(".log");
    if (log) {
      log.scrollTop = atEnd ? log.scrollHeight : top;
      if (focused) log.focus();
    }
  }
}
show.last = {};

async function look() {
  const lost = document.getElementById("lost");
  try {
    const headers = token ? { "X-SYNO-TOKEN": token } : {};
    const response = await fetch(`${state}?lang=${page.lang}`, { headers, credentials: "same-origin" });
    if (response.status === 403) return renew();
    const answer = await response.json();
    lost.hidden = true;
    if (page.panel === "absent" && answer.panel === "there") return location.reload();
    show(answer.parts);
  } catch {
    lost.hidden = false;
  }
  setTimeout(look, SECONDS * 1000);
}

// Without or with an old token DSM may know nobody. One try for each new token, so that it ends.
async function renew() {
  const found = await SynoToken.find();
  if (found && found !== SynoToken.fromAddress()) go({ SynoToken: found });
  else if (page.panel !== "refused") location.reload();
}

async function start() {
  document.getElementById("other-language").addEventListener("click", (event) => {
    event.preventDefault();
    go({ lang: page.lang === "chs" ? "enu" : "chs" });
  });
  if (page.panel === "refused") return renew();
  const lang = languageOfDesktop();
  if (lang !== page.lang) return go({ lang });
  const log = document.querySelector(".log");
  if (log) log.scrollTop = log.scrollHeight;
  setTimeout(look, SECONDS * 1000);
}

start();
