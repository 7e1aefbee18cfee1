// The explorer: controls, and what happens when they move. Last of the three files, which engine.py joins into one.
// Contract with Python: `_controls` (kinds, sizes), `places` (whole numbers, one a control, two a Point), `_first`,
// `_prepared`; a message {ask: key, id} is answered by {key, id, state} with its arrays, or by {key, id, fault}.

const BUSY_AFTER = 150, SAVE_AFTER = 600;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const KEYS = { "data-lm-suppress-shortcuts": "true" };        // else JupyterLab takes the arrow keys
const valueAt = (control, place) => Number((control.minimum + place * control.step).toFixed(10));

function shown(control, place) {
  const value = valueAt(control, place), sign = control.minimum < 0 && value > 0 ? "+" : "";
  return `${sign}${String(value).replace("-", "−")}${control.unit ? " " + control.unit : ""}`;
}

// The value beside a name: for the eye, as readers of the screen hear it from the input.
const valueBeside = () => make("span", { class: "sv-value", "aria-hidden": "true" });

function rangeInput(minimum, maximum, step, label) {
  return make("input", { type: "range", min: minimum, max: maximum, step, "aria-label": label, ...KEYS });
}

// One builder a kind: returns the elements, and show(places) / read() in whole numbers.
const BUILD = {
  Slider(control) {
    const top = valueAt(control, control.sizes[0] - 1);
    const input = rangeInput(control.minimum, top, control.step, control.label), output = valueBeside();
    const name = make("span", { class: "sv-name" }, make("span", {}, control.label), output);
    return { inputs: [input], element: make("label", { class: "sv-control" }, name, input),
             read: () => [Math.round((Number(input.value) - control.minimum) / control.step)],
             show: ([place]) => {
               input.value = valueAt(control, place);
               output.textContent = shown(control, place);
               input.setAttribute("aria-valuetext", output.textContent);
             } };
  },
  Choice(control) {
    const options = control.options.map((option) => make("option", {}, option));
    const select = make("select", { "aria-label": control.label, ...KEYS }, ...options);
    const name = make("span", { class: "sv-name" }, control.label);
    return { inputs: [select], element: make("label", { class: "sv-control" }, name, select),
             read: () => [select.selectedIndex], show: ([place]) => { select.selectedIndex = place; } };
  },
  Toggle(control) {
    const input = make("input", { type: "checkbox", ...KEYS });
    const name = make("span", {}, control.label);
    return { inputs: [input], element: make("label", { class: "sv-control sv-toggle" }, input, name),
             read: () => [Number(input.checked)], show: ([place]) => { input.checked = Boolean(place); } };
  },
  Point(control) {
    const ways = ["row", "column"], output = valueBeside();
    const inputs = ways.map((way, i) => rangeInput(0, control.sizes[i] - 1, 1, `${control.label}: ${way}`));
    const lines = inputs.map((input, i) => make("label", { class: "sv-way" }, make("span", {}, ways[i]), input));
    const name = make("span", { class: "sv-name" }, make("span", {}, control.label), output);
    const marks = { class: "sv-control", role: "group", "aria-label": control.label };
    return { inputs, element: make("div", marks, name, ...lines),
             read: () => inputs.map((input) => Number(input.value)),
             show: (places) => {
               inputs.forEach((input, i) => { input.value = places[i]; });
               output.textContent = `${places[0]}, ${places[1]}`;
             } };
  },
};

// The focusable area over a panel by which a Point is moved.
function pointArea(control, get, move) {
  const label = `${control.label}: arrow keys move it, with Shift five at a time`;
  const area = make("div", { class: "sv-point", tabindex: 0, role: "application", "aria-roledescription": "point",
                             "aria-label": label, ...KEYS });
  const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  area.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (!arrow) return;
    event.preventDefault();
    event.stopPropagation();
    const by = event.shiftKey ? 5 : 1, now = get();
    move([now[0] + by * arrow[0], now[1] + by * arrow[1]]);
  });
  const follow = (event) => {
    const box = area.getBoundingClientRect(), [rows, cols] = area.units;
    const down = (event.clientY - box.top) / box.height, along = (event.clientX - box.left) / box.width;
    move([Math.floor(down * rows), Math.floor(along * cols)]);
  };
  area.addEventListener("pointerdown", (event) => { area.setPointerCapture(event.pointerId); follow(event); });
  area.addEventListener("pointermove", (event) => { if (control.hover || event.buttons) follow(event); });
  return area;
}

function render({ model, el }) {
  const controls = model.get("_controls"), slow = model.get("_slow"), first = model.get("_first");
  const offsets = [];
  controls.reduce((at, control) => { offsets.push(at); return at + control.sizes.length; }, 0);
  const sizes = controls.flatMap((control) => control.sizes);
  const start = model.get("_start");
  let places = [...model.get("places")], moved = -1, direction = 1, drawn = null, entry = null, frame = 0;
  const key = () => places.join(",");

  const canvas = make("canvas", { role: "img" });
  const busy = make("span", { class: "sv-busy", "aria-hidden": "true" }, "computing…");
  const stage = make("div", { class: "sv-stage" }, canvas, busy);
  const reset = make("button", { type: "button", class: "sv-reset", ...KEYS }, "Reset");
  const words = make("p", { class: "sv-words", role: "status" });
  const readout = make("p", { class: "sv-readout", "aria-live": "polite" });
  const panel = make("div", { class: "sv-controls" });
  const root = make("section", { class: "sv", role: "group", "aria-label": model.get("title") || "Explorer" },
                    make("div", { class: "sv-head" }, make("span", { class: "sv-title" }, model.get("title")), reset),
                    stage, panel, words, readout);
  el.replaceChildren(root);

  // --- drawing
  const reserve = [];
  let width = 0, theme = null;                                // asking the page for either while dragging is slow
  function draw() {
    dirty = false;
    if (!entry || !width) return;                             // not on the page yet: the observer below calls again
    theme ??= themeOf(root);
    const boxes = drawState(canvas, entry.state, entry.buffers, width, theme, reserve);
    areas.forEach(({ area, control }) => {
      const { x, y, w, h } = boxes[control.panel], place = `left:${x}px;top:${y}px;width:${w}px;height:${h}px`;
      area.units = entry.state.panels[control.panel].size;
      if (area.place !== place) area.style.cssText = area.place = place;
    });
    canvas.setAttribute("aria-label", entry.state.readout);
    Object.assign(root.dataset, { key: drawn, drawn: Number(root.dataset.drawn || 0) + 1 });
  }
  // At once, so that the next frame has it; but never twice for one frame.
  let dirty = false;
  function redraw() {
    if (frame) { dirty = true; return; }
    frame = requestAnimationFrame(() => { frame = 0; if (dirty) redraw(); });
    draw();
  }
  const rethemed = () => { theme = null; redraw(); };

  function say(text, at = "") {
    let place = words;
    controls.forEach((control, n) => {
      built[n].words.textContent = "";
      if (text && control.name === at) place = built[n].words;
    });
    words.textContent = "";
    place.textContent = text;
  }

  function show(name) {
    const next = shelf.get(name);
    drawn = name;
    if (next.state.panels.length) entry = next;
    stage.classList.toggle("sv-stale", Boolean(next.state.problem) && !next.state.panels.length);
    say(next.state.problem, next.state.problem_at);
    if (readout.textContent !== next.state.readout) readout.textContent = next.state.readout;
    controls.forEach((control, n) => {
      for (const input of built[n].inputs) input.disabled = next.state.disabled.includes(control.name);
    });
    redraw();
  }

  // --- states
  const shelf = new Shelf();
  if (first.state) shelf.fixed.set(first.key, { state: first.state, buffers: first.buffers.map(bytesOf) });
  let busyTimer = 0;
  function markBusy(on) {
    clearTimeout(busyTimer);
    const mark = () => { root.dataset.busy = "true"; root.setAttribute("aria-busy", "true"); };
    if (on) busyTimer = setTimeout(mark, BUSY_AFTER);
    else { delete root.dataset.busy; root.removeAttribute("aria-busy"); }
  }
  const asking = new Asking((content) => model.send(content), shelf, {
    slow,
    arrived(name, ahead) {
      const current = name === key();
      if (current && (!ahead || drawn !== name)) { asking.forget(); markBusy(false); show(name); }
      else if (!ahead && !slow && asking.waiting) show(name);        // on the way: keeps a drag alive
      if (current || ahead) asking.fetchAhead(nearby(), ahead);
    },
    fault(name, text) { if (name === key()) { markBusy(false); say(text); } },
    silent() {
      markBusy(false);
      say("The kernel does not answer. It is busy with another cell, or it has stopped: then restart it and run "
          + "this cell again.");
    },
  });
  function nearby() {
    const keys = [], step = (i, by) => {
      const other = places[i] + by;
      if (other >= 0 && other < sizes[i]) keys.push(places.with(i, other).join(","));
    };
    if (moved >= 0) [1, 2, 3, -1].forEach((by) => step(moved, by * direction));
    sizes.forEach((_, i) => { step(i, 1); step(i, -1); });
    return keys;
  }

  const prepared = model.get("_prepared");
  let unpacked = !(prepared && prepared.byteLength), complete = !unpacked && model.get("_complete");
  const canAsk = () => model.send && !complete;

  // --- moving
  let saveTimer = 0;
  function save() {
    clearTimeout(saveTimer);
    saveTimer = setTimeout(() => { model.set("places", [...places]); model.save_changes(); }, SAVE_AFTER);
  }
  function refresh() {
    controls.forEach((control, n) => built[n].show(places.slice(offsets[n], offsets[n] + control.sizes.length)));
    if (shelf.has(key())) { asking.forget(); markBusy(false); show(key()); if (canAsk()) asking.fetchAhead(nearby()); }
    else if (canAsk()) { markBusy(true); asking.want(key()); }
    else settle();
  }
  // Without a kernel only what came with the page can be shown: take the nearest of that, and say what gave way.
  function settle() {
    const wanted = places, near = shelf.nearest(key(), moved);
    if (!unpacked || near === null) return;
    places = near.split(",").map(Number);
    refresh();
    const differs = (control, n) => control.sizes.some((_, i) => places[offsets[n] + i] !== wanted[offsets[n] + i]);
    const names = controls.filter(differs).map((control) => control.label).join(", ");
    say(`Without a kernel only prepared settings can be shown. This is the nearest: ${names} changed.`);
  }
  function moveTo(n, values) {
    const at = offsets[n], control = controls[n];
    const next = [...places];
    values.forEach((value, i) => { next[at + i] = Math.min(Math.max(value, 0), control.sizes[i] - 1); });
    if (next.join() === places.join()) return;
    moved = next.findIndex((place, i) => place !== places[i]);
    direction = Math.sign(next[moved] - places[moved]);
    places = next;
    refresh();
    save();
  }

  const built = controls.map((control, n) => {
    const one = BUILD[control.kind](control);
    one.words = make("span", { class: "sv-problem", role: "status" });
    one.element.append(one.words);
    one.inputs.forEach((input) => input.addEventListener("input", () => moveTo(n, one.read())));
    panel.append(one.element);
    return one;
  });
  const areas = [];
  controls.forEach((control, n) => {
    if (control.kind !== "Point") return;
    const area = pointArea(control, () => places.slice(offsets[n], offsets[n] + 2), (values) => moveTo(n, values));
    stage.append(area);
    areas.push({ area, control });
  });
  reset.addEventListener("click", () => { places = [...start]; moved = -1; refresh(); save(); });

  // --- the world outside
  const onMessage = (content, buffers) => {
    if (content && content.key !== undefined) asking.answer(content, buffers || []);
  };
  const onPlaces = () => {
    const next = model.get("places");
    if (next.join() !== key()) { places = [...next]; moved = -1; refresh(); }
  };
  model.on("msg:custom", onMessage);
  model.on("change:places", onPlaces);
  const resized = new ResizeObserver(([{ contentRect }]) => {
    if (Math.floor(contentRect.width) === width) return;
    width = Math.floor(contentRect.width);
    reserve.length = 0;
    redraw();
  });
  resized.observe(stage);
  const themed = new MutationObserver(rethemed);
  const themeMarks = ["data-jp-theme-light", "data-jp-theme-name", "class"];
  themed.observe(document.body, { attributes: true, attributeFilter: themeMarks });
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", rethemed);

  if (first.state && first.key !== key()) show(first.key);
  refresh();
  if (first.fault) say(first.fault);
  if (!unpacked) {
    unpack(prepared, shelf).catch(() => { complete = false; }).then(() => { unpacked = true; refresh(); });
  }

  return () => {
    [busyTimer, saveTimer, asking.timer, asking.pause].forEach(clearTimeout);
    cancelAnimationFrame(frame);
    resized.disconnect();
    themed.disconnect();
    scheme.removeEventListener("change", rethemed);
    model.off("msg:custom", onMessage);
    model.off("change:places", onPlaces);
  };
}

export default { render };
