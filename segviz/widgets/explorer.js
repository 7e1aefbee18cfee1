// The explorer: controls, and what happens when they move. Last of the three files, which engine.py joins into one.
// Contract with Python: `_controls` (kinds, sizes), `places` (whole numbers, one a control, two a Point; a state's key is
// those of all but local points), `_first`, `_prepared`; a message {ask: key, id} is answered by {key, id, state} with its arrays, or by {key, id, fault}.

const BUSY_AFTER = 150, SAVE_AFTER = 600;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const KEYS = { "data-lm-suppress-shortcuts": "true" };        // else JupyterLab takes the arrow keys
const valueAt = (control, place) => Number((control.minimum + place * control.step).toFixed(10));

const withUnit = (value, { unit }) => `${String(value).replace("-", "−")}${unit ? " " + unit : ""}`;

function shown(control, place) {
  const value = valueAt(control, place);
  return `${control.minimum < 0 && value > 0 ? "+" : ""}${withUnit(value, control)}`;
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
             show: ([place], [size]) => {
               input.max = valueAt(control, size - 1);
               input.value = valueAt(control, place);
               output.textContent = shown(control, place);
               input.setAttribute("aria-valuetext", output.textContent);
             } };
  },
  Steps(control) {
    const input = rangeInput(0, control.values.length - 1, 1, control.label), output = valueBeside();
    const name = make("span", { class: "sv-name" }, make("span", {}, control.label), output);
    return { inputs: [input], element: make("label", { class: "sv-control" }, name, input),
             read: () => [Number(input.value)],
             show: ([place]) => {
               input.value = place;
               output.textContent = withUnit(control.values[place], control);
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
    const given = (_, i) => control.sizes[i] > 1, only = !control.sizes.every((size) => size > 1);   // on a line: one way
    const words = (way) => (only ? [] : [make("span", {}, way)]);
    const lines = inputs.map((input, i) => make("label", { class: "sv-way" }, ...words(ways[i]), input)).filter(given);
    const name = make("span", { class: "sv-name" }, make("span", {}, control.label), output);
    const marks = { class: "sv-control", role: "group", "aria-label": control.label };
    return { inputs, element: make("div", marks, name, ...lines),
             read: () => inputs.map((input) => Number(input.value)),
             show: (places, bounds) => {
               inputs.forEach((input, i) => { input.max = bounds[i] - 1; input.value = places[i]; });
               output.textContent = places.filter(given).join(", ");
             } };
  },
};

// The focusable area over a panel by which a Point is moved.
function pointArea(control, get, move) {
  const label = `${control.label}: arrow keys move it, with Shift five at a time`;
  const area = make("div", { class: control.rows > 1 ? "sv-point" : "sv-point sv-across", tabindex: 0, role: "application", "aria-roledescription": "point",
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

// The controls' elements in a grid, those of one group under a tab. `renamed` follows every change of what a tab shows.
function layOutControls(controls, built, renamed) {
  const panel = make("div", { class: "sv-controls" }), tabs = new Map();
  const bar = make("div", { class: "sv-tablist", role: "tablist" }), box = make("div", { class: "sv-tabs" }, bar);
  const open = (group, focus) => {
    for (const [name, { tab, sheet }] of tabs) {
      sheet.hidden = name !== group;
      tab.setAttribute("aria-selected", String(name === group));
      tab.tabIndex = name === group ? 0 : -1;
    }
    if (focus) tabs.get(group).tab.focus();
    renamed();
  };
  controls.forEach(({ group }, n) => {
    if (!group) { panel.append(built[n].element); return; }
    if (!tabs.has(group)) {
      const tab = make("button", { type: "button", role: "tab", class: "sv-tab", ...KEYS }, group);
      const sheet = make("div", { class: "sv-sheet", role: "tabpanel", "aria-label": group, hidden: "" });
      tab.addEventListener("click", () => open(group));
      tabs.set(group, { tab, sheet });
      bar.append(tab);
      box.append(sheet);
    }
    tabs.get(group).sheet.append(built[n].element);
    if (!panel.contains(box)) panel.append(box);
  });
  bar.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    const shown = [...tabs.keys()].filter((group) => !tabs.get(group).tab.hidden);
    const now = shown.findIndex((group) => !tabs.get(group).sheet.hidden);
    open(shown[(now + by + shown.length) % shown.length], true);
  });
  const update = ({ hidden, tabs: names }) => {
    controls.forEach((control, n) => { built[n].element.hidden = hidden.includes(control.name); });
    for (const [group, { tab, sheet }] of tabs) {
      const name = names[group] || group;
      if (tab.textContent !== name) { tab.textContent = name; sheet.setAttribute("aria-label", name); }
      tab.hidden = [...sheet.children].every((element) => element.hidden);
    }
    const shown = [...tabs.keys()].filter((group) => !tabs.get(group).tab.hidden);
    box.hidden = !shown.length;
    if (shown.length && !shown.some((group) => !tabs.get(group).sheet.hidden)) open(shown[0]);
  };
  return { panel, update };
}

function render({ model, el }) {
  const controls = model.get("_controls"), slow = model.get("_slow"), first = model.get("_first");
  const offsets = [];
  controls.reduce((at, control) => { offsets.push(at); return at + control.sizes.length; }, 0);
  const sizes = controls.flatMap((control) => control.sizes);
  const start = model.get("_start");
  let places = [...model.get("places")], moved = -1, direction = 1, frame = 0;
  // The key and state that are shown, its arrays, and the last entry that has panels: the picture.
  let drawn = null, state = null, arrays = [], entry = null;
  const kept = controls.flatMap((control) => control.sizes.map(() => !control.local));    // what a state depends on
  const keyOf = (all) => all.filter((_, i) => kept[i]).join(",");
  const key = () => keyOf(places);
  // Where a control stands, brought inside what the state that is shown has of it.
  function standing(n) {
    const control = controls[n], mine = places.slice(offsets[n], offsets[n] + control.sizes.length);
    return mine.map((place, i) => Math.min(place, boundsOf(control)[i] - 1));
  }
  function boundsOf(control) {
    const { bounds = {}, panels } = entry ? entry.state : {};
    const own = bounds[control.name] || (control.local && panels?.[control.panel]?.size) || control.sizes;
    return control.sizes.map((size, i) => Math.max(1, Math.min(size, Math.floor(own[i]))));
  }
  // A scaled point keeps its relative place, where it was last put, as its bounds change.
  const anchors = controls.map(() => null);
  function anchor(n) { anchors[n] = standing(n).map((place, i) => (place + 0.5) / boundsOf(controls[n])[i]); }
  function rescale() {
    controls.forEach((control, n) => {
      if (!control.scaled) return;
      if (!anchors[n]) { anchor(n); return; }
      const scaled = boundsOf(control).map((bound, i) => Math.floor(anchors[n][i] * bound));
      places = places.toSpliced(offsets[n], scaled.length, ...scaled);
    });
  }
  const pointsNow = () => Object.fromEntries(
    controls.flatMap((control, n) => (control.kind === "Point" ? [[control.name, standing(n)]] : [])));

  const canvas = make("canvas", { role: "img" });
  const busy = make("span", { class: "sv-busy", "aria-hidden": "true" }, "computing…");
  const stage = make("div", { class: "sv-stage" }, canvas, busy);
  const reset = make("button", { type: "button", class: "sv-reset", ...KEYS }, "Reset");
  const words = make("p", { class: "sv-words", role: "status" });
  const readout = make("p", { class: "sv-readout", "aria-live": "polite" });
  const built = controls.map((control) => {
    const one = BUILD[control.kind](control);
    one.words = make("span", { class: "sv-problem", role: "status" });
    one.element.append(one.words);
    return one;
  });
  const { panel, update: updateControls } = layOutControls(controls, built, () => say(...said));
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
    const shown = { panels: entry.state.panels, buffers: entry.buffers, points: pointsNow() };
    const boxes = drawState(canvas, shown, width, theme, reserve);
    areas.forEach(({ area, control }) => {
      area.hidden = !boxes[control.panel];
      if (area.hidden) return;
      const { x, y, w, h } = boxes[control.panel], place = `left:${x}px;top:${y}px;width:${w}px;height:${h}px`;
      area.units = entry.state.panels[control.panel].size;
      if (area.place !== place) area.style.cssText = area.place = place;
    });
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

  // At the control `at`, or, where that is not in sight, below.
  let said = [""];
  function say(text, at = "") {
    let place = words;
    said = [text, at];
    controls.forEach((control, n) => {
      built[n].words.textContent = "";
      const unseen = built[n].element.hidden || built[n].element.closest("[hidden]");
      if (text && control.name === at && !unseen) place = built[n].words;
    });
    words.textContent = "";
    place.textContent = text;
  }

  // What is shown of the points: their sliders, and what there is to say of them.
  function showPoints() {
    controls.forEach((control, n) => { if (control.kind === "Point") showControl(n); });
    if (!state) return;
    const points = pointsNow();
    const sayings = Object.entries(state.pointed).map(([name, { rows, columns, cells, words, told }]) => {
      const [row, column] = points[name];
      if (told) return fillIn(words, toldAt(told, row, column, arrays));
      return cells.length ? last(last(cells, row), column) : `${last(rows, row) ?? ""} ${last(columns, column) ?? ""}`;
    });
    const text = [state.readout, ...sayings].join(" ").trim();
    if (readout.textContent !== text) readout.textContent = text;
    canvas.setAttribute("aria-label", text);
  }

  const showControl = (n) => built[n].show(standing(n), boundsOf(controls[n]));
  function showControls() { controls.forEach((_, n) => showControl(n)); showPoints(); }

  function show(name) {
    const next = shelf.get(name);
    [drawn, state, arrays] = [name, next.state, next.buffers];
    if (next.state.panels.length) entry = next;
    stage.classList.toggle("sv-stale", Boolean(state.problem) && !state.panels.length);
    rescale();
    updateControls(state);
    say(state.problem, state.problem_at);
    controls.forEach((control, n) => {
      for (const input of built[n].inputs) input.disabled = state.disabled.includes(control.name);
    });
    showControls();
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
  // The settings one step away, and more of what has just been moved; but for controls that change nothing now, or
  // whose states cost too much.
  function nearby() {
    const still = [...(state?.hidden || []), ...(state?.disabled || [])];
    const most = controls.flatMap((control) =>
      (still.includes(control.name) || control.costly ? control.sizes.map(() => 0) : boundsOf(control)));
    const keys = [], step = (i, by) => {
      const other = places[i] + by;
      if (kept[i] && other >= 0 && other < most[i]) keys.push(keyOf(places.with(i, other)));
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
    root.dataset.wanted = key();
    showControls();
    if (shelf.has(key())) { asking.forget(); markBusy(false); show(key()); if (canAsk()) asking.fetchAhead(nearby()); }
    else if (canAsk()) { markBusy(true); asking.want(key()); }
    else settle();
  }
  // Without a kernel only what came with the page can be shown: take the nearest of that, and say what gave way.
  function settle() {
    const wanted = places, near = shelf.nearest(key(), moved < 0 ? -1 : kept.slice(0, moved).filter(Boolean).length);
    if (!unpacked || near === null) return;
    const found = near.split(",").map(Number);
    places = places.map((place, i) => (kept[i] ? found.shift() : place));
    refresh();
    const differs = (control, n) => !built[n].element.hidden
      && control.sizes.some((_, i) => kept[offsets[n] + i] && places[offsets[n] + i] !== wanted[offsets[n] + i]);
    const names = controls.filter(differs).map((control) => control.label + (control.group ? ` of ${control.group}` : "")).join(", ");
    if (names) say(`Without a kernel only prepared settings can be shown. This is the nearest: ${names} changed.`);
  }
  function moveTo(n, values) {
    const at = offsets[n], control = controls[n];
    const next = [...places];
    const bounds = boundsOf(control);
    values.forEach((value, i) => { next[at + i] = Math.min(Math.max(value, 0), bounds[i] - 1); });
    if (next.join() === places.join()) return;
    save();
    if (control.local) { places = next; anchor(n); showPoints(); redraw(); return; }
    moved = next.findIndex((place, i) => place !== places[i]);
    direction = Math.sign(next[moved] - places[moved]);
    places = next;
    refresh();
  }

  built.forEach((one, n) => {
    one.inputs.forEach((input) => input.addEventListener("input", () => moveTo(n, one.read())));
  });
  const areas = [];
  controls.forEach((control, n) => {
    if (control.kind !== "Point") return;
    const area = pointArea(control, () => standing(n), (values) => moveTo(n, values));
    stage.append(area);
    areas.push({ area, control });
  });
  function jumped() { moved = -1; anchors.fill(null); refresh(); redraw(); }
  reset.addEventListener("click", () => { places = [...start]; jumped(); save(); });

  // --- the world outside
  const onMessage = (content, buffers) => {
    if (content && content.key !== undefined) asking.answer(content, buffers || []);
  };
  const onPlaces = () => {
    const next = model.get("places");
    if (next.join() !== places.join()) { places = [...next]; jumped(); }
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

  if (first.state && first.key !== key()) { show(first.key); anchors.fill(null); }
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
