// Inputs that are images: a canvas to draw on, and a map of the first layer's centroids.

function drawing(state) {
  const { image } = state, { side, channels } = image, screen = 560;
  const canvas = el("canvas", {
    id: "canvas", width: screen, height: screen, tabindex: 0, role: "application", "aria-describedby": "how",
    "aria-label": "Drawing area",
  });
  const seen = el("canvas", { id: "seen", width: side, height: side, role: "img", "aria-label": "What the network sees" });
  const pen = el("input", { type: "range", id: "pen", min: image.pen / 3, max: image.pen * 3, step: image.pen / 30 });
  pen.value = image.pen;
  const fit = el("input", { type: "checkbox", id: "fit", checked: true });
  const colour = el("input", { type: "color", id: "colour", value: "#e8a33d" });
  const open = el("input", { type: "file", id: "open", accept: "image/*" });
  const model = { strokes: [], picture: null, given: null, cursor: [0.5, 0.5], down: false, keys: false };
  const paint = () => (channels === 1 ? [1] : [1, 3, 5].map((at) => parseInt(colour.value.slice(at, at + 2), 16) / 255));
  const begin = (point) => {
    model.given = null;
    model.strokes.push({ points: [point], colour: paint(), width: Number(pen.value) });
    update();
  };
  const extend = (point) => {
    model.strokes.at(-1).points.push(point);
    update();
  };
  const clear = () => {
    Object.assign(model, { strokes: [], picture: null, given: null, down: false });
    open.value = "";
    update();
  };
  const undo = () => {
    model.down = false;
    model.strokes.pop();
    model.given = null;
    update();
  };
  let waiting = false;
  const update = () => {
    showDrawing(canvas, image, model);
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      apply();
    });
  };
  const apply = () => {
    const { pixels, row } = model.given ?? rowOf(image, model.strokes, model.picture, fit.checked);
    showPixels(seen, image, pixels);
    run(state, row);
    if (!model.strokes.length && !model.picture && !model.given) say("Draw something.");
  };
  pointers(canvas, begin, extend);
  keyboard(canvas, model, begin, extend, { clear, undo, update });
  fit.addEventListener("change", update);
  open.addEventListener("change", async () => {
    try {
      model.picture = await pictureOf(open.files[0], image);
      Object.assign(model, { strokes: [], given: null });
      update();
    } catch {
      say("The browser cannot read this picture.");
    }
  });
  const tools = el("div", { class: "tools" }, el("button", { type: "button", onclick: clear }, "Clear"),
    el("button", { type: "button", onclick: undo }, "Undo"), el("label", {}, "Pen ", pen));
  if (channels > 1) tools.append(el("label", {}, "Colour ", colour));
  if (image.box) tools.append(el("label", {}, fit, " Size and centre it as the data set does"));
  $("inputs").append(
    el("h3", {}, "Draw here"),
    el("div", { class: "draw" }, canvas, el("figure", {}, seen, el("figcaption", { class: "quiet" }, `What the network sees: ${side} × ${side}`))),
    tools,
    el("p", {}, el("label", {}, "Or open a picture: ", open)),
    el("p", { class: "quiet", id: "how" }, "By mouse or finger. By keyboard: arrows move, Space puts the pen down and lifts it, Backspace takes a stroke back, Delete clears."));
  update();
  const size = channels * side * side;
  return (row) => {
    need(row.length === size, `${plural(row.length, "number")} ${row.length === 1 ? "is" : "are"} given; the network takes ${count(size)}.`);
    const channel = (at) => Math.floor(at / (side * side));
    const pixels = row.map((one, at) => one * (image.std[channel(at)] ?? 1) + (image.mean[channel(at)] ?? 0));
    Object.assign(model, { strokes: [], picture: null, given: { pixels, row } });
    showDrawing(canvas, image, model);
    apply();
  };
}

function pointers(canvas, begin, extend) {
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  let drawn = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || drawn !== null) return;
    drawn = event.pointerId;
    canvas.setPointerCapture(drawn);
    begin(at(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== drawn) return;
    for (const one of event.getCoalescedEvents?.() ?? []) extend(at(one));
    extend(at(event));
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (drawn = null));
}

function keyboard(canvas, model, begin, extend, { clear, undo, update }) {
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const done = { Backspace: undo, Delete: clear };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const way = ways[event.key];
    if (!way && event.key !== " " && !done[event.key]) return;
    event.preventDefault();
    model.keys = true;
    if (way) {
      model.cursor = model.cursor.map((one, axis) => Math.min(0.98, Math.max(0.02, one + 0.03 * way[axis])));
      if (model.down) extend(model.cursor);
    } else if (event.key === " ") {
      model.down = !model.down;
      if (model.down) begin(model.cursor);
    } else {
      done[event.key]();
    }
    update();
  });
  canvas.addEventListener("blur", () => {
    model.keys = model.down = false;
    update();
  });
}

function showDrawing(canvas, image, { strokes, picture, given, cursor, keys, down }) {
  const context = canvas.getContext("2d"), { width } = canvas, { side, channels } = image;
  context.fillStyle = image.ground ? "#808080" : "#000";
  context.fillRect(0, 0, width, width);
  if (picture || given) {
    const small = el("canvas", { width: side, height: side });
    showPixels(small, image, picture ?? given.pixels);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, width, width);
  } else if (!strokes.length) {
    context.strokeStyle = "#444";
    context.setLineDash([6, 8]);
    context.strokeRect(0.5, 0.5, width / 2, width - 1);
    context.strokeRect(0.5, 0.5, width - 1, width / 2);
    context.setLineDash([]);
  }
  Object.assign(context, { lineCap: "round", lineJoin: "round" });
  for (const { points, colour, width: pen } of strokes) {
    const tone = colour.map((one) => Math.round(255 * one));
    context.strokeStyle = `rgb(${(channels === 1 ? [tone[0], tone[0], tone[0]] : tone).join()})`;
    context.lineWidth = (pen * width) / side;
    context.beginPath();
    points.forEach(([x, y], at) => (at ? context.lineTo(x * width, y * width) : context.moveTo(x * width, y * width)));
    if (points.length === 1) context.lineTo(points[0][0] * width, points[0][1] * width);
    context.stroke();
  }
  if (!keys) return;
  const [x, y] = cursor.map((one) => one * width);
  for (const [tone, thick] of [["#000", 6], ["#ffd34d", 3]]) {
    context.strokeStyle = tone;
    context.lineWidth = thick;
    context.beginPath();
    context.arc(x, y, down ? 9 : 16, 0, 7);
    context.stroke();
  }
}

function showPixels(canvas, { side, channels }, pixels) {
  const context = canvas.getContext("2d"), data = context.createImageData(side, side), size = side * side;
  for (let at = 0; at < size; at++) {
    for (let channel = 0; channel < 3; channel++) {
      const value = pixels[(channels === 1 ? 0 : channel) * size + at];
      data.data[4 * at + channel] = Math.round(255 * Math.min(1, Math.max(0, value)));
    }
    data.data[4 * at + 3] = 255;
  }
  context.putImageData(data, 0, 0);
}

// The middle square of a picture. One channel: its lightness, turned where the paper is light.
async function pictureOf(file, { side, channels }) {
  const bitmap = await createImageBitmap(file), fine = 4 * side, canvas = el("canvas", { width: fine, height: fine });
  const context = canvas.getContext("2d", { willReadFrequently: true }), least = Math.min(bitmap.width, bitmap.height);
  context.fillRect(0, 0, fine, fine);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (bitmap.width - least) / 2, (bitmap.height - least) / 2, least, least, 0, 0, fine, fine);
  const { data } = context.getImageData(0, 0, fine, fine), pixels = new Float64Array(channels * side * side);
  for (let at = 0; at < fine * fine; at++) {
    const [r, g, b] = data.subarray(4 * at, 4 * at + 3), to = Math.floor(at / fine / 4) * side + Math.floor((at % fine) / 4);
    const tones = channels === 1 ? [0.299 * r + 0.587 * g + 0.114 * b] : [r, g, b];
    tones.forEach((tone, channel) => (pixels[channel * side * side + to] += tone / 255 / 16));
  }
  const border = Array.from(pixels.subarray(0, side)).concat(Array.from(pixels.subarray(-side)));
  const light = channels === 1 && border.reduce((a, b) => a + b, 0) / border.length > 0.5;
  return light ? pixels.map((one) => 1 - one) : pixels;
}

// Which centroid the edges of each pixel take, for one output of the first layer.
function mapOf(state, layer, uses) {
  const { image, network } = state, conv = network.conv, { turned, outputs, taps, clusters, inputs } = layer;
  const [down, right] = conv ? layer.form.window.kernel : [image.side, image.side];
  const maps = conv ? inputs : image.channels, cell = Math.max(conv ? 28 : 8, Math.floor((maps > 1 ? 220 : 320) / down));
  const strength = Array.from({ length: clusters }, (_, c) => Math.sqrt(curveOf(layer, c, 25).reduce((sum, [, y]) => sum + y * y, 0)));
  const rank = strength.map((one) => strength.filter((other) => other < one).length / Math.max(1, clusters - 1));
  let output = 0, chosen = null;
  const rowAt = (channel, r, c) => {
    const place = conv ? channel * taps + r * right + c : channel * down * right + r * right + c;
    return turned[place * outputs + output];
  };
  const text = el("p", { class: "quiet", role: "status" }), buttons = new Map();
  const canvases = Array.from({ length: maps }, (_, channel) => el("canvas", { width: right * cell, height: down * cell, tabindex: 0, role: "application", "aria-label": `Centroids of ${maps > 1 ? `channel ${channel + 1}` : "the pixels"}; arrows read them one by one` }));
  const tell = (channel, r, c) => {
    const one = rowAt(channel, r, c), what = one < clusters ? `centroid ${one}, which ${plural(uses[one], "edge")} of the layer use` : "an edge that is kept as it was";
    text.textContent = `Row ${r + 1}, column ${c + 1}: ${what}.`;
  };
  const show = () => canvases.forEach((canvas, channel) => {
    const context = canvas.getContext("2d");
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.font = `${Math.floor(cell * 0.42)}px system-ui, sans-serif`;
    for (let r = 0; r < down; r++) {
      for (let c = 0; c < right; c++) {
        const one = rowAt(channel, r, c), pale = chosen !== null && one !== chosen;
        const light = chosen === null ? 92 - 62 * (rank[one] ?? 1) : pale ? 95 : 22;
        context.fillStyle = pale ? "#f0f0f0" : `hsl(${(one * 137.5) % 360} ${chosen === null ? 60 : 70}% ${light}%)`;
        context.fillRect(c * cell, r * cell, cell, cell);
        context.fillStyle = light > 44 ? "#111" : "#fff";
        if (cell >= 24) context.fillText(String(one), (c + 0.5) * cell, (r + 0.5) * cell);
      }
    }
  });
  canvases.forEach((canvas, channel) => {
    const at = [0, 0];
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      const place = (offset, size, many) => Math.min(many - 1, Math.max(0, Math.floor((offset / size) * many)));
      tell(channel, place(event.clientY - box.top, box.height, down), place(event.clientX - box.left, box.width, right));
    });
    canvas.addEventListener("keydown", (event) => {
      const way = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!way) return;
      event.preventDefault();
      [down, right].forEach((many, axis) => (at[axis] = Math.min(many - 1, Math.max(0, at[axis] + way[axis]))));
      tell(channel, ...at);
    });
  });
  const select = el("select", { id: "unit", onchange: () => { output = Number(select.value); show(); } },
    ...Array.from({ length: outputs }, (_, at) => el("option", { value: at }, `output ${at + 1} of ${outputs}`)));
  const choose = (c) => {
    chosen = chosen === c ? null : c;
    for (const [one, button] of buttons) button.setAttribute("aria-pressed", String(one === chosen));
    show();
  };
  const what = conv ? "each place of the kernels" : "each pixel";
  const figures = canvases.map((canvas, channel) => el("figure", {}, canvas, ...(maps > 1 ? [el("figcaption", { class: "quiet" }, `channel ${channel + 1}`)] : [])));
  const node = el("div", { class: "map" }, el("h3", {}, `Which centroid ${what} takes`),
    el("p", {}, el("label", { for: "unit" }, "For "), select),
    el("p", { class: "quiet" }, "The darker, the larger its curve. A curve above, chosen, shows its places alone."),
    el("div", { class: "maps" }, ...figures), text);
  show();
  return { node, buttons, choose };
}
