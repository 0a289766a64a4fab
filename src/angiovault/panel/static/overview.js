// Overview: is it running and well, what to type into the modality, what it holds.
(() => {
  const KINDS = { well: "good", problems: "warning", "needs-set-up": "warning", starting: "busy", stopping: "busy" };

  function statePart(answer) {
    const kind = KINDS[answer.state] || "bad";
    const advice = answer.message ? sentence(answer.message) : t(`state.${answer.state}.do`);
    const lines = answer.problems.map((problem) =>
      el("li", {}, el("strong", {}, `${t(`problem.${problem.kind}`)}: `), problem.text));
    return notice(kind, el("h2", {}, t(`state.${answer.state}`)), advice ? el("p", {}, advice) : null,
      lines.length ? el("ul", {}, ...lines) : null,
      answer.since ? el("p", { class: "note" }, t("since", { time: formatTime(answer.since) }),
        answer.restarts ? ` · ${t("restarts", { number: answer.restarts })}` : "") : null);
  }

  function pair(term, ...description) {
    return [el("dt", {}, term), el("dd", {}, ...description)];
  }

  function copied(text, what) {
    return el("span", { class: "copied" }, el("code", {}, text), copyButton(text, what));
  }

  function dicomPart(dicom) {
    if (!dicom.ae_title) return card(t("dicom.title"), el("p", {}, t("dicom.unknown")));
    const addresses = dicom.addresses.map((item) => el("li", {}, copied(item.address, t("dicom.address")),
      item.interface ? el("span", { class: "note" }, ` ${item.interface}`) : null));
    return card(t("dicom.title"),
      el("dl", { class: "facts" },
        pair(t("dicom.ae-title"), copied(dicom.ae_title, t("dicom.ae-title"))),
        pair(t("dicom.address"), addresses.length ? el("ul", { class: "plain" }, ...addresses) : t("dicom.no-address")),
        pair(t("dicom.port"), copied(String(dicom.port), t("dicom.port"))),
        dicom.tls_port ? pair(t("dicom.tls-port"), copied(String(dicom.tls_port), t("dicom.tls-port"))) : []),
      el("details", { class: "help" }, el("summary", {}, t("help.consoles")), ...paragraphs(t("help.consoles.text"))));
  }

  function bar(used, label) {
    const percent = Math.round(100 * used);
    const kind = used > 0.95 ? "bad" : used > 0.9 ? "warning" : "good";
    return svg("svg", { class: `bar ${kind}`, viewBox: "0 0 100 6", preserveAspectRatio: "none", role: "img",
      "aria-label": label }, svg("rect", { class: "whole", width: "100", height: "6" }),
      svg("rect", { class: "part", width: String(Math.max(1, percent)), height: "6" }));
  }

  function healthPart(found) {
    const facts = [];
    facts.push(pair(t("storage"), el("code", {}, found.path), found.storage === "ready" ? "" : ` ${found.storage}`));
    if (found.total_bytes) {
      const free = Math.max(0, found.free_bytes);
      const text = t("storage.free", { free: formatBytes(free), total: formatBytes(found.total_bytes) });
      const each = found.folders.length < 2 ? [] : found.folders.map((folder) => el("div", { class: "note" },
        el("code", {}, folder.path), " ",
        t("storage.free", { free: formatBytes(folder.free_bytes), total: formatBytes(folder.total_bytes) })));
      facts.push(pair(t("disk"), bar(1 - free / found.total_bytes, text), el("span", {}, text), ...each));
    }
    facts.push(pair(t("database"), found.index === "ready" ? t("database.ready") : found.index,
      el("div", { class: "note" }, el("code", {}, found.index_url))));
    if (found.journal) facts.push(pair(t("journal"), t("journal.waiting", { number: formatNumber(found.journal) })));
    const waiting = (found.commitment && found.commitment.waiting) || 0;
    const entries = found.commitments_waiting.map((item) => el("li", {},
      t("commitment.item", { who: item.requestor, number: item.instances, attempts: item.attempts }),
      item.problem ? el("div", { class: "note" }, item.problem) : null));
    facts.push(pair(t("commitment"), t("commitment.waiting", { number: formatNumber(waiting),
      done: formatNumber((found.commitment && found.commitment.delivered) || 0) }),
    entries.length ? el("ul", {}, ...entries) : null));
    return card(t("health.title"), el("dl", { class: "facts" }, ...facts.flat()));
  }

  function figure(number, label) {
    return el("div", { class: "figure" }, el("b", {}, number), el("span", {}, label));
  }

  // One bar a day; the same numbers stand in a table for those who do not see it.
  function chart(days) {
    const most = Math.max(1, ...days.map((day) => day.studies));
    const width = 100 / days.length;
    const bars = days.map((day, place) => {
      const height = day.studies ? Math.max(1.5, 38 * day.studies / most) : 0.4;
      const text = t("arrivals.day", { day: formatDay(day.day), studies: formatNumber(day.studies),
        instances: formatNumber(day.instances), bytes: formatBytes(day.bytes) });
      return svg("rect", { class: day.studies ? "some" : "none", x: String(place * width + width * 0.12),
        width: String(width * 0.76), y: String(40 - height), height: String(height) }, svg("title", {}, text));
    });
    const rows = days.filter((day) => day.studies).map((day) => el("tr", {}, el("th", { scope: "row" }, formatDay(day.day)),
      el("td", {}, formatNumber(day.studies)), el("td", {}, formatNumber(day.instances)),
      el("td", {}, formatBytes(day.bytes))));
    const table = el("details", { class: "help" }, el("summary", {}, t("arrivals.table")),
      rows.length ? el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, t("day")),
        el("th", { scope: "col" }, t("studies")), el("th", { scope: "col" }, t("instances")),
        el("th", { scope: "col" }, t("size")))), el("tbody", {}, ...rows)) : el("p", {}, t("arrivals.none")));
    return [
      svg("svg", { class: "chart", viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img",
        "aria-label": t("arrivals.chart") }, ...bars),
      el("div", { class: "axis" }, el("span", {}, formatDay(days[0].day)),
        el("span", {}, t("arrivals.most", { number: formatNumber(most) })), el("span", {}, t("today"))),
      table,
    ];
  }

  function holdingsPart(found) {
    if (!found.counts) return card(t("holdings.title"), el("p", {}, t("holdings.unknown")));
    const counts = found.counts;
    const parts = [el("div", { class: "figures" }, figure(formatNumber(counts.studies), t("studies")),
      figure(formatNumber(counts.instances), t("instances")), figure(formatBytes(counts.bytes), t("size")),
      figure(formatNumber(counts.patients), t("patients")))];
    if (found.arrivals) {
      const { today, month, days } = found.arrivals;
      parts.push(el("h3", {}, t("arrivals.title")),
        el("p", {}, t("arrivals.today", { number: formatNumber(today.studies), bytes: formatBytes(today.bytes) }), " ",
          t("arrivals.month", { number: formatNumber(month.studies), bytes: formatBytes(month.bytes) })),
        ...chart(days));
    }
    if (counts.conflicts) parts.push(el("p", { class: "note" }, t("conflicts", { number: formatNumber(counts.conflicts) })));
    return card(t("holdings.title"), ...parts);
  }

  function errorPart(error) {
    if (!error) return el("div");
    return card(t("last-error"), el("p", { class: "note" }, error.time), el("p", { class: "breakable" }, error.text));
  }

  function associationsPart(items) {
    if (!items.length) return el("div");
    const rows = items.map((item) => el("tr", {}, el("td", { class: "time" }, formatTime(item.time)),
      el("th", { scope: "row" }, item.device || item.calling, el("div", { class: "note" }, item.address)),
      el("td", { class: "breakable" }, tallyText(item.tally), item.ending === "released" ? null : el("div", { class: "error" }, t(`ending.${item.ending}`)))));
    return card(t("associations.title"), el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, t("time")),
      el("th", { scope: "col" }, t("refusals.who")), el("th", { scope: "col" }, t("associations.what")))),
    el("tbody", {}, ...rows)));
  }

  Panel.page("overview", (content, left) => {
    const lost = el("div", { role: "alert" });
    const places = { state: el("div", { "aria-live": "polite" }), jobs: el("div"), dicom: el("div"), health: el("div"),
      holdings: el("div"), associations: el("div"), error: el("div") };
    const before = {};
    content.append(lost, places.state, places.jobs, el("div", { class: "columns" }, el("div", {}, places.dicom, places.health),
      el("div", {}, places.holdings, places.associations, places.error)));

    // Only what has changed is made anew: focus, selection and open details stay.
    function put(name, data, make) {
      const text = JSON.stringify(data);
      if (before[name] === text) return;
      before[name] = text;
      places[name].replaceChildren(make(data));
    }

    // On a NAS every question starts a program at the door: half as many there.
    repeat(Panel.session.nas ? 10 : 5, left, async () => {
      let answer;
      try {
        answer = await request("api/overview");
      } catch (failure) {
        lost.replaceChildren(notice("bad", el("p", {}, failure.message)));
        return;
      }
      if (left.aborted) return;
      lost.replaceChildren();
      const { state, message, problems, since, restarts } = answer;
      put("state", { state, message, problems, since, restarts }, statePart);
      put("jobs", answer.jobs, Panel.jobsLine);
      put("dicom", answer.dicom, dicomPart);
      if (answer.archive.path) {
        put("health", answer.archive, healthPart);
        put("holdings", { counts: answer.archive.counts, arrivals: answer.archive.arrivals }, holdingsPart);
      }
      put("associations", answer.associations, associationsPart);
      put("error", answer.last_error, errorPart);
    });
  });
})();
