// Service: the settings, checked where they are typed, tried, and put into force.
(() => {
  function textInput(attributes = {}) {
    return el("input", { type: "text", autocomplete: "off", spellcheck: "false", autocapitalize: "off", ...attributes });
  }

  function bindInput(answer) {
    const known = answer.addresses.map((item) => [item.address, item.interface === "lo"
      ? t("bind.only-here", { address: item.address }) : `${item.address} (${item.interface})`]);
    const choices = [["0.0.0.0", t("bind.all-ipv4")], ["::", t("bind.all")], ...known];
    const present = answer.values.bind;
    if (!choices.some(([value]) => value === present)) choices.push([present, present]);
    return el("select", {}, ...options(choices, present));
  }

  function choiceInput(rule, prefix, present) {
    return el("select", {}, ...options(rule.words.map((word) => [word, t(`${prefix}.${word}`)]), present.toLowerCase()));
  }

  function makeFields(answer) {
    const { rules, values } = answer;
    const simple = (name, input, more = {}) => new Field(name, t(`setting.${name}`), input, { rule: rules[name], ...more });
    const helped = (name, input, more = {}) => simple(name, input, { help: t(`help.${name}`), ...more });
    const storage = textInput();
    const second = textInput();
    const chooserOf = (input) => el("button", { type: "button", click: () => pickFolder(input) }, t("choose"));
    const fields = {
      "ae-title": helped("ae-title", textInput({ maxlength: "16" })),
      port: helped("port", textInput({ inputmode: "numeric", class: "narrow" })),
      bind: helped("bind", bindInput(answer)),
      "unknown-devices": helped("unknown-devices", choiceInput(rules["unknown-devices"], "unknown", values["unknown-devices"])),
      "check-called-ae-title": helped("check-called-ae-title", el("input", { type: "checkbox" })),
      storage: helped("storage", storage, { beside: [chooserOf(storage)], help: t(answer.nas ? "help.storage-nas" : "help.storage") }),
      "second-storage": helped("second-storage", second, { beside: [chooserOf(second)] }),
      "tls-port": helped("tls-port", textInput({ inputmode: "numeric", class: "narrow" })),
      "tls-certificate": helped("tls-certificate", textInput()),
      "tls-key": helped("tls-key", textInput()),
      "tls-client-ca": helped("tls-client-ca", textInput()),
      "log-level": helped("log-level", choiceInput(rules["log-level"], "level", values["log-level"])),
    };
    for (const [name, field] of Object.entries(fields)) field.value = values[name];
    return fields;
  }

  // --- The index ---

  class IndexFields {
    constructor(index, nas) {
      const radio = (value) => el("input", { type: "radio", name: "engine", id: `engine-${value}`, value,
        checked: index.engine === value, change: () => this.toggle() });
      this.radios = [radio("embedded"), radio("mariadb")];
      const kept = index.has_password ? t("password.kept") : "";
      const required = { kind: "text", empty: false };
      this.fields = [
        new Field("index-where", t("index.where"), textInput({ value: index.where }), { rule: required, note: t("index.where.note") }),
        new Field("index-database", t("index.database"), textInput({ value: index.database }),
          { rule: required, help: t("help.index-database") }),
        new Field("index-user", t("index.user"), textInput({ value: index.user }), { rule: required, help: t("help.index-user") }),
        new Field("index-password", t("index.password"),
          el("input", { type: "password", autocomplete: "new-password" }), { note: kept, help: t("help.index-password") }),
      ];
      this.result = el("div", { role: "status" });
      const test = el("button", { type: "button", click: () => this.test(test) }, t("index.test"));
      this.details = el("div", { class: "inset" }, ...this.fields.map((field) => field.node),
        el("div", { class: "buttons" }, test), this.result, nas ? this.makeNew() : null);
      const line = (input) => el("div", { class: "row" }, input, el("label", { for: input.id }, t(`index.${input.value}`)));
      this.node = el("div", {}, ...this.radios.map(line), this.details,
        el("details", { class: "help" }, el("summary", {}, t("help", { field: t("index.title") })), ...paragraphs(t("help.index"))));
      this.toggle();
    }

    get value() {
      const [where, database, user, password] = this.fields.map((field) => field.value);
      const engine = this.radios.find((radio) => radio.checked).value;
      return { engine, where, database, user, password };
    }

    toggle() {
      this.details.hidden = this.value.engine !== "mariadb";
    }

    check() {
      return this.value.engine !== "mariadb" || this.fields.map((field) => field.check()).every(Boolean);
    }

    // With the password of MariaDB's root a database and an account can be made here.
    makeNew() {
      const field = new Field("root-password", t("root.password"),
        el("input", { type: "password", autocomplete: "off" }), { rule: { kind: "text", empty: false }, note: t("root.note") });
      const result = el("div", { role: "status" });
      const make = el("button", { type: "button", click: async () => {
        if (!field.check()) return field.input.focus();
        make.disabled = true;
        result.replaceChildren(notice("busy", t("root.busy")));
        try {
          const answer = await task("api/service/create-database", { "root-password": field.value });
          result.replaceChildren(notice(answer.ok ? "good" : "bad", sentence(answer.message)));
        } catch (failure) {
          showProblems([field], failure.problems);
          result.replaceChildren(notice("bad", failure.message));
        }
        field.input.value = "";
        make.disabled = false;
      } }, t("root.make"));
      return el("details", { class: "help" }, el("summary", {}, t("root.title")), el("div", { class: "inset" }, field.node,
        el("div", { class: "buttons" }, make), result));
    }

    async test(button) {
      button.disabled = true;
      this.result.replaceChildren(notice("busy", t("index.testing")));
      try {
        const answer = await task("api/service/database", { index: this.value });
        this.result.replaceChildren(notice(answer.ok ? "good" : "bad", sentence(answer.message)));
      } catch (failure) {
        showProblems(this.fields, failure.problems);
        this.result.replaceChildren(notice("bad", failure.message));
      }
      button.disabled = false;
    }
  }

  // --- The folder picker ---

  function pickFolder(input) {
    const list = el("ul", { class: "folders" });
    const where = el("p", { class: "breakable" });
    const problem = el("p", { class: "error", role: "alert" });
    const use = el("button", { type: "button", class: "primary", disabled: true }, t("folder.use"));
    let chosen = "";
    const dialog = openDialog(t("folder.title"), where, problem, list, el("div", { class: "buttons" }, use,
      el("button", { type: "button", click: () => dialog.close() }, t("cancel"))));
    use.addEventListener("click", () => {
      input.value = chosen;
      dialog.close();
      input.dispatchEvent(new Event("change", { bubbles: true }));
      input.focus();
    });

    function line(text, path, note = "") {
      return el("li", {}, el("button", { type: "button", class: "plain", click: () => open(path) }, text),
        note ? el("span", { class: "note" }, note) : null);
    }

    async function open(path) {
      try {
        const answer = await request(`api/folders?path=${encodeURIComponent(path)}`);
        chosen = answer.path;
        where.textContent = answer.path || t("folder.roots");
        use.disabled = !answer.path;
        problem.textContent = "";
        list.replaceChildren(...(answer.parent === null ? [] : [line(t("folder.up"), answer.parent)]),
          ...answer.folders.map((item) => line(item.name, item.path, item.writable ? "" : t("folder.read-only"))),
          ...(answer.more ? [el("li", { class: "note" }, t("folder.more"))] : []));
        const first = list.querySelector("button");
        if (first) first.focus();
      } catch (failure) {
        problem.textContent = failure.message;
      }
    }
    open("");
  }

  Panel.pickFolder = pickFolder;

  // --- The page ---

  function group(title, ...nodes) {
    return el("fieldset", { class: "card" }, el("legend", {}, title), ...nodes);
  }

  function outcomePart(result) {
    const kind = { applied: "good", saved: "warning", restart: "warning", undone: "bad", refused: "bad" }[result.outcome];
    return notice(kind, el("p", {}, sentence(result.message)), result.reason ? el("p", {}, sentence(result.reason)) : null);
  }

  async function show(content, left, outcome = null) {
    let answer;
    try {
      answer = await request("api/service");
    } catch (failure) {
      content.append(notice("bad", el("p", { role: "alert" }, failure.message)));
      return;
    }
    if (left.aborted) return;
    const fields = makeFields(answer);
    const index = new IndexFields(answer.index, answer.nas);
    const status = el("div", { class: "status", role: "status" }, outcome);
    const effects = el("div", { class: "effects", role: "status" });
    const save = el("button", { type: "submit", class: "primary" }, t("save"));
    const discard = el("button", { type: "button", click: () => again(null) }, t("discard"));
    const nodes = (...names) => names.map((name) => fields[name].node);
    const form = el("form", { novalidate: true, submit: (event) => { event.preventDefault(); submit(); } },
      answer.unreadable ? notice("bad", el("p", {}, t("settings.unreadable")), el("p", {}, answer.unreadable)) : null,
      group(t("group.network"), ...nodes("ae-title", "port", "bind")),
      group(t("group.access"), ...nodes("unknown-devices", "check-called-ae-title")),
      group(t("group.storage"), ...nodes("storage", "second-storage")),
      group(t("index.title"), index.node),
      group(t("group.tls"), ...nodes("tls-port", "tls-certificate", "tls-key", "tls-client-ca")),
      group(t("group.log"), ...nodes("log-level")),
      el("p", { class: "note" }, t("settings.file"), " ", el("code", {}, answer.file)),
      el("div", { class: "savebar" }, effects, status, el("div", { class: "buttons" }, save, discard)));
    content.append(form);

    // What saving will do to the running service, said before it is done.
    function showEffects() {
      const changed = Object.values(fields).filter((field) => field.value.trim() !== initial[field.name].trim());
      const names = (chosen) => chosen.map((field) => t(`setting.${field.name}`));
      const restarted = names(changed.filter((field) => answer.restarted_for.includes(field.name)));
      if (JSON.stringify(index.value) !== initialIndex) restarted.push(t("index.title"));
      const reopened = names(changed.filter((field) => answer.reopened_for.includes(field.name)));
      const others = names(changed.filter((field) => !answer.restarted_for.includes(field.name)
        && !answer.reopened_for.includes(field.name)));
      const lines = restarted.length
        ? [["warning", answer.nas ? "apply.will-restart" : "apply.will-restart-here", [...restarted, ...reopened, ...others]]]
        : [["busy", "apply.will-reopen", reopened], ["busy", "apply.will-be-at-once", others]];
      effects.replaceChildren(...lines.filter(([, , chosen]) => chosen.length)
        .map(([kind, key, chosen]) => notice(kind, el("p", {}, t(key, { fields: chosen.join(t("comma")) })))));
    }
    const initial = Object.fromEntries(Object.values(fields).map((field) => [field.name, field.value]));
    const initialIndex = JSON.stringify(index.value);
    form.addEventListener("input", showEffects);
    form.addEventListener("change", showEffects);

    // Before anything is saved the server looks at what only it can see: ports in use, folders, certificates.
    form.addEventListener("change", async (event) => {
      const field = fields[event.target.name];
      if (!field || field.error.textContent) return;
      const values = { [field.name]: field.value };
      if (field.name === "port" || field.name === "tls-port") values.bind = fields.bind.value;
      try {
        const { problems } = await request("api/service/check", { values });
        if (problems[field.name] && field.value === values[field.name]) field.show(problems[field.name]);
      } catch {
        // Saving checks again, and says what is wrong then.
      }
    });

    function again(shown) {
      if (left.aborted) return;
      content.replaceChildren(content.querySelector("h1"));
      show(content, left, shown);
    }

    async function submit() {
      const all = Object.values(fields);
      const ok = [...all.map((field) => field.check()), index.check()].every(Boolean);
      if (!ok) {
        status.replaceChildren(notice("bad", t("refused.fields")));
        const wrong = form.querySelector("[aria-invalid]");
        if (wrong) wrong.focus();
        return;
      }
      const values = Object.fromEntries(all.map((field) => [field.name, field.value]));
      save.disabled = discard.disabled = true;
      effects.replaceChildren();
      status.replaceChildren(notice("busy", t("apply.busy")));
      try {
        const result = await task("api/service", { values, index: index.value });
        if (result.outcome === "refused") {
          const rest = showProblems([...all, ...index.fields], result.problems);
          status.replaceChildren(notice("bad", t("refused.fields"), ...rest.map((text) => el("p", {}, text))));
        } else {
          announce(sentence(result.message));
          again(outcomePart(result));
          return;
        }
      } catch (failure) {
        const rest = showProblems([...all, ...index.fields], failure.problems);
        status.replaceChildren(notice("bad", failure.message, ...rest.map((text) => el("p", {}, text))));
      }
      save.disabled = discard.disabled = false;
    }
  }

  Panel.page("service", (content, left) => show(content, left));
})();
