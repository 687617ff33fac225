// What scrolls can be reached with the keyboard, fades out where there is more to see, and
// is no stop on the way where it does not scroll. A formula in a line that is too narrow scrolls, too.
(() => {
  const BOXES =
    "pre, .pst-scrollable-table-container, .dnr-scroll, div.math, mjx-container[display=true]";
  const FORMULAS = "mjx-container:not([display])";
  const INTERVAL = /^\S+ \[[-−+\d., ]+\](\*|\s%| points)?$/;
  const LINES = "p, li, dd, td, th, figcaption, caption";

  const set = (box, scrolls) => {
    box.classList.toggle("scrolls", scrolls);
    if (scrolls) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };

  const mark = (box) => {
    const high = box.scrollHeight > box.clientHeight + 1;
    const scrolls = high && getComputedStyle(box).overflowY !== "hidden";
    set(box, scrolls || box.scrollWidth > box.clientWidth + 1);
    box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  };

  const fit = (line) => {
    for (const formula of line.querySelectorAll(FORMULAS)) {
      set(formula, false);
      set(formula, line.clientWidth > 0 && formula.offsetWidth > line.clientWidth);
    }
  };

  // an equation on a phone: smaller if it does not fit, else as large as the text (book.css)
  const tighten = (formula) => {
    formula.classList.remove("tight");
    formula.classList.toggle("tight", formula.scrollWidth > formula.clientWidth + 1);
  };

  // a browser would break the line between a formula, or a name in code, and the bracket or the
  // comma beside it
  const together = (inner) => {
    const [before, after] = [inner.previousSibling, inner.nextSibling];
    const text = (node) => (node && node.nodeType === Node.TEXT_NODE ? node.data : "");
    const opening = text(before).match(/[([“‘]+$/);
    const closing = text(after).match(/^[.,;:!?)\]’”]+/);
    if (!opening && !closing) return;
    const all = document.createElement("span");
    all.className = "together";
    inner.before(all);
    if (opening) all.append(before.splitText(before.data.length - opening[0].length));
    all.append(inner);
    if (!closing) return;
    after.splitText(closing[0].length);
    all.append(after);
  };

  const watched = (act) => new ResizeObserver((seen) => seen.forEach(({ target }) => act(target)));

  const watch = () => {
    const boxes = watched(mark);
    for (const box of document.querySelectorAll(BOXES)) {
      boxes.observe(box);
      box.addEventListener("scroll", () => mark(box), { passive: true });
    }
    document.querySelectorAll(":is(p, li, dd, td) > :is(span.math, code)").forEach(together);
    for (const word of document.querySelectorAll("code.literal span.pre"))
      word.classList.toggle("short", word.textContent.length <= 20);
    // in the next frame, as it changes the height of what is watched
    const equations = watched((formula) => requestAnimationFrame(() => tighten(formula)));
    for (const formula of document.querySelectorAll("div.math mjx-container[display]"))
      equations.observe(formula);
    const lines = watched(fit);
    for (const formula of document.querySelectorAll(FORMULAS)) {
      const line = formula.closest(LINES);
      if (line) lines.observe(line);
    }
    // an interval is read as one, and words beside numbers would be squeezed to one a line
    for (const cell of document.querySelectorAll(".pst-scrollable-table-container td")) {
      const text = cell.textContent.trim();
      cell.classList.toggle("interval", INTERVAL.test(text));
      cell.classList.toggle("words", text.length > 20);
      cell.classList.toggle("long", text.length > 60);
    }
  };

  window.addEventListener("load", () => {
    const typesetting = window.MathJax && window.MathJax.startup && window.MathJax.startup.promise;
    Promise.resolve(typesetting).then(watch);
  });
})();
