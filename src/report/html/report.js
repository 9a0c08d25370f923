const data = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en");
const short = (value) => value == null ? "–" : Math.abs(value) >= 1000 ? whole.format(Math.round(value)) : String(+value.toPrecision(3));

// One entry a slide, done or failed; `picture` is the number of its pictures in the page.
const slides = data.slides.map((slide, i) => ({ ...slide, picture: i, status: "done" }));
for (const failure of data.failures) {
  slides.push({ ...failure, status: "failed", warnings: [], picture: null });
}
slides.forEach((slide, i) => { slide.number = i; });
const failedCount = Object.values(data.failure_kinds).reduce((a, b) => a + b, 0);

const columns = [
  { key: "id", name: "slide" },
  { key: "status", name: "status" },
  { key: "format", name: "format" },
  { key: "mpp", name: "µm/px", number: true, title: "resolution of level 0" },
  { key: "mpp_source", name: "µm/px from" },
  { key: "width", name: "width", number: true, title: "level-0 pixels" },
  { key: "height", name: "height", number: true, title: "level-0 pixels" },
  { key: "tiles", name: "tiles", number: true },
  { key: "unreadable", name: "unreadable", number: true, title: "tiles that could not be read and have no row" },
  { key: "area", name: "tissue mm²", number: true },
  ...["tissue", "blur", "pen", "white", "black"].map((name) => ({
    key: "qc_" + name, name: name === "tissue" ? "tissue share" : name, number: true, percent: true, value: (s) => s.qc && s.qc[name],
    title: name === "blur" ? "share of the tissue that is out of focus, mean over the tiles" : "share of a tile's area, mean over the tiles",
  })),
  { key: "warnings", name: "remarks", value: (s) => s.warnings.length + (s.message ? 1 : 0) },
];
const percent = (v) => v == null ? "–" : (100 * v).toFixed(100 * v < 1 && v > 0 ? 1 : 0) + " %";
const value = (slide, key) => {
  const column = columns.find((c) => c.key === key);
  return column && column.value ? column.value(slide) : slide[key];
};

const tests = {
  failed: ["Failed", (s) => s.status === "failed"],
  warned: ["With warnings", (s) => s.warnings.length > 0],
  empty: ["No tiles", (s) => s.tiles === 0],
  unreadable: ["Unreadable tiles", (s) => s.unreadable > 0],
  suspicious: ["Suspicious tissue", (s) => Boolean(s.suspicion)],
  blurred: ["Out of focus", (s) => Boolean(s.qc) && s.qc.blur > 0.2],
  pen: ["Pen", (s) => s.pen_mm2 > 0],
  dropped: ["Tiles left out for quality", (s) => Boolean(s.dropped) && Object.keys(s.dropped).length > 0],
};

// What is shown, and in which order; the address keeps it.
const state = { q: "", format: "", show: [], sort: "id", down: false, layer: "both", range: null, slide: null };

function readAddress() {
  const words = new URLSearchParams(location.hash.slice(1));
  state.q = words.get("q") || "";
  state.format = words.get("format") || "";
  state.show = (words.get("show") || "").split(",").filter((name) => name in tests);
  if (columns.some((c) => c.key === words.get("sort"))) state.sort = words.get("sort");
  state.down = words.get("down") === "1";
  if (["both", "overview", "map"].includes(words.get("layer"))) state.layer = words.get("layer");
  const slide = parseInt(words.get("slide"), 10);
  state.slide = slide >= 0 && slide < slides.length ? slide : null;
}

function writeAddress() {
  const words = new URLSearchParams();
  if (state.q) words.set("q", state.q);
  if (state.format) words.set("format", state.format);
  if (state.show.length) words.set("show", state.show.join(","));
  if (state.sort !== "id") words.set("sort", state.sort);
  if (state.down) words.set("down", "1");
  if (state.layer !== "both") words.set("layer", state.layer);
  if (state.slide != null) words.set("slide", state.slide);
  history.replaceState(null, "", words.size ? "#" + words : location.pathname + location.search);
}

function chosen() {
  const wanted = state.q.toLowerCase();
  const fits = (s) => {
    if (state.format && s.format !== state.format) return false;
    if (state.show.length && !state.show.some((name) => tests[name][1](s))) return false;
    if (state.range) {
      const v = value(s, state.range.key);
      if (v == null || v < state.range.low || v > state.range.high) return false;
    }
    const text = [s.id, s.format, s.mpp_source, s.kind, s.message, ...s.warnings].join("\n").toLowerCase();
    return !wanted || text.includes(wanted);
  };
  const sign = state.down ? -1 : 1;
  const compare = (a, b) => {
    const [x, y] = [value(a, state.sort), value(b, state.sort)];
    if (x == null || y == null) return (x == null) - (y == null) || a.number - b.number;
    const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
    return sign * order || a.number - b.number;
  };
  return slides.filter(fits).sort(compare);
}

// Pictures are taken from the page when they come near the screen.
function fill(frame) {
  const slide = slides[frame.dataset.slide];
  if (frame.dataset.filled || slide.picture == null) return;
  frame.dataset.filled = "1";
  const found = JSON.parse(by("p" + slide.picture).textContent);
  const what = [found.overview && "overview", found.map && "feature map"].filter(Boolean);
  if (found.overview) {
    frame.append(element("img", { class: "overview", alt: "", src: "data:image/jpeg;base64," + found.overview }));
  }
  if (found.map) {
    const map = element("img", { class: "map", alt: "", src: "data:image/png;base64," + found.map });
    ["left", "top", "width", "height"].forEach((side, i) => { map.style[side] = 100 * found.place[i] + "%"; });
    frame.append(map);
  }
  if (!what.length) frame.append(element("span", { class: "none" }, slide.tiles === 0 ? "no tiles" : "no picture"));
}
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      fill(entry.target);
      watcher.unobserve(entry.target);
    }
  }
}, { rootMargin: "800px" });

function picture(slide) {
  const frame = element("span", { class: "picture", "data-slide": slide.number });
  const ratio = slide.width && slide.height ? slide.width / slide.height : 1;
  frame.style.aspectRatio = String(ratio);
  frame.style[ratio >= 1 ? "width" : "height"] = "100%";
  if (slide.status === "failed") frame.append(element("span", { class: "none" }, "failed: " + slide.kind));
  return frame;
}

const remarks = (slide) => slide.message ? [slide.message] : slide.warnings;
const mood = (slide) => slide.status === "failed" ? "bad" : slide.warnings.length || slide.tiles === 0 ? "warn" : "";
const said = (slide) => slide.status === "failed" ? "failed, " + slide.kind
  : `${whole.format(slide.tiles)} ${slide.tiles === 1 ? "tile" : "tiles"}`;

function badges(slide) {
  const list = [];
  if (slide.warnings.length) list.push(element("span", { class: "badge warn" }, `${slide.warnings.length} ${slide.warnings.length === 1 ? "warning" : "warnings"}`));
  if (slide.unreadable) list.push(element("span", { class: "badge warn" }, `${slide.unreadable} unreadable`));
  return list;
}

const cells = slides.map((slide) => {
  const frame = picture(slide);
  const caption = element("span", { class: "caption" }, slide.id);
  const line = element("span", { class: "caption quiet" }, said(slide), " ", badges(slide));
  const name = [slide.id, said(slide), ...remarks(slide)].join(". ");
  const button = element("button", { type: "button", title: [slide.id, ...remarks(slide)].join("\n"), "aria-label": name, onclick: () => open(slide.number) },
    element("span", { class: "frame" }, frame), caption, line);
  watcher.observe(frame);
  return element("div", { class: "cell " + mood(slide), role: "listitem" }, button);
});

const rows = slides.map((slide) => {
  const shown = (column) => {
    if (column.key === "id") return element("button", { type: "button", onclick: () => open(slide.number) }, slide.id);
    if (column.key === "warnings") return remarks(slide).map((text) => element("div", {}, text));
    if (column.key === "status") return element("span", { class: mood(slide) && "badge " + mood(slide) }, slide.status);
    const v = value(slide, column.key);
    if (column.percent) return percent(v);
    if (!column.number) return v == null ? "–" : String(v);
    return column.key === "area" || column.key === "mpp" ? short(v) : v == null ? "–" : whole.format(v);
  };
  return element("tr", {}, columns.map((column) => element("td", { class: column.number && "number" }, shown(column))));
});

const heads = columns.map((column) => {
  const sort = () => {
    state.down = state.sort === column.key ? !state.down : Boolean(column.number);
    state.sort = column.key;
    update();
  };
  const button = element("button", { type: "button", title: column.title, onclick: sort }, column.name);
  return element("th", { scope: "col", class: column.number && "number" }, button);
});
by("rows").tHead.append(element("tr", {}, heads));

let list = [];
function update() {
  list = chosen();
  by("cells").replaceChildren(...list.map((slide) => cells[slide.number]));
  by("rows").tBodies[0].replaceChildren(...list.map((slide) => rows[slide.number]));
  heads.forEach((head, i) => {
    const sorted = columns[i].key === state.sort;
    head.setAttribute("aria-sort", sorted ? (state.down ? "descending" : "ascending") : "none");
    head.firstChild.textContent = columns[i].name + (sorted ? (state.down ? " ↓" : " ↑") : "");
  });
  by("count").textContent = `${whole.format(list.length)} of ${whole.format(slides.length)} slides`;
  by("query").value = state.q;
  by("format").value = state.format;
  by("order").value = state.sort;
  by("direction").textContent = state.down ? "↓" : "↑";
  document.body.dataset.layer = state.layer;
  for (const button of by("layers").children) button.setAttribute("aria-pressed", String(button.dataset.layer === state.layer));
  for (const button of by("chips").children) button.setAttribute("aria-pressed", String(state.show.includes(button.dataset.name)));
  draw();
  writeAddress();
}

// Histograms of the shown slides; the bins are those of all, so that they do not move.
const charts = [
  ["tiles", "Tiles a slide", ""], ["mpp", "Resolution of level 0", " µm/px"], ["area", "Tissue", " mm²"],
  ["unreadable", "Unreadable tiles", ""], ["qc_tissue", "Tissue in a tile, mean", " %"], ["qc_blur", "Tissue out of focus, mean", " %"],
  ["qc_pen", "Pen, mean", " %"], ["qc_white", "White, mean", " %"], ["qc_black", "Black, mean", " %"],
];
function draw() {
  const made = charts.map(([key, name, unit]) => {
    const all = slides.map((s) => value(s, key)).filter((v) => typeof v === "number");
    if (!all.length) return null;
    let low = Infinity, high = -Infinity;
    for (const v of all) { low = Math.min(low, v); high = Math.max(high, v); }
    if (/^(unreadable|qc_(blur|pen|white|black))$/.test(key) && high === 0) return null;
    const scale = key.startsWith("qc_") ? 100 : 1;
    const told = (v) => short(scale * v) + unit;
    const bins = low === high ? 1 : 24;
    const at = (v) => Math.min(bins - 1, Math.floor(bins * (v - low) / (high - low || 1)));
    const counts = new Array(bins).fill(0);
    for (const slide of list) if (typeof value(slide, key) === "number") counts[at(value(slide, key))] += 1;
    const most = Math.max(1, ...counts);
    const bars = counts.map((n, i) => {
      const edge = (j) => low + (high - low) * j / bins;
      const range = { key, low: edge(i), high: bins === 1 ? high : edge(i + 1) };
      const pressed = state.range && state.range.key === key && state.range.low === range.low;
      const label = `${n} ${n === 1 ? "slide" : "slides"}, ${short(scale * range.low)} to ${told(range.high)}`;
      const bar = element("span", {});
      bar.style.height = 100 * n / most + "%";
      const choose = () => { state.range = pressed ? null : range; update(); };
      return element("button", { type: "button", title: label, "aria-label": label, "aria-pressed": String(Boolean(pressed)), onclick: choose }, bar);
    });
    const middle = all.sort((a, b) => a - b)[Math.floor(all.length / 2)];
    return element("div", { class: "chart", role: "group", "aria-label": name },
      element("h3", {}, name, " ", element("span", { class: "quiet" }, `median ${told(middle)}`)),
      element("div", { class: "bars" }, bars),
      element("div", { class: "axis" }, element("span", {}, told(low)), element("span", {}, told(high))));
  });
  by("charts").replaceChildren(...made.filter(Boolean));
}

// Tiles a second between a run's samples, and the share of time in which encoders waited.
function drawRuns() {
  const made = data.runs.map((run) => {
    const steps = run.samples.slice(1).map((now, i) => {
      const before = run.samples[i];
      const took = now.seconds - before.seconds;
      const [worked, waited] = [now.embedding - before.embedding, now.model_waits - before.model_waits];
      return { from: before.seconds, took, rate: (now.tiles - before.tiles) / Math.max(took, 1e-9), waited: waited / Math.max(worked + waited, 1e-9) };
    }).filter((step) => step.took > 0);
    const end = run.samples[run.samples.length - 1];
    if (!steps.length || !end.tiles) return null;
    const most = Math.max(...steps.map((step) => step.rate), 1e-9);
    const share = (part, rest) => percent(part / Math.max(part + rest, 1e-9));
    const bars = steps.map((step) => {
      const bar = element("span", { title: `from ${short(step.from)} s: ${short(step.rate)} tiles/s, encoders waited ${percent(step.waited)}` }, element("span", {}));
      bar.style.height = 100 * step.rate / most + "%";
      bar.style.flexGrow = step.took;
      bar.firstChild.style.height = 100 * step.waited + "%";
      return bar;
    });
    const name = `${whole.format(run.slides)} ${run.slides === 1 ? "slide" : "slides"}, ${whole.format(end.tiles)} tiles in ${short(end.seconds)} s`;
    const waits = `Encoders waited ${share(end.model_waits, end.embedding)} of their time for tiles, readers ${share(end.readers_wait_model, end.reading)} for encoders. `
      + `Threads spent ${[["opening and tissue", end.preparing], ["reading", end.reading], ["encoding", end.embedding], ["writing", end.writing], ["reads of slide files", end.disk]]
        .map(([what, s]) => `${short(s)} s ${what}`).join(", ")}.`;
    return element("div", { class: "chart run", role: "group", "aria-label": `${name}. ${waits}` },
      element("h3", {}, name, " ", element("span", { class: "quiet" }, `${short(end.tiles / end.seconds)} tiles/s`)),
      element("div", { class: "bars", "aria-hidden": "true" }, bars),
      element("div", { class: "axis" }, element("span", {}, "0 s"), element("span", {}, short(end.seconds) + " s")),
      element("p", { class: "quiet" }, waits));
  }).filter(Boolean);
  by("runs-section").hidden = by("runs-link").hidden = !made.length;
  by("run-charts").replaceChildren(...made);
}

// One slide, large.
const dialog = by("slide");
function open(number) {
  const slide = slides[number];
  state.slide = number;
  by("slide-title").textContent = slide.id;
  const frame = picture(slide);
  frame.style.width = "100%";
  frame.style.height = "";
  const ratio = slide.width && slide.height ? slide.width / slide.height : 1;
  frame.style.maxWidth = `calc(76vh * ${ratio})`;
  by("slide-picture").replaceChildren(frame);
  fill(frame);
  const map = frame.querySelector(".map");
  if (map) map.style.opacity = by("opacity").value / 100;
  const facts = slide.status === "failed"
    ? [["status", "failed"], ["kind", slide.kind], ["reason", slide.message], ["path", slide.path]]
    : [
      ["tiles", whole.format(slide.tiles) + (slide.unreadable ? `, ${slide.unreadable} unreadable` : "")],
      ["tissue", short(slide.area) + " mm²"],
      ["found by", slide.chosen ? `${slide.method}: ${slide.chosen}, ${slide.why}` : slide.method],
      ["mean of tiles", slide.qc && Object.entries(slide.qc).filter(([, v]) => v != null).map(([name, v]) => `${name} ${percent(v)}`).join(", ")],
      ["left out for", slide.dropped && Object.entries(slide.dropped).map(([name, n]) => `${name}: ${n}`).join(", ")],
      ["format", slide.format],
      ["level 0", `${whole.format(slide.width)} × ${whole.format(slide.height)} px`],
      ["resolution", `${short(slide.mpp)} µm/px, from ${slide.mpp_source}`],
      ["tiles' resolution", `${short(slide.effective_mpp)} µm/px, ${slide.resampled ? "resampled" : "as stored"}`],
    ];
  by("slide-facts").replaceChildren(...facts.filter(([, v]) => v != null && v !== "").flatMap(([k, v]) => [element("dt", {}, k), element("dd", {}, v)]));
  by("slide-warnings").replaceChildren(...slide.warnings.map((text) => element("p", { class: "notice" }, text)));
  if (!dialog.open) dialog.showModal();
  writeAddress();
}
function step(by) {
  const at = list.findIndex((slide) => slide.number === state.slide);
  const next = list[at + by];
  if (next) open(next.number);
}
dialog.addEventListener("close", () => {
  const cell = cells[state.slide];
  state.slide = null;
  writeAddress();
  if (cell && cell.isConnected) cell.firstChild.focus();
});
by("previous").addEventListener("click", () => step(-1));
by("next").addEventListener("click", () => step(1));
by("close").addEventListener("click", () => dialog.close());
by("opacity").addEventListener("input", () => {
  const map = by("slide-picture").querySelector(".map");
  if (map) map.style.opacity = by("opacity").value / 100;
});

// Controls.
const formats = [...new Set(data.slides.map((s) => s.format))].sort();
by("format").append(...formats.map((name) => element("option", { value: name }, name)));
by("order").append(...columns.map((c) => element("option", { value: c.key }, c.name)));
for (const [name, [label, test]] of Object.entries(tests)) {
  const n = slides.filter(test).length;
  const toggle = () => {
    state.show = state.show.includes(name) ? state.show.filter((s) => s !== name) : [...state.show, name];
    update();
  };
  if (n) by("chips").append(element("button", { type: "button", "data-name": name, "aria-pressed": "false", onclick: toggle }, `${label} (${whole.format(n)})`));
}
by("query").addEventListener("input", () => { state.q = by("query").value; update(); });
by("format").addEventListener("change", () => { state.format = by("format").value; update(); });
by("order").addEventListener("change", () => { state.sort = by("order").value; update(); });
by("direction").addEventListener("click", () => { state.down = !state.down; update(); });
by("filters").addEventListener("submit", (event) => event.preventDefault());
by("filters").addEventListener("reset", (event) => {
  event.preventDefault();
  Object.assign(state, { q: "", format: "", show: [], sort: "id", down: false, range: null });
  update();
});
const setLayer = (layer) => { state.layer = layer; update(); };
for (const button of by("layers").children) button.addEventListener("click", () => setLayer(button.dataset.layer));
const resize = (to) => {
  by("size").value = to;
  by("cells").style.setProperty("--size", by("size").value + "px");
};
by("size").addEventListener("input", () => resize(by("size").value));
by("help-open").addEventListener("click", () => by("help").showModal());
by("help-close").addEventListener("click", () => by("help").close());
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const keys = dialog.open
    ? { ArrowLeft: () => step(-1), ArrowRight: () => step(1), k: () => step(-1), j: () => step(1) }
    : {
      "/": () => by("query").focus(), b: () => setLayer("both"), t: () => setLayer("overview"), m: () => setLayer("map"),
      "+": () => resize(+by("size").value + 40), "-": () => resize(+by("size").value - 40), "?": () => by("help").showModal(),
    };
  if (Object.hasOwn(keys, event.key)) {
    event.preventDefault();
    keys[event.key]();
  }
});
window.addEventListener("beforeprint", () => document.querySelectorAll("#cells .picture").forEach(fill));
window.addEventListener("hashchange", () => {
  if (/[=]/.test(location.hash)) { readAddress(); update(); }
});

// What does not change.
by("subject").textContent = `${data.artefact} in ${data.grid}`;
by("notice").textContent = data.shareable
  ? "Shareable: numbers stand in place of ids; overviews and the messages of failures are left out. It still holds numbers and feature maps of each slide."
  : "Stays at home: this report holds ids, paths and pictures of slides. --shareable makes one without.";
const total = (key) => data.slides.reduce((sum, slide) => sum + (slide[key] || 0), 0);
const warned = data.slides.filter((slide) => slide.warnings.length).length;
const numbers = [
  ["slides done", data.slides.length, ""], ["failed", failedCount, failedCount ? "bad" : ""],
  ["with warnings", warned, warned ? "warn" : ""], ["tiles", total("tiles"), ""],
  ["unreadable tiles", total("unreadable"), total("unreadable") ? "warn" : ""],
];
by("numbers").append(...numbers.map(([name, n, mood]) => element("div", { class: mood }, element("dt", {}, name), element("dd", {}, whole.format(n)))),
  element("div", {}, element("dt", {}, "tissue"), element("dd", {}, short(total("area")) + " mm²")));
by("map-note").textContent = data.explained
  ? "Feature map: each tile in the colour of its features' first three principal components over the whole cohort (red, green, blue; "
    + data.explained.map((share) => Math.round(100 * share) + " %").join(", ")
    + " of the variance). Alike tissue has alike colours on every slide: noise without shape means a bad encoder, a slide in other colours a shift, a straight edge a stitching fault."
  : "There are no features yet, so there are no feature maps.";
if (data.failures.length) {
  const line = (f) => element("tr", {}, [f.id, f.kind, f.message, f.path || "–"].map((text) => element("td", {}, text)));
  const head = ["slide", "kind", "why", "path"].map((text) => element("th", { scope: "col" }, text));
  by("failure-list").append(element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Failures" },
    element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, data.failures.map(line)))));
} else if (failedCount) {
  const kinds = Object.entries(data.failure_kinds).flatMap(([kind, n]) => [element("dt", {}, kind), element("dd", {}, String(n))]);
  by("failure-list").append(element("dl", {}, kinds));
} else {
  by("failure-list").append(element("p", {}, "None."));
}
const encoder = data.contract.encoder;
const facts = [
  ["encoder", encoder && (data.card ? `${encoder.id}: ${data.card.name}` : encoder.id)], ["sha256", encoder && encoder.sha256],
  ["what to know", data.card && data.card.note], ["licence", data.card && data.card.license],
  ["trained on pathology", data.card && (data.card.pathology ? "yes" : "no")], ["cite", data.card && data.card.citation],
  ["values a tile", encoder && encoder.dim],
  ["tile", `${data.contract.grid.tile_px} px at ${data.contract.grid.target_mpp} µm/px, overlap ${data.contract.grid.overlap_px} px`],
  ["tissue", data.contract.grid.tissue && data.contract.grid.tissue.method],
  ["contract", data.contract_sha256],
  ["made by", data.runtimes.map((r) => `paraffin ${r.paraffin}, ${r.onnxruntime ? "ONNX Runtime " + r.onnxruntime : "no model"}, ${r.device}`).join("; ")],
  ["report by", "paraffin " + data.version],
];
by("contract-card").append(
  element("dl", {}, facts.filter(([, v]) => v != null && v !== "").flatMap(([k, v]) => [element("dt", {}, k), element("dd", {}, String(v))])),
  element("details", {}, element("summary", {}, "The whole contract"), element("pre", { tabindex: "0" }, JSON.stringify(data.contract, null, 2))));

drawRuns();
readAddress();
const asked = state.slide;
update();
if (asked != null) open(asked);
document.documentElement.dataset.ready = "yes";
