// Indices of the encoding `rans`: section 4.1 of the format page.

function readRans(data, layer, kept) {
  const { name, shape, groups, parts, clusters: k } = layer;
  need(k <= 1024 && data.length > 2 && data[0] >> 4 < 12 && data[1] <= 16, `${name}.index does not begin as rans.`);
  const classes = (data[0] & 15) + 1, precision = data[0] >> 4, lanes = 2 ** data[1];
  need(product(shape) <= 8192 * lanes, `${name}.index has too few lanes.`);
  const bits = bitStream(data.subarray(2));
  const ofClasses = classes > 1 && readTable(bits, classes, precision);
  const tables = Array.from({ length: classes }, () => readTable(bits, k, precision));
  need(bits.rest() === 0, `${name}.index has bits behind its tables.`);
  const decoder = lanesOf(data.subarray(2 + bits.bytes()), lanes, name);
  const outputs = shape[0] / groups, taps = product(shape.slice(1));
  const inputs = groups * taps * parts, own = new Uint8Array(inputs);
  if (ofClasses) for (let at = 0; at < inputs; at++) own[at] = decoder.symbol(at, ofClasses);
  const isKept = kept.length && new Set(kept), found = new Uint16Array(product(shape) * parts);
  let symbol = 0;
  for (let input = 0; input < inputs; input++) {
    const part = input % parts, place = Math.floor(input / parts);
    const first = Math.floor(place / taps) * outputs * taps + (place % taps);
    for (let output = 0; output < outputs; output++) {
      const edge = first + output * taps;
      if (!isKept || !isKept.has(edge)) found[edge * parts + part] = decoder.symbol(symbol++, tables[own[input]]);
    }
  }
  decoder.end();
  return isKept ? found.filter((_, at) => !isKept.has(Math.floor(at / parts))) : found;
}

// 4.1.3: frequencies that sum to 4096, as the symbol of every slot.
function readTable(bits, symbols, precision) {
  const rest = bits.take(bitsFor(symbols)), others = [];
  need(rest < symbols, "A table gives the rest to no symbol.");
  while (others.length < symbols - 1) {
    const code = bits.take(4);
    need(code < 15, "A table has the code 15.");
    const run = code === 13 ? 2 + bits.take(3) : code === 14 ? 10 + bits.take(10) : code ? 0 : 1;
    for (let at = 0; at < run; at++) others.push(0);
    const width = Math.min(code - 1, precision);
    if (!run) others.push((2 ** width + bits.take(width)) * 2 ** (code - 1 - width));
  }
  const left = 4096 - others.reduce((sum, one) => sum + one, 0);
  need(others.length === symbols - 1 && left > 0, "A table does not sum to 4096.");
  const frequency = [...others.slice(0, rest), left, ...others.slice(rest)], start = [0];
  frequency.forEach((one, at) => start.push(start[at] + one));
  const symbolAt = new Uint16Array(4096);
  frequency.forEach((one, at) => symbolAt.fill(at, start[at], start[at] + one));
  return { frequency, start, symbolAt };
}

function lanesOf(bytes, lanes, name) {
  need(bytes.length >= 4 * lanes && bytes.length % 2 === 0, `${name}.index ends early.`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const states = Array.from({ length: lanes }, (_, lane) => view.getUint32(4 * lane, true));
  need(states.every((one) => one >= 65536), `${name}.index has a state that is too small.`);
  let at = 4 * lanes;
  const symbol = (number, table) => {
    const lane = number % lanes, slot = states[lane] % 4096, found = table.symbolAt[slot];
    let x = table.frequency[found] * Math.floor(states[lane] / 4096) + slot - table.start[found];
    if (x < 65536) {
      need(at < bytes.length, `${name}.index ends early.`);
      x = 65536 * x + view.getUint16(at, true);
      at += 2;
    }
    states[lane] = x;
    return found;
  };
  const end = () => need(at === bytes.length && states.every((one) => one === 65536), `${name}.index is damaged.`);
  return { symbol, end };
}
