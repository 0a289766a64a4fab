// The SynoToken of this DSM session: DSM's protection against requests that other web sites forge.
"use strict";

const SynoToken = {
  fromAddress() {
    return new URLSearchParams(location.search).get("SynoToken") || "";
  },

  // The desktop that our window lies in.
  fromDesktop() {
    try {
      return (window.parent !== window && window.parent._S && window.parent._S("SynoToken")) || "";
    } catch {
      return "";  // the frame around us is another site's
    }
  },

  // DSM 7's WebAPI, then what DSM 6 has.
  async fromServer() {
    const places = [
      ["/webapi/entry.cgi?api=SYNO.API.Auth&version=6&method=token", (answer) => answer.data.synotoken],
      ["/webman/login.cgi", (answer) => answer.SynoToken],
    ];
    for (const [address, tokenOf] of places) {
      try {
        const token = tokenOf(await (await fetch(address, { credentials: "same-origin" })).json());
        if (typeof token === "string" && token) return token;
      } catch {
        // It has no such place, or nobody is logged in: the next one may know.
      }
    }
    return "";
  },

  async find() {
    return this.fromDesktop() || (await this.fromServer());
  },
};
