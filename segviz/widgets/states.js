// States: those the browser has, and asking the kernel for others. Second of the three files (see engine.py).

const KEPT = 600, MOST_BYTES = 60e6, SILENCE = 5000, QUIET = 120, NEXT = 40;

// The states seen last, oldest forgotten first; those that came with the widget (`fixed`) stay.
class Shelf {
  constructor() { this.fixed = new Map(); this.recent = new Map(); this.bytes = 0; }
  has(key) { return this.fixed.has(key) || this.recent.has(key); }
  get(key) { return this.fixed.get(key) || this.recent.get(key); }
  put(key, entry) {
    this.drop(key);
    this.recent.set(key, entry);
    this.bytes += bytesIn(entry);
    while (this.recent.size > 1 && (this.recent.size > KEPT || this.bytes > MOST_BYTES)) {
      this.drop(this.recent.keys().next().value);
    }
  }
  drop(key) {
    if (this.recent.has(key)) this.bytes -= bytesIn(this.recent.get(key));
    this.recent.delete(key);
  }
  // The state nearest to `key`. A difference in the control that has just been moved weighs most: the others give way.
  nearest(key, moved) {
    const wanted = key.split(",").map(Number);
    let best = null, least = Infinity;
    for (const other of [...this.fixed.keys(), ...this.recent.keys()]) {
      const weight = (i) => (i === moved ? 1e6 : 1);
      const far = other.split(",").reduce((sum, at, i) => sum + Math.abs(at - wanted[i]) * weight(i), 0);
      if (far < least) [best, least] = [other, far];
    }
    return best;
  }
}

const bytesIn = (entry) => entry.buffers.reduce((sum, buffer) => sum + buffer.byteLength, 0);

const bytesOf = (view) => (view instanceof Uint8Array ? view
  : new Uint8Array(view.buffer || view, view.byteOffset || 0, view.byteLength));

// Prepared states come as one compressed block: the length of a JSON head, the head, then every array once.
async function unpack(block, shelf) {
  const stream = new Blob([bytesOf(block)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const headEnd = 4 + new DataView(bytes.buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, headEnd)));
  let at = headEnd;
  const buffers = head.lengths.map((length) => bytes.subarray(at, (at += length)));
  for (const [key, state] of Object.entries(head.states)) shelf.fixed.set(key, { state, buffers });
}

// One real request in flight; a newer wish replaces the one that waits. What is fetched ahead goes one at a time, only
// while nothing real is wanted, so that the kernel never has more than one small job before a real one.
class Asking {
  constructor(send, shelf, { arrived, fault, silent, slow }) {
    Object.assign(this, { send, shelf, arrived, fault, silent, slow });
    Object.assign(this, { number: 0, flying: null, waiting: null, ahead: null, fetched: new Set() });
  }
  get busy() { return this.flying !== null; }
  want(key) {
    clearTimeout(this.pause);
    if (this.flying) this.waiting = key === this.flying.key ? null : key;
    else this.fly(key);
  }
  forget() { this.waiting = null; clearTimeout(this.pause); }
  fly(key) {
    const coming = this.ahead?.key === key;                        // fetched ahead, and on its way
    this.flying = coming ? this.ahead : { id: ++this.number, key };
    this.waiting = null;
    this.timer = setTimeout(() => this.lost(), SILENCE);
    if (coming) { this.ahead = null; return; }
    try { this.send({ ask: key, id: this.number }); } catch { this.lost(); }
  }
  lost() {
    clearTimeout(this.timer);
    this.flying = this.ahead = null;
    this.silent();
  }
  answer({ id, key, state, fault }, buffers) {
    if (state) this.shelf.put(key, { state, buffers: buffers.map(bytesOf) });
    if (this.ahead?.id === id) { this.ahead = null; this.arrived(key, true); return; }
    const mine = this.flying && this.flying.id === id;
    if (mine) { clearTimeout(this.timer); this.flying = null; }
    if (fault) this.fault(key, fault); else this.arrived(key, false);
    if (!mine || !this.waiting) return;
    if (this.shelf.has(this.waiting)) this.arrived(this.waiting, false); else this.fly(this.waiting);
  }
  // `nearby` lists keys, the likeliest first. Begins once nothing has moved for a while; then one follows the other,
  // each once: where they are large, the first may have been forgotten when the last arrives.
  fetchAhead(nearby, going = false) {
    clearTimeout(this.pause);
    if (!going) this.fetched = new Set();
    if (this.slow) return;
    this.pause = setTimeout(() => {
      const next = nearby.find((key) => !this.shelf.has(key) && !this.fetched.has(key));
      if (!next || this.flying || this.ahead) return;
      this.fetched.add(next);
      this.ahead = { id: ++this.number, key: next };
      try { this.send({ ask: next, id: this.number }); } catch { this.ahead = null; }
    }, going ? NEXT : QUIET);
  }
}
