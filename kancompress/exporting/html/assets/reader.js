// Reads packed files: docs/packed-format.md of kancompress, version 1. Section numbers are that page's.
// readPacked(bytes) gives layers with a table of vectors, and of each part of each edge its row in it.

const need = (holds, text) => {
  if (!holds) throw new Error(text);
};
const whole = (value, low, high) => Number.isSafeInteger(value) && value >= low && value < high;
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const product = (lengths) => lengths.reduce((all, one) => all * one, 1);
const ELEMENT = { F64: 8, I64: 8, U64: 8, F32: 4, I32: 4, U32: 4, F16: 2, BF16: 2, I16: 2, U16: 2, U8: 1, I8: 1, BOOL: 1 };
const FLOATS = ["F64", "F32", "F16", "BF16"];
const LENGTH = 2 ** 31;

// --- the container (1) ---------------------------------------------------------------------------

function readPacked(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  need(bytes.length >= 8, "The file is shorter than a safetensors header.");
  const headerBytes = 8 + view.getUint32(0, true);
  const fits = view.getUint32(4, true) === 0 && headerBytes <= Math.min(bytes.length, 1e8);
  need(fits, "The header's length is not that of this file.");
  const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(8, headerBytes));
  const header = JSON.parse(text);
  const told = isObject(header) && isObject(header.__metadata__) && header.__metadata__.kancompress;
  need(typeof told === "string", "This is a safetensors file, but not one of kancompress.");
  let document = JSON.parse(told);
  need(isObject(document) && document.kind === "packed", "The file is not a packed one.");
  need(document.version === 1, `The file has version ${document.version}; this page reads version 1.`);
  checkSum(bytes, text, document.checksum);
  const payload = bytes.subarray(headerBytes);
  let tensors;
  const short = "clusters" in document;
  if (short) {
    need(isObject(header.packed) && header.packed.dtype === "U8", "The short header has no tensor `packed`.");
    [document, tensors] = ordinary(document, payload);
  } else {
    tensors = stored(header, payload);
  }
  return network(document, tensors, { header: headerBytes, file: bytes.length, short });
}

function checkSum(bytes, text, told) {
  need(typeof told === "string" && /^sha256-[A-Za-z0-9+/]{43}=$/.test(told), "The file has no checksum.");
  // The header is ASCII up to here, or the sums differ.
  const at = text.indexOf(told);
  const copy = bytes.slice();
  copy.fill(65, 8 + at + 7, 8 + at + 51);
  const sum = btoa(String.fromCharCode(...sha256(copy)));
  need(at >= 0 && told === "sha256-" + sum, "The file is damaged: its checksum is another one.");
}

function stored(header, payload) {
  const tensors = new Map();
  let total = 0;
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const { dtype, shape, data_offsets: span } = isObject(entry) ? entry : {};
    const good = Array.isArray(shape) && shape.every((one) => whole(one, 0, 2 ** 53)) && Array.isArray(span);
    need(good && span.length === 2 && dtype in ELEMENT, `Tensor ${name} has no type, shape and place.`);
    const size = product(shape) * ELEMENT[dtype];
    const inside = whole(span[0], 0, 2 ** 53) && span[1] - span[0] === size && span[1] <= payload.length;
    need(inside, `Tensor ${name} has other bytes than its shape takes.`);
    tensors.set(name, { dtype, shape, bytes: payload.subarray(...span) });
    total += size;
  }
  need(total === payload.length, "The tensors are not the whole payload.");
  return tensors;
}

const bitsFor = (clusters) => 32 - Math.clz32(clusters - 1);

// --- layers (3) ----------------------------------------------------------------------------------

function shapeOf(record, name) {
  const shape = isObject(record) ? record.shape : null;
  const good = Array.isArray(shape) && [2, 4, 5].includes(shape.length);
  need(good && shape.every((one) => whole(one, 1, LENGTH)), `Layer ${name} has no shape.`);
  return shape;
}

function network(document, tensors, sizes) {
  need(isObject(document.layers), "The document has no layers.");
  const encodingOf = (name) => {
    if (document.flat) return document.encodings[name] ?? "plain";
    const role = name.slice(name.lastIndexOf(".") + 1);
    const usual = Object.keys(document.encodings).find((one) => document.encodings[one].includes(role));
    return document.exceptions?.[name] ?? usual ?? "plain";
  };
  const values = (name) => {
    const tensor = tensors.get(name);
    return tensor && numbersOf(tensor, encodingOf(name), name);
  };
  const names = Object.keys(document.layers);
  if (document.model) names.sort((a, b) => a - b);
  let claimed = 0, coded = 0, codedBytes = 0;
  const layers = names.map((name) => {
    const layer = claimOf(document, name, values);
    claimed += product(layer.shape) * layer.size * 4;
    if (encodingOf(`${name}.index`) === "rans") {
      coded += product(layer.shape);
      codedBytes += tensors.get(`${name}.index`)?.bytes.length ?? 0;
    }
    return layer;
  });
  // 8.3 and 4.1.5: before anything large is made.
  need(claimed <= 1e4 * sizes.file + 1e9, "The file stands for too many coefficients.");
  need(coded <= 8 * codedBytes + 2 ** 23, "The file stands for too many coded edges.");
  for (const layer of layers) {
    layer.coding = tensors.has(`${layer.name}.index`) ? encodingOf(`${layer.name}.index`) : "none";
    if (layer.clusters) layer.rows = rowsOf(layer, tensors, values);
    else [layer.table, layer.rows] = [layer.dense, null];
  }
  return { document, tensors, layers, values, bytes: partsOf(tensors, layers, sizes), sizes };
}

function claimOf(document, name, values) {
  const record = document.layers[name], shape = shapeOf(record, name);
  const groups = record.groups ?? 1;
  need(whole(groups, 1, LENGTH) && shape[0] % groups === 0, `Layer ${name} has groups that do not divide it.`);
  const owner = record.codebook ?? name;
  const parts = document.layers[owner]?.parts ?? 1, book = values(`${owner}.codebook`);
  need(whole(parts, 1, 2 ** 20), `Layer ${name} has no number of parts.`);
  const dense = book ? null : values(`${name}.coefficients`);
  need(book || dense, `Layer ${name} has neither a codebook nor coefficients.`);
  need((book ?? dense).shape.length === (book ? 2 : shape.length + 1), `Layer ${name} has numbers of another shape.`);
  const size = book ? book.shape[1] * parts : dense.shape.at(-1);
  const clusters = book ? book.shape[0] : 0;
  need(book ? whole(clusters, 1, 65537) : dense.numbers.length === product(shape) * size, `Layer ${name} does not fit its numbers.`);
  need(product(shape) * parts < 2 ** 53, `Layer ${name} has too many edges.`);
  const sides = {};
  for (const role of ["bias", "norm", "beta", "slope"]) {
    const found = values(`${name}.${role}`);
    if (found) sides[role] = found;
  }
  return { name, shape, groups, owner, parts, size, clusters, dense: dense?.numbers, table: book?.numbers, sides, keptCount: 0 };
}

// Of each part of each edge the row of the table: centroids, then the vectors of kept edges.
function rowsOf(layer, tensors, values) {
  const { name, shape, parts, clusters } = layer, edges = product(shape);
  const kept = values(`${name}.kept`), at = positions(tensors.get(`${name}.kept_at`), edges, name);
  need((kept?.shape[0] ?? 0) === at.length, `Layer ${name} has kept edges without a place.`);
  need(!kept || kept.shape[1] === layer.size, `Layer ${name} has kept edges of another size.`);
  const count = (edges - at.length) * parts, index = tensors.get(`${name}.index`);
  need(clusters > 1 ? index : !index, `Layer ${name} has no index that goes with its codebook.`);
  let found = new Uint16Array(clusters > 1 ? 0 : count);
  if (index) found = layer.coding === "rans" ? readRans(index.bytes, layer, at) : null;
  if (index && !found) {
    need(layer.coding === "bits", `The encoding ${layer.coding} of ${name}.index is unknown here.`);
    found = readBits(index.bytes, count, clusters, name);
  }
  layer.keptCount = at.length;
  if (!at.length) return found;
  const table = new Float64Array(layer.table.length + kept.numbers.length);
  table.set(layer.table);
  table.set(kept.numbers, layer.table.length);
  layer.table = table;
  const rows = new Uint32Array(edges * parts);
  for (let edge = 0, next = 0, packed = 0; edge < edges; edge++) {
    const is = at[next] === edge;
    for (let part = 0; part < parts; part++) rows[edge * parts + part] = is ? clusters + next * parts + part : found[packed++];
    if (is) next++;
  }
  return rows;
}

function positions(tensor, edges, name) {
  if (!tensor) return [];
  need(tensor.dtype === "I64", `${name}.kept_at is not I64.`);
  const view = new DataView(tensor.bytes.buffer, tensor.bytes.byteOffset, tensor.bytes.length);
  const found = Array.from({ length: tensor.shape[0] }, (_, one) => Number(view.getBigInt64(8 * one, true)));
  const good = found.every((one, place) => one >= 0 && one < edges && (!place || one > found[place - 1]));
  need(good, `${name}.kept_at does not ascend.`);
  return found;
}

// --- numbers (3.6, 4.2) --------------------------------------------------------------------------

function numbersOf({ dtype, shape, bytes }, encoding, name) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (encoding === "int8") return bytesAsNumbers(view, dtype, shape, name);
  need(encoding === "plain", `The encoding ${encoding} of ${name} is unknown here.`);
  need(FLOATS.includes(dtype), `${name} has the type ${dtype}.`);
  const read = {
    F64: (at) => view.getFloat64(8 * at, true),
    F32: (at) => view.getFloat32(4 * at, true),
    F16: (at) => half(view.getUint16(2 * at, true)),
    BF16: (at) => bfloat(view.getUint16(2 * at, true)),
  }[dtype];
  const numbers = new Float64Array(product(shape));
  for (let at = 0; at < numbers.length; at++) numbers[at] = read(at);
  need(numbers.every(Number.isFinite), `${name} has numbers that are not finite.`);
  return { numbers, shape };
}

function half(bits) {
  const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return NaN;
  return sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
}

const WORD = new DataView(new ArrayBuffer(4));
function bfloat(bits) {
  WORD.setUint32(0, bits * 65536);
  return WORD.getFloat32(0);
}

// A row is a float16 scale and a byte for each number; rows of a codebook are its columns.
function bytesAsNumbers(view, dtype, shape, name) {
  const [count, width] = shape.length === 1 ? [1, shape[0]] : shape;
  need(dtype === "U8" && shape.length < 3 && width > 2, `${name} has no rows of bytes.`);
  const each = width - 2, turned = name.endsWith(".codebook");
  const numbers = new Float64Array(count * each);
  for (let row = 0; row < count; row++) {
    const scale = half(view.getUint16(row * width, true));
    need(Number.isFinite(scale), `${name} has a scale that is not finite.`);
    for (let at = 0; at < each; at++) {
      numbers[turned ? at * count + row : row * each + at] = scale * view.getInt8(row * width + 2 + at);
    }
  }
  return { numbers, shape: turned ? [each, count] : shape.length === 1 ? [each] : [count, each] };
}

// --- indices (4) ---------------------------------------------------------------------------------

function readBits(bytes, count, clusters, name) {
  const width = bitsFor(clusters);
  need(bytes.length === Math.ceil((count * width) / 8), `${name}.index has another number of bytes than its edges take.`);
  const found = new Uint16Array(count), stream = bitStream(bytes);
  for (let at = 0; at < count; at++) found[at] = stream.take(width);
  need(found.every((one) => one < clusters), `${name}.index names a centroid that is not there.`);
  need(stream.rest() === 0, `${name}.index has bits behind its end.`);
  return found;
}

function bitStream(bytes) {
  let at = 0, held = 0, have = 0;
  const take = (width) => {
    for (; have < width; have += 8) {
      need(at < bytes.length, "A stream of bits ends early.");
      held |= bytes[at++] << have;
    }
    const value = held & ((1 << width) - 1);
    held >>>= width;
    have -= width;
    return value;
  };
  return { take, rest: () => held, bytes: () => at };
}

// --- where the bytes are -------------------------------------------------------------------------

const PARTS = ["header", "indices", "codebooks", "kept edges", "dense layers", "other tensors"];

function partsOf(tensors, layers, sizes) {
  const found = Object.fromEntries(PARTS.map((part) => [part, 0]));
  found.header = sizes.header;
  const parts = { index: 1, codebook: 2, kept: 3, kept_at: 3, coefficients: 4 };
  const names = new Set(layers.map((layer) => layer.name));
  for (const [name, { bytes }] of tensors) {
    const at = name.lastIndexOf("."), role = name.slice(at + 1);
    const own = names.has(name.slice(0, at)) && Object.hasOwn(parts, role);
    found[PARTS[own ? parts[role] : 5]] += bytes.length;
  }
  return found;
}

// --- SHA-256 (FIPS 180-4) ------------------------------------------------------------------------

function sha256(bytes) {
  const primes = [], constant = (root) => (2 ** 32 * (root % 1)) | 0;
  for (let n = 2; primes.length < 64; n++) if (primes.every((prime) => n % prime)) primes.push(n);
  const keys = primes.map((prime) => constant(Math.cbrt(prime)));
  const state = primes.slice(0, 8).map((prime) => constant(Math.sqrt(prime)));
  const blocks = Math.ceil((bytes.length + 9) / 64), padded = new Uint8Array(64 * blocks);
  padded.set(bytes);
  padded[bytes.length] = 128;
  const view = new DataView(padded.buffer);
  view.setUint32(64 * blocks - 8, Math.floor(bytes.length / 2 ** 29));
  view.setUint32(64 * blocks - 4, bytes.length * 8);
  const turn = (x, by) => (x >>> by) | (x << (32 - by));
  const w = new Int32Array(64);
  for (let block = 0; block < blocks; block++) {
    for (let t = 0; t < 64; t++) {
      if (t < 16) {
        w[t] = view.getInt32(64 * block + 4 * t);
        continue;
      }
      const [a, b] = [w[t - 15], w[t - 2]];
      w[t] = w[t - 16] + (turn(a, 7) ^ turn(a, 18) ^ (a >>> 3)) + w[t - 7] + (turn(b, 17) ^ turn(b, 19) ^ (b >>> 10));
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let t = 0; t < 64; t++) {
      const one = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + keys[t] + w[t]) | 0;
      const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((one, at) => (state[at] = (state[at] + one) | 0));
  }
  const sum = new DataView(new ArrayBuffer(32));
  state.forEach((one, at) => sum.setInt32(4 * at, one));
  return new Uint8Array(sum.buffer);
}
