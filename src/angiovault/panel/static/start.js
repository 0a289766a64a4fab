// The last of the scripts: everything is there, the page begins.
(async () => {
  if (typeof SynoToken !== "undefined") Panel.synoToken = SynoToken.fromAddress() || SynoToken.fromDesktop();
  const content = document.getElementById("content");
  try {
    Panel.session = await request("api/session");
    await useLanguage(preferredLanguage());
  } catch (failure) {
    content.replaceChildren(el("p", { role: "alert" }, failure.message));
    return;
  }
  document.getElementById("language").addEventListener("click", async () => {
    await useLanguage(Panel.lang === "zh" ? "en" : "zh");
    remember("angiovault-language", Panel.lang);
    showPage();
  });
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    content.focus();
  });
  window.addEventListener("hashchange", () => {
    showPage();
    content.querySelector("h1").focus();
  });
  showPage();
})();
