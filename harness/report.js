"use strict";
// Text from results reaches the page as text nodes and attribute values only: no HTML is ever made from it.
const data = JSON.parse(document.getElementById("data").textContent);
const state = { section: 0, table: 0, figure: 0, sort: null, hidden: new Set(), run: null, sample: null, open: null };
const MIB = 2 ** 20;
const by = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "line", "rect", "text", "polyline", "polygon"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const section = () => data.sections[state.section];
const words = () => by("filter").value.toLowerCase().split(/[\s,]+/).filter(Boolean);

function named(line) {
  const wanted = words();
  const label = line.label.toLowerCase();
  return !state.hidden.has(line.label) && (!wanted.length || wanted.some((word) => label.includes(word)));
}

function visible(line) {
  const budget = by("budget").value;
  return named(line) && (!budget || line.group === budget || line.group === "all");
}

// Of many methods only the best have a colour. Where few are left, each of them has one.
function restyle() {
  const lines = section().lines;
  for (const line of lines) {
    line.own ||= { color: line.color, marker: line.marker, dash: line.dash, told: line.told };
    Object.assign(line, line.own);
  }
  const left = lines.filter((line) => line.ranked && named(line));
  const used = new Set(left.filter((line) => line.told).map((line) => line.color));
  const grey = new Set(left.filter((line) => !line.told).map((line) => line.label));
  const free = data.palette.filter((style) => !used.has(style.color));
  if (grey.size > free.length) return;
  const given = new Map([...grey].map((label, i) => [label, free[i]]));
  for (const line of left) if (given.has(line.label)) Object.assign(line, given.get(line.label), { told: true });
}

function shown() {
  return section().lines.map((line, number) => ({ line, number })).filter(({ line }) => visible(line));
}

function fill(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => make("option", { value }, text)));
  if (chosen !== undefined && chosen !== null) select.value = chosen;
}

// Scores

const COSTS = [
  ["kept %", "KV entries a head after the prefill / prompt tokens", (c) => 100 * c.kept_fraction, 1, "simulated"],
  ["kept", "KV entries a head", (c) => c.kept_tokens, 0, "simulated"],
  ["cache MiB", "the reader's KV cache after the prefill", (c) => c.cache_bytes / MIB, 2, "simulated"],
  ["peak MiB", "the most that was held on the way", (c) => c.peak_cache_bytes / MIB, 2, "simulated"],
  ["draft MiB", "the draft's KV cache", (c) => c.draft_cache_bytes / MIB, 2, null],
  ["seconds", "draft, prefill and decode, a sample", (c) => c.seconds, 3, "shared"],
];
const COST_MARKS = {
  simulated: (text) => [`${text}*`, "simulated: the method masks what it drops, and frees nothing"],
  shared: (text) => [`(${text})`, "an even share of a call that answered several runs: no timing of this method"],
};

// cividis, in steps
const SHADES = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];

function scoreCell(cell, column) {
  if (!cell) return make("td", { title: "no run" });
  const many = column.keys.length > 1;
  const tells = [`95 % interval ${cell.low} to ${cell.high}, ${cell.n} samples`];
  if (cell.against) {
    const within = cell.mark.includes("≈") ? "within noise of" : "beyond noise against";
    tells.push(`${within} ${cell.against}: ${cell.effect} [${cell.effect_low}, ${cell.effect_high}], p (Holm) = ${cell.p}`);
  } else if (cell.mark) tells.push("no samples in common with the reference");
  const text = cell.mean.toFixed(1);
  const inner = many ? [text, make("small", {}, ` ±${((cell.high - cell.low) / 2).toFixed(1)}`), cell.mark] : [text + cell.mark];
  const key = column.keys[0];
  const content = many ? inner : [make("button", { type: "button", onclick: () => goto(key) }, ...inner)];
  const td = make("td", { title: tells.join("\n"), class: ["", "best", "second"][cell.rank] || null }, ...content);
  if (by("shade").checked) {
    td.style.background = SHADES[Math.max(0, Math.min(9, Math.floor(cell.mean / 10)))];
    td.style.color = cell.mean > 55 ? "#000" : "#fff";
    td.querySelectorAll("small").forEach((node) => (node.style.color = "inherit"));
  }
  return td;
}

function drawTable() {
  const table = section().tables[state.table];
  by("caption").textContent = table.caption;
  const rows = shown().filter(({ number }) => table.cells[number].some(Boolean));
  const values = [(row) => row.line.label, (row) => budgetValue(row.line)];
  values.push(...table.columns.map((_, i) => (row) => table.cells[row.number][i]?.mean));
  const costs = table.costs ? COSTS : [];
  values.push(...costs.map(([, , value]) => (row) => table.costs[row.number] && value(table.costs[row.number])));
  if (state.sort) {
    const { column, down } = state.sort;
    const value = values[column];
    rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === y) return a.number - b.number;
      if (x === undefined || x === null) return 1; // blank last, whichever way
      if (y === undefined || y === null) return -1;
      return (x < y ? -1 : 1) * (down ? -1 : 1);
    });
  }
  const titles = [["method"], ["budget"], ...table.columns.map((c) => [c.title]), ...costs];
  const head = titles.map(([title, tells], column) => {
    const sorted = state.sort && state.sort.column === column;
    const arrow = sorted ? (state.sort.down ? " ▼" : " ▲") : "";
    const sort = () => {
      state.sort = { column, down: sorted ? !state.sort.down : column > 1 };
      drawTable();
    };
    const order = sorted ? (state.sort.down ? "descending" : "ascending") : null;
    return make("th", { scope: "col", title: tells, "aria-sort": order }, make("button", { type: "button", onclick: sort }, title + arrow));
  });
  const body = rows.map(({ line, number }) => {
    const own = table.costs && table.costs[number];
    const spent = costs.map(([, , value, digits, mark]) => {
      if (!own) return make("td");
      let text = value(own).toFixed(digits), tells = null;
      if (mark && own[mark]) [text, tells] = COST_MARKS[mark](text);
      return make("td", { title: tells }, text);
    });
    const cells = table.columns.map((column, i) => scoreCell(table.cells[number][i], column));
    return make("tr", { class: line.ranked ? null : "control" }, make("td", {}, swatch(line), line.label), make("td", {}, line.budget), ...cells, ...spent);
  });
  by("scores").replaceChildren(make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
}

const budgetValue = (line) => (line.group === "all" ? Infinity : parseFloat(line.group));

function swatch(line) {
  const node = make("span", { class: "swatch" });
  node.style.background = line.color;
  return node;
}

// Figures

const W = 420, H = 280, LEFT = 44, RIGHT = 12, TOP = 24, BOTTOM = 40;
const RING = (n, r, turn) => Array.from({ length: n }, (_, i) => {
  const angle = ((i + turn) / n) * 2 * Math.PI - Math.PI / 2;
  const radius = Array.isArray(r) ? r[i % 2] : r;
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
});
const SHAPES = {
  o: RING(20, 4.2, 0), s: RING(4, 5, 0.5), D: RING(4, 5, 0), d: RING(4, [5.5, 3.2], 0), "^": RING(3, 5.2, 0),
  v: RING(3, 5.2, 0.5), "<": RING(3, 5.2, 0.75), ">": RING(3, 5.2, 0.25), h: RING(6, 5, 0), "*": RING(10, [6, 2.6], 0),
  P: RING(12, 1, 0).map((_, i) => [[-1.6, -5], [1.6, -5], [1.6, -1.6], [5, -1.6], [5, 1.6], [1.6, 1.6], [1.6, 5], [-1.6, 5], [-1.6, 1.6], [-5, 1.6], [-5, -1.6], [-1.6, -1.6]][i]),
  X: RING(8, [6, 2], 0.5), ".": RING(10, 2, 0),
};

function marker(line, x, y, hollow) {
  const points = SHAPES[line.marker].map(([dx, dy]) => `${(x + dx).toFixed(1)},${(y + dy).toFixed(1)}`).join(" ");
  return make("polygon", { points, fill: hollow ? "#fff" : line.color, stroke: hollow ? line.color : "#fff", "stroke-width": hollow ? 1.4 : 0.5 });
}

function ticks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const digit of [1, 2, 5]) found.push(digit * 10 ** power);
  }
  return found.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
}

function chart(panel, front, range) {
  const lines = section().lines;
  const points = panel.points.filter((p) => named(lines[p.line]));
  const levels = panel.levels.filter((p) => named(lines[p.line]));
  const xs = panel.points.map((p) => p.x);
  const pad = 1.12, low = Math.min(...xs) / pad, high = Math.max(...xs) * pad;
  const X = (x) => LEFT + ((Math.log(x) - Math.log(low)) / (Math.log(high) - Math.log(low))) * (W - LEFT - RIGHT);
  const Y = (y) => H - BOTTOM - ((y - range[0]) / (range[1] - range[0])) * (H - TOP - BOTTOM);
  const svg = make("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${panel.title}, mean score against ${panel.xlabel}` });
  svg.append(make("text", { x: LEFT, y: 14, "font-weight": "bold" }, panel.title));
  const step = [1, 2, 5, 10, 20, 25].find((size) => (range[1] - range[0]) / size <= 6) || 25;
  for (let y = Math.ceil(range[0] / step) * step; y <= range[1]; y += step) {
    svg.append(make("line", { x1: LEFT, x2: W - RIGHT, y1: Y(y), y2: Y(y), stroke: "#e8e8e8" }));
    svg.append(make("text", { x: LEFT - 6, y: Y(y) + 4, "text-anchor": "end" }, String(y)));
  }
  const few = [...new Set(xs)];
  for (const x of few.length <= 6 ? few : ticks(low, high)) {
    svg.append(make("line", { x1: X(x), x2: X(x), y1: TOP, y2: H - BOTTOM, stroke: "#f0f0f0" }));
    svg.append(make("text", { x: X(x), y: H - BOTTOM + 15, "text-anchor": "middle" }, Number(x.toPrecision(3)).toString()));
  }
  svg.append(make("text", { x: (LEFT + W - RIGHT) / 2, y: H - 6, "text-anchor": "middle" }, panel.xlabel));
  svg.append(make("text", { x: 12, y: (TOP + H - BOTTOM) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(TOP + H - BOTTOM) / 2})` }, "mean score"));
  if (front) {
    const paid = points.filter((p) => lines[p.line].ranked || ["full", "draft_only"].includes(lines[p.line].method)).sort((a, b) => a.x - b.x || b.mean - a.mean);
    let best = -Infinity, path = "";
    for (const p of paid) {
      if (p.mean <= best) continue;
      path += path ? ` H${X(p.x)} V${Y(p.mean)}` : `M${X(p.x)} ${Y(p.mean)}`;
      best = p.mean;
    }
    if (path) svg.append(make("path", { d: `${path} H${W - RIGHT}`, fill: "none", stroke: "#f3e2b3", "stroke-width": 6 }));
  }
  for (const p of levels) {
    const line = lines[p.line];
    const rule = make("line", { x1: LEFT, x2: W - RIGHT, y1: Y(p.mean), y2: Y(p.mean), stroke: line.color, "stroke-dasharray": line.dash, "stroke-width": 1.4 });
    svg.append(tipped(rule, [p], null));
  }
  const curves = new Map();
  for (const p of points) curves.set(lines[p.line].label, [...(curves.get(lines[p.line].label) || []), p]);
  const told = (members) => Number(lines[members[0].line].told);
  for (const members of [...curves.values()].sort((a, b) => told(a) - told(b))) { // the grey ones below
    const line = lines[members[0].line];
    if (line.told && !front) {
      const band = [...members.map((p) => [X(p.x), Y(p.high)]), ...members.map((p) => [X(p.x), Y(p.low)]).reverse()];
      svg.append(make("polygon", { points: band.map((p) => p.join(",")).join(" "), fill: line.color, opacity: 0.1 }));
    }
    const path = members.map((p) => `${X(p.x)},${Y(p.mean)}`).join(" ");
    svg.append(make("polyline", { points: path, fill: "none", stroke: line.color, "stroke-dasharray": line.dash, "stroke-width": line.told ? 1.6 : 0.8 }));
    for (const p of members) {
      const close = points.filter((q) => q !== p && Math.hypot(X(p.x) - X(q.x), Y(p.mean) - Y(q.mean)) < 6);
      svg.append(tipped(marker(line, X(p.x), Y(p.mean), p.hollow), [p, ...close], panel.xlabel));
    }
  }
  return svg;
}

// With what is said of its point, and of others that it covers
function tipped(node, points, xlabel) {
  const tells = (p) => {
    const line = section().lines[p.line];
    const at = xlabel ? `\n${xlabel}: ${Number(p.x.toPrecision(4))}${p.hollow ? " (simulated)" : ""}` : "";
    return `${line.label}, budget ${line.budget}\nscore ${p.mean} [${p.low}, ${p.high}], ${p.n} samples${at}`;
  };
  const text = points.map(tells).join("\n\n");
  node.setAttribute("tabindex", "0");
  node.setAttribute("aria-label", text);
  const show = () => {
    const box = node.getBoundingClientRect(), tip = by("tip");
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = `${Math.min(box.right + 8, window.innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.max(4, box.top - tip.offsetHeight - 6)}px`;
  };
  const hide = () => (by("tip").hidden = true);
  for (const event of ["pointerenter", "focus"]) node.addEventListener(event, show);
  for (const event of ["pointerleave", "blur"]) node.addEventListener(event, hide);
  return node;
}

function drawFigure() {
  const figure = section().figures[state.figure];
  by("figures-section").hidden = !figure;
  if (!figure) return;
  const all = figure.panels.flatMap((panel) => [...panel.points, ...panel.levels]);
  const seen = all.filter((p) => named(section().lines[p.line]));
  const means = (seen.length ? seen : all).flatMap((p) => [p.low, p.high]);
  const range = [Math.max(0, Math.floor(Math.min(...means) - 2)), Math.min(100, Math.ceil(Math.max(...means) + 2))];
  by("charts").replaceChildren(...figure.panels.map((panel) => chart(panel, figure.front, range)));
  const labels = new Map(all.map((p) => [section().lines[p.line].label, section().lines[p.line]]));
  const entries = [...labels.values()].sort((a, b) => Number(b.told) - Number(a.told)).map((line) => {
    const key = make("svg", { width: 34, height: 14 }, make("line", { x1: 0, x2: 34, y1: 7, y2: 7, stroke: line.color, "stroke-dasharray": line.dash, "stroke-width": 1.6 }), marker(line, 17, 7, false));
    const toggle = () => {
      if (!state.hidden.delete(line.label)) state.hidden.add(line.label);
      draw();
    };
    return make("button", { type: "button", "aria-pressed": String(!state.hidden.has(line.label)), onclick: toggle }, key, line.label);
  });
  const notes = [];
  if (figure.front) notes.push("broad line: the best score for its cost");
  if (all.some((p) => p.hollow)) notes.push("hollow: simulated memory");
  by("legend").replaceChildren(...entries, ...notes.map((note) => make("span", { class: "caption" }, note)));
}

// Samples

const run = () => section().runs[state.run];

function goto(key) {
  state.run = key;
  state.sample = null;
  by("run").value = key;
  drawSamples();
  by("samples-section").scrollIntoView({ behavior: "smooth" });
}

function indices() {
  const found = new Set(Object.values(run().lines).flatMap((samples) => samples.map((sample) => sample.index)));
  return [...found].sort((a, b) => a - b);
}

// [start, end) of every occurrence of a reference, without regard to case
function places(text, references) {
  const low = text.toLowerCase(), found = [];
  if (low.length !== text.length) return found; // a letter whose lower case is longer: places would be off
  for (const reference of new Set(references.map((r) => r.trim().toLowerCase()).filter(Boolean))) {
    for (let at = low.indexOf(reference); at >= 0; at = low.indexOf(reference, at + reference.length)) {
      found.push([at, at + reference.length]);
    }
  }
  return found.sort((a, b) => a[0] - b[0]);
}

function marked(text, references) {
  const nodes = [];
  let end = 0;
  for (const [a, b] of places(text, references)) {
    if (a < end) continue;
    nodes.push(text.slice(end, a), make("mark", {}, text.slice(a, b)));
    end = b;
  }
  return [...nodes, text.slice(end)];
}

// Which tokens of a prompt are of a reference: the same for every method, so found once
const askedOf = new Map();
function asks(sample) {
  const key = `${sample.prompt} ${sample.references}`;
  if (askedOf.has(key)) return askedOf.get(key);
  const pieces = data.prompts[sample.prompt];
  const found = places(pieces.join(""), data.references[sample.references]);
  let at = 0, next = 0;
  const asked = pieces.map((piece) => {
    while (next < found.length && found[next][1] <= at) next++;
    const inside = next < found.length && found[next][0] < at + piece.length && piece.length > 0;
    at += piece.length;
    return inside;
  });
  askedOf.set(key, asked);
  return asked;
}

function promptOf(sample) {
  const share = sample.kept.flatMap(([value, count]) => Array(count).fill(value));
  return { pieces: data.prompts[sample.prompt], asked: asks(sample), share };
}

const BINS = 120;
function strip(prompt) {
  const { share, asked } = prompt, n = share.length;
  const svg = make("svg", { class: "strip", viewBox: `0 0 ${BINS * 2} 14`, preserveAspectRatio: "none", role: "img", "aria-label": "where in the prompt tokens are kept" });
  for (let bin = 0; bin < BINS; bin++) {
    const a = Math.floor((bin * n) / BINS), b = Math.max(a + 1, Math.floor(((bin + 1) * n) / BINS));
    let most = 0, wanted = false;
    for (let i = a; i < b && i < n; i++) {
      most = Math.max(most, share[i]);
      wanted ||= asked[i];
    }
    if (most) svg.append(make("rect", { x: bin * 2, y: 4, width: 2, height: 10, fill: "#b36b00", opacity: 0.15 + (0.85 * most) / 100 }));
    if (wanted) svg.append(make("rect", { x: bin * 2, y: 0, width: 2, height: 3, fill: "#0072b2" }));
  }
  return svg;
}

const FOLD = 40, ENDS = 8;
function promptText(prompt) {
  const { pieces, asked, share } = prompt;
  const nodes = [];
  const level = (value) => (value ? `k${Math.min(5, Math.ceil(value / 20))}` : "dropped");
  const spans = (from, to) => {
    const out = [];
    for (let i = from; i < to; ) {
      let j = i;
      while (j < to && share[j] === share[i] && asked[j] === asked[i]) j++;
      const text = pieces.slice(i, j).join("");
      const tells = share[i] ? `kept: ${share[i]} %` : "dropped";
      if (text) out.push(make("span", { class: level(share[i]), title: tells }, asked[i] ? make("mark", {}, text) : text));
      i = j;
    }
    return out;
  };
  for (let i = 0; i < pieces.length; ) {
    let j = i;
    while (j < pieces.length && !share[j] && !asked[j]) j++;
    if (j - i > FOLD) {
      const [from, to] = [i + ENDS, j - ENDS];
      const fold = make("button", { type: "button", class: "fold", onclick: () => fold.replaceWith(...spans(from, to)) }, `${to - from} tokens`);
      nodes.push(...spans(i, from), fold, ...spans(to, j));
    } else if (j > i) nodes.push(...spans(i, j));
    i = j;
    while (j < pieces.length && (share[j] || asked[j])) j++;
    nodes.push(...spans(i, j));
    i = j;
  }
  return nodes;
}

function drawSamples() {
  const empty = !run() || !indices().length;
  by("samples-section").hidden = empty;
  if (empty) return;
  const there = indices();
  if (!there.includes(state.sample)) state.sample = there[0];
  fill(by("sample"), there.map((index) => [index, String(index)]), state.sample);
  const rows = shown().map(({ line, number }) => {
    const sample = (run().lines[number] || []).find((one) => one.index === state.sample);
    return sample && { line, number, sample, prompt: sample.kept ? promptOf(sample) : null };
  }).filter(Boolean);
  const dropping = rows.filter((row) => row.prompt && row.line.ranked && row.sample.kept.some(([value]) => !value));
  const open = state.open || new Set(dropping.slice(0, 2).map((row) => row.number)); // until some are ticked
  const asked = [...new Set(rows.map((row) => row.sample.references))];
  by("references").replaceChildren(make("b", {}, "reference: "), asked.map((place) => data.references[place].join(" | ")).join(" / "));
  const titles = ["method", "budget", "prompt", "score", "output", "where kept", "new tokens", "prompt tokens", "read", "kept", "cache KiB"];
  const body = rows.map(({ line, number, sample, prompt }) => {
    const tick = make("input", { type: "checkbox", "aria-label": `prompt of ${line.label} ${line.budget}` });
    tick.checked = open.has(number);
    tick.addEventListener("change", () => {
      state.open = open;
      if (!open.delete(number)) open.add(number);
      drawPrompts(rows, open);
    });
    const numbers = [sample.new_tokens, sample.prompt_tokens, sample.read_tokens, Math.round(sample.kept_tokens), Math.round(sample.cache_bytes / 1024)];
    return make("tr", { class: line.ranked ? null : "control" }, make("td", {}, swatch(line), line.label), make("td", {}, line.budget),
      make("td", {}, prompt ? tick : "–"), make("td", {}, sample.score.toFixed(1)),
      make("td", { class: "text" }, ...marked(sample.output, data.references[sample.references])),
      make("td", {}, prompt ? strip(prompt) : "–"), ...numbers.map((value) => make("td", {}, String(value))));
  });
  by("answers").replaceChildren(make("thead", {}, make("tr", {}, ...titles.map((title) => make("th", { scope: "col" }, title)))), make("tbody", {}, ...body));
  drawPrompts(rows, open);
}

function drawPrompts(rows, open) {
  const chosen = rows.filter((row) => row.prompt && open.has(row.number));
  by("prompts").replaceChildren(...chosen.map(({ line, prompt }) =>
    make("div", { class: "prompt" }, make("h3", {}, swatch(line), `${line.label}, budget ${line.budget}`), make("div", {}, ...promptText(prompt)))));
}

function turn(count) {
  const there = indices();
  state.sample = there[(there.indexOf(state.sample) + count + there.length) % there.length];
  drawSamples();
}

// The page

function choose() {
  const { lines, tables, figures, runs } = section();
  const groups = [...new Set(lines.map((line) => line.group))].filter((group) => group !== "all");
  fill(by("budget"), [["", "all"], ...groups.map((group) => [group, group])]);
  fill(by("table"), tables.map((table, i) => [i, table.name]));
  fill(by("figure"), figures.map((figure, i) => [i, figure.name]));
  fill(by("run"), Object.entries(runs).map(([key, { title }]) => [key, title]));
  Object.assign(state, { table: 0, figure: 0, sort: null, run: Object.keys(runs)[0], sample: null, open: null });
  state.hidden.clear();
  by("subtitle").textContent = `${section().title}: ${lines.length} methods x budgets`;
}

function draw() {
  restyle();
  drawTable();
  drawFigure();
  drawSamples();
}

function listen(id, event, action) {
  by(id).addEventListener(event, action);
}

fill(by("section"), data.sections.map((one, i) => [i, one.title]));
by("section-label").hidden = data.sections.length < 2;
listen("controls", "submit", (event) => event.preventDefault());
listen("section", "change", () => { state.section = Number(by("section").value); choose(); draw(); });
listen("filter", "input", draw);
listen("budget", "change", draw);
listen("all", "click", () => { state.hidden.clear(); by("filter").value = ""; by("budget").value = ""; draw(); });
listen("table", "change", () => { state.table = Number(by("table").value); state.sort = null; drawTable(); });
listen("shade", "change", drawTable);
listen("figure", "change", () => { state.figure = Number(by("figure").value); drawFigure(); });
listen("run", "change", () => { state.run = by("run").value; state.sample = null; drawSamples(); });
listen("sample", "change", () => { state.sample = Number(by("sample").value); drawSamples(); });
listen("previous", "click", () => turn(-1));
listen("next", "click", () => turn(1));
by("problems").hidden = !data.problems.length;
by("problems").querySelector("summary").textContent = `Missing, left out, or to be known: ${data.problems.length}`;
by("problems").querySelector("ul").replaceChildren(...data.problems.map(([where, text]) => make("li", {}, `${where}: ${text}`)));
choose();
draw();
