// The page: inputs, outputs, and what the file holds. Nothing here leaves it.

const $ = (id) => document.getElementById(id);
const count = (number) => number.toLocaleString("en");
const plural = (number, what) => `${count(number)} ${what}${number === 1 ? "" : "s"}`;
const real = (number) => (Number.isFinite(number) ? Number(number.toPrecision(5)).toString() : String(number));
const percent = (share) => `${(100 * share).toFixed(1)}\u00A0%`;
const SVG = "http://www.w3.org/2000/svg";

// An element; `properties` that begin with "on" are listeners, others attributes.
function el(tag, properties, ...children) {
  const node = ["svg", "path", "line"].includes(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

function start() {
  const told = JSON.parse($("told").textContent), bytes = fromBase64($("packed").textContent);
  const packed = readPacked(bytes);
  showBytes(packed);
  const network = networkOf(packed, told.layers?.map(layerOf));
  const { image, labels } = told;
  const state = { network, image, labels, shares: Boolean(packed.document.data?.classes) };
  $("lede").textContent = ledeOf(network);
  for (const note of told.notes ?? []) $("layers").before(el("p", { class: "quiet" }, `Taken for granted: ${note}`));
  const set = image ? drawing(state) : sliders(state);
  rowOfNumbers(state, set);
  showLayers(state);
  $("try").hidden = $("report").hidden = $("save").hidden = false;
  $("save").addEventListener("click", () => save(bytes, told.file));
  window.kancompress = {
    inputs: network.inputs,
    outputs: network.outputs,
    run: (rows, side) => rows.map((row) => [...network.run(row, side)]),
    set,
  };
  const given = /^#x=(.+)$/.exec(decodeURIComponent(location.hash));
  if (given) set(numbersIn(given[1]));
}

function ledeOf({ packed: { document, sizes, layers: own }, layers, head, outputs }) {
  const edges = own.reduce((sum, layer) => sum + product(layer.shape), 0), { model, data, source } = document;
  const widths = [layers[0].inputs, ...layers.map((layer) => layer.outputs), ...(head ? [outputs] : [])].join(" → ");
  const dense = source?.dense?.[1] ?? source?.file, times = dense / sizes.file;
  const what = model ? `A ${model.name} network` : "A network of Kolmogorov-Arnold layers";
  const smaller = times > 1.05 ? `, ${times.toFixed(1)} times smaller than the ${count(dense)} bytes of the network with all its coefficients` : "";
  return `${what}${data && data.name !== "file" ? ` for ${data.name}` : ""}, ${widths}: ${plural(edges, "edge")}, a learnt function on each, in ${count(sizes.file)} bytes${smaller}. It runs in this page, and needs no server.`;
}

function save(bytes, name) {
  const link = el("a", { href: URL.createObjectURL(new Blob([bytes])), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

// --- outputs -------------------------------------------------------------------------------------

function run(state, row) {
  const outputs = [...state.network.run(row)], best = outputs.indexOf(Math.max(...outputs));
  let values = outputs;
  if (state.shares) {
    const all = outputs.map((one) => Math.exp(one - outputs[best])), sum = all.reduce((a, b) => a + b, 0);
    values = all.map((one) => one / sum);
  }
  const label = (at) => state.labels[at] ?? (state.shares ? String(at) : `y${at + 1}`);
  const shown = outputs.map((_, at) => at);
  if (shown.length > 20) shown.sort((a, b) => outputs[b] - outputs[a]).splice(10);
  state.most = Math.max(state.most ?? 1, ...values.map(Math.abs));
  $("outputs").replaceChildren(...shown.map((at) => {
    const fill = el("div", { class: "fill" }), part = Math.abs(values[at]) / state.most;
    fill.style.left = state.shares ? 0 : `${50 * (values[at] < 0 ? 1 - part : 1)}%`;
    fill.style.width = `${state.shares ? 100 * values[at] : 50 * part}%`;
    const track = el("div", { class: "track" }, fill, ...(state.shares ? [] : [el("div", { class: "zero" })]));
    const text = state.shares ? percent(values[at]) : real(values[at]);
    const marked = at === best && outputs.length > 1 && (state.shares || !state.network.packed.document.data);
    return el("li", { class: marked && "best", "data-output": at, "data-value": outputs[at] },
      el("span", { class: "name" }, label(at)), track, el("span", { class: "value" }, text));
  }));
  const more = outputs.length > shown.length ? ` The ${shown.length} largest of ${outputs.length} are shown.` : "";
  say(state.shares ? `Most likely: ${label(best)}, ${percent(values[best])}.${more}` : more);
  if (document.activeElement !== $("row")) $("row").value = row.map(real).join(", ");
}

let saying = 0;
function say(text) {
  clearTimeout(saying);
  saying = setTimeout(() => ($("said").textContent = text), 250);
}

const numbersIn = (text) => text.split(/[\s,;]+/).filter(Boolean).map(Number);

function rowOfNumbers({ network, image }, set) {
  const { mean = [], std = [] } = network.packed.document.data ?? {}, plain = mean.every((one) => !one) && std.every((one) => one === 1);
  const many = network.conv ? image ? image.channels * image.side ** 2 : network.inputs : network.inputs;
  $("row-label").textContent = `${plural(many, "number")}, ${network.conv || image ? "channel by channel and row by row, " : ""}${plain ? "as the network takes them" : "less the mean, over the standard deviation"}.`;
  $("take").addEventListener("click", () => {
    try {
      $("row-wrong").textContent = "";
      const row = numbersIn($("row").value);
      need(row.every(Number.isFinite), "There is something that is no number.");
      set(row);
    } catch (error) {
      $("row-wrong").textContent = error.message;
    }
  });
}

// --- the report ----------------------------------------------------------------------------------

function showBytes({ bytes, layers, sizes }) {
  const parts = PARTS.map((name, at) => ({ name, at, size: bytes[name] })).filter(({ size }) => size);
  const bar = el("div", { class: "stack", role: "img", "aria-label": parts.map(({ name, size }) => `${name} ${percent(size / sizes.file)}`).join(", ") });
  for (const { name, at, size } of parts) {
    const piece = el("div", { class: `part${at}`, title: `${name}: ${count(size)} bytes` });
    piece.style.flexGrow = size;
    bar.append(piece);
  }
  const row = ({ name, at, size }) => [el("span", {}, el("span", { class: `swatch part${at}` }), name), count(size), percent(size / sizes.file)];
  const whole = ["file", count(sizes.file), ""];
  const coding = ({ clusters, coding: how }) => (how === "bits" ? `${bitsFor(clusters)} bits each` : how === "rans" ? "entropy-coded" : "none");
  const about = (layer) => [layer.name, layer.shape.join(" × "), count(product(layer.shape)), layer.clusters ? count(layer.clusters) : "dense",
    layer.parts > 1 ? `${layer.size} in ${layer.parts} parts` : layer.size, coding(layer), layer.keptCount ? count(layer.keptCount) : ""];
  const kept = layers.some((layer) => layer.keptCount), cells = (row) => (kept ? row : row.slice(0, -1));
  $("bytes").append(bar, el("div", { class: "tables" },
    table("Bytes", ["part", "bytes", "share"], [...parts.map(row), whole]),
    table("Layers", cells(["layer", "outputs × inputs", "edges", "centroids", "numbers an edge", "indices", "kept"]), layers.map(about).map(cells))));
}

function table(caption, head, rows) {
  const cells = (tag, row, scope) => el("tr", {}, ...row.map((one) => el(tag, scope ? { scope } : {}, one)));
  return el("div", { class: "scroll" }, el("table", {}, ...(caption ? [el("caption", {}, caption)] : []),
    el("thead", {}, cells("th", head, "col")), el("tbody", {}, ...rows.map((row) => cells("td", row)))));
}

const MOST_CURVES = 64;

function showLayers(state) {
  const { network, image } = state;
  $("edges-lede").textContent = "Every edge of a layer uses one of its centroids. Each curve below is one: left to right the input, bottom to top what the edge adds, all of a layer to one scale.";
  network.layers.forEach((layer, at) => {
    const place = el("section", { class: "layer" }, el("h3", {}, `Layer ${layer.name}: ${layer.inputs} → ${layer.outputs}`));
    $("layers").append(place);
    if (!layer.clusters || !layer.rows) {
      place.append(el("p", { class: "quiet" }, "This layer has no centroids: each edge has numbers of its own."));
      return;
    }
    const uses = usesOf(layer), order = uses.map((_, c) => c).sort((a, b) => uses[b] - uses[a]).slice(0, MOST_CURVES);
    const map = image && at === 0 && layer.parts === 1 ? mapOf(state, layer, uses) : null;
    const shape = { layer, uses, all: uses.reduce((a, b) => a + b, 0) };
    place.append(layer.parts > 1
      ? el("p", { class: "quiet" }, `An edge is ${layer.parts} centroids, one behind the other: a centroid is ${layer.size / layer.parts} of its ${layer.size} numbers, and no curve. So many parts use them: ${order.map((c) => count(uses[c])).join(", ")}.`)
      : curves(shape, order, map));
    if (uses.length > order.length) place.append(el("p", { class: "quiet" }, `The ${order.length} centroids that are used most, of ${count(uses.length)}.`));
    if (map) place.append(map.node);
  });
}

function curves({ layer, uses, all }, order, map) {
  const drawn = order.map((c) => curveOf(layer, c, 49)), most = Math.max(1e-30, ...drawn.flat().map(([, y]) => Math.abs(y)));
  const [low, high] = layer.basis.span, x = (z) => (100 * (z - low)) / (high - low), y = (value) => 30 - (28 * value) / most;
  const zero = () => (low < 0 && high > 0 ? [el("line", { x1: x(0), x2: x(0), y1: 0, y2: 60 })] : []);
  const list = order.map((c, at) => {
    const path = drawn[at].map(([z, value], point) => `${point ? "L" : "M"}${x(z).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    const picture = el("svg", { viewBox: "0 0 100 60", "aria-hidden": "true" }, el("line", { x1: 0, x2: 100, y1: 30, y2: 30 }), ...zero(), el("path", { d: path }));
    const text = el("span", {}, el("b", {}, String(c)), ` · ${plural(uses[c], "edge")}, ${percent(uses[c] / all)}`);
    if (!map) return el("li", {}, el("div", { class: "curve" }, picture, text));
    const button = el("button", { type: "button", class: "curve", "aria-pressed": "false", onclick: () => map.choose(c) }, picture, text);
    map.buttons.set(c, button);
    return el("li", {}, button);
  });
  return el("div", {}, el("p", { class: "quiet" }, `Inputs from ${real(low)} to ${real(high)}; outputs from ${real(-most)} to ${real(most)}.`),
    el("ol", { class: "curves" }, ...list));
}

function tryIt() {
  try {
    start();
  } catch (error) {
    $("wrong").textContent = `The network does not run: ${error.message}`;
    $("wrong").hidden = false;
    throw error;
  }
}

if (globalThis.document) tryIt();
