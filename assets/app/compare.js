// The Compare tab on its own: the slider between any two images, tooltips, and "How it works".
(() => {
  "use strict";

  const find = (selector) => document.querySelector(selector);
  const findAll = (selector) => Array.from(document.querySelectorAll(selector));

  // --- which two of the images the slider and Flip show -------------------------------------------------------------

  function pairUp() {
    const shown = findAll("#images > .arm").filter((arm) => !arm.matches(".hide, .hidden") && !arm.hidden);
    const chosen = (side, otherwise) => Number(find(`#pick select[data-side=${side}]`)?.value ?? otherwise);
    const sides = { a: shown[chosen("a", 0)], b: shown[chosen("b", 1)] };
    findAll("#images > .arm").forEach((arm) => {
      const side = Object.keys(sides).find((name) => sides[name] === arm);
      if (arm.dataset.side !== side) side ? arm.setAttribute("data-side", side) : arm.removeAttribute("data-side");
    });
    const images = find("#images");
    if (images && images.dataset.count !== String(shown.length)) images.dataset.count = shown.length;
  }

  document.addEventListener("change", (event) => { if (event.target.closest?.("#pick select")) pairUp(); });

  // --- the slider -----------------------------------------------------------------------------------------------------

  let at = 50; // percent of the image that shows the first of the two

  function slideTo(percent) {
    at = Math.min(100, Math.max(0, percent));
    find("#images")?.style.setProperty("--at", `${at}%`);
    find("#slider .slider")?.setAttribute("aria-valuenow", Math.round(at));
  }

  function slideWith(event) {
    const box = find("#slider").getBoundingClientRect();
    slideTo(100 * (event.clientX - box.left) / box.width);
  }

  let sliding = false;
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest?.("#slider")) return;
    sliding = true;
    slideWith(event);
    event.preventDefault();
    find("#slider .slider").focus({ preventScroll: true });
  });
  document.addEventListener("pointermove", (event) => { if (sliding) slideWith(event); });
  ["pointerup", "pointercancel", "blur"].forEach((name) => window.addEventListener(name, () => { sliding = false; }));

  // --- terms in plain words: what is pointed at, tapped or focused says what it means ---------------------------------

  let tip = null;
  let explained = null; // the term that the tip is of

  function showTip(element) {
    hideTip();
    explained = element;
    tip = Object.assign(document.createElement("div"), { id: "tip", textContent: element.dataset.tip });
    tip.setAttribute("role", "tooltip");
    document.body.append(tip);
    element.setAttribute("aria-describedby", "tip");
    placeTip();
  }

  // Also while the page scrolls: focus scrolls a term into view, and its tip must not go again for that.
  function placeTip() {
    if (!tip) return;
    const [box, size, gap] = [explained.getBoundingClientRect(), tip.getBoundingClientRect(), 8];
    if (box.bottom < 0 || box.top > innerHeight) return hideTip();
    const left = Math.min(Math.max(gap, box.left), innerWidth - size.width - gap);
    const below = box.bottom + gap + size.height < innerHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${below ? box.bottom + gap : Math.max(gap, box.top - gap - size.height)}px`;
  }

  function hideTip() {
    find("[aria-describedby=tip]")?.removeAttribute("aria-describedby");
    tip?.remove();
    tip = null;
  }

  const termOf = (event) => event.target.closest?.("[data-tip]");
  ["pointerover", "focusin", "click"].forEach((name) =>
    document.addEventListener(name, (event) => { const term = termOf(event); if (term) showTip(term); }));
  ["pointerout", "focusout"].forEach((name) =>
    document.addEventListener(name, (event) => { if (termOf(event)) hideTip(); }));
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  document.addEventListener("scroll", placeTip, { capture: true, passive: true });

  function explainLabels() {
    findAll("#glossary [data-for]").forEach((entry) =>
      findAll(entry.dataset.for).forEach((label) => {
        if (label.dataset.tip) return;
        label.dataset.tip = entry.textContent;
        label.classList.add("term");
        if (label.tagName !== "BUTTON") label.tabIndex = 0;
      }));
  }

  // --- a word of the prompt replaced by one that the world knows ------------------------------------------------------

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-replace]");
    const field = find("#prompt textarea");
    if (!button || !field) return;
    const { replace, with: other } = button.dataset;
    const words = field.value.split(/([\s,.]+)/).map((word) => (word.toLowerCase() === replace ? other : word));
    Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(field, words.join(""));
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.focus();
  });

  // --- how it works ---------------------------------------------------------------------------------------------------

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-action=how]");
    if (!button) return;
    const open = find("#intro").classList.toggle("how-open");
    button.setAttribute("aria-expanded", String(open));
    button.textContent = open ? "Close" : "How it works";
    if (open) find("#how").scrollIntoView({ block: "nearest" });
  });

  // Gradio writes the page piece by piece, and again when a comparison has other arms.
  let due = false;
  new MutationObserver(() => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; pairUp(); explainLabels(); });
  }).observe(document.documentElement, { childList: true, subtree: true, attributes: true, attributeFilter: ["class"] });

  Object.assign(window.golden, { slideTo, slideBy: (percent) => slideTo(at + percent) });
})();
