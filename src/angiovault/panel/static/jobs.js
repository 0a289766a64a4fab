// Jobs: imports, verification, the index made anew, sendings; and the storage commitments that wait for delivery.
(() => {
  const ACTIVE = ["waiting", "running"];
  const AGAIN = { interrupted: "job.continue", cancelled: "job.continue", failed: "job.retry", partly: "job.retry" };
  const KINDS = { done: "good", partly: "warning", failed: "bad", cancelled: "warning", interrupted: "warning" };

  // --- What is said of a job ---

  function titleOf(job) {
    const parts = { device: job.device, path: job.path };
    const what = t(job.move ? "job.kind.import-move" : `job.kind.${job.kind}`, parts);
    return job.title ? `${what}: ${job.title}` : what;
  }

  function duration(seconds) {
    const minutes = Math.round(seconds / 60);
    if (minutes < 1) return t("job.left.moment");
    if (minutes < 60) return t("job.left.minutes", { minutes });
    return t("job.left.hours", { hours: Math.floor(minutes / 60), minutes: minutes % 60 });
  }

  // How much of a job is done, 0 to 1; null while that is not known. Bytes tell the time better than files.
  function fraction(job) {
    if (job.total_bytes) return Math.min(1, job.bytes / job.total_bytes);
    return job.total_items ? Math.min(1, job.items / job.total_items) : null;
  }

  function secondsLeft(job) {
    if (job.total_bytes) return job.byte_rate > 0 ? (job.total_bytes - job.bytes) / job.byte_rate : null;
    return job.total_items && job.item_rate > 0 ? (job.total_items - job.items) / job.item_rate : null;
  }

  function progressText(job) {
    if (job.total_items === null && !job.items) return t("job.counting");
    const parts = [job.total_items === null ? t("job.items", { number: formatNumber(job.items) })
      : t("job.items-of", { number: formatNumber(job.items), total: formatNumber(job.total_items) })];
    if (job.bytes) parts.push(formatBytes(job.bytes));
    if (job.byte_rate >= 1) parts.push(t("job.rate", { bytes: formatBytes(job.byte_rate) }));
    const left = secondsLeft(job);
    if (left !== null) parts.push(duration(Math.max(0, left)));
    return parts.join(t("comma"));
  }

  function countsText(job) {
    return Object.entries(job.counts).filter(([, number]) => number).map(([name, number]) =>
      t(`job.count.${name.replace(" ", "-")}`, { number: formatNumber(number) })).join(t("comma"));
  }

  function stateText(job) {
    const parts = [t(`job.state.${job.state}`)];
    const counts = job.state === "running" || job.state === "waiting" ? "" : countsText(job);
    if (counts) parts.push(counts);
    return parts.join(t("colon"));
  }

  function when(job) {
    if (ACTIVE.includes(job.state)) return t("job.asked", { user: job.user, time: formatTime(job.created) });
    return job.ended ? t("job.ended", { user: job.user, time: formatTime(job.ended) })
      : t("job.asked", { user: job.user, time: formatTime(job.created) });
  }

  // --- One job in the list ---

  // Its parts are changed in place, so that the focus stays where it is while the numbers go up.
  class Entry {
    constructor(page) {
      this.page = page;
      this.shown = "";
      this.buttonsOf = "";
      this.title = el("h3", {});
      this.state = el("p", { class: "job-state" });
      this.bar = el("progress", { max: "1" });
      this.progress = el("p", { class: "note" });
      this.reason = el("p", { class: "error breakable" });
      this.note = el("p", { class: "note" });
      this.buttons = el("div", { class: "buttons" });
      this.node = el("li", { class: "job" }, this.title, this.state, this.bar, this.progress, this.reason, this.note,
        this.buttons);
    }

    update(job) {
      const data = JSON.stringify(job);
      if (data === this.shown) return;
      this.shown = data;
      const title = titleOf(job);
      const part = fraction(job);
      this.title.textContent = title;
      this.state.textContent = stateText(job);
      this.state.className = `job-state ${KINDS[job.state] || "busy"}`;
      this.bar.hidden = job.state !== "running";
      this.bar.setAttribute("aria-label", title);
      if (part === null) this.bar.removeAttribute("value");
      else this.bar.value = part;
      this.progress.hidden = job.state !== "running";
      this.progress.textContent = progressText(job);
      this.reason.textContent = job.reason || (job.state === "running" ? "" : job.problem);
      this.note.textContent = when(job);
      this.updateButtons(job, title);
    }

    updateButtons(job, title) {
      const needed = `${job.id} ${job.state} ${job.problem_count > 0} ${job.goes_on} ${Panel.lang}`;
      if (needed === this.buttonsOf) return;
      this.buttonsOf = needed;
      const button = (key, action) => el("button", { type: "button", class: "small", "data-action": key.split(".")[1],
        "aria-label": `${t(key)}${t("colon")}${title}`, click: action }, t(key));
      const change = (action) => () => this.page.change(`api/jobs/${job.id}/${action}`);
      const hadFocus = this.buttons.contains(document.activeElement);
      const again = AGAIN[job.state];
      this.buttons.replaceChildren(...[
        ACTIVE.includes(job.state) ? button("job.cancel", () => this.cancel(job, title)) : null,
        again ? button(again === "job.continue" && !job.goes_on ? "job.anew" : again, change("again")) : null,
        job.problem_count ? button("job.problems", () => showProblemsOf(job)) : null,
        ACTIVE.includes(job.state) ? null : button("job.remove", change("remove")),
      ].filter(Boolean));
      if (hadFocus && this.buttons.firstChild) this.buttons.firstChild.focus();
    }

    async cancel(job, title) {
      const key = job.kind === "reindex" ? "job.cancel-reindex" : "job.cancel-text";
      if (await confirmed(title, t(key), t("job.cancel-yes"))) await this.page.change(`api/jobs/${job.id}/cancel`);
    }
  }

  async function showProblemsOf(job) {
    const place = el("div", {}, notice("busy", t("job.loading")));
    const dialog = openDialog(t("job.problems-title", { title: titleOf(job) }), place, el("div", { class: "buttons" },
      el("button", { type: "button", click: () => dialog.close() }, t("close"))));
    try {
      const found = await request(`api/jobs/${job.id}`);
      place.replaceChildren(found.problem_count > found.problems.length
        ? el("p", {}, t("job.problems-latest", { number: found.problems.length, total: formatNumber(found.problem_count) })) : "",
      el("ul", { class: "problems", tabindex: "0", "aria-label": t("job.problems") },
        ...found.problems.map((text) => el("li", { class: "breakable" }, text))));
    } catch (failure) {
      place.replaceChildren(notice("bad", failure.message));
    }
  }

  // --- Starting ---

  function startImport(page) {
    const input = el("input", { type: "text", autocomplete: "off", spellcheck: "false" });
    const path = new Field("import-path", t("import.folder"), input, { rule: { kind: "text", empty: false },
      help: t("help.import"),
      beside: [el("button", { type: "button", click: () => Panel.pickFolder(input) }, t("choose"))] });
    const move = new Field("import-move", t("import.move"), el("input", { type: "checkbox" }));
    const warning = el("div", { hidden: true }, notice("warning", t("import.move-warning")));
    move.input.addEventListener("change", () => { warning.hidden = !move.input.checked; });
    const status = el("div", { role: "status" });
    const start = el("button", { type: "submit", class: "primary" }, t("import.start"));

    async function submit() {
      if (!path.check()) {
        input.focus();
        return;
      }
      start.disabled = true;
      try {
        await request("api/jobs", { kind: "import", path: path.value, move: move.input.checked });
        dialog.close();
        page.look();
      } catch (failure) {
        showProblems([path], Object.fromEntries(Object.entries(failure.problems).map(([name, text]) => [`import-${name}`, text])));
        status.replaceChildren(notice("bad", failure.message));
        start.disabled = false;
      }
    }

    const form = el("form", { novalidate: true, submit: (event) => { event.preventDefault(); submit(); } },
      el("p", {}, t("import.text")), path.node, move.node, warning, status,
      el("div", { class: "buttons" }, start, el("button", { type: "button", click: () => dialog.close() }, t("cancel"))));
    const dialog = openDialog(t("import.title"), form);
    input.focus();
  }

  async function startPlain(page, kind, look) {
    const sure = await confirmed(t(`${kind}.title`), t(`${kind}.text`), t(`${kind}.start`), look);
    if (sure) await page.change("api/jobs", { kind });
  }

  // --- Storage commitments ---

  function commitmentRow(page, item) {
    const waits = item.state === "waiting";
    const change = (action) => page.change(`api/commitments/${item.number}/${action}`);
    const giveUp = async () => {
      if (await confirmed(t("commitment.cancel-title"), t("commitment.cancel-text", { who: item.requestor }), t("commitment.cancel"))) {
        await change("cancel");
      }
    };
    return el("tr", {}, el("th", { scope: "row" }, item.requestor,
      el("div", { class: "note" }, t("commitment.received", { time: formatTime(item.received) }))),
    el("td", {}, t(`commitment.state.${item.state.replace(" ", "-")}`),
      waits && item.attempts ? el("div", { class: "note" }, t("commitment.next",
        { attempts: item.attempts, time: formatTime(item.next_attempt) })) : null,
      item.problem ? el("div", { class: "note breakable" }, item.problem) : null),
    el("td", {}, item.instances === null ? "–" : formatNumber(item.instances)),
    el("td", { class: "actions" }, waits ? el("div", { class: "buttons" },
      el("button", { type: "button", class: "small", "aria-label": t("commitment.retry-what", { who: item.requestor }),
        click: () => change("retry") }, t("commitment.retry")),
      el("button", { type: "button", class: "small", "aria-label": t("commitment.cancel-what", { who: item.requestor }),
        click: giveUp }, t("commitment.cancel"))) : ""));
  }

  function commitmentsPart(page, items, away) {
    const intro = el("p", {}, t("commitment.text"));
    if (away) return [intro, el("p", { class: "note breakable" }, t("commitment.away", { reason: away }))];
    if (!items.length) return [intro, el("p", {}, t("commitment.none"))];
    const heads = [t("refusals.who"), t("commitment.state"), t("instances"), t("actions")];
    return [intro, el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": t("commitment") }, el("table", {},
      el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, ...items.map((item) => commitmentRow(page, item)))))];
  }

  // --- The page ---

  class Page {
    constructor(content, left) {
      this.left = left;
      this.entries = new Map();
      this.states = new Map();
      this.isActive = true;
      this.turn = 0;
      this.status = el("div", { role: "alert" });
      this.list = el("ul", { class: "plain" });
      this.none = el("p", {}, t("jobs.none"));
      this.commitments = el("div");
      this.shownCommitments = "";
      const button = (kind, action, look) => el("button", { type: "button", class: look, "data-start": kind, click: action },
        t(`${kind}.button`));
      content.append(el("p", {}, t("jobs.intro")), el("div", { class: "buttons" },
        button("import", () => startImport(this), "primary"), button("verify", () => startPlain(this, "verify", "primary"), ""),
        button("reindex", () => startPlain(this, "reindex", "danger"), "")),
      this.status, card(t("jobs.title"), this.none, this.list), card(t("commitment"), this.commitments));
    }

    async look() {
      let answer;
      try {
        answer = await request("api/jobs");
      } catch (failure) {
        this.status.replaceChildren(notice("bad", failure.message));
        return;
      }
      if (this.left.aborted) return;
      this.status.replaceChildren(answer.away ? notice("bad", answer.away) : "");
      this.showJobs(answer.jobs);
      const data = JSON.stringify([answer.commitments, answer.commitments_away]);
      if (data !== this.shownCommitments) {
        this.shownCommitments = data;
        this.commitments.replaceChildren(...commitmentsPart(this, answer.commitments, answer.commitments_away));
      }
    }

    showJobs(jobs) {
      const known = new Set(jobs.map((job) => job.id));
      for (const [id, entry] of this.entries) {
        if (known.has(id)) continue;
        if (entry.node.contains(document.activeElement)) document.querySelector("h1").focus();
        entry.node.remove();
        this.entries.delete(id);
      }
      jobs.forEach((job, place) => {
        const entry = this.entries.get(job.id) || new Entry(this);
        this.entries.set(job.id, entry);
        entry.update(job);
        if (this.list.children[place] !== entry.node) this.list.insertBefore(entry.node, this.list.children[place] || null);
        const before = this.states.get(job.id);
        if (before && before !== job.state) announce(`${titleOf(job)}${t("colon")}${stateText(job)}`);
        this.states.set(job.id, job.state);
      });
      this.none.hidden = jobs.length > 0;
      this.isActive = jobs.some((job) => ACTIVE.includes(job.state));
    }

    async change(path, body = {}) {
      try {
        await request(path, body);
        await this.look();
      } catch (failure) {
        await this.look();
        const texts = Object.values(failure.problems).map(sentence);
        this.status.replaceChildren(notice("bad", texts.length ? texts.join(" ") : failure.message));
      }
    }

    // While something runs its progress is asked for often; on a NAS every question starts a program at the door.
    async lookWhenDue() {
      if (this.isActive || this.turn % 4 === 0) await this.look();
      this.turn += 1;
    }
  }

  // The overview's line about what is going on.
  Panel.jobsLine = (jobs) => {
    if (!jobs.length) return el("div");
    const first = jobs.find((job) => job.state === "running") || jobs[0];
    const part = fraction(first);
    const text = part === null || first.state !== "running" ? t("jobs.active", { title: titleOf(first) })
      : t("jobs.active-part", { title: titleOf(first), percent: Math.floor(100 * part) });
    return notice("busy", el("p", { class: "breakable" }, text,
      jobs.length > 1 ? ` ${t("jobs.active-more", { number: jobs.length - 1 })}` : "", " ",
      el("a", { href: "#jobs" }, t("page.jobs"))));
  };

  Panel.page("jobs", (content, left) => {
    const page = new Page(content, left);
    repeat(Panel.session.nas ? 3 : 1.5, left, () => page.lookWhenDue());
  });
})();
