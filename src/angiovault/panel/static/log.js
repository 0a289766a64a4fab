// Log: the last lines, filtered, and a copy for support.
(() => {
  Panel.page("log", (content, left) => {
    const text = el("input", { type: "search", id: "log-text", autocomplete: "off", maxlength: "200" });
    const level = el("select", { id: "log-level" }, ...options([["DEBUG", t("level.all")], ["INFO", t("level.info")],
      ["WARNING", t("level.warning")], ["ERROR", t("level.error")]], "DEBUG"));
    const follow = el("input", { type: "checkbox", id: "log-follow", checked: true });
    const names = el("input", { type: "checkbox", id: "log-names", checked: true });
    const status = el("p", { class: "note", role: "status" });
    const list = el("ol", { class: "log", tabindex: "0", "aria-label": t("page.log") });
    const save = el("button", { type: "button", click: () => download() }, t("log.download"));
    const labelled = (input, key) => el("div", { class: "row" }, input, el("label", { for: input.id }, t(key)));
    content.append(
      el("div", { class: "toolbar" }, el("div", { class: "field" }, el("label", { for: text.id }, t("log.text")), text),
        el("div", { class: "field" }, el("label", { for: level.id }, t("log.level")), level), labelled(follow, "log.follow")),
      status, list,
      card(t("log.support"), el("p", {}, t("log.support.text")), labelled(names, "log.without-names"),
        el("div", { class: "buttons" }, save)));
    let shown = "";

    function line(record) {
      return el("li", { class: record.level.toLowerCase() || null }, el("span", { class: "time" }, record.time),
        el("span", { class: "level" }, record.level), el("span", { class: "text" }, record.text));
    }

    async function look() {
      const query = new URLSearchParams({ text: text.value, level: level.value });
      let answer;
      try {
        answer = await request(`api/log?${query}`);
      } catch (failure) {
        status.textContent = failure.message;
        return;
      }
      const key = JSON.stringify(answer);
      if (left.aborted || key === shown) return;
      shown = key;
      const atEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 8;
      list.replaceChildren(...answer.records.map(line));
      if (atEnd) list.scrollTop = list.scrollHeight;
      const some = t("log.shown", { number: formatNumber(answer.records.length) });
      status.textContent = answer.path === null ? t("log.nowhere")
        : `${answer.records.length ? some : t("log.nothing")}${answer.whole ? "" : ` ${t("log.more")}`} ${answer.path}`;
    }

    let waiting = 0;
    text.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(look, 300);
    });
    level.addEventListener("change", look);

    async function download() {
      save.disabled = true;
      try {
        const headers = Panel.synoToken ? { "X-SYNO-TOKEN": Panel.synoToken } : {};
        const response = await fetch(`api/log/file?names=${names.checked ? "no" : "yes"}`, { headers, credentials: "same-origin" });
        if (!response.ok) throw new Failure(response.status, await response.json());
        const url = URL.createObjectURL(await response.blob());
        el("a", { href: url, download: "angiovault-log.txt" }).click();
        URL.revokeObjectURL(url);
      } catch (failure) {
        status.textContent = failure.message;
      }
      save.disabled = false;
    }

    look().then(() => {
      list.scrollTop = list.scrollHeight;
      repeat(5, left, async () => {
        if (follow.checked) await look();
      });
    });
  });
})();
