// What the page does on its own: views, flip, zoom, keys, links, light and dark.
(() => {
  "use strict";

  const find = (selector) => document.querySelector(selector);
  const stage = () => find("#stage");

  // --- light and dark ---------------------------------------------------------------------------------------------

  const remember = (name, value) => { try { localStorage.setItem(name, value); } catch { /* private window */ } };
  const recall = (name) => { try { return localStorage.getItem(name); } catch { return null; } };

  function toggleTheme() {
    const dark = document.body.classList.toggle("dark");
    remember("golden-theme", dark ? "dark" : "light");
  }

  function restoreTheme() {
    const chosen = recall("golden-theme");
    if (chosen && !new URLSearchParams(location.search).has("__theme")) {
      document.body.classList.toggle("dark", chosen === "dark");
    }
  }

  // --- views ------------------------------------------------------------------------------------------------------

  const VIEWS = ["pair", "slide", "flip"];

  function currentView() {
    return VIEWS.find((view) => stage()?.classList.contains(`view-${view}`)) || "pair";
  }

  function setView(view) {
    VIEWS.forEach((name) => stage().classList.toggle(`view-${name}`, name === view));
    document.querySelectorAll("#views [data-view]").forEach((button) =>
      button.setAttribute("aria-pressed", String(button.dataset.view === view)));
  }

  function flip(on) {
    if (on && currentView() !== "flip") setView("flip");
    stage().classList.toggle("flipped", on);
  }

  function slide(step) {
    if (currentView() !== "slide") return setView("slide");
    window.golden.slideBy(100 * step);
  }

  // --- zoom: one for both images --------------------------------------------------------------------------------

  const zoom = { scale: 1, x: 0, y: 0 };

  function showZoom() {
    const style = find("#images").style;
    style.setProperty("--scale", zoom.scale);
    style.setProperty("--x", `${zoom.x}px`);
    style.setProperty("--y", `${zoom.y}px`);
    find("#images").classList.toggle("zoomed", zoom.scale > 1);
  }

  function zoomAt(image, clientX, clientY, factor) {
    const frame = image.getBoundingClientRect();
    const [x, y] = [clientX - frame.left - frame.width / 2, clientY - frame.top - frame.height / 2];
    const scale = Math.min(8, Math.max(1, zoom.scale * factor));
    const change = scale / zoom.scale;
    zoom.x = scale === 1 ? 0 : x - (x - zoom.x) * change;
    zoom.y = scale === 1 ? 0 : y - (y - zoom.y) * change;
    zoom.scale = scale;
    showZoom();
  }

  const imageOf = (event) => event.target.closest?.("#images .frame");

  document.addEventListener("wheel", (event) => {
    const image = imageOf(event);
    // A page that can be scrolled keeps its wheel until ctrl is held; at desktop size the page fits.
    const scrolls = document.documentElement.scrollHeight > window.innerHeight + 8;
    if (!image || (scrolls && !event.ctrlKey && zoom.scale === 1)) return;
    event.preventDefault();
    zoomAt(image, event.clientX, event.clientY, Math.exp(-event.deltaY / 400));
  }, { passive: false });

  // Two fingers on an image zoom both images instead of the page.
  let spread = 0;
  const fingers = (event) => {
    const [a, b] = event.touches;
    return { x: (a.clientX + b.clientX) / 2, y: (a.clientY + b.clientY) / 2,
             apart: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) };
  };
  document.addEventListener("touchstart", (event) => {
    spread = event.touches.length === 2 && imageOf(event) ? fingers(event).apart : 0;
    if (spread) drag = null;
  });
  document.addEventListener("touchmove", (event) => {
    if (!spread || event.touches.length !== 2) return;
    event.preventDefault();
    const { x, y, apart } = fingers(event);
    zoomAt(imageOf(event), x, y, apart / spread);
    spread = apart;
  }, { passive: false });

  document.addEventListener("dblclick", (event) => {
    if (imageOf(event)) { Object.assign(zoom, { scale: 1, x: 0, y: 0 }); showZoom(); }
  });

  let drag = null;
  document.addEventListener("pointerdown", (event) => {
    if (!imageOf(event) || event.target.closest(".icon-button-wrapper, a")) return;
    if (currentView() === "flip" && zoom.scale === 1) return flip(true);
    if (zoom.scale > 1) drag = { x: event.clientX - zoom.x, y: event.clientY - zoom.y };
  });
  document.addEventListener("pointermove", (event) => {
    if (!drag) return;
    zoom.x = event.clientX - drag.x;
    zoom.y = event.clientY - drag.y;
    showZoom();
  });
  // An image that is panned or flipped is not dragged off the page; at rest it can be.
  document.addEventListener("dragstart", (event) => {
    if (imageOf(event) && (drag || currentView() === "flip")) event.preventDefault();
  });
  const release = () => { drag = null; if (stage()) stage().classList.remove("flipped"); };
  ["pointerup", "pointercancel", "blur"].forEach((name) => window.addEventListener(name, release));

  // --- keys -------------------------------------------------------------------------------------------------------

  const WRITES = "input:not([type=range]):not([type=checkbox]), textarea, select, [contenteditable], [role=listbox]";
  const tabShown = (selector) => { const element = find(selector); return element && element.offsetParent !== null; };
  const press = (selector) => { if (tabShown(selector)) find(selector).click(); };

  function onCompareKey(event) {
    const key = event.key;
    if (key === "r" || key === "R") press("#reroll_button");
    else if (key === "f" || key === "F") flip(true);
    else if (key === "ArrowLeft") slide(event.shiftKey ? -0.1 : -0.02);
    else if (key === "ArrowRight") slide(event.shiftKey ? 0.1 : 0.02);
    else if (key === "Enter") press("#compare_button");
    else return false;
    return true;
  }

  function onBlindKey(event) {
    const votes = { ArrowLeft: "left", ArrowRight: "right", t: "tie", T: "tie", b: "both_bad", B: "both_bad" };
    const button = votes[event.key];
    if (button) press(`#vote_${button}`);
    else if (event.key === "Enter") press("#blind_button");
    else return false;
    return true;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat && !event.key.startsWith("Arrow")) return;
    if (event.key === "Escape") return press("#stop_button");
    const seed = event.target.closest?.("#seed input");
    if (event.target.closest?.(WRITES) && !(seed && event.key === "Enter")) return;
    // Tabs, buttons and sliders keep their own keys.
    const own = event.target.closest?.("button, a, [role=tab], input[type=range], input[type=checkbox]");
    if (own && (event.key === "Enter" || event.key.startsWith("Arrow"))) return;
    const used = tabShown("#compare_button, #stop_button") || tabShown("#stage") ? onCompareKey(event)
      : tabShown("#blind") ? onBlindKey(event) : false;
    if (used) event.preventDefault();
  });
  document.addEventListener("keyup", (event) => { if (event.key === "f" || event.key === "F") release(); });

  // --- clicks on our own markup -----------------------------------------------------------------------------------

  document.addEventListener("click", (event) => {
    const view = event.target.closest?.("[data-view]");
    if (view) setView(view.dataset.view);
    if (event.target.closest?.("[data-action=theme]")) toggleTheme();
  });

  // --- links ------------------------------------------------------------------------------------------------------

  function setLink(text) {
    let settings;
    try { settings = JSON.parse(text); } catch { return; }
    if (!settings) return; // nothing was compared yet
    history.replaceState(null, "", `${location.pathname}?${new URLSearchParams(settings)}`);
  }

  async function copyLink() {
    const button = find("#copy_link");
    try {
      await navigator.clipboard.writeText(location.href);
    } catch { // no clipboard without https
      const field = Object.assign(document.createElement("textarea"), { value: location.href });
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    const words = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = words; }, 1200);
  }

  window.golden = { setLink, copyLink, setView, flip };
  document.addEventListener("DOMContentLoaded", restoreTheme);
  restoreThemeSoon();

  function restoreThemeSoon() {
    // Gradio sets its own theme once it has mounted.
    const watch = new MutationObserver(() => { if (find("#header")) { watch.disconnect(); restoreTheme(); } });
    watch.observe(document.documentElement, { childList: true, subtree: true });
  }
})();
