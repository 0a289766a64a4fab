// Studies: found, opened, sent, exported, deleted; and the trash.
(() => {
  const FIELDS = { name: "studies.name", id: "studies.id", from: "studies.from", to: "studies.to",
    modality: "studies.modality", accession: "studies.accession" };

  const nameOf = (names) => names.join(" · ") || t("studies.nameless");
  const dayOf = (date) => (/^\d{8}$/.test(date) ? formatDay(`${date.slice(0, 4)}-${date.slice(4, 6)}-${date.slice(6)}`) : date);
  const dateOf = (date) => dayOf(date) || t("studies.undated");
  const countsOf = (study) => t("studies.counts", { series: formatNumber(study.series),
    instances: formatNumber(study.instances), size: formatBytes(study.size) });

  function table(caption, heads, rows) {
    return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption }, el("table", {},
      el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))), el("tbody", {}, ...rows)));
  }

  function person(names, id) {
    return [el("div", {}, names[names.length - 1] || t("studies.nameless")),
      names.length > 1 ? el("div", { class: "note" }, names.slice(0, -1).join(" · ")) : null,
      id ? el("div", { class: "note breakable" }, id) : null].filter(Boolean);
  }

  // A question that is answered by typing what stands in it; `work` does it and may fail.
  function confirmedByTyping(title, text, word, action, busy, work) {
    const field = new Field("confirm", t("studies.delete-confirm", { word }),
      el("input", { type: "text", autocomplete: "off", spellcheck: "false", autocapitalize: "off" }));
    const status = el("div", { role: "status" });
    const go = el("button", { type: "submit", class: "danger" }, action);
    const form = el("form", { novalidate: true, submit: (event) => { event.preventDefault(); submit(); } },
      el("p", {}, text), field.node, status,
      el("div", { class: "buttons" }, go, el("button", { type: "button", click: () => dialog.close() }, t("cancel"))));
    const dialog = openDialog(title, form);
    field.input.focus();

    async function submit() {
      go.disabled = true;
      status.replaceChildren(notice("busy", busy));
      try {
        await work(field.value);
        dialog.close();
      } catch (failure) {
        showProblems([field], failure.problems || {});
        status.replaceChildren(notice("bad", failure.message));
        go.disabled = false;
      }
    }
  }

  // --- One study ---

  function send(study, done) {
    const place = el("div", { role: "status" });
    const chosen = el("select", { id: "send-device" });
    const go = el("button", { type: "button", class: "primary", disabled: true, click: () => submit() }, t("studies.send-now"));
    const dialog = openDialog(t("studies.send-title"),
      el("div", { class: "field" }, el("label", { for: chosen.id }, t("studies.send-to")), chosen), place,
      el("div", { class: "buttons" }, go, el("button", { type: "button", click: () => dialog.close() }, t("cancel"))));
    request("api/devices").then((answer) => {
      const names = answer.devices.filter((device) => device.callable).map((device) => device.name);
      chosen.append(...options(names.map((name) => [name, name]), names[0]));
      go.disabled = !names.length;
      if (names.length) chosen.focus();
      else place.replaceChildren(notice("warning", t("studies.send-none")));
    }).catch((failure) => place.replaceChildren(notice("bad", failure.message)));

    async function submit() {
      go.disabled = true;
      const title = t("studies.send-job", { name: nameOf(study.names), device: chosen.value });
      try {
        await request("api/jobs", { kind: "send", device: chosen.value, uids: [study.uid], title });
        dialog.close();
        done("good", t("studies.sent"));
      } catch (failure) {
        place.replaceChildren(notice("bad", failure.message));
        go.disabled = false;
      }
    }
  }

  // The browser saves it by itself, however large: nothing of it is held here. DSM takes its token from the address.
  async function download(study, dicomdir, done) {
    const path = `api/studies/${encodeURIComponent(study.uid)}/zip`;
    try {
      const { name } = await request(`${path}?check=yes`);
      const query = new URLSearchParams({ dicomdir: dicomdir ? "yes" : "no" });
      if (Panel.synoToken) query.set("SynoToken", Panel.synoToken);
      el("a", { href: `${path}?${query}`, download: name }).click();
      done("good", t("studies.exporting", { name }));
    } catch (failure) {
      done("bad", failure.message);
    }
  }

  function remove(opened, gone) {
    const { study } = opened;
    const word = study.patient_id || study.names[0] || t("studies.delete-word");
    confirmedByTyping(t("studies.delete-title"),
      t("studies.delete-text", { name: nameOf(study.names), date: dateOf(study.date), counts: countsOf(study) }),
      word, t("studies.delete-now"), t("studies.deleting"), async (typed) => {
        const result = await task("api/trash/add", { uid: study.uid, files: opened.files, confirm: typed });
        gone(sentence(result.message));
      });
  }

  function versionRow(uid, version, choose) {
    const time = formatTime(version.received);
    return el("tr", {}, el("td", {}, time), el("td", {}, version.calling || t("studies.imported")),
      el("td", {}, formatBytes(version.size)), el("td", {}, el("code", {}, version.content)),
      el("td", {}, version.current ? t("studies.current") : el("button", { type: "button", class: "small",
        "aria-label": t("studies.choose-what", { time, uid }), click: () => choose(uid, version.content) }, t("studies.choose"))));
  }

  function conflictsCard(conflicts, choose) {
    const heads = [t("studies.version"), t("studies.sender"), t("size"), t("studies.instance.content"), t("actions")];
    return card(t("studies.conflicts"), el("p", {}, t("studies.conflicts.text")),
      ...Object.entries(conflicts).flatMap(([uid, versions]) => [el("h3", { class: "breakable" }, uid),
        table(uid, heads, versions.map((version) => versionRow(uid, version, choose)))]));
  }

  function facts(study) {
    const rows = [["studies.patient", nameOf(study.names)], ["studies.id", study.patient_id],
      ["studies.birth-date", dayOf(study.birth_date)], ["studies.sex", study.sex], ["studies.study", dateOf(study.date)],
      ["studies.description", study.description], ["studies.accession", study.accession_number],
      ["studies.modality", study.modalities.join(t("comma"))], ["studies.contents", countsOf(study)],
      ["studies.received", formatTime(study.received)], ["studies.uid", study.uid]];
    return el("dl", { class: "facts" }, ...rows.filter(([, text]) => text).flatMap(([key, text]) =>
      [el("dt", {}, t(key)), el("dd", {}, text)]));
  }

  async function showStudy(place, uid, left, back, outcome = null) {
    const status = el("div", { role: "status" }, outcome);
    const done = (kind, text) => status.replaceChildren(notice(kind, text));
    const title = el("h2", { tabindex: "-1" });
    const leave = el("button", { type: "button", click: () => back() }, t("studies.back"));
    let opened;
    try {
      opened = await request(`api/studies/${encodeURIComponent(uid)}`);
    } catch (failure) {
      place.replaceChildren(el("div", { class: "buttons" }, leave), notice("bad", el("p", { role: "alert" }, failure.message)));
      return;
    }
    if (left.aborted) return;
    const { study } = opened;
    title.textContent = `${nameOf(study.names)}, ${dateOf(study.date)}`;
    const dicomdir = el("input", { type: "checkbox", id: "studies-dicomdir" });
    const button = (key, click, kind = null) => el("button", { type: "button", class: kind, click }, t(key));
    const choose = async (instance, content) => {
      try {
        await request("api/conflicts/choose", { uid: instance, content });
        showStudy(place, uid, left, back, notice("good", t("studies.chosen")));
      } catch (failure) {
        done("bad", failure.message);
      }
    };
    place.replaceChildren(...[el("div", { class: "buttons" }, leave),
      el("section", { class: "card" }, title, facts(study),
        study.patients_differ ? notice("warning", t("studies.patients-differ")) : null,
        el("div", { class: "buttons" }, button("studies.send", () => send(study, done), "primary"),
          button("studies.export", () => download(study, dicomdir.checked, done)),
          el("span", { class: "row" }, dicomdir, el("label", { for: dicomdir.id }, t("studies.dicomdir"))),
          button("studies.delete", () => remove(opened, (text) => back(notice("good", text))))), status),
      Object.keys(opened.conflicts).length ? conflictsCard(opened.conflicts, choose) : null,
      card(t("studies.series"), table(t("studies.series"),
        [t("studies.series-number"), t("studies.modality"), t("studies.description"), t("instances"), t("size")],
        opened.series.map((series) => el("tr", {}, el("td", {}, series.number), el("td", {}, series.modality),
          el("th", { scope: "row" }, series.description || "–"), el("td", {}, formatNumber(series.instances)),
          el("td", {}, formatBytes(series.size))))))].filter(Boolean));
    title.focus();
  }

  // --- The list ---

  function studyRow(study, open) {
    const what = [study.description, study.accession_number].filter(Boolean).join(t("comma"));
    return el("tr", {}, el("th", { scope: "row" }, ...person(study.names, study.patient_id)),
      el("td", {}, dateOf(study.date), what ? el("div", { class: "note breakable" }, what) : null),
      el("td", {}, study.modalities.join(t("comma"))),
      el("td", {}, t("studies.instances", { number: formatNumber(study.instances) }),
        el("div", { class: "note" }, formatBytes(study.size))),
      el("td", {}, formatTime(study.received)),
      el("td", { class: "actions" }, el("button", { type: "button", class: "small", click: () => open(study.uid),
        "aria-label": t("studies.open-what", { name: nameOf(study.names), date: dateOf(study.date) }) }, t("studies.open"))));
  }

  function searchForm(given, search) {
    const fields = Object.fromEntries(Object.entries(FIELDS).map(([name, key]) => {
      const type = name === "from" || name === "to" ? "date" : "text";
      const input = el("input", { type, autocomplete: "off", spellcheck: "false", maxlength: type === "text" ? "64" : null,
        class: ["from", "to", "modality"].includes(name) ? "narrow" : null });
      const field = new Field(`studies-${name}`, t(key), input);
      field.value = given[name] || "";
      return [name, field];
    }));
    const box = el("input", { type: "checkbox", id: "studies-conflicts", checked: given.conflicts === "yes" });
    const values = () => ({ ...Object.fromEntries(Object.keys(FIELDS).map((name) => [name, fields[name].value])),
      conflicts: box.checked ? "yes" : "" });
    const clear = () => {
      for (const field of Object.values(fields)) field.value = "";
      box.checked = false;
      search(values());
    };
    const node = el("form", { role: "search", novalidate: true,
      submit: (event) => { event.preventDefault(); search(values()); } },
    el("div", { class: "toolbar" }, ...Object.values(fields).map((field) => field.node)),
    el("div", { class: "toolbar" }, el("button", { type: "submit", class: "primary" }, t("studies.search")),
      el("button", { type: "button", click: clear }, t("studies.clear")),
      el("div", { class: "row" }, box, el("label", { for: box.id }, t("studies.only-conflicts")))),
    el("details", { class: "help" }, el("summary", {}, t("help", { field: t("studies.search") })),
      ...paragraphs(t("help.studies"))));
    const wrong = (problems) => showProblems(Object.values(fields),
      Object.fromEntries(Object.entries(problems).map(([name, text]) => [`studies-${name}`, text])));
    return { node, fields, wrong };
  }

  // --- The trash ---

  function trashRow(item, act) {
    const values = { name: nameOf(item.names), date: dateOf(item.study_date) };
    const done = item.state === "deleted";
    return el("tr", {}, el("th", { scope: "row" }, ...person(item.names, item.patient_id)),
      el("td", {}, values.date, item.description ? el("div", { class: "note breakable" }, item.description) : null),
      el("td", {}, t("studies.instances", { number: formatNumber(item.instances) }),
        el("div", { class: "note" }, formatBytes(item.size))),
      el("td", {}, formatTime(item.deleted), el("div", { class: "note" }, done ? t("trash.by", { user: item.by }) : t("trash.unfinished"))),
      el("td", { class: "actions" }, el("div", { class: "buttons" },
        el("button", { type: "button", class: "small", "aria-label": t("trash.restore-what", values),
          click: () => act.restore(item) }, t("trash.restore")),
        el("button", { type: "button", class: "small", "aria-label": t("trash.remove-what", values), disabled: !done,
          click: () => act.remove([item], `${values.name}, ${values.date}`) }, t("trash.remove")))));
  }

  async function showTrash(place, left, changed) {
    let answer;
    try {
      answer = await request("api/trash");
    } catch {
      return; // the list above says why
    }
    if (left.aborted) return;
    const status = el("div", { role: "status" });
    const summary = t("trash.summary", { number: formatNumber(answer.items.length), size: formatBytes(answer.size),
      free: formatBytes(answer.free) });
    const act = {
      async restore(item) {
        status.replaceChildren(notice("busy", t("trash.restoring")));
        try {
          changed(sentence((await task("api/trash/restore", { id: item.id })).message));
        } catch (failure) {
          status.replaceChildren(notice("bad", failure.message));
        }
      },
      remove(items, what) {
        confirmedByTyping(t("trash.remove-title"), t("trash.remove-text", { what }), t("trash.empty-word"),
          t("trash.remove-now"), t("trash.removing"), async (typed) => {
            let result;
            for (let start = 0; start < items.length; start += 500) {
              const ids = items.slice(start, start + 500).map((item) => item.id);
              result = await task("api/trash/empty", { ids, confirm: typed });
            }
            changed(sentence(result.message));
          });
      },
    };
    const finished = answer.items.filter((item) => item.state === "deleted");
    place.replaceChildren(card(t("trash.title"), el("p", {}, answer.items.length ? summary : t("trash.empty")), status,
      ...(answer.items.length ? [
        table(t("trash.title"), [t("studies.patient"), t("studies.study"), t("studies.contents"), t("trash.deleted"), t("actions")],
          answer.items.map((item) => trashRow(item, act))),
        el("div", { class: "buttons" }, el("button", { type: "button", disabled: !finished.length,
          click: () => act.remove(finished, summary) }, t("trash.remove-all")))] : [])));
  }

  // --- The page ---

  function show(content, left, given = {}, outcome = null) {
    const status = el("p", { class: "note", role: "status" });
    const body = el("tbody");
    const results = table(t("studies"), [t("studies.patient"), t("studies.study"), t("studies.modality"), t("studies.contents"),
      t("studies.received"), t("actions")], []);
    results.querySelector("tbody").replaceWith(body);
    const more = el("button", { type: "button", hidden: true, click: () => look(false) }, t("studies.more"));
    const trash = el("div");
    const form = searchForm(given, (values) => { wanted = values; look(true); });
    let wanted = given;
    let next = 0;
    let turn = 0;

    async function look(anew) {
      const mine = ++turn;
      status.textContent = t("studies.searching");
      for (const field of Object.values(form.fields)) field.show(null);
      try {
        const query = new URLSearchParams({ ...wanted, before: anew || !next ? "" : String(next) });
        const answer = await request(`api/studies?${query}`);
        if (left.aborted || mine !== turn) return; // another search was faster
        if (anew) body.replaceChildren();
        body.append(...answer.studies.map((study) => studyRow(study, open)));
        next = answer.next;
        more.hidden = !next;
        results.hidden = !body.childElementCount;
        const number = formatNumber(body.childElementCount);
        status.textContent = !body.childElementCount ? t("studies.none") : t(next ? "studies.found-more" : "studies.found", { number });
      } catch (failure) {
        if (mine !== turn) return;
        form.wrong(failure.problems || {});
        status.textContent = failure.message;
      }
    }

    function again(notices = null) {
      if (left.aborted) return;
      content.replaceChildren(content.querySelector("h1"));
      show(content, left, wanted, notices);
      content.querySelector("h1").focus();
    }

    function open(uid) {
      const place = el("div");
      content.replaceChildren(content.querySelector("h1"), place);
      showStudy(place, uid, left, again);
    }

    content.append(...[outcome, form.node, el("section", { class: "card", "aria-label": t("studies") }, status, results, more),
    trash].filter(Boolean));
    if (outcome) announce(outcome.textContent);
    look(true);
    showTrash(trash, left, (text) => again(notice("good", text)));
  }

  Panel.page("studies", (content, left) => show(content, left));
})();
