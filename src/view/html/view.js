const by = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en");
const get = async (path) => {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
};

let cohort = null;
let slide = null; // What is shown: its facts, its tiles by their cell, its feature map.
let selected = null; // The row of the clicked tile.
let lit = new Map(); // Rows that are like it, with their cosines.

// Reduced motion: jumps in place of flights.
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const viewer = OpenSeadragon({
  element: by("viewer"), drawer: "canvas", showNavigationControl: false, showNavigator: true,
  navigatorPosition: "BOTTOM_RIGHT", minZoomImageRatio: 0.7, maxZoomPixelRatio: 4, visibilityRatio: 0.3,
  animationTime: still ? 0 : 0.6, immediateRender: still, imageSmoothingEnabled: true, timeout: 120000,
  gestureSettingsMouse: { clickToZoom: false }, gestureSettingsTouch: { clickToZoom: false },
});
viewer.canvas.setAttribute("aria-label", "Slide. Arrow keys move, plus and minus zoom, 0 shows all of it.");
const overlay = element("canvas", { id: "overlay", "aria-hidden": "true" });
viewer.canvas.append(overlay);

// Screen pixels of a level-0 point: OpenSeadragon's unit is the slide's width.
function frame() {
  const at = (x, y) => viewer.viewport.viewportToViewerElementCoordinates(new OpenSeadragon.Point(x, y));
  const [origin, unit] = [at(0, 0), at(1, 0)];
  return { x: origin.x, y: origin.y, scale: (unit.x - origin.x) / slide.width };
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = by("viewer");
  if (overlay.width !== Math.round(width * ratio) || overlay.height !== Math.round(height * ratio)) {
    overlay.width = Math.round(width * ratio);
    overlay.height = Math.round(height * ratio);
    overlay.style.width = width + "px";
    overlay.style.height = height + "px";
  }
  const pen = overlay.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  if (!slide || !viewer.world.getItemCount()) return;
  const { x, y, scale } = frame();
  if (by("show-tissue").checked && slide.overviewPicture) {
    pen.drawImage(slide.overviewPicture, x, y, slide.width * scale, slide.height * scale);
  }
  if (by("show-map").checked && slide.map) {
    pen.globalAlpha = by("opacity").value / 100;
    pen.imageSmoothingEnabled = false;
    const { picture, left, top, width: w, height: h } = slide.map;
    pen.drawImage(picture, x + left * scale, y + top * scale, w * scale, h * scale);
    pen.globalAlpha = 1;
  }
  const side = slide.side * scale;
  const box = (row) => [x + slide.coords[row][0] * scale, y + slide.coords[row][1] * scale, side, side];
  if (by("show-grid").checked && slide.coords && side >= 4) {
    pen.strokeStyle = "#1e5adc";
    pen.globalAlpha = Math.min(0.8, side / 60);
    pen.lineWidth = 1;
    pen.beginPath();
    for (let row = 0; row < slide.coords.length; row += 1) {
      const [l, t] = box(row);
      if (l + side >= 0 && t + side >= 0 && l <= width && t <= height) pen.rect(Math.round(l) + 0.5, Math.round(t) + 0.5, side, side);
    }
    pen.stroke();
    pen.globalAlpha = 1;
  }
  const [least, most] = [Math.min(...lit.values()), Math.max(...lit.values())];
  for (const [row, cosine] of lit) {
    const [l, t, w, h] = box(row);
    const strength = most > least ? (cosine - least) / (most - least) : 1;
    pen.fillStyle = `rgba(255, 214, 0, ${0.08 + 0.27 * strength})`;
    pen.fillRect(l, t, w, h);
    outline(pen, [l, t, w, h], "#ffd600", 1 + 2 * strength);
  }
  if (selected != null) outline(pen, box(selected), "#00e5ff", 4);
}
function outline(pen, [l, t, w, h], colour, width) {
  pen.lineWidth = width + 2;
  pen.strokeStyle = "#000000";
  pen.strokeRect(l, t, w, h);
  pen.lineWidth = width;
  pen.strokeStyle = colour;
  pen.strokeRect(l, t, w, h);
}

function scaleBar() {
  by("scale").hidden = !(slide && slide.mpp && viewer.world.getItemCount());
  if (by("scale").hidden) return;
  const per = slide.mpp / frame().scale;
  const limit = 160 * per;
  const decade = 10 ** Math.floor(Math.log10(limit));
  const um = [5, 2, 1].map((d) => d * decade).find((length) => length <= limit) || decade;
  const bar = by("scale").firstChild;
  bar.style.width = um / per + "px";
  bar.textContent = um >= 1000 ? `${um / 1000} mm` : `${+um.toPrecision(2)} µm`;
}
viewer.addHandler("update-viewport", () => { draw(); scaleBar(); });
for (const event of ["open", "resize"]) viewer.addHandler(event, () => { draw(); scaleBar(); });

function address(words) {
  history.replaceState(null, "", "#" + new URLSearchParams(words));
}

function picture(src) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => resolve(null);
    image.src = src;
  });
}

// Shows a slide, and looks at one of its tiles where `tile` is given.
async function show(number, tile) {
  const about = await get(`slide/${number}/about.json`);
  slide = { ...about, number, cells: new Map(), map: null, overviewPicture: null };
  (slide.coords || []).forEach(([x, y], row) => slide.cells.set(Math.floor(x / slide.step) + "," + Math.floor(y / slide.step), row));
  selected = null;
  lit = new Map();
  document.documentElement.dataset.shown = "";
  const { width, height } = slide;
  const levels = slide.levels || 1;
  const tiled = {
    width, height, tileSize: slide.tile, minLevel: Math.min(8, levels), maxLevel: levels,
    getTileUrl: (level, x, y) => `slide/${number}/${level}/${x}_${y}.jpg`,
  };
  const nothing = { ...tiled, tileExists: () => false };
  const source = slide.readable ? tiled : slide.overview ? { type: "image", url: `slide/${number}/overview.jpg` } : nothing;
  await new Promise((resolve) => {
    viewer.addOnceHandler("open", resolve);
    viewer.addOnceHandler("open-failed", resolve);
    viewer.open(source);
  });
  by("missing").hidden = slide.readable;
  by("missing").textContent = slide.readable ? "" : `The slide itself cannot be shown: ${slide.why}.` + (slide.overview ? " This is its overview." : "");
  by("name").textContent = slide.id || cohort.slides[number].id;
  by("facts").textContent = `${whole.format(width)} × ${whole.format(height)} px` + (slide.mpp ? `, ${+slide.mpp.toPrecision(4)} µm/px` : "")
    + (slide.coords ? `, ${whole.format(slide.coords.length)} tiles` : "");
  by("warnings").replaceChildren(...(slide.warnings || []).map((text) => element("p", { class: "notice" }, text)));
  by("similar").hidden = !slide.features;
  by("hits").replaceChildren();
  by("said").textContent = "Click a tile.";
  light([]);
  for (const item of by("slides").children) {
    const current = Number(item.dataset.slide) === number;
    item.firstChild.setAttribute("aria-current", String(current));
    if (current) item.scrollIntoView({ block: "nearest" });
  }
  address({ slide: number });
  await Promise.all([loadMap(), loadTissue()]);
  if (tile != null) {
    await select(tile);
    lookAt(tile);
  }
  draw();
  document.documentElement.dataset.shown = String(number);
}

async function loadMap() {
  const shown = slide;
  if (!shown.features || shown.map || !by("show-map").checked) return;
  const found = await picture(`slide/${shown.number}/map.png`);
  if (!found) return;
  // A pixel is a cell of the grid, or several where it is large; the map begins at the first cell with a tile.
  const cells = [...shown.cells.keys()].map((cell) => cell.split(",").map(Number));
  const first = (i) => cells.reduce((least, cell) => Math.min(least, cell[i]), Infinity);
  const last = (i) => cells.reduce((most, cell) => Math.max(most, cell[i]), 0);
  const [columns, rows] = [last(0) - first(0) + 1, last(1) - first(1) + 1];
  const factor = Math.max(Math.ceil(columns / found.width), Math.ceil(rows / found.height));
  const span = (px) => px * factor * shown.step;
  shown.map = { picture: found, left: first(0) * shown.step, top: first(1) * shown.step, width: span(found.width), height: span(found.height) };
  draw();
}

async function loadTissue() {
  const shown = slide;
  if (!shown.overview || shown.overviewPicture || !by("show-tissue").checked) return;
  shown.overviewPicture = await picture(`slide/${shown.number}/overview.jpg`);
  draw();
}

function lookAt(row) {
  const [x, y] = slide.coords[row].map((v) => v / slide.width);
  const side = slide.side / slide.width;
  viewer.viewport.fitBounds(new OpenSeadragon.Rect(x - 4 * side, y - 4 * side, 9 * side, 9 * side), still);
}

async function select(row) {
  const shown = slide;
  if (!shown.features || !shown.coords[row]) return;
  selected = row;
  lit = new Map();
  draw();
  by("said").textContent = "Looking…";
  const found = await get(`slide/${shown.number}/similar.json?tile=${row}`);
  if (slide !== shown || selected !== row) return;
  lit = new Map(found.here.map((hit) => [hit.tile, hit.cosine]));
  const { seen, of, every } = found.searched || { seen: 0, of: 0, every: 1 };
  by("said").textContent = `Tile ${row}: the ${found.here.length} most similar of this slide are lit up`
    + (of > 1 ? `; ${found.cohort.length} other slides, searched ${seen} of ${of}` + (every > 1 ? ` by every ${every}th tile` : "") : "") + ".";
  by("hits").replaceChildren(...found.cohort.map((hit) => {
    const id = cohort.slides[hit.slide].id;
    const image = element("img", { alt: "", loading: "lazy", src: `slide/${hit.slide}/tile/${hit.tile}.jpg` });
    image.addEventListener("error", () => { image.src = `slide/${hit.slide}/thumbnail.jpg`; }, { once: true });
    const label = `${id}, tile ${hit.tile}, cosine ${hit.cosine.toFixed(2)}`;
    return element("li", {}, element("button", { type: "button", title: label, "aria-label": label, onclick: () => show(hit.slide, hit.tile) },
      image, element("span", {}, id), element("span", { class: "quiet" }, hit.cosine.toFixed(2))));
  }));
  light(found.cohort);
  address({ slide: shown.number, tile: row });
  draw();
}

// Slides of the list with a tile like the selected one.
function light(hits) {
  const found = new Map(hits.map((hit) => [hit.slide, hit.cosine]));
  for (const item of by("slides").children) {
    const cosine = found.get(Number(item.dataset.slide));
    item.classList.toggle("lit", cosine != null);
    item.querySelector(".like").textContent = cosine == null ? "" : `, like: ${cosine.toFixed(2)}`;
  }
}

viewer.addHandler("canvas-click", (event) => {
  if (!event.quick || !slide || !slide.coords) return;
  const point = viewer.viewport.pointFromPixel(event.position);
  const [x, y] = [point.x * slide.width, point.y * slide.width];
  const row = slide.cells.get(Math.floor(x / slide.step) + "," + Math.floor(y / slide.step));
  if (row != null) select(row).catch(tell);
});

function tell(error) {
  by("missing").hidden = false;
  by("missing").textContent = error.message;
}

by("in").addEventListener("click", () => viewer.viewport.zoomBy(1.6));
by("out").addEventListener("click", () => viewer.viewport.zoomBy(1 / 1.6));
by("home").addEventListener("click", () => viewer.viewport.goHome());
by("show-map").addEventListener("change", () => { draw(); loadMap(); });
by("show-tissue").addEventListener("change", () => { draw(); loadTissue(); });
for (const id of ["opacity", "show-grid"]) by(id).addEventListener("input", draw);
by("query").addEventListener("input", () => {
  const wanted = by("query").value.toLowerCase();
  for (const item of by("slides").children) item.hidden = !cohort.slides[item.dataset.slide].id.toLowerCase().includes(wanted);
});

async function begin() {
  cohort = await get("cohort.json");
  by("subject").textContent = cohort.single ? "" : `${cohort.artefact} in ${cohort.grid}, ${whole.format(cohort.slides.length)} slides`;
  by("list").hidden = cohort.single;
  by("layers").hidden = cohort.single;
  by("show-map").checked = Boolean(cohort.features);
  if (!cohort.single) {
    by("slides").append(...cohort.slides.map((entry, n) => {
      const thumb = element("img", { class: "thumb", alt: "", loading: "lazy", src: `slide/${n}/thumbnail.jpg` });
      thumb.addEventListener("error", () => { thumb.removeAttribute("src"); }, { once: true });
      const text = element("span", { class: "text" }, entry.id, element("br", {}), element("span", { class: "quiet" }, `${whole.format(entry.tiles)} tiles`, element("span", { class: "like" })));
      return element("li", { "data-slide": n }, element("button", { type: "button", title: entry.id, onclick: () => show(n).catch(tell) }, thumb, text));
    }));
  }
  const asked = new URLSearchParams(location.hash.slice(1));
  const [number, tile] = ["slide", "tile"].map((name) => parseInt(asked.get(name), 10));
  if (cohort.slides.length) await show(cohort.slides[number] ? number : 0, tile >= 0 ? tile : null);
}
begin().catch(tell);
