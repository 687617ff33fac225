// A preview of what a link within the book leads to, on pointing at it or moving to it by keyboard.
// dnrlib.book.previews has put the pieces into one file for each page; it is loaded when needed.
(() => {
  const root = document.documentElement.dataset.content_root ?? "";
  const here = new URL(root || ".", location.href);
  const known = {}; // page -> promise of its pieces by anchor
  const arrived = {};
  let box = null;
  let shownFor = null;
  let timer = 0;

  window.addPreviews = (page, pieces) => arrived[page](pieces);

  function pieces(page) {
    known[page] ??= new Promise((resolve) => {
      arrived[page] = resolve;
      const script = document.createElement("script");
      script.src = `${root}_static/previews/${page}.js`;
      script.onerror = () => resolve({});
      document.head.append(script);
    });
    return known[page];
  }

  function target(link) {
    const address = new URL(link.href);
    if (address.origin !== here.origin || !address.pathname.startsWith(here.pathname)) return null;
    if (!address.pathname.endsWith(".html")) return null;
    const page = decodeURIComponent(address.pathname.slice(here.pathname.length, -".html".length));
    return { page, anchor: decodeURIComponent(address.hash.slice(1)) };
  }

  function linkOf(event) {
    const link = event.target.closest?.("article.bd-article a[href]");
    return link && !link.matches(".headerlink") && !link.closest(".preview") ? link : null;
  }

  async function show(link) {
    const { page, anchor } = target(link) ?? {};
    const html = page && (await pieces(page))[anchor];
    if (!html || shownFor !== link) return;
    box?.remove();
    box = document.createElement("div");
    box.className = "preview";
    box.id = "preview";
    box.setAttribute("role", "tooltip");
    box.innerHTML = html;
    for (const image of box.querySelectorAll("img")) {
      image.addEventListener("load", () => place(link));
      image.src = root + image.dataset.src;
    }
    document.body.append(box);
    link.setAttribute("aria-describedby", "preview");
    place(link);
    if (box.querySelector(".math") && window.MathJax?.typesetPromise) {
      const typeset = box;
      await MathJax.typesetPromise([typeset]);
      if (typeset === box) place(link);
    }
  }

  // Below the link, or above it where there is more room; within the window.
  function place(link) {
    if (!box) return;
    const line = link.getClientRects()[0] ?? link.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = Math.max(8, Math.min(line.left, width - box.offsetWidth - 8));
    const above = line.bottom + box.offsetHeight + 8 > innerHeight && line.top > innerHeight / 2;
    const top = above ? line.top - box.offsetHeight - 6 : line.bottom + 6;
    box.style.left = `${left + scrollX}px`;
    box.style.top = `${top + scrollY}px`;
  }

  function hide() {
    clearTimeout(timer);
    shownFor?.removeAttribute("aria-describedby");
    shownFor = null;
    box?.remove();
    box = null;
  }

  function turnTo(link) {
    hide();
    shownFor = link;
    if (link) show(link);
  }

  // A moment passes before anything changes, so that the pointer can move into the preview.
  function pointAt(event) {
    if (event.pointerType !== "mouse") return;
    const link = linkOf(event);
    clearTimeout(timer);
    if (event.target.closest?.(".preview") || (link && link === shownFor)) return;
    timer = setTimeout(turnTo, link ? 150 : 250, link);
  }

  document.addEventListener("pointerover", pointAt);
  document.addEventListener("focusin", (event) => {
    if (event.target.matches(":focus-visible")) turnTo(linkOf(event));
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.addEventListener("click", hide);
})();
