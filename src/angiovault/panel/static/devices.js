// Devices: who is known, who was refused, and whether they are there.
(() => {
  const input = (attributes = {}) =>
    el("input", { type: "text", autocomplete: "off", spellcheck: "false", autocapitalize: "off", ...attributes });

  async function echo(body, place, button) {
    button.disabled = true;
    place.replaceChildren(notice("busy", t("echo.busy")));
    try {
      const result = await task("api/devices/echo", body);
      place.replaceChildren(notice(result.ok ? "good" : "bad", sentence(result.message)));
    } catch (failure) {
      const texts = Object.values(failure.problems).map(sentence);
      place.replaceChildren(notice("bad", texts.length ? texts.join(" ") : failure.message));
    }
    button.disabled = false;
  }

  // --- Adding and changing ---

  function edit(answer, device, given, done) {
    const rule = (name) => answer.rules[name];
    const field = (name, element, more = {}) => new Field(`device-${name}`, t(`device.${name}`), element,
      { rule: rule(name) || null, help: t(`help.device.${name}`), ...more });
    const fields = {
      name: new Field("device-name", t("device.name"), input({ maxlength: "64" }), { rule: { kind: "text", empty: false },
        help: t("help.device.name") }),
      "ae-title": field("ae-title", input({ maxlength: "16" })),
      host: field("host", input()),
      port: field("port", input({ inputmode: "numeric", class: "narrow" })),
      "character-set": field("character-set", el("select", {},
        ...options(rule("character-set").words.map((word) => [word, t(`charset.${word}`)]), "auto"))),
    };
    for (const [name, one] of Object.entries(fields)) {
      if (given[name] !== undefined) one.value = given[name];
    }
    const boxes = answer.operations.map((operation) => {
      const id = `operation-${operation}`;
      const box = el("input", { type: "checkbox", id, value: operation, checked: given.operations.includes(operation) });
      return { box, node: el("div", { class: "row" }, box, el("label", { for: id }, t(`operation.${operation}`))) };
    });
    const status = el("div", { role: "status" });
    const save = el("button", { type: "submit", class: "primary" }, t(device ? "save" : "device.add"));
    const call = el("button", { type: "button", click: () => tryEcho() }, t("echo"));

    function values() {
      const chosen = boxes.filter(({ box }) => box.checked).map(({ box }) => box.value);
      const allow = chosen.length === boxes.length ? "all" : chosen.join(", ") || "none";
      return { ...Object.fromEntries(Object.entries(fields).map(([name, one]) => [name, one.value])), allow };
    }

    function tryEcho() {
      const needed = [fields["ae-title"], fields.host, fields.port];
      if (needed.map((one) => one.check()).every(Boolean)) echo(values(), status, call);
    }

    async function submit() {
      if (!Object.values(fields).map((one) => one.check()).every(Boolean)) {
        dialog.querySelector("[aria-invalid]").focus();
        return;
      }
      save.disabled = true;
      try {
        if (device) await request("api/devices/change", { ...values(), replaces: device.name });
        else await request("api/devices/add", values());
        dialog.close();
        done(t(device ? "device.changed" : "device.added", { name: fields.name.value }));
      } catch (failure) {
        const problems = Object.fromEntries(Object.entries(failure.problems).map(([name, text]) => [`device-${name}`, text]));
        const rest = showProblems(Object.values(fields), problems);
        status.replaceChildren(notice("bad", failure.message, ...rest.map((text) => el("p", {}, text))));
        save.disabled = false;
      }
    }

    const form = el("form", { novalidate: true, submit: (event) => { event.preventDefault(); submit(); } },
      ...["name", "ae-title", "host", "port"].map((name) => fields[name].node),
      el("fieldset", { class: "field" }, el("legend", {}, t("device.allow")), ...boxes.map(({ node }) => node),
        el("details", { class: "help" }, el("summary", {}, t("help", { field: t("device.allow") })),
          ...paragraphs(t("help.device.allow")))),
      fields["character-set"].node, status,
      el("div", { class: "buttons" }, save, call,
        el("button", { type: "button", click: () => dialog.close() }, t("cancel"))));
    const dialog = openDialog(device ? t("device.change-title", { name: device.name }) : t("device.add-title"), form);
    fields.name.input.focus();
  }

  // --- The lists ---

  // How a request ended, from the status of its answer (PS3.7 annex C); -1 is none.
  function contactResult(status) {
    const code = { status: status.toString(16).toUpperCase().padStart(4, "0") };
    if (status === 0) return t("contact.well");
    if (status < 0) return t("contact.no-answer");
    if (status === 0xFE00) return t("contact.cancelled");
    return t((status & 0xF000) === 0xB000 ? "contact.warning" : "contact.bad", code);
  }

  function contactPart(contacts, sent) {
    // An association that still runs is no contact yet, but what it has sent is here.
    const store = contacts.find((item) => item.operation === "store");
    const sends = sent && (!store || new Date(sent) - new Date(store.last) > 60000);
    const latest = sends ? [el("div", {}, formatTime(sent)), el("div", { class: "note" }, t("device.sent"))] : [];
    if (!contacts.length && !sends) return [t("device.not-lately")];
    return latest.concat(...contacts.map((item) => [el("div", {}, formatTime(item.last)), el("div", { class: "note breakable" },
      t(`contact.${item.operation}`, { number: formatNumber(item.instances), result: contactResult(item.status) }))]));
  }

  function deviceRow(answer, device, done) {
    const result = el("div", { role: "status" });
    const call = el("button", { type: "button", class: "small", disabled: !device.callable,
      title: device.callable ? null : t("wrong.device-not-callable"), "aria-label": t("echo-what", { name: device.name }),
      click: () => echo({ name: device.name }, result, call) }, t("echo"));
    const change = el("button", { type: "button", class: "small", "aria-label": t("device.change-what", { name: device.name }),
      click: () => edit(answer, device, device, done) }, t("device.change"));
    const remove = el("button", { type: "button", class: "small", "aria-label": t("device.remove-what", { name: device.name }),
      click: () => drop(device, done) }, t("device.remove"));
    const sent = answer.last_sent[device["ae-title"]];
    const may = device.operations.length === answer.operations.length ? t("operation.all")
      : device.operations.map((operation) => t(`operation.${operation}`)).join(t("comma")) || t("operation.none");
    return el("tr", {},
      el("th", { scope: "row" }, device.name),
      el("td", {}, el("code", {}, device["ae-title"]), el("div", { class: "note breakable" },
        device.port ? `${device.host} : ${device.port}` : device.host)),
      el("td", {}, may),
      el("td", {}, ...contactPart(answer.contacts[device.name] || [], sent)),
      el("td", { class: "actions" }, el("div", { class: "buttons" }, call, change, remove), result));
  }

  async function drop(device, done) {
    const sure = await confirmed(t("device.remove-title"), t("device.remove-text", { name: device.name }), t("device.remove"));
    if (!sure) return;
    try {
      await request("api/devices/remove", { name: device.name });
      done(t("device.removed", { name: device.name }));
    } catch (failure) {
      done(failure.message, "bad");
    }
  }

  function table(caption, heads, rows) {
    return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption }, el("table", {},
      el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))), el("tbody", {}, ...rows)));
  }

  function refusalRow(answer, item, done) {
    const given = { name: item.calling || item.address, "ae-title": item.calling, host: item.address, port: "",
      "character-set": "auto", operations: answer.operations };
    const known = answer.devices.some((device) => device["ae-title"] === item.calling
      && device.host.split(",").map((host) => host.trim()).includes(item.address));
    return el("tr", {},
      el("th", { scope: "row" }, item.calling || "–", el("div", { class: "note" }, item.address)),
      el("td", {}, item.called),
      el("td", { class: "breakable" }, sentence(item.reason)),
      el("td", {}, formatTime(item.last), el("div", { class: "note" }, t("times", { number: formatNumber(item.times) }))),
      el("td", {}, item.calling && !known ? el("button", { type: "button", class: "small",
        "aria-label": t("allow-what", { name: item.calling }), click: () => edit(answer, null, given, done) }, t("allow")) : ""));
  }

  async function show(content, left, outcome = null) {
    let answer;
    try {
      answer = await request("api/devices");
    } catch (failure) {
      content.append(notice("bad", el("p", { role: "alert" }, failure.message)));
      return;
    }
    if (left.aborted) return;
    const done = (text, kind = "good") => {
      if (left.aborted) return;
      announce(text);
      content.replaceChildren(content.querySelector("h1"));
      show(content, left, notice(kind, text));
    };
    const fresh = { operations: answer.operations, "character-set": "auto" };
    const add = el("button", { type: "button", class: "primary", click: () => edit(answer, null, fresh, done) }, t("device.add"));
    content.append(...[outcome, el("p", {}, t("devices.intro")), el("div", { class: "buttons" }, add),
      card(t("devices.known"), answer.devices.length
        ? table(t("devices.known"), [t("device.name"), t("device.where"), t("device.may"), t("device.last-contact"), t("actions")],
          answer.devices.map((device) => deviceRow(answer, device, done)))
        : el("p", {}, t("devices.none"))),
      card(t("refusals.title"), answer.away ? el("p", { class: "note breakable" }, t("refusals.away", { reason: answer.away })) : null,
        answer.refusals.length
          ? table(t("refusals.title"), [t("refusals.who"), t("refusals.called"), t("refusals.why"), t("refusals.when"), t("actions")],
            answer.refusals.map((item) => refusalRow(answer, item, done)))
          : answer.away ? null : el("p", {}, t("refusals.none")))].filter(Boolean));
  }

  Panel.page("devices", (content, left) => show(content, left));
})();
