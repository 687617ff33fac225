// What scrolls sideways can be reached with the keyboard, fades out where there is more to see, and
// is no stop on the way where it does not scroll. A formula in a line that is too narrow scrolls, too.
(() => {
  const BOXES =
    "pre, .pst-scrollable-table-container, .dnr-scroll, div.math, mjx-container[display=true]";
  const FORMULAS = "mjx-container:not([display])";
  const LINES = "p, li, dd, td, th, figcaption, caption";

  const set = (box, scrolls) => {
    box.classList.toggle("scrolls", scrolls);
    if (scrolls) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };

  const mark = (box) => {
    set(box, box.scrollWidth > box.clientWidth + 1);
    box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  };

  const fit = (line) => {
    for (const formula of line.querySelectorAll(FORMULAS)) {
      set(formula, false);
      set(formula, line.clientWidth > 0 && formula.offsetWidth > line.clientWidth);
    }
  };

  const watched = (act) => new ResizeObserver((seen) => seen.forEach(({ target }) => act(target)));

  const watch = () => {
    const boxes = watched(mark);
    for (const box of document.querySelectorAll(BOXES)) {
      boxes.observe(box);
      box.addEventListener("scroll", () => mark(box), { passive: true });
    }
    const lines = watched(fit);
    for (const formula of document.querySelectorAll(FORMULAS)) {
      const line = formula.closest(LINES);
      if (line) lines.observe(line);
    }
    // a cell of prose beside cells of numbers would be squeezed to a word a line
    for (const cell of document.querySelectorAll(".pst-scrollable-table-container td"))
      cell.classList.toggle("long", cell.textContent.length > 60);
  };

  window.addEventListener("load", () => {
    const typesetting = window.MathJax && window.MathJax.startup && window.MathJax.startup.promise;
    Promise.resolve(typesetting).then(watch);
  });
})();
