// TurboQuant in JavaScript, written from SPEC.md (with the docstrings of generator.py and rotation.py) and requests.json alone.
//
//     node tq.mjs requests.json responses.json
//
// Not offered: the codebook's own solution (Table), Gaussians and the Haar matrix, float16 and bfloat16 scalars.

import { readFileSync, writeFileSync } from "node:fs";

class Refused extends Error {}

let round = (v) => v; // to the compute dtype, after every operation
const zeros = (n) => new Array(n).fill(0);

// ---- vectors

function finite(values) {
  const bad = values.findIndex((v) => typeof v !== "number");
  if (bad >= 0) throw new Refused(`coordinate ${bad} is ${values[bad]}`);
  return values;
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum = round(sum + round(a[i] * b[i]));
  return sum;
}

// x times 2^e, without overflow on the way
function scaled(x, e) {
  while (e > 1000) [x, e] = [x * 2 ** 1000, e - 1000];
  while (e < -1000) [x, e] = [x * 2 ** -1000, e + 1000];
  return x * 2 ** e;
}

function exponent(x) {
  if (x === 0) return 0;
  let e = x < 2 ** -1000 ? -1000 : 0;
  x = scaled(x, -e);
  e += Math.floor(Math.log2(x)) + 1;
  return e;
}

// ||x|| and x / ||x||, scaled by a power of two first
function normAndUnit(x) {
  const e = exponent(Math.max(...x.map(Math.abs)));
  const small = x.map((v) => scaled(v, -e));
  const length = Math.sqrt(small.reduce((sum, v) => sum + v * v, 0));
  const norm = round(scaled(length, e));
  if (!Number.isFinite(norm)) throw new Refused("the norm is too large");
  return [norm, small.map((v) => round(v / (length || 1)))];
}

// ---- the generator

const mask = (1n << 64n) - 1n;
const step = 0x9e3779b97f4a7c15n;

function mix64(z) {
  z &= mask;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & mask;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & mask;
  return z ^ (z >> 31n);
}

class Stream {
  constructor(seed, stream) {
    this.state = mix64(BigInt("0x" + seed) + BigInt(stream + 1) * step);
  }

  word(i) {
    return mix64(this.state + BigInt(i + 1) * step);
  }

  signs(n, start = 0) {
    return Array.from({ length: n }, (_, i) => ((this.word(start + Math.floor(i / 64)) >> BigInt(i % 64)) & 1n ? 1 : -1));
  }

  angles(n, start = 0) {
    const cosines = [];
    const sines = [];
    for (let i = start; cosines.length < n; i++) {
      const w = this.word(i);
      const a = 2n * (w >> 38n) + 1n - (1n << 26n);
      const b = 2n * ((w >> 12n) & ((1n << 26n) - 1n)) + 1n - (1n << 26n);
      const q = a * a + b * b;
      if (q > 1n << 52n) continue;
      cosines.push(Number(a) / Math.sqrt(Number(q)));
      sines.push(Number(b) / Math.sqrt(Number(q)));
    }
    return [cosines, sines];
  }
}

// ---- rotations

function fwht(x) {
  for (let s = 1; s < x.length; s *= 2)
    for (let i = 0; i < x.length; i++)
      if (!(i & s)) [x[i], x[i + s]] = [round(x[i] + x[i + s]), round(x[i] - x[i + s])];
  return x;
}

// the pairs of chunks that mix(first, n) reflects, in its order
function pairs(first, n) {
  if (n < 2) return [];
  const f = Math.floor(n / 2);
  const q = n - f;
  const now = Array.from({ length: f }, (_, i) => [first + i, first + q + i]);
  return [...now, ...pairs(first, q), ...pairs(first + q, f)];
}

class Structured {
  constructor(d, seed, stream) {
    this.d = d;
    this.chunk = d & -d;
    const source = new Stream(seed, stream);
    const width = Math.ceil(d / 64);
    this.signs = [source.signs(d, 0), source.signs(d, width)];
    this.planes = source.angles(Math.floor(d / 2), 2 * width);
    this.pairs = pairs(0, d / this.chunk);
  }

  chunks(x) {
    for (let i = 0; i < this.d; i += this.chunk) x.splice(i, this.chunk, ...fwht(x.slice(i, i + this.chunk)));
  }

  flips(x, r) {
    const factor = round(Math.sqrt(1 / this.chunk));
    for (let i = 0; i < this.d; i++) x[i] = round(x[i] * (factor * this.signs[r][i]));
  }

  reflect(x, order) {
    const root = round(Math.sqrt(0.5));
    for (const [first, second] of order)
      for (let i = 0; i < this.chunk; i++) {
        const [p, q] = [first * this.chunk + i, second * this.chunk + i];
        [x[p], x[q]] = [round(round(x[p] + x[q]) * root), round(round(x[p] - x[q]) * root)];
      }
  }

  turn(x, direction) {
    const [cosines, sines] = this.planes;
    const back = this.d - cosines.length;
    cosines.forEach((cosine, i) => {
      const [c, s] = [round(cosine), round(direction * sines[i])];
      const [a, b] = [x[i], x[back + i]];
      x[i] = round(round(c * a) - round(s * b));
      x[back + i] = round(round(s * a) + round(c * b));
    });
  }

  apply(x) {
    const y = [...x];
    for (const r of [0, 1]) {
      if (r === 1) this.turn(y, 1);
      this.flips(y, r);
      this.chunks(y);
      this.reflect(y, this.pairs);
    }
    return y;
  }

  inverse(y) {
    const x = [...y];
    for (const r of [1, 0]) {
      this.reflect(x, [...this.pairs].reverse());
      this.chunks(x);
      this.flips(x, r);
      if (r === 1) this.turn(x, -1);
    }
    return x;
  }
}

// a matrix given in full: Pi or S
class Dense {
  constructor(matrix) {
    this.matrix = matrix.map((entries) => entries.map(round));
  }

  apply(x) {
    return this.matrix.map((entries) => dot(entries, x));
  }

  inverse(y) {
    return this.matrix[0].map((_, j) => dot(this.matrix.map((entries) => entries[j]), y));
  }
}

// the orthogonal sketch of a seed: rows of structured rotations, times sqrt(d)
class Blocks {
  constructor(d, m, seed, stream) {
    Object.assign(this, { d, m, root: round(Math.sqrt(d)) });
    this.blocks = Array.from({ length: Math.ceil(m / d) }, (_, k) => new Structured(d, seed, stream + k));
  }

  apply(x) {
    const all = this.blocks.flatMap((block) => block.apply(x));
    return all.slice(0, this.m).map((v) => round(v * this.root));
  }

  inverse(z) {
    const padded = [...z, ...zeros(this.blocks.length * this.d - this.m)];
    const parts = this.blocks.map((block, k) => block.inverse(padded.slice(k * this.d, (k + 1) * this.d)));
    const sum = parts.reduce((a, b) => a.map((v, i) => round(v + b[i])));
    return sum.map((v) => round(v * this.root));
  }
}

const rotation = (g) => (g.rotation.kind === "dense" ? new Dense(g.rotation.matrix) : new Structured(g.d, g.rotation.seed, g.rotation.stream));
const sketch = (g) => (g.sketch.kind === "dense" ? new Dense(g.sketch.matrix) : new Blocks(g.d, g.m, g.sketch.seed, g.sketch.stream));

// ---- codebook and packing

function indices(centroids, coordinates) {
  const boundaries = centroids.slice(1).map((c, i) => round((c + centroids[i]) / 2));
  return coordinates.map((t) => boundaries.filter((b) => b <= t).length);
}

function pack(numbers, bits) {
  const bytes = zeros(Math.ceil((numbers.length * bits) / 8));
  numbers.forEach((number, j) => {
    if (number >= 2 ** bits) throw new Refused(`${number} does not fit in ${bits} bits`);
    for (let b = 0; b < bits; b++) {
      const at = j * bits + b;
      bytes[at >> 3] |= ((number >> b) & 1) << (at & 7);
    }
  });
  return bytes;
}

function unpack(bytes, bits, n) {
  if (bytes.length !== Math.ceil((n * bits) / 8)) throw new Refused(`${bytes.length} bytes`);
  const numbers = zeros(n);
  for (let at = 0; at < 8 * bytes.length; at++) {
    const bit = (bytes[at >> 3] >> (at & 7)) & 1;
    if (at < n * bits) numbers[Math.floor(at / bits)] |= bit << (at % bits);
    else if (bit) throw new Refused(`padding bit ${at} is set`);
  }
  return numbers;
}

function scalar(value, kind) {
  const wide = kind === "float64";
  const stored = wide ? value : Math.fround(value);
  const low = wide ? 2 ** -1022 : 2 ** -126;
  if (value !== 0 && !(Math.abs(value) >= low && Number.isFinite(stored))) throw new Refused(`${value} is out of range`);
  const view = new DataView(new ArrayBuffer(wide ? 8 : 4));
  if (wide) view.setFloat64(0, value, true);
  else view.setFloat32(0, value, true);
  return [...new Uint8Array(view.buffer)];
}

const hex = (bytes) => bytes.map((b) => b.toString(16).padStart(2, "0")).join("");
const ofHex = (text) => (text.match(/../g) ?? []).map((pair) => parseInt(pair, 16));

// the record, or nothing if a scalar cannot be stored
function record(streams, scalars, kind) {
  try {
    return { packed: hex([...streams.flat(), ...scalars.flatMap((v) => scalar(v, kind))]) };
  } catch (error) {
    if (error instanceof Refused) return {};
    throw error;
  }
}

// ---- the algorithms

function scaleOf(rule, norm, z, q) {
  const qq = dot(q, q);
  const zq = norm > 0 ? dot(z, q) : 1;
  if (rule === "matched") return round(norm * round(1 / round(Math.sqrt(qq))));
  if (rule === "least_squares") return round(norm * round(zq / qq));
  if (rule === "unbiased") return round(norm * round(1 / zq));
  return norm;
}

function mse(g, { x, query }) {
  const pi = rotation(g);
  const [norm, unit] = normAndUnit(finite(x));
  const rotated = pi.apply(unit);
  const found = indices(g.centroids, rotated);
  const q = found.map((i) => round(g.centroids[i]));
  const scale = scaleOf(g.scale, norm, rotated, q);
  const decoded = pi.inverse(q).map((v) => round(scale * v));
  const [queryNorm, asked] = normAndUnit(query);
  const estimate = round(dot(pi.apply(asked), q) * queryNorm * scale);
  return { norm, unit, rotated, indices: found, scale, decoded, ...record([pack(found, g.bits)], [scale], g.scalars), estimate };
}

// the signs of S r, what they decode to, and their part of the estimate, for r of norm 1
function signed(g, r, asked) {
  const s = sketch(g);
  const projection = s.apply(r);
  const signs = projection.map((p) => (p >= 0 ? 1 : 0));
  const z = signs.map((bit) => 2 * bit - 1);
  const constant = round(1 / (g.m * g.mu));
  const decoded = s.inverse(z).map((v) => round(constant * v));
  return [{ projection, signs }, decoded, round(constant * dot(s.apply(asked), z))];
}

function qjl(g, { x, query }) {
  const [norm, unit] = normAndUnit(finite(x));
  const [queryNorm, asked] = normAndUnit(query);
  const [stages, second, estimate] = signed(g, unit, asked);
  const decoded = second.map((v) => round(norm * v));
  const stored = record([pack(stages.signs, 1)], [norm], g.scalars);
  return { norm, unit, ...stages, decoded, ...stored, estimate: round(estimate * queryNorm * norm) };
}

function prod(g, { x, query }) {
  const [norm, unit] = normAndUnit(finite(x));
  const [queryNorm, asked] = normAndUnit(query);
  const streams = [];
  let [first, firstEstimate, stages] = [zeros(g.d), 0, {}];
  if (g.bits > 1) {
    const pi = rotation(g);
    const rotated = pi.apply(unit);
    const found = indices(g.centroids, rotated);
    const q = found.map((i) => round(g.centroids[i]));
    first = pi.inverse(q);
    firstEstimate = dot(pi.apply(asked), q);
    stages = { rotated, indices: found };
    streams.push(pack(found, g.bits - 1));
  }
  const residual = unit.map((v, i) => (norm > 0 ? round(v - first[i]) : 0));
  let gamma = normAndUnit(residual)[0];
  if (g.residual === "expected") gamma = norm > 0 ? round(g.expectedResidual) : 0;
  const [rest, second, estimate] = signed(g, residual, asked);
  streams.push(pack(rest.signs, 1));
  const decoded = first.map((v, i) => round(norm * round(v + round(gamma * second[i]))));
  const scalars = g.residual === "stored" && g.bits > 1 ? [norm, gamma] : [norm];
  const whole = round(firstEstimate + round(gamma * estimate));
  return {
    ...{ norm, unit, ...stages, residual, residual_norm: gamma, ...rest, decoded },
    ...record(streams, scalars, g.scalars),
    estimate: round(whole * queryNorm * norm),
  };
}

const types = {
  Bits: (g, { numbers }) => ({ packed: hex(pack(numbers, g.bits)) }),
  Unpack: (g, { packed }) => ({ numbers: unpack(ofHex(packed), g.bits, g.n) }),
  Scalars: (g, { values }) => ({ packed: hex(finite(values).flatMap((v) => scalar(v, g.scalars))) }),
  Index: (g, { coordinates }) => ({ indices: indices(g.centroids, coordinates) }),
  Words: (g, { seed, stream, n }) => ({ words: zeros(n).map((_, i) => new Stream(seed, stream).word(i).toString(16).padStart(16, "0")) }),
  Signs: (g, { seed, stream, n }) => ({ signs: new Stream(seed, stream).signs(n) }),
  Angles: (g, { seed, stream, n }) => {
    const [cosines, sines] = new Stream(seed, stream).angles(n);
    return { cosines, sines };
  },
  Fwht: (g, { x }) => ({ y: fwht([...x]) }),
  Structured: (g, { x }) => {
    const pi = new Structured(g.d, g.seed, g.stream);
    return { rotated: pi.apply(x), inverse: pi.inverse(x) };
  },
  Mse: mse,
  Qjl: qjl,
  Prod: prod,
};

function respond(g, inputs) {
  try {
    return types[g.type](g, inputs);
  } catch (error) {
    if (error instanceof Refused) return { error: error.message };
    throw error;
  }
}

const [questions, answers] = process.argv.slice(2);
const responses = {};
for (const g of JSON.parse(readFileSync(questions, "utf8")).groups) {
  const offered = g.type in types && !["float16", "bfloat16"].includes(g.scalars);
  round = g.dtype === "float32" ? Math.fround : (v) => v;
  if (offered) for (const request of g.requests) responses[request.id] = respond(g, request.inputs);
}
writeFileSync(answers, JSON.stringify({ responses }));
