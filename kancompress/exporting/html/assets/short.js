// The short header: section 12 of the format page. ordinary(document, payload) gives the document and
// the tensors that the file would have with an ordinary one.

const STATISTICS = {
  digits: [[0], [1]],
  mnist: [[0.1307], [0.3081]],
  "fashion-mnist": [[0.286], [0.353]],
  cifar10: [[0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]],
  cifar100: [[0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]],
};

function ordinary(short, payload) {
  const list = short.model ? { ...short.layers } : short.layers;
  need(isObject(list) && Object.keys(list).length, "The short header has no layers.");
  const names = short.model ? Object.keys(list) : Object.keys(list).sort();
  const records = {};
  for (const name of names) records[name] = Array.isArray(list[name]) ? { shape: list[name] } : { ...list[name] };
  const claims = names.map((name) => ({ name, shape: shapeOf(records[name], name) }));
  const counts = (key, usual, limit = LENGTH) => {
    const value = short[key] ?? usual;
    const all = Array.isArray(value) ? value : names.map(() => value);
    need(all.length === names.length && all.every((one) => whole(one, 0, limit)), `\`${key}\` has no counts.`);
    return all;
  };
  const clusters = counts("clusters"), rans = counts("rans", 0, 2 ** 53), kept = counts("kept", 0);
  const parts = counts("parts", 1);
  const widths = short.model ? names.map(() => widthOf(short.model)) : counts("coefficients");
  const owner = names.map((name, at) => ("codebook" in records[name] ? names.indexOf(records[name].codebook) : at));
  need(!owner.includes(-1), "A layer uses the codebook of a layer that is not there.");
  const numbers = new Map(), fixed = new Map(), encodings = {};
  claims.forEach(({ name, shape }, at) => {
    const cut = parts[owner[at]], k = clusters[owner[at]];
    need(cut > 0 && widths[at] % cut === 0, `Layer ${name} has parts that do not divide its edges.`);
    if (cut > 1 && owner[at] === at) records[name].parts = cut;
    if (clusters[at]) numbers.set(`${name}.codebook`, [clusters[at], widths[at] / cut]);
    else if (owner[at] === at) numbers.set(`${name}.coefficients`, [...shape, widths[at]]);
    if (kept[at]) {
      numbers.set(`${name}.kept`, [kept[at], widths[at]]);
      fixed.set(`${name}.kept_at`, ["I64", [kept[at]]]);
    }
    if (short.model) for (const [role, own] of sidesOf(short.model, shape)) numbers.set(`${name}.${role}`, own);
    if (k > 1) {
      const bits = (product(shape) - kept[at]) * cut * bitsFor(k);
      fixed.set(`${name}.index`, ["U8", [rans[at] || Math.ceil(bits / 8)]]);
      encodings[`${name}.index`] = rans[at] ? "rans" : "bits";
    }
  });
  if ("head" in short) {
    numbers.set("head.weight", [short.head, claims.at(-1).shape[0]]);
    numbers.set("head.bias", [short.head]);
  }
  typed(short, numbers, fixed, encodings);
  for (const [name, entry] of sourceTensors(short)) fixed.set(name, entry);
  const document = { ...short, layers: records, encodings, flat: true };
  const source = short.source ?? [];
  document.source = { tensors: source[0], file: source[1], ...(source.length > 2 && { dense: source.slice(2) }) };
  const known = short.data && !short.data.mean && STATISTICS[short.data.name];
  if (known) document.data = { ...short.data, mean: known[0], std: known[1] };
  return [document, cut(fixed, payload)];
}

function widthOf(model) {
  const { name, grid, degree } = isObject(model) ? model : {};
  const family = String(name).replace(/conv$/, "");
  const width = { kan: grid?.[2] + degree + 1, fastkan: grid?.[2] + 1, gramkan: degree + 2, mlp: 1 }[family];
  need(whole(width, 1, 1e5), `Networks called ${name} are unknown here.`);
  return width;
}

function sidesOf({ name, degree }, shape) {
  const conv = name.endsWith("conv"), rows = conv ? 4 : 2;
  const found = [["bias", [shape[0]]]];
  if (name.startsWith("fastkan")) found.push(["norm", [rows, shape[1]]]);
  if (name.startsWith("gramkan")) found.push(["norm", [rows, shape[0]]], ["beta", [degree + 1]]);
  if (name === "kanconv") found.push(["norm", [rows, shape[0]]], ["slope", [1]]);
  return found;
}

// 12.4: which of the tensors that may be there have which type.
function typed(short, numbers, fixed, encodings) {
  for (const dtype of [...FLOATS, "int8"]) {
    for (const name of short[dtype] ?? []) {
      for (const [tensor, shape] of numbers) {
        const role = tensor.slice(tensor.lastIndexOf(".") + 1);
        if (tensor !== name && (tensor.startsWith("head.") || role !== name)) continue;
        need(!fixed.has(tensor), `Tensor ${tensor} is named twice.`);
        fixed.set(tensor, dtype === "int8" ? ["U8", rowsOfBytes(role, shape)] : [dtype, shape]);
        if (dtype === "int8") encodings[tensor] = "int8";
      }
    }
  }
}

function rowsOfBytes(role, shape) {
  if (role === "codebook") return [shape[1], 2 + shape[0]];
  return [...shape.slice(0, -1), 2 + shape.at(-1)];
}

function* sourceTensors({ restore, opaque }) {
  for (const [name, dtype, shape, origin] of restore?.tensors ?? []) {
    if (origin === null) yield [name, [dtype, shape]];
    else if ("as" in origin) yield [origin.as, [dtype, shape]];
    else if ("repeat" in origin) yield [origin.repeat, [dtype, shape.slice(1)]];
  }
  if (restore?.opaque) yield [restore.opaque, ["U8", [opaque]]];
}

// The tensors one behind the other in the order of 1.2.
function cut(fixed, payload) {
  const order = [...fixed].sort(([a, [one]], [b, [other]]) => ELEMENT[other] - ELEMENT[one] || byBytes(a, b));
  const tensors = new Map();
  let at = 0;
  for (const [name, [dtype, shape]] of order) {
    const end = at + product(shape) * ELEMENT[dtype];
    need(end <= payload.length, "The tensors take more bytes than the file has.");
    tensors.set(name, { dtype, shape, bytes: payload.subarray(at, end) });
    at = end;
  }
  need(at === payload.length, "The tensors take fewer bytes than the file has.");
  return tensors;
}

function byBytes(a, b) {
  const [one, other] = [a, b].map((name) => new TextEncoder().encode(name));
  const at = one.findIndex((byte, place) => byte !== other[place]);
  return at < 0 ? one.length - other.length : one[at] - (other[at] ?? -1);
}
