// Fields with a label, a help text and a reason when something is wrong; dialogs.

// Why a text is no value of a rule; null when it is one. The server checks again, and more.
function ruleProblem(rule, text) {
  const value = text.trim();
  const wrong = (key, values = {}) => ({ key: `wrong.${key}`, values });
  if (!value) return rule.empty ? null : wrong("missing");
  switch (rule.kind) {
    case "number": {
      const fits = /^[0-9]{1,12}$/.test(value) && Number(value) >= rule.low && Number(value) <= rule.high;
      return fits ? null : wrong("number", { low: rule.low, high: rule.high });
    }
    case "ae-title":
      return /^[ -[\]-~]{1,16}$/.test(value) ? null : wrong("ae-title");
    case "choice":
      return rule.words.some((word) => word.toLowerCase() === value.toLowerCase()) ? null : wrong("choice");
    case "hosts":
      return value.split(",").every((host) => /^[A-Za-z0-9._:/-]+$/.test(host.trim())) ? null : wrong("hosts");
    default:
      return null;
  }
}

// A field of a form. `input` is an input or select element; `rule` is checked when it is left and while it is wrong.
class Field {
  constructor(name, label, input, { rule = null, help = "", note = "", beside = [] } = {}) {
    this.name = name;
    this.input = input;
    this.rule = rule;
    const id = `field-${name}`;
    this.error = el("p", { id: `${id}-error`, class: "error" });
    const parts = [`${id}-error`];
    fill(input, { id, name, "aria-describedby": parts.join(" ") }, []);
    const isBox = input.type === "checkbox";
    const labelled = el("label", { for: id }, label);
    this.node = el("div", { class: isBox ? "field box" : "field" },
      isBox ? el("div", { class: "row" }, input, labelled) : labelled,
      isBox ? null : el("div", { class: "row" }, input, ...beside),
      note ? el("p", { class: "note" }, note) : null,
      this.error,
      help ? el("details", { class: "help" }, el("summary", {}, t("help", { field: label })), ...paragraphs(help)) : null);
    input.addEventListener("change", () => this.check());
    input.addEventListener("input", () => {
      if (this.error.textContent) this.check();
    });
  }

  get value() {
    if (this.input.type === "checkbox") return this.input.checked ? "yes" : "no";
    return this.input.value;
  }

  set value(text) {
    if (this.input.type === "checkbox") this.input.checked = ["yes", "true", "on", "1"].includes(text.toLowerCase());
    else this.input.value = text;
  }

  check() {
    const problem = this.rule && this.input.type !== "checkbox" ? ruleProblem(this.rule, this.value) : null;
    this.show(problem);
    return problem === null;
  }

  show(problem) {
    const text = sentence(problem);
    if (this.error.textContent !== text) this.error.textContent = text;
    if (text) this.input.setAttribute("aria-invalid", "true");
    else this.input.removeAttribute("aria-invalid");
  }
}

// Shows problems at their fields and goes to the first; returns the sentences that belong to no field.
function showProblems(fields, problems) {
  const byName = new Map(fields.map((field) => [field.name, field]));
  const rest = [];
  let first = null;
  for (const field of fields) {
    if (problems[field.name]) first = first || field;
  }
  for (const [name, problem] of Object.entries(problems)) {
    if (byName.has(name)) byName.get(name).show(problem);
    else rest.push(sentence(problem));
  }
  if (first) first.input.focus();
  return rest;
}

function options(pairs, chosen) {
  return pairs.map(([value, label]) => el("option", { value, selected: value === chosen }, label));
}

// A window over the page; it is closed by its buttons or Escape, and the focus goes back to where it was.
function openDialog(title, ...children) {
  const id = `dialog-${openDialog.count++}`;
  const dialog = el("dialog", { "aria-labelledby": id }, el("h2", { id }, title), ...children);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
openDialog.count = 0;

function confirmed(title, text, action, look = "danger") {
  return new Promise((resolve) => {
    const dialog = openDialog(title, el("p", {}, text), el("div", { class: "buttons" },
      el("button", { type: "button", class: look, click: () => dialog.close("yes") }, action),
      el("button", { type: "button", click: () => dialog.close("") }, t("cancel"))));
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"));
  });
}

function copyButton(text, what) {
  const button = el("button", { type: "button", class: "small", "aria-label": t("copy-what", { what }) }, t("copy"));
  button.addEventListener("click", async () => {
    await copyText(text);
    button.textContent = t("copied");
    announce(t("copied"));
    setTimeout(() => { button.textContent = t("copy"); }, 2000);
  });
  return button;
}

async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return;
    } catch {
      // DSM's frame may not grant it: the old way works there.
    }
  }
  const area = el("textarea", { class: "hidden" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
