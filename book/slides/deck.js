"use strict";
(() => {
  const root = document.documentElement;
  const smallest = 0.7; // of the letters: 21 px at 1280 by 720
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let slides = [], current = 0;

  root.dataset.theme = dark.matches ? "dark" : "light";
  window.MathJax = {
    options: { enableMenu: false },
    startup: { pageReady: () => MathJax.startup.defaultPageReady().then(fit) },
  };

  const scale = () => root.style.setProperty("--k", Math.min(innerWidth / 1280, innerHeight / 720));

  function show(number, keepHash) {
    current = Math.max(0, Math.min(slides.length - 1, number));
    slides.forEach((slide, i) => slide.classList.toggle("current", i === current));
    if (!keepHash) history.replaceState(null, "", `#slide-${current + 1}`);
  }

  const toggle = (name) => root.toggleAttribute(`data-${name}`);
  const theme = () => (root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark");
  const addressed = () => Number((location.hash.match(/^#slide-(\d+)$/) || [0, 1])[1]) - 1;

  function within(inner, outer) {
    const one = inner.getBoundingClientRect(), box = outer.getBoundingClientRect();
    return one.left >= box.left - 1 && one.right <= box.right + 1 && one.top >= box.top - 1 && one.bottom <= box.bottom + 1;
  }

  function overflows(body) {
    const blocks = [...body.querySelectorAll("div, p, li, table, figure, img, pre")];
    const formulas = [...body.querySelectorAll("div.math mjx-math")];
    return !blocks.every((one) => within(one, body)) || !formulas.every((one) => within(one, one.parentElement));
  }

  // smaller letters until the content fits; what does not is marked, and a test looks for the mark
  async function fit() {
    await document.fonts.ready;
    await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
    for (const image of document.images) {
      const alone = image.closest(".body").children.length === 1 && !image.closest("figure").matches("figure ~ figure, :has(~ figure)");
      if (alone && image.naturalHeight > 0.72 * image.naturalWidth) image.closest("figure").classList.add("tall");
    }
    for (const slide of slides) {
      const body = slide.querySelector(".body");
      let size = 1;
      for (; size > smallest && overflows(body); size -= 0.04) slide.style.setProperty("--fit", size - 0.04);
      slide.toggleAttribute("data-overflow", overflows(body));
    }
    root.dataset.ready = "";
  }

  const keys = {
    ArrowRight: () => show(current + 1), ArrowDown: () => show(current + 1), PageDown: () => show(current + 1),
    " ": () => show(current + 1), ArrowLeft: () => show(current - 1), ArrowUp: () => show(current - 1),
    PageUp: () => show(current - 1), Home: () => show(0), End: () => show(slides.length - 1),
    o: () => toggle("overview"), Escape: () => toggle("overview"), s: () => toggle("notes"), d: theme, p: () => print(),
  };

  addEventListener("DOMContentLoaded", () => {
    slides = [...document.querySelectorAll(".slide")];
    scale();
    show(addressed(), true);
    const buttons = {
      previous: keys.ArrowLeft, next: keys.ArrowRight, overview: keys.o, notes: keys.s, theme, print: keys.p,
    };
    for (const [name, act] of Object.entries(buttons)) document.getElementById(name).onclick = act;
    slides.forEach((slide, i) => slide.addEventListener("click", () => {
      if (!root.hasAttribute("data-overview")) return;
      toggle("overview");
      show(i);
    }));
  });

  addEventListener("keydown", (event) => {
    const button = event.target.closest && event.target.closest("button, a");
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key] || (event.key === " " && button)) return;
    event.preventDefault();
    keys[event.key]();
  });
  // without MathJax nothing else says that the page is complete
  addEventListener("load", () => MathJax.startup.promise || fit());
  addEventListener("resize", scale);
  addEventListener("hashchange", () => show(addressed(), true));
  let from = null;
  addEventListener("touchstart", (event) => (from = event.changedTouches[0].clientX), { passive: true });
  addEventListener("touchend", (event) => {
    const moved = event.changedTouches[0].clientX - from;
    if (Math.abs(moved) > 50 && !root.hasAttribute("data-overview")) show(current + (moved < 0 ? 1 : -1));
  }, { passive: true });
})();
