// Runs what reader.js read: section 5 of the format page for networks of kancompress's own, and for
// other libraries' the forms that kancompress wrote beside the file. Numbers are doubles.

const silu = (x) => x / (1 + Math.exp(-x));
const ACTIVATIONS = {
  silu,
  relu: (x) => Math.max(x, 0),
  tanh: Math.tanh,
  identity: (x) => x,
};
const INVERSES = { tanh: Math.atanh };

// --- bases: fill(z, input, out) writes the functions of one number -------------------------------

function basisOf(basis, arrays) {
  const { kind } = basis;
  need(Object.hasOwn(BASES, kind), `The basis ${kind} is unknown here.`);
  return BASES[kind](basis, arrays);
}

const BASES = {
  NoBasis: () => ({ size: 0, span: [-1, 1], fill() {} }),
  UniformSplines({ grid: [low, high, size], degree }) {
    const step = (high - low) / size, count = size + 2 * degree + 1;
    // Half-open steps: knots as torch has them.
    const exact = degree ? (x) => x : Math.fround;
    const knots = Float64Array.from({ length: count }, (_, t) => exact(low + (t - degree) * step));
    return splines(knots, count, degree);
  },
  UniformGaussians: ({ grid: [low, high, size] }) => {
    const width = (high - low) / (size - 1);
    const centres = Array.from({ length: size }, (_, at) => low + at * width);
    return bumps(centres, [low, high], (distance) => Math.exp(-((distance / width) ** 2)));
  },
  Polynomials({ series, degree, learnt, act, span }, arrays) {
    const weights = learnt ? arrays[learnt].numbers : [], act_ = ACTIVATIONS[act ?? "identity"];
    const { first, step } = SERIES[series], own = new Float64Array(degree + 1);
    const fill = (z, input, out) => {
      for (let n = 0; n <= degree; n++) {
        own[n] = n === 0 ? 1 : n === 1 ? first(z, weights) : step(n, z, own[n - 1], own[n - 2], weights);
        out[n] = act_(own[n]);
      }
    };
    return { size: degree + 1, span: span ?? [-1, 1], fill };
  },
};

function bumps(centres, span, shape) {
  const fill = (z, input, out) => {
    for (let at = 0; at < centres.length; at++) out[at] = shape(z - centres[at]);
  };
  return { size: centres.length, span, fill };
}

// B-splines on ascending knots, one row of `count` for each input or for all; 0 outside them.
function splines(knots, count, degree) {
  const size = count - degree - 1, rows = knots.length / count, own = new Float64Array(degree + 1);
  const fill = (z, input, out) => {
    const start = (input % rows) * count;
    out.fill(0, 0, size);
    if (!(z >= knots[start] && z < knots[start + count - 1])) return;
    let low = 0, high = count - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (knots[start + middle] <= z) low = middle;
      else high = middle;
    }
    // Knots beyond the ends have no part in the functions that are there.
    const knot = (at) => (at < 0 ? knots[start] + at : at < count ? knots[start + at] : knots[start + count - 1] + at - count + 1);
    own[0] = 1;
    for (let p = 1; p <= degree; p++) {
      let saved = 0;
      for (let r = 0; r < p; r++) {
        const right = knot(low + r + 1), left = knot(low + r + 1 - p);
        const share = right === left ? 0 : own[r] / (right - left);
        own[r] = saved + (right - z) * share;
        saved = (z - left) * share;
      }
      own[p] = saved;
    }
    for (let p = 0; p <= degree; p++) {
      const at = low - degree + p;
      if (at >= 0 && at < size) out[at] = own[p];
    }
  };
  return { size, span: [knots[degree], knots[count - 1 - degree]], fill };
}

const identity = (z) => z;
const SERIES = {
  gram: {
    first: identity,
    step: (n, z, p, q, beta) => {
      const m = n - 1;
      return z * p - ((beta[m] * (2 * n - 1) * m * m) / ((n * n) / (4 * m * m - 1))) * q;
    },
  },
};

// --- networks ------------------------------------------------------------------------------------

// 5.1 and 5.3: what the layers of a network of kancompress's own compute.
function formsOf(model, layers) {
  const { name = "", grid, degree, strides, padding } = model, conv = name.endsWith("conv");
  const act = (which) => ({ kind: "Act", name: which }), norm = { kind: "Norm" };
  const forms = {
    kan: { basis: { kind: "UniformSplines", grid, degree }, after: conv ? [norm, { kind: "Slope" }] : [] },
    fastkan: { basis: { kind: "UniformGaussians", grid }, before: [norm] },
    gramkan: {
      basis: { kind: "Polynomials", series: "gram", degree, learnt: "beta", act: "silu" },
      before: [act("tanh")],
      after: [norm, act("silu")],
    },
    mlp: { basis: { kind: "NoBasis" }, base: "identity", after: [act("relu")] },
  };
  const family = name.replace(/conv$/, "");
  need(Object.hasOwn(forms, family), `Networks called ${name} are unknown here.`);
  need(!grid || whole(grid[2], 1, 65537), "The grid has no number of functions.");
  need(degree === undefined || whole(degree, 0, 17), "The degree is not from 0 to 16.");
  const form = { before: [], base: "silu", after: [], ...forms[family] };
  return layers.map(({ shape }, at) => ({
    ...form,
    after: name === "mlp" && at === layers.length - 1 ? [] : form.after,
    window: conv ? { kernel: shape.slice(2), stride: strides[at], padding } : null,
  }));
}

// packed: of readPacked. told: layers of another library's network, or nothing.
function networkOf(packed, told) {
  const { document, values } = packed;
  need(told || document.model, "The file does not say what this network computes.");
  const given = told ?? formsOf(document.model, packed.layers).map((form) => ({ form }));
  const layers = given.map((layer, at) => {
    const edges = layer.edges ?? (layer.stored ? packed.layers.find(({ name }) => name === layer.stored) : packed.layers[at]);
    return runnable({ ...edges, gains: [], ...layer, arrays: layer.arrays ?? arraysOf(edges.sides) });
  });
  const conv = Boolean(layers[0].form.window);
  const head = conv ? { weight: values("head.weight"), bias: values("head.bias") } : null;
  need(!conv || (head.weight && head.bias), "The network of convolutions has no head.");
  const inputs = layers[0].inputs, outputs = head ? head.bias.numbers.length : layers.at(-1).outputs;
  layers.forEach((layer, at) => need(!at || layer.inputs === layers[at - 1].outputs, "The widths of two layers differ."));
  const net = { packed, layers, head, conv, inputs, outputs };
  net.run = (row, side) => runRow(net, row, side);
  return net;
}

function arraysOf({ norm, ...others }) {
  if (!norm || norm.shape[0] === 2) return norm ? { ...others, norm } : others;
  const { numbers, shape: [, width] } = norm;
  const rows = (first) => ({ numbers: numbers.subarray(first * width, (first + 2) * width), shape: [2, width] });
  return { ...others, norm: rows(0), statistics: rows(2) };
}

function runnable(layer) {
  const { form, shape, arrays, rows, parts } = layer, [outputs, inputs] = shape;
  const taps = product(shape.slice(2)), basis = basisOf(form.basis, arrays);
  const size = basis.size + (form.base ? 1 : 0);
  need(size === layer.size, `Layer ${layer.name} has ${layer.size} numbers an edge; its basis takes ${size}.`);
  let turned = null;
  if (rows) {
    // By inputs, so that a sum over one input reads them in order.
    turned = new rows.constructor(rows.length);
    for (let j = 0, from = 0; j < outputs; j++) {
      for (let place = 0; place < inputs * taps; place++) {
        for (let part = 0; part < parts; part++) turned[(place * outputs + j) * parts + part] = rows[from++];
      }
    }
  }
  return { ...layer, inputs, outputs, taps, basis, turned, bias: arrays.bias ?? layer.bias };
}

// One row: numbers, or of convolutions an image, channel by channel; side: its rows and columns.
function runRow(net, row, side) {
  const pixels = row.length / net.inputs;
  need(net.conv ? Number.isInteger(pixels) : pixels === 1, `A row has ${row.length} numbers; the network takes ${net.inputs}.`);
  const [height, width] = side ?? [Math.sqrt(pixels), Math.sqrt(pixels)];
  need(height * width === pixels, "An image is not square.");
  let map = { height, width, values: new Float64Array(row.length) };
  row.forEach((value, at) => (map.values[(at % pixels) * net.inputs + Math.floor(at / pixels)] = value));
  for (const layer of net.layers) map = runLayer(layer, map);
  if (!net.head) return map.values;
  const { weight, bias } = net.head, channels = weight.shape[1], count = map.height * map.width;
  return Float64Array.from(bias.numbers, (start, output) => {
    let sum = 0;
    for (let at = 0; at < map.values.length; at++) sum += map.values[at] * weight.numbers[output * channels + (at % channels)];
    return start + sum / count;
  });
}

function runLayer(layer, { height, width, values }) {
  const { form, inputs, outputs, bias } = layer;
  const seen = form.before.reduce((x, step) => applied(layer, step, x, inputs), values);
  const below = form.inner ? seen : values;
  const { kernel: [down, right], stride, padding } = form.window ?? { kernel: [1, 1], stride: 1, padding: 0 };
  const high = Math.floor((height + 2 * padding - down) / stride) + 1;
  const wide = Math.floor((width + 2 * padding - right) / stride) + 1;
  need(high > 0 && wide > 0, "The image is smaller than a kernel.");
  const sums = new Float64Array(high * wide * outputs), add = adder(layer, sums);
  for (let pixel = 0, at = 0; pixel < height * width; pixel++) {
    const row = Math.floor(pixel / width) + padding, column = (pixel % width) + padding;
    for (let input = 0; input < inputs; input++, at++) {
      add.expand(seen[at], below[at], input);
      for (let tap = 0; tap < down * right; tap++) {
        const r = (row - Math.floor(tap / right)) / stride, c = (column - (tap % right)) / stride;
        const there = Number.isInteger(r) && Number.isInteger(c) && r >= 0 && c >= 0 && r < high && c < wide;
        if (there) add.edges(input, tap, (r * wide + c) * outputs);
      }
    }
  }
  if (bias) for (let at = 0; at < sums.length; at++) sums[at] += bias.numbers[at % outputs];
  return { height: high, width: wide, values: form.after.reduce((y, step) => applied(layer, step, y, outputs), sums) };
}

// Products of one input's functions with all centroids; every edge then adds the one of its row.
function adder({ form, basis, table, turned, parts, clusters, gains, size, inputs, outputs, taps }, sums) {
  const features = new Float64Array(size), length = size / parts, products = new Float64Array(clusters * parts);
  const base = form.base && ACTIVATIONS[form.base];
  const dot = (row, part) => {
    let sum = 0;
    for (let at = 0; at < length; at++) sum += table[row * length + at] * features[part * length + at];
    return sum;
  };
  const simple = turned && !gains.length;
  const expand = (z, x, input) => {
    basis.fill(z, input, features);
    if (base) features[size - 1] = base(x);
    if (!simple) return;
    for (let part = 0; part < parts; part++) {
      for (let row = 0; row < clusters; row++) products[part * clusters + row] = dot(row, part);
    }
  };
  const weighed = (edge, row, part) => {
    let sum = 0;
    for (let at = 0; at < length; at++) {
      const coefficient = part * length + at;
      let value = table[row * length + at] * features[coefficient];
      for (const { first, last, numbers } of gains) if (coefficient >= first && coefficient < last) value *= numbers[edge];
      sum += value;
    }
    return sum;
  };
  const edges = (input, tap, to) => {
    const from = (input * taps + tap) * outputs * parts;
    for (let j = 0, at = from; j < outputs; j++) {
      const edge = (j * inputs + input) * taps + tap;
      let sum = 0;
      for (let part = 0; part < parts; part++, at++) {
        const row = turned ? turned[at] : edge;
        sum += !simple ? weighed(edge, row, part) : row < clusters ? products[part * clusters + row] : dot(row, part);
      }
      sums[to + j] += sum;
    }
  };
  return { expand, edges };
}

// What a step makes of the numbers of all pixels, channel by channel within each.
function applied({ arrays }, step, x, channels) {
  need(Object.hasOwn(STEPS, step.kind), `The step ${step.kind} is unknown here.`);
  const each = (make) => x.map((value, at) => make(value, at % channels));
  return STEPS[step.kind]({ step, arrays, x, each, channels });
}

const STEPS = {
  Act: ({ step, each }) => each(ACTIVATIONS[step.name]),
  Norm({ step, arrays, x, each, channels }) {
    const { numbers } = arrays[step.rows ?? "norm"], running = arrays[step.running ?? "statistics"]?.numbers;
    if (!running) return standard(x, numbers, numbers.subarray(channels));
    return each((v, c) => ((v - running[c]) / Math.sqrt(running[channels + c] + 1e-5)) * numbers[c] + numbers[channels + c]);
  },
  Slope({ step, arrays, each }) {
    const { numbers } = arrays[step.weight ?? "slope"];
    return each((v, c) => (v > 0 ? v : v * numbers[c % numbers.length]));
  },
};

// Layer normalisation of one row.
function standard(x, weight, bias) {
  const mean = x.reduce((sum, v) => sum + v, 0) / x.length;
  const scale = 1 / Math.sqrt(x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / x.length + 1e-5);
  return x.map((v, at) => (v - mean) * scale * weight[at] + (bias ? bias[at] : 0));
}

// --- what a centroid computes --------------------------------------------------------------------

// Points [z, f(z)] of a row of the table on the span of its basis; of edges in parts there are none.
function curveOf({ form, basis, table, size, parts }, row, count) {
  if (parts > 1) return null;
  const act = form.inner ? null : [...form.before].reverse().find((step) => step.kind === "Act" && step.name in INVERSES);
  const unseen = act ? INVERSES[act.name] : identity, features = new Float64Array(size), [low, high] = basis.span;
  return Array.from({ length: count }, (_, at) => {
    const z = low + ((high - low) * (at + 0.5)) / count;
    basis.fill(z, 0, features);
    if (form.base) features[size - 1] = ACTIVATIONS[form.base](unseen(z));
    return [z, features.reduce((sum, one, place) => sum + one * table[row * size + place], 0)];
  });
}

// How many edges use each centroid; of edges in parts how many parts.
function usesOf({ rows, clusters }) {
  const uses = new Array(clusters).fill(0);
  for (const row of rows ?? []) if (row < clusters) uses[row]++;
  return uses;
}

const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
