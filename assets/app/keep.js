// What outlives a comparison: the history in the browser, files that are dropped on the page, the focus, a reload.
(() => {
  "use strict";

  const find = (selector) => document.querySelector(selector);

  // --- the history that the browser keeps ------------------------------------------------------------------------

  /** The kept comparisons with the newest one at the end; scored after it was kept, it takes its own place again. */
  function keepRecord(newest, kept, most) {
    const others = Array.isArray(kept) ? kept : [];
    if (!newest) return others;
    const name = (record) => JSON.stringify([record?.created, record?.settings]);  // two may fall into one second
    return [...others.filter((record) => name(record) !== name(newest)), newest].slice(-most);
  }

  // --- a PNG dropped anywhere -------------------------------------------------------------------------------------

  const carriesFile = (event) => Array.from(event.dataTransfer?.types || []).includes("Files");
  document.addEventListener("dragover", (event) => {
    if (carriesFile(event)) { event.preventDefault(); document.body.classList.add("dropping"); }
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    const input = find("#drop input[type=file]");
    if (!carriesFile(event) || !event.dataTransfer.files.length || !input) return;
    event.preventDefault();
    const files = new DataTransfer();
    files.items.add(event.dataTransfer.files[0]);
    input.files = files.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });

  // --- the focus: letters are keys of the page again once a prompt was entered ------------------------------------

  const ONE_LINE = "#prompt textarea, #prompt input, #seed input, #blind_prompt textarea, #blind_prompt input";
  document.addEventListener("keydown", (event) => {
    const field = event.target.closest?.("input, textarea");
    if (!field) return;
    const entered = event.key === "Enter" && !event.shiftKey && field.matches(ONE_LINE);
    if (event.key === "Escape") field.blur();
    else if (entered) setTimeout(() => field.blur(), 0); // gradio hears Enter first
  });

  // --- a reload while something ran -------------------------------------------------------------------------------

  // A comparison is named by the address from its start, so that a reload makes it again. These are not.
  const LONG = { "#grid_status": "the grid", "#suite_status": "the short suite" };
  window.addEventListener("pagehide", () => {
    const stopped = Object.keys(LONG).filter((selector) => find(`${selector} .status.running`)).map((s) => LONG[s]);
    try { sessionStorage.setItem("golden-stopped", JSON.stringify(stopped)); } catch { /* private window */ }
  });

  function tellWhatStopped() {
    let stopped = [];
    try { stopped = JSON.parse(sessionStorage.getItem("golden-stopped") || "[]"); } catch { return; }
    const known = Object.values(LONG).filter((words) => stopped.includes(words));
    if (!known.length) return;
    const words = `The page was reloaded while ${known.join(" and ")} ran, which stopped it: start it again.`;
    const notice = Object.assign(document.createElement("p"), { className: "reloaded", textContent: words });
    notice.setAttribute("role", "status");
    const close = Object.assign(document.createElement("button"), { type: "button", textContent: "Close" });
    close.addEventListener("click", () => notice.remove());
    notice.append(close);
    document.body.append(notice);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", tellWhatStopped);
  else tellWhatStopped();

  // --- another model ----------------------------------------------------------------------------------------------

  /** Open the page of a model that was just chosen: once this server has gone, whoever answers at its address. */
  async function reopen() {
    for (let gone = false, tries = 0; tries < 120; tries += 1) {
      await new Promise((resolve) => setTimeout(resolve, 500));
      try {
        const answer = await fetch(location.pathname, { cache: "no-store" });
        if (gone || !answer.ok) return location.replace(location.pathname);
      } catch { gone = true; }
    }
  }

  Object.assign(window.golden, { keepRecord, reopen });
})();
