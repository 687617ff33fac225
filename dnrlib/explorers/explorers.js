// Explorers: figures that a reader can move. No library, no network; the data stand in the page.
// The formulas come first and touch no page; the tests hold them against dnrlib.
(() => {
  "use strict";
  if (globalThis.dnrExplorers) return;

  // Formulas ---------------------------------------------------------------------------------

  // A law of scores is its distribution function at s = LOW, LOW + 1/CELLS, ..., HIGH.
  const CELLS = 200;
  const [LOW, HIGH] = [-4, 5];
  const GRID = Array.from({ length: (HIGH - LOW) * CELLS + 1 }, (_, i) => LOW + i / CELLS);
  const BIN = 5; // cells of a bar of a density

  const clip = (t, low = 0, high = 1) => Math.min(Math.max(t, low), high);
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const index = (s) => Math.round((s - LOW) * CELLS);

  // Abramowitz and Stegun (1964), 7.1.26: off by less than 2e-7.
  function erf(t) {
    const u = 1 / (1 + 0.3275911 * Math.abs(t));
    const poly = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592]
      .reduce((value, coefficient) => (value + coefficient) * u, 0);
    return Math.sign(t) * (1 - poly * Math.exp(-t * t));
  }

  // P(ε <= t) of the paper's two noises; Beta(0.5, 0.5) is the arcsine law.
  const EPSILON = {
    Gaussian: (t) => (1 + erf(t / Math.SQRT2)) / 2,
    Beta: (t) => (2 / Math.PI) * Math.asin(Math.sqrt(clip(t))),
  };

  // The law of x' = (1 - λ_c) z + λ_c ε given z, eq-synthetic.
  function synthetic(noise, lambdaC, z) {
    const clean = (1 - lambdaC) * z;
    const share = (s) => (lambdaC ? EPSILON[noise]((s - clean) / lambdaC) : Number(s >= clean));
    return GRID.map((s) => share(s + 1e-12));
  }

  // The law of scores in [0, 1] whose distribution function is given at 0, 1/CELLS, ..., 1.
  const inUnit = (values) =>
    GRID.map((s, i) => (s < 0 ? 0 : s >= 1 ? 1 : values[i - index(0)]));

  // eq-noise-ks, eq-noise-wasserstein and eq-noise-energy between two laws.
  function distances(f, g) {
    const apart = f.map((value, i) => Math.abs(value - g[i]));
    return {
      KS: Math.max(...apart),
      Wasserstein: sum(apart) / CELLS,
      energy: Math.sqrt((2 * sum(apart.map((value) => value ** 2))) / CELLS),
    };
  }

  // The noise x - z of all candidates, eq-noise-mixture, from the laws of x given z = 0 and 1.
  const pooled = ([f0, f1], liked) =>
    f0.slice(0, f0.length - CELLS).map((value, i) => (1 - liked) * value + liked * f1[i + CELLS]);

  // P(x_1 > x_0) + P(x_1 = x_0) / 2 for a liked and another candidate, eq-auc.
  const auc = ([f0, f1]) =>
    sum(f1.slice(1).map((value, i) => ((value - f1[i]) * (f0[i] + f0[i + 1])) / 2));

  // Share of the scores in each bar from `from` to `to`.
  function bars(law, from, to) {
    const edges = [];
    for (let i = index(from); i <= index(to); i += BIN) edges.push(law[i]);
    return edges.slice(1).map((value, i) => value - edges[i]);
  }

  // P(z = 1 | score) in each bar of [0, 1], learnt from real scores and, with weight λ_m, from
  // synthetic ones: the function of the score alone with the least L_direct + λ_m L_z, eq-theta.
  function belief(real, made, liked, lambdaM) {
    const [[f0, f1], [g0, g1]] = [real, made].map((laws) => laws.map((law) => bars(law, 0, 1)));
    return f1.map((value, i) => {
      const yes = liked * (value + lambdaM * g1[i]);
      const all = yes + (1 - liked) * (f0[i] + lambdaM * g0[i]);
      return all > 1e-9 ? yes / all : null;
    });
  }

  // What such a belief costs on real scores, above the best one: mean KL in nats a candidate.
  function excess(real, made, liked, lambdaM) {
    const [f0, f1] = real.map((law) => bars(law, 0, 1));
    const best = belief(real, made, liked, 0);
    const log = (weight, p, q) => (weight > 0 ? weight * Math.log(p / q) : 0);
    return sum(belief(real, made, liked, lambdaM).map((q, i) =>
      log(liked * f1[i], best[i], q) + log((1 - liked) * f0[i], 1 - best[i], 1 - q)));
  }

  // NDCG@k of labels in ranked order, eq-ndcg.
  function ndcg(labels, k) {
    const dcg = (ranked) => sum(ranked.slice(0, k).map((z, place) => z / Math.log2(place + 2)));
    return dcg(labels) / dcg([...labels].sort((a, b) => b - a));
  }

  // All that the λ_c explorer says about one setting.
  function noiseNumbers(data, noise, lambdaC, lambdaM) {
    const real = data.real.map(inUnit);
    const made = data.generators[noise]
      ? data.generators[noise].map(inUnit)
      : [0, 1].map((z) => synthetic(noise, lambdaC, z));
    return {
      real, made,
      aucs: { real: auc(real), synthetic: auc(made) },
      distances: {
        pooled: distances(pooled(real, data.liked), pooled(made, data.liked)),
        "z = 0": distances(real[0], made[0]),
        "z = 1": distances(real[1], made[1]),
      },
      before: belief(real, made, data.liked, 0),
      after: belief(real, made, data.liked, lambdaM),
      excess: excess(real, made, data.liked, lambdaM),
    };
  }

  // Drawing ----------------------------------------------------------------------------------

  function make(space, tag, attributes = {}, ...children) {
    const node = document.createElementNS(`http://www.w3.org/${space}`, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }
  const html = (tag, attributes, ...children) => make("1999/xhtml", tag, attributes, ...children);
  const svg = (tag, attributes, ...children) => make("2000/svg", tag, attributes, ...children);

  function select(title, names, chosen, attributes = {}) {
    const options = names.map((name) => html("option", name === chosen ? { selected: "" } : {}, name));
    const input = html("select", attributes, ...options);
    return [html("label", {}, html("span", {}, title), input), input];
  }

  function range(title, symbol, step, value) {
    const input = html("input", { type: "range", min: 0, max: 1, step, value });
    const shown = html("span"); // a label with an output in it would be the output's
    const tell = () => { shown.textContent = Number(input.value).toFixed(2); };
    input.addEventListener("input", tell);
    tell();
    const words = html("span", {}, "λ", html("sub", {}, symbol), `, ${title}: `, shown);
    return [html("label", {}, words, input), input];
  }

  const swatch = (colour, words) => {
    const mark = html("span", { class: "swatch", style: `background:${colour}` });
    return html("span", {}, mark, words);
  };

  function rows(head, body, caption, current = -1) {
    const line = (cells, first, attributes = {}) =>
      html("tr", attributes, ...cells.map((cell, i) =>
        i ? html(first === "col" ? "th" : "td", first === "col" ? { scope: "col" } : {}, cell)
          : html("th", { scope: first }, cell)));
    return [
      html("caption", {}, caption),
      html("thead", {}, line(head, "col")),
      html("tbody", {}, ...body.map((cells, i) =>
        line(cells, "row", i === current ? { "aria-current": "true" } : {}))),
    ];
  }

  // Draw now, whenever a control changes, and whenever the width does.
  function keepDrawn(box, controls, draw) {
    controls.forEach((control) => control.addEventListener("input", draw));
    let width = -1;
    const seen = () => {
      if (box.clientWidth === width) return;
      width = box.clientWidth;
      draw();
    };
    new ResizeObserver(seen).observe(box);
    seen();
  }

  const path = (points) => "M" + points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L");

  function ticks(values, x, y) {
    return values.flatMap((value) => [
      svg("line", { class: "axis", x1: x(value), x2: x(value), y1: y, y2: y + 4 }),
      svg("text", { x: x(value), y: y + 17, "text-anchor": "middle" }, String(value)),
    ]);
  }

  // The explorers ----------------------------------------------------------------------------

  const DISTANCES = ["KS", "Wasserstein", "energy"];
  const KINDS = [["liked, z = 1", 1, "var(--kind-liked)"], ["not liked, z = 0", 0, "var(--kind-other)"]];

  function noise(data, box, alt) {
    const names = [...Object.keys(EPSILON), ...Object.keys(data.generators)];
    const [noiseLabel, noiseInput] = select("noise", names, data.noise);
    const [cLabel, cInput] = range("share of noise", "c", 0.05, data.lambda_c);
    const [mLabel, mInput] = range("weight of x′", "m", 0.1, data.lambda_m);
    const key = html("p", { class: "key" }, swatch("var(--kind-rest)", "real x"),
      swatch("var(--kind-liked)", "x′ of liked"), swatch("var(--kind-other)", "x′ of the others"));
    const drawing = svg("svg", { role: "img", "aria-label": alt });
    const summary = html("p", { class: "summary", "aria-live": "polite" });
    const table = html("table");
    box.append(html("div", { class: "explorer-controls" }, noiseLabel, cLabel, mLabel),
      key, drawing, summary, table);

    const draw = () => {
      const name = noiseInput.value;
      cInput.disabled = name in data.generators;
      const lambdas = [Number(cInput.value), Number(mInput.value)];
      const found = noiseNumbers(data, name, ...lambdas);
      drawNoise(drawing, found, box.clientWidth);
      summary.replaceChildren(...lowered(noiseWords(name, ...lambdas, found, cInput.disabled)));
      table.replaceChildren(...rows(["candidates", ...DISTANCES],
        Object.entries(found.distances).map(([part, row]) =>
          [part, ...DISTANCES.map((distance) => row[distance].toFixed(3))]),
        "Distances of the synthetic noise x′ − z to the real one x − z"));
    };
    keepDrawn(box, [noiseInput, cInput, mInput], draw);
  }

  // λ with its letter below
  const lowered = (text) => text.split(/(?<=λ)([cm])/)
    .map((part, i) => (i % 2 ? html("sub", {}, part) : part));

  function noiseWords(name, lambdaC, lambdaM, found, generated) {
    const setting = generated ? `x′ from the ${name}` : `${name} noise, λc = ${lambdaC.toFixed(2)}`;
    const { real, synthetic: made } = found.aucs;
    return `${setting}: the synthetic score has an AUC of ${made.toFixed(3)}, the real one of ` +
      `${real.toFixed(3)}. With λm = ${lambdaM.toFixed(1)} a reader of the score alone, with all the ` +
      `data it could want, would believe the solid line, which costs ${found.excess.toFixed(4)} ` +
      "nats a candidate on real scores.";
  }

  function drawNoise(drawing, found, width) {
    const [from, to, height, gap] = [-0.6, 1.6, 104, 30];
    const x = (s) => 4 + ((s - from) / (to - from)) * (width - 8);
    const nodes = KINDS.flatMap(([title, z, colour], row) =>
      densities(found.real[z], found.made[z], from, to, x, row * (height + gap) + 18, height - 18, title, colour));
    const top = 2 * (height + gap) + 24;
    nodes.push(...beliefs(found, x, top, height - 18), ...ticks([0, 0.5, 1], x, top + height - 18),
      svg("text", { x: x(1.3), y: top + height - 1, "text-anchor": "middle" }, "score"));
    const all = top + height + 6;
    drawing.setAttribute("viewBox", `0 0 ${width} ${all}`);
    drawing.setAttribute("height", all);
    drawing.replaceChildren(...nodes);
  }

  function densities(real, made, from, to, x, top, height, title, colour) {
    const [f, g] = [real, made].map((law) => bars(law, from, to));
    // a spike of the synthetic scores may be cut off, or the real ones could not be seen
    const most = 1.1 * Math.max(...f, Math.min(Math.max(...g), 2 * Math.max(...f)));
    const y = (share) => top + height * (1 - clip(share / most));
    const bar = BIN / CELLS;
    const outline = (shares) => path([[x(from), top + height],
      ...shares.flatMap((share, i) => [0, 1].map((end) => [x(from + (i + end) * bar), y(share)])),
      [x(to), top + height]]);
    return [
      svg("path", { class: "real", d: outline(f) }),
      svg("path", { class: "area", d: outline(g), fill: colour, stroke: colour }),
      svg("line", { class: "axis", x1: x(from), x2: x(to), y1: top + height, y2: top + height }),
      svg("text", { x: x(from), y: top - 5 }, title),
    ];
  }

  function beliefs(found, x, top, height) {
    const y = (p) => top + height * (1 - p);
    const line = (values, kind) => svg("path", { class: `line ${kind}`, d: path(values
      .map((p, i) => [x(((i + 0.5) * BIN) / CELLS), p]).filter(([, p]) => p !== null)
      .map(([at, p]) => [at, y(p)])) });
    const level = (p) => [
      svg("line", { class: "axis", x1: x(-0.05), x2: x(1.05), y1: y(p), y2: y(p) }),
      svg("text", { x: x(-0.08), y: y(p) + 4, "text-anchor": "end" }, String(p)),
    ];
    return [
      ...[0, 1].flatMap(level),
      line(found.before, "dashed"), line(found.after, ""),
      svg("text", { x: 4, y: top - 11 }, "P(liked | score): solid with x′, dashed from x alone"),
    ];
  }

  function list(data, box, alt) {
    const numbers = data.lists.map((_, i) => String(i + 1));
    const [listLabel, listInput] = select("test list", numbers, "1");
    const next = html("button", { type: "button" }, "Next list");
    const group = `${box.dataset.figure}-order`;
    const radios = data.views.map((view, i) => html("input",
      { type: "radio", name: group, value: i, ...(i ? {} : { checked: "" }) }));
    const choice = html("fieldset", {}, html("legend", { class: "visually-hidden sr-only" }, "order by"),
      ...radios.map((radio, i) => html("label", {}, radio, data.views[i].title)));
    const key = html("p", { class: "key" }, swatch("var(--kind-liked)", "liked"),
      swatch("var(--kind-rest)", "not liked, or not shown"), swatch("var(--rule)", `the first ${data.k}`));
    const drawing = svg("svg", { role: "img", "aria-label": alt });
    const summary = html("p", { class: "summary", "aria-live": "polite" });
    const table = html("table");
    box.append(html("div", { class: "explorer-controls" }, listLabel, next, choice), key, drawing, summary, table);

    const draw = () => {
      const chosen = data.lists[Number(listInput.value) - 1];
      const view = radios.findIndex((radio) => radio.checked);
      drawList(drawing, data, chosen, view, box.clientWidth);
      const results = data.views.map((_, i) => listResult(chosen, i, data.k));
      const means = data.views.map((_, i) =>
        sum(data.lists.map((one) => listResult(one, i, data.k).ndcg)) / data.lists.length);
      summary.textContent = `List ${listInput.value}, ${data.views[view].title}: ${results[view].hits} of ` +
        `${sum(chosen.liked)} liked candidates are among the first ${data.k}; NDCG@${data.k} ` +
        `${results[view].ndcg.toFixed(3)}.`;
      table.replaceChildren(...rows(["order", `liked in ${data.k}`, "NDCG", "mean NDCG"],
        data.views.map(({ title }, i) =>
          [title, String(results[i].hits), results[i].ndcg.toFixed(3), means[i].toFixed(3)]),
        `This list at ${data.k}, and the mean over the ${data.lists.length} lists`, view));
    };
    next.addEventListener("click", () => {
      listInput.selectedIndex = (listInput.selectedIndex + 1) % data.lists.length;
      draw();
    });
    keepDrawn(box, [listInput, ...radios], draw);
  }

  function listResult(one, view, k) {
    const ranked = one.orders[view].map((candidate) => one.liked[candidate]);
    return { hits: sum(ranked.slice(0, k)), ndcg: ndcg(ranked, k) };
  }

  function drawList(drawing, data, chosen, view, width) {
    const [top, height] = [10, 150];
    const n = chosen.liked.length;
    const step = width / n;
    const known = drawing.querySelectorAll(".candidate");
    if (known.length !== n || drawing.dataset.width !== String(width)) {
      drawing.dataset.width = width;
      drawing.setAttribute("viewBox", `0 0 ${width} ${top + height + 22}`);
      drawing.setAttribute("height", top + height + 22);
      drawing.replaceChildren(
        svg("rect", { class: "places", x: 0, y: 0, width: step * data.k, height: top + height }),
        svg("line", { class: "axis", x1: 0, x2: width, y1: top + height, y2: top + height }),
        svg("text", { x: width, y: top + height + 17, "text-anchor": "end" }, "place →"),
        svg("text", { class: "value", x: width, y: 12, "text-anchor": "end" }),
        ...chosen.liked.map(() => svg("g", { class: "candidate" },
          svg("rect", { class: "stem", x: -1, y: top, width: 2, height }),
          svg("circle", { class: "dot", r: Math.min(4, step * 0.45), cy: top + height }))));
    }
    drawing.querySelector(".value").textContent = `height: ${data.views[view].axis}`;
    drawing.querySelectorAll(".candidate").forEach((group, candidate) => {
      const place = chosen.orders[view].indexOf(candidate);
      const value = clip(chosen.values[view][candidate]);
      const [stem, dot] = group.children;
      const colour = chosen.liked[candidate] ? "var(--kind-liked)" : "var(--kind-rest)";
      group.style.transform = `translateX(${((place + 0.5) * step).toFixed(1)}px)`;
      group.style.fill = colour;
      stem.style.transform = `scaleY(${value})`;
      dot.style.transform = `translateY(${(-value * height).toFixed(1)}px)`;
    });
  }

  function protocols(data, box, alt) {
    const [pLabel, pInput] = select("candidates", data.protocols, data.protocols[0]);
    const [sLabel, sInput] = select("retriever's scores", data.schemes, data.scheme);
    const titles = data.measures.map(({ title }) => title);
    const [mLabel, mInput] = select("measure", titles, titles[0]);
    const summary = html("p", { class: "summary", "aria-live": "polite" });
    const table = html("table", { "aria-label": alt });
    box.append(html("div", { class: "explorer-controls" }, pLabel, sLabel, mLabel), summary, table);

    const draw = () => {
      const measure = data.measures[mInput.selectedIndex];
      const cell = data.cells[`${pInput.value} ${sInput.value}`] || {};
      const known = data.methods.filter(({ name }) => cell[name] && cell[name][measure.name]);
      const value = (method) => cell[method.name][measure.name];
      summary.textContent = protocolWords(pInput.value, sInput.value, measure, known, value, data);
      const scale = `${measure.low.toFixed(2)} to ${measure.high.toFixed(2)}`.replaceAll("-", "−");
      table.replaceChildren(...rows(["method", scale, measure.title],
        known.map((method) =>
          [method.title, strip(value(method), method.colour, measure), inDigits(measure, value(method))]),
        `${pInput.value}, ${sInput.value} scores; the same scale for every choice of candidates and scores`));
    };
    keepDrawn(box, [pInput, sInput, mInput], draw);
  }

  const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;

  // A value and, where it has one, its interval; differences with their sign.
  function inDigits({ name }, [mean, ...ends]) {
    const digits = name === "gain" ? signed : (value) => value.toFixed(3);
    return digits(mean) + (ends.length ? ` [${ends.map(digits).join(",\u00a0")}]` : "");
  }

  function protocolWords(protocol, scheme, measure, known, value, data) {
    const own = known.filter(({ name }) => name !== "oracle");
    if (!own.length) return `${protocol}, ${scheme} scores: nothing is recorded.`;
    const best = own.reduce((one, other) => (value(other)[0] > value(one)[0] ? other : one));
    const [gain] = data.measures.filter(({ name }) => name === "gain");
    const dnr = (data.cells[`${protocol} ${scheme}`]["DNR-B"] || {})[gain.name];
    return `${protocol}, ${scheme} scores. Highest, the oracle aside: ${best.title}, ` +
      `${inDigits(measure, value(best))} (${measure.title}). ` +
      (dnr ? `NDCG@6 of DNR-B minus concat: ${inDigits(gain, dnr)}.` : "");
  }

  // One value and its interval on the scale that a measure has everywhere.
  function strip(value, colour, { low, high, zero }) {
    const x = (v) => 4 + (92 * (v - low)) / (high - low);
    const [mean, from = mean, to = mean] = value;
    return svg("svg", { viewBox: "0 0 100 20", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("line", { class: "axis", x1: x(zero ?? low), x2: x(zero ?? low), y1: 0, y2: 20, "vector-effect": "non-scaling-stroke" }),
      svg("line", { class: "line", x1: x(from), x2: x(to), y1: 10, y2: 10, "vector-effect": "non-scaling-stroke" }),
      // a line of no length has a round end whatever the width of the strip
      svg("line", { x1: x(mean), x2: x(mean), y1: 10, y2: 10, stroke: "var(--ink)", "stroke-width": 9,
        "stroke-linecap": "round", "vector-effect": "non-scaling-stroke" }),
      svg("line", { x1: x(mean), x2: x(mean), y1: 10, y2: 10, stroke: colour, "stroke-width": 7,
        "stroke-linecap": "round", "vector-effect": "non-scaling-stroke" }));
  }

  // ------------------------------------------------------------------------------------------

  const EXPLORERS = { noise, list, protocols };

  // Put the explorer before the picture of its figure, which stays for print.
  function mount(kind, name) {
    const figure = document.getElementById(name);
    const picture = figure.querySelector("img");
    const data = JSON.parse(document.getElementById(`${name}-data`).textContent);
    const box = html("div", { class: "explorer", role: "group", "aria-label": data.title });
    box.dataset.figure = name;
    picture.before(box);
    figure.classList.add("explored");
    EXPLORERS[kind](data, box, picture.alt);
  }

  globalThis.dnrExplorers = { mount, noiseNumbers, ndcg, erf };
})();
