// What layers of other libraries have that kancompress's own have not.

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
Object.assign(ACTIVATIONS, {
  sigmoid,
  gelu: (x) => x * (1 + erf(x / Math.SQRT2)) / 2,
  elu: (x) => (x > 0 ? x : Math.expm1(x)),
  zero: () => 0,
});
INVERSES.sigmoid = (p) => Math.log(p / (1 - p));

// Abramowitz and Stegun, 7.1.26, to 1.5e-7.
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const sum = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - sum * Math.exp(-x * x));
}

Object.assign(BASES, {
  Splines({ knots, degree }, arrays) {
    const { numbers, shape } = arrays[knots];
    return splines(numbers, shape.at(-1), degree);
  },
  Gaussians: ({ centres, width, span }, arrays) =>
    bumps(arrays[centres].numbers, span, (distance) => Math.exp(-((distance / width) ** 2))),
  Switches: ({ centres, width, span }, arrays) =>
    bumps(arrays[centres].numbers, span, (distance) => 1 - Math.tanh(distance / width) ** 2),
  Sum({ one, other }, arrays) {
    const a = basisOf(one, arrays), b = basisOf(other, arrays), more = new Float64Array(a.size);
    const fill = (z, input, out) => {
      a.fill(z, input, out);
      b.fill(z, input, more);
      for (let at = 0; at < a.size; at++) out[at] += more[at];
    };
    return { ...a, fill };
  },
  Waves: ({ count, span }) => ({
    size: 2 * count,
    span,
    fill(z, input, out) {
      for (let n = 1; n <= count; n++) [out[n - 1], out[count + n - 1]] = [Math.cos(n * z), Math.sin(n * z)];
    },
  }),
  Bumps({ factor, low, high, span }, arrays) {
    const lows = arrays[low].numbers, highs = arrays[high].numbers, size = arrays[low].shape.at(-1);
    const rows = lows.length / size;
    const fill = (z, input, out) => {
      const row = (input % rows) * size;
      for (let at = 0; at < size; at++) {
        out[at] = (Math.max(z - lows[row + at], 0) * Math.max(highs[row + at] - z, 0) * factor) ** 2;
      }
    };
    return { size, span, fill };
  },
});

const twice = (z) => 2 * z;
Object.assign(SERIES, {
  chebyshev: { first: identity, step: (n, z, p, q) => 2 * z * p - q },
  chebyshev2: { first: twice, step: (n, z, p, q) => 2 * z * p - q },
  legendre: { first: identity, step: (n, z, p, q) => ((2 * n - 1) * z * p - (n - 1) * q) / n },
  hermite: { first: twice, step: (n, z, p, q) => 2 * z * p - 2 * (n - 1) * q },
  bessel: { first: (z) => z + 1, step: (n, z, p, q) => (2 * n - 1) * z * p + q },
  jacobi: {
    first: twice,
    step: (n, z, p, q) => ((2 * n + 1) * (n + 1) * z * p - n * (n + 1) * q) / (n * (n + 2)),
  },
  bernstein: { first: () => 1, step: () => 1 },
  gottlieb: {
    first: (z, [a]) => 2 * a * z,
    step: (n, z, p, q, [a]) => 2 * (a + n - 1) * z * p - (a + 2 * n - 2) * q,
  },
});

Object.assign(STEPS, {
  LayerNorm: ({ step, arrays, x }) => standard(x, arrays[step.weight].numbers, arrays[step.bias]?.numbers),
  Affine({ step, arrays, each }) {
    const scale = arrays[step.scale]?.numbers, shift = arrays[step.shift]?.numbers;
    return each((v, c) => v * (scale ? scale[c % scale.length] : 1) + (shift ? shift[c % shift.length] : 0));
  },
  MinMax({ x, each }) {
    const low = x.reduce((a, b) => Math.min(a, b)), high = x.reduce((a, b) => Math.max(a, b));
    return each((v) => (2 * (v - low)) / (high - low) - 1);
  },
  Dropout: ({ x }) => x,
});

// A layer of another library's network as kancompress wrote it beside the file.
function layerOf(told) {
  const arrays = Object.fromEntries(Object.entries(told.arrays).map(([role, one]) => [role, numbersFrom(one)]));
  const gains = told.gains.map(({ first, last, factors }) => ({ first, last, ...numbersFrom(factors) }));
  const layer = { ...told, arrays, gains };
  if (told.edges) {
    const { table, rows, ...edges } = told.edges;
    layer.edges = { ...edges, name: told.name, table: numbersFrom(table).numbers, rows: rows && Uint32Array.from(numbersFrom(rows).numbers) };
  }
  return layer;
}

function numbersFrom({ shape, f32 }) {
  const bytes = fromBase64(f32), view = new DataView(bytes.buffer);
  return { shape, numbers: Float64Array.from({ length: bytes.length / 4 }, (_, at) => view.getFloat32(4 * at, true)) };
}
