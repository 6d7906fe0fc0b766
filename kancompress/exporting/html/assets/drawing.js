// From a drawing to the row that a network takes, prepared as the makers of its data set did.

// image: what images the network takes, as kancompress wrote it beside the file.
// pen: width of a stroke in pixels; box: pixels that a drawing fills, in the middle of its own box, or
// with its mass in the middle; narrow: of its width to its height; ground: what is there without ink.

// Subpixels of a pixel, in both directions.
const FINE = 4;

// strokes: { points: [[x, y], ...] from 0 to 1, colour: one number a channel, width in pixels }.
// picture: pixels from 0 to 1, channel by channel, under the strokes; or null.
// Gives the pixels, and the row: pixels less the mean, over the standard deviation.
function rowOf(image, strokes, picture, fit) {
  const { side, channels } = image;
  let place = { scale: [side, side], x: 0, y: 0 };
  if (fit && image.box && strokes.length && !picture) place = fitted(image, strokes);
  let pixels = rendered(image, strokes, picture, place);
  if (fit && image.mass && strokes.length && !picture) {
    const [x, y] = centreOf(pixels, side);
    place = { ...place, x: place.x + side / 2 - x, y: place.y + side / 2 - y };
    pixels = rendered(image, strokes, picture, place);
  }
  return { pixels, row: normalised(image, pixels), channels };
}

function normalised({ side, mean, std }, pixels) {
  const count = side * side, channel = (at) => Math.floor(at / count);
  return Array.from(pixels, (one, at) => (one - (mean[channel(at)] ?? 0)) / (std[channel(at)] ?? 1));
}

// Scale and shift with which the strokes, as thick as they are, fill the box.
function fitted({ side, box, narrow }, strokes) {
  const points = strokes.flatMap((stroke) => stroke.points), width = Math.max(...strokes.map((stroke) => stroke.width));
  const ends = [0, 1].map((axis) => [Math.min(...points.map((p) => p[axis])), Math.max(...points.map((p) => p[axis]))]);
  const extent = Math.max(0.1, ...ends.map(([low, high]) => high - low));
  const scale = (box - width) / extent, middle = ends.map(([low, high]) => (low + high) / 2);
  const both = [scale * (narrow ?? 1), scale];
  return { scale: both, x: side / 2 - both[0] * middle[0], y: side / 2 - both[1] * middle[1] };
}

function centreOf(pixels, side) {
  let mass = 0, x = 0, y = 0;
  for (let at = 0; at < side * side; at++) {
    mass += pixels[at];
    x += pixels[at] * ((at % side) + 0.5);
    y += pixels[at] * (Math.floor(at / side) + 0.5);
  }
  return mass ? [x / mass, y / mass] : [side / 2, side / 2];
}

function rendered({ side, channels, ground }, strokes, picture, place) {
  const fine = side * FINE, count = side * side, pixels = new Float64Array(channels * count).fill(ground ?? 0);
  if (picture) pixels.set(picture);
  for (const { points, colour, width } of strokes) {
    const covered = new Float64Array(fine * fine), radius = (width * FINE) / 2;
    const at = points.map(([x, y]) => [(x * place.scale[0] + place.x) * FINE, (y * place.scale[1] + place.y) * FINE]);
    at.forEach((point, number) => coverSegment(covered, fine, at[Math.max(0, number - 1)], point, radius));
    for (let pixel = 0; pixel < count; pixel++) {
      let ink = 0;
      const corner = Math.floor(pixel / side) * FINE * fine + (pixel % side) * FINE;
      for (let sub = 0; sub < FINE * FINE; sub++) ink += covered[corner + Math.floor(sub / FINE) * fine + (sub % FINE)];
      ink /= FINE * FINE;
      for (let channel = 0; channel < channels; channel++) {
        const to = channel * count + pixel, paint = colour[channel];
        // Ink of one colour on black does not add up to more than one stroke where two touch.
        pixels[to] = channels === 1 ? Math.max(pixels[to], ink * paint) : pixels[to] * (1 - ink) + ink * paint;
      }
    }
  }
  return pixels;
}

// How much of each subpixel lies within the radius of a segment.
function coverSegment(covered, fine, [ax, ay], [bx, by], radius) {
  const reach = radius + 1, long = (bx - ax) ** 2 + (by - ay) ** 2;
  const from = (a, b) => Math.max(0, Math.floor(Math.min(a, b) - reach));
  const to = (a, b) => Math.min(fine - 1, Math.ceil(Math.max(a, b) + reach));
  for (let y = from(ay, by); y <= to(ay, by); y++) {
    for (let x = from(ax, bx); x <= to(ax, bx); x++) {
      const px = x + 0.5 - ax, py = y + 0.5 - ay;
      const along = long ? Math.min(1, Math.max(0, (px * (bx - ax) + py * (by - ay)) / long)) : 0;
      const distance = Math.hypot(px - along * (bx - ax), py - along * (by - ay));
      const ink = Math.min(1, Math.max(0, radius - distance + 0.5));
      if (ink > covered[y * fine + x]) covered[y * fine + x] = ink;
    }
  }
}
