// Drawing: a state's panels on one canvas. First of the three files that make the explorers' module (see engine.py).

const GAP = 28, NARROW = 180, TALLEST = 420, LARGEST = 560, BAR_ROW = 22;
// Lines drawn at most; px for the bracket below, for labels at the left, and the width from which they stand there.
const CHAIN = { most: 400, below: 26, gutter: 218, beside: 620 };
const FONT = { title: "600 13px", caption: "12px", bar: "12px", strong: "600 12px" };
const CLEAR = 254, VOID = 255, RASTERS = 12;
const ROLES = ["ink", "muted", "line", "accent", "error", "paper", "mark"];

function themeOf(element) {
  const style = getComputedStyle(element);
  const theme = { family: style.fontFamily };
  for (const role of ROLES) theme[role] = style.getPropertyValue(`--sv-${role}`).trim();
  return theme;
}

function wrap(ctx, words, width) {
  const lines = [];
  for (const word of words.split(" ").filter(Boolean)) {
    const longer = lines.length ? `${lines.at(-1)} ${word}` : word;
    if (lines.length && ctx.measureText(longer).width <= width) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}

// What fills its panel, and how high that is.
const fillerOf = (panel) => panel.layers.find((layer) => FILLS[layer.kind]);
const FILLS = {
  Bars: (layer) => layer.rows.length * BAR_ROW,
  Chain: (layer, width) => layer.levels.length * chainRow(layer, width) + CHAIN.below,
};
const chainRow = (layer, width) =>
  Math.max(16, Math.min(54, Math.round(330 / layer.levels.length))) + (width < CHAIN.beside ? 12 : 0);
const legendOf = (panel) => panel.layers.find((layer) => layer.legend);

// The width at which every unit is as wide as the next, where that costs less than a tenth.
function wholePixels(width, units) {
  const scale = window.devicePixelRatio || 1, snapped = Math.floor(width * scale / units) * units / scale;
  return snapped > 0.9 * width ? snapped : width;
}

// Where every panel stands: a large one at the left and the others beside it, where two of these fit side by side.
function layOut(ctx, panels, width, family, reserve) {
  const [first, ...others] = panels, half = Math.floor((width - GAP) / 2);
  if (!first?.large || !others.length || half < 2 * NARROW + GAP) return layOutRows(ctx, panels, width, family, reserve);
  if (!reserve.length) reserve.beside = [];
  const taken = layOutRows(ctx, [first], half, family, []).boxes[0].w;
  const left = layOutRows(ctx, [first], taken, family, reserve);
  const right = layOutRows(ctx, others, width - taken - GAP, family, reserve.beside);
  for (const box of right.boxes) box.x += taken + GAP;
  return { boxes: [...left.boxes, ...right.boxes], height: Math.max(left.height, right.height) };
}

// In rows. `reserve` remembers the most lines a caption ever had, so that nothing jumps in a drag.
function layOutRows(ctx, panels, width, family, reserve) {
  const most = Math.max(1, Math.floor((width + GAP) / (NARROW + GAP)));
  const narrow = panels.filter((panel) => !panel.wide).length || 1;
  const columns = Math.ceil(narrow / Math.ceil(narrow / most));
  let row = 0, column = -1;
  const boxes = panels.map((panel, i) => {
    column += 1;
    if (column === columns || (panel.wide && column)) { row += 1; column = 0; }
    const x = column, at = row;
    if (panel.wide) column = columns - 1;
    const cell = panel.wide ? width : Math.floor((width - GAP * (columns - 1)) / columns);
    const [rows, cols] = panel.size;
    const filler = fillerOf(panel), tallest = panel.large ? LARGEST : TALLEST;
    const wide = filler ? cell : wholePixels(Math.min(cell, panel.wide ? cell : tallest, tallest * cols / rows), cols);
    ctx.font = `${FONT.title} ${family}`;
    const title = wrap(ctx, panel.title, cell);
    ctx.font = `${FONT.caption} ${family}`;
    const caption = wrap(ctx, panel.caption, cell);
    reserve[i] = Math.max(reserve[i] || 0, caption.length);
    const high = filler ? FILLS[filler.kind](filler, wide) : wide * rows / cols;
    return { x: x * (cell + GAP), w: wide, h: high, cell, title, caption, row: at,
             below: (legendOf(panel) ? 20 : 0) + reserve[i] * 17 };
  });
  let y = 0;
  for (let row = 0; row <= boxes.at(-1).row; row++) {
    const inRow = boxes.filter((box) => box.row === row);
    const titles = Math.max(...inRow.map((box) => box.title.length)) * 18;
    for (const box of inRow) Object.assign(box, { top: y, y: y + titles + 6 });
    y = Math.max(...inRow.map((box) => box.y + box.h + box.below + 6)) + GAP - 8;
  }
  return { boxes, height: Math.ceil(y - GAP + 8) };
}

// Any CSS colour as the four bytes of a canvas pixel (little endian: alpha first when read as a number).
const pixelCache = new Map();
function pixelOf(colour) {
  if (!pixelCache.has(colour)) {
    const ctx = new OffscreenCanvas(1, 1).getContext("2d");
    ctx.fillStyle = colour;
    ctx.fillRect(0, 0, 1, 1);
    pixelCache.set(colour, new Uint32Array(ctx.getImageData(0, 0, 1, 1).data.buffer)[0]);
  }
  return pixelCache.get(colour);
}

const opaque = (rgb, at) => 0xff000000 | rgb[at + 2] << 16 | rgb[at + 1] << 8 | rgb[at];

const dataOf = (layer, buffers) => layer.data.bytes || buffers[layer.data.buffer];

// The layer's own pixels as canvas pixels, row by row.
function coloursOf(layer, buffers, paper) {
  const data = dataOf(layer, buffers), [rows, cols, channels] = layer.data.shape;
  const out = new Uint32Array(rows * cols);
  if (channels === 3) {
    for (let o = 0; o < out.length; o++) out[o] = opaque(data, 3 * o);
    return out;
  }
  const table = new Uint32Array(256), palette = layer.palette ? buffers[layer.palette.buffer] : [];
  table[VOID] = 0xff1a1a1a;
  for (let i = 0; 3 * i < palette.length; i++) table[i] = opaque(palette, 3 * i);
  if (layer.kind === "Hatch") table[1] = pixelOf(paper);
  for (let i = 0; i < out.length; i++) out[i] = table[data[i]];
  return out;
}

// The layer at `w` x `h` device pixels, each the nearest of its own; those with the label `striped` get stripes.
function raster(layer, buffers, w, h, scale, theme) {
  const data = dataOf(layer, buffers), [rows, cols] = layer.data.shape;
  const small = coloursOf(layer, buffers, theme.paper);
  const striped = layer.kind === "Hatch" ? 1 : layer.kind === "LabelMap" ? VOID : -1;
  const stripe = pixelOf(layer.kind === "Hatch" ? theme[layer.colour] || layer.colour : "#6b6b6b");
  const period = Math.round(6 * scale), thick = Math.round(2.4 * scale);
  const image = new ImageData(w, h), out = new Uint32Array(image.data.buffer);
  const from = Int32Array.from({ length: w }, (_, x) => Math.floor((x + 0.5) * cols / w));
  for (let y = 0, o = 0; y < h; y++) {
    const row = cols * Math.floor((y + 0.5) * rows / h);
    for (let x = 0; x < w; x++, o++) {
      const at = row + from[x];
      out[o] = data[at] === striped && (x + y) % period < thick ? stripe : small[at];
    }
  }
  return image;
}

// What stays as it is while a point moves need not be made again; the last few are enough.
const rasters = new Map();
function rasterOf(layer, buffers, w, h, scale, theme) {
  if (layer.data.bytes) return raster(layer, buffers, w, h, scale, theme);
  const kept = rasters.get(layer);
  if (kept && kept.image.width === w && kept.image.height === h && kept.theme === theme) return kept.image;
  const image = raster(layer, buffers, w, h, scale, theme);
  rasters.delete(layer);
  rasters.set(layer, { image, theme });
  if (rasters.size > RASTERS) rasters.delete(rasters.keys().next().value);
  return image;
}

let scratch = null;
function drawPicture(ctx, layer, buffers, to, theme) {
  const [rows, cols] = layer.data.shape, box = layer.box || [0, 0, cols, rows], scale = ctx.getTransform().a;
  const corners = [...to(box[0], box[1]), ...to(box[2], box[3])];
  const [x, y, right, bottom] = corners.map((at) => Math.round(at * scale));
  const shrunk = layer.kind === "Image" && right - x < cols;      // more pixels than the screen: left to the canvas
  const [w, h] = shrunk ? [cols, rows] : [right - x, bottom - y];
  if (w < 1 || h < 1) return;
  scratch ??= document.createElement("canvas");
  if (scratch.width < w) scratch.width = w;
  if (scratch.height < h) scratch.height = h;
  const pixels = rasterOf(layer, buffers, w, h, scale, theme);
  scratch.getContext("2d", { willReadFrequently: true }).putImageData(pixels, 0, 0);
  ctx.globalAlpha = layer.opacity;
  ctx.drawImage(scratch, 0, 0, w, h, x / scale, y / scale, (right - x) / scale, (bottom - y) / scale);
}

// A line that stays visible on any picture: another under it, a little wider. Pictures do not change with the theme,
// so neither does what lies under a mark.
function strokeTwice(ctx, colour, width, theme, path) {
  const under = colour === theme.mark ? "#ffffff" : theme.paper;
  for (const [style, thick, alpha] of [[under, width + 2, 0.85], [colour, width, 1]]) {
    Object.assign(ctx, { strokeStyle: style, lineWidth: thick, globalAlpha: alpha, lineJoin: "round" });
    ctx.beginPath();
    path();
    ctx.stroke();
  }
}

const typed = new WeakMap();
function numbersOf(bytes, count, Type) {
  if (bytes.length === count) return bytes;
  if (!typed.has(bytes)) typed.set(bytes, new Type(bytes.slice().buffer));
  return typed.get(bytes);
}

// The numbers of `told` at a place, and their words: panels.py's `Told.here`.
function toldAt({ numbers, names }, row, column, buffers) {
  const [n, R, C] = numbers.shape, all = numbersOf(buffers[numbers.buffer], n * R * C, Int16Array);
  return names.map((list, k) => {
    const at = all[(k * R + Math.min(row, R - 1)) * C + Math.min(column, C - 1)], size = Math.abs(at);
    const tenths = `${at < 0 ? "−" : "+"}${Math.floor(size / 10)}.${size % 10}`;
    return { value: at / 10, words: list.length ? list[at] : tenths };
  });
}
const fillIn = (words, parts) => words.replace(/\{(\d+)\}/g, (_, k) => parts[k].words);

// What a layer that follows a local point is at the point's place: panels.py's `here`, for the browser.
const last = (items, place) => items[Math.min(place, items.length - 1)];
const HERE = {
  HeatMap(layer, row, column, buffers) {
    const [R, C, rows, cols] = layer.data.shape, size = rows * cols;
    if (layer.which) [row, column] = [last(layer.which[0], row), last(layer.which[1], column)];
    const from = (Math.min(row, R - 1) * C + Math.min(column, C - 1)) * size;
    const bytes = dataOf(layer, buffers).subarray(from, from + size);
    return { ...layer, at: "", data: { shape: [rows, cols], bytes } };
  },
  Outer(layer, row, column, buffers) {
    const [R, rows] = layer.rows.shape, [C, cols] = layer.columns.shape, bytes = new Uint8Array(rows * cols);
    const down = numbersOf(buffers[layer.rows.buffer], R * rows, Float32Array).subarray(Math.min(row, R - 1) * rows);
    const along = numbersOf(buffers[layer.columns.buffer], C * cols, Float32Array).subarray(Math.min(column, C - 1) * cols);
    const steps = (CLEAR - 1) / (layer.high - layer.low || 1);
    for (let y = 0, o = 0; y < rows; y++) {
      for (let x = 0; x < cols; x++, o++) {
        const value = down[y] * along[x], step = Math.min(Math.max((value - layer.low) * steps, 0), CLEAR - 1);
        bytes[o] = value === layer.clear ? CLEAR : step + 0.5;
      }
    }
    return { ...layer, kind: "HeatMap", at: "", data: { shape: [rows, cols], bytes } };
  },
  Where({ axis, layers }, row, column) {
    return axis === "cell" ? last(last(layers, row), column) : last(layers, axis === "row" ? row : column);
  },
  Wipe(layer, row, column, buffers) {
    const [rows, cols] = layer.left.shape, bytes = buffers[layer.right.buffer].slice();
    const left = buffers[layer.left.buffer], until = Math.min(column, cols), style = { at: "", colour: "ink" };
    for (let o = 0; o < bytes.length; o += cols) bytes.set(left.subarray(o, o + until), o);
    return [{ ...layer, kind: "LabelMap", at: "", data: { shape: [rows, cols], bytes } },
            { ...style, kind: "Lines", paths: [[[column, 0], [column, rows]]], width: 2 },
            { ...style, kind: "Dots", points: [[column, rows / 2]], radius: 7 }];
  },
  Marker(layer, row, column) {
    const [top, bottom] = layer.rows ? last(layer.rows, row) : [row, row + 1];
    const [left, right] = layer.columns ? last(layer.columns, column) : [column, column + 1];
    const by = layer.margin;
    return { ...layer, kind: "Rects", at: "", boxes: [[left - by, top - by, right + by, bottom + by]] };
  },
  Bars(layer, row, column, buffers) {
    const parts = toldAt(layer.told, row, column, buffers);
    const rows = layer.rows.map((bar) => ({ ...bar, label: fillIn(bar.label, parts), text: fillIn(bar.text, parts),
                                            value: bar.bare ? null : parts[bar.value].value }));
    return { ...layer, at: "", rows };
  },
  Chain(layer, row, column) {
    return { ...layer, at: "", unit: Math.min(layer.axis === "row" ? row : column, layer.fields.length - 1) };
  },
};

function plainLayers(layers, points, buffers) {
  return layers.flatMap((layer) => {
    const place = layer.at && points[layer.at];
    if (!place) return [layer];
    return plainLayers([HERE[layer.kind](layer, ...place, buffers)].flat(), points, buffers);
  });
}

const DRAW = {
  Image: drawPicture, LabelMap: drawPicture, HeatMap: drawPicture, Hatch: drawPicture,
  Grid(ctx, layer, buffers, to, theme) {
    const [x0, y0, x1, y1] = layer.box;
    Object.assign(ctx, { strokeStyle: theme[layer.colour] || layer.colour, lineWidth: layer.width });
    ctx.beginPath();
    for (let i = 0; i <= layer.columns; i++) {
      const x = x0 + (x1 - x0) * i / layer.columns;
      ctx.moveTo(...to(x, y0)); ctx.lineTo(...to(x, y1));
    }
    for (let i = 0; i <= layer.rows; i++) {
      const y = y0 + (y1 - y0) * i / layer.rows;
      ctx.moveTo(...to(x0, y)); ctx.lineTo(...to(x1, y));
    }
    ctx.stroke();
  },
  Rects(ctx, layer, buffers, to, theme) {
    const colour = theme[layer.colour] || layer.colour;
    const path = () => {
      for (const [x0, y0, x1, y1] of layer.boxes) {
        const [left, top] = to(x0, y0), [right, bottom] = to(x1, y1);
        ctx.rect(left, top, right - left, bottom - top);
      }
    };
    if (layer.fill) {
      Object.assign(ctx, { fillStyle: theme[layer.fill] || layer.fill, globalAlpha: 0.2 });
      ctx.beginPath(); path(); ctx.fill();
    }
    if (layer.dashed) ctx.setLineDash([5, 4]);
    if (layer.width) strokeTwice(ctx, colour, layer.width, theme, path);
  },
  Lines(ctx, layer, buffers, to, theme) {
    strokeTwice(ctx, theme[layer.colour] || layer.colour, layer.width, theme, () => {
      for (const points of layer.paths) {
        points.forEach(([x, y], i) => (i ? ctx.lineTo(...to(x, y)) : ctx.moveTo(...to(x, y))));
      }
    });
  },
  Dots(ctx, layer, buffers, to, theme) {
    for (const [x, y] of layer.points) {
      ctx.beginPath();
      ctx.arc(...to(x, y), layer.radius, 0, 7);
      Object.assign(ctx, { fillStyle: theme[layer.colour] || layer.colour, strokeStyle: theme.paper, lineWidth: 1.5 });
      ctx.stroke(); ctx.fill();
    }
  },
  Text(ctx, layer, buffers, to, theme) {
    Object.assign(ctx, { font: `${layer.size}px ${theme.family}`, textAlign: "center", textBaseline: "middle" });
    const room = layer.fit && to(layer.fit, 0)[0] - to(0, 0)[0];
    if (room && layer.items.some(([, , words]) => ctx.measureText(words).width > room - 2)) return;
    for (const [x, y, words, colour] of layer.items) {
      ctx.fillStyle = theme[colour || layer.colour] || colour || layer.colour;
      ctx.fillText(words, ...to(x, y));
    }
  },
  Bars(ctx, layer, buffers, to, theme, box) {
    ctx.font = `${FONT.strong} ${theme.family}`;
    const barred = layer.rows.filter((row) => !row.bare);
    const widest = (part) => Math.max(0, ...barred.map((row) => ctx.measureText(row[part]).width));
    const label = widest("label") + 10, number = widest("text") + 10;
    const room = box.w - label - number, span = layer.maximum - layer.minimum;
    const along = (value) => room * Math.min(1, Math.max(0, (value - layer.minimum) / span));
    layer.rows.forEach((row, i) => {
      if (!row.label) return;                                        // an empty row parts two groups
      const y = box.y + (i + 0.5) * BAR_ROW;
      ctx.font = `${row.strong ? FONT.strong : FONT.bar} ${theme.family}`;
      Object.assign(ctx, { textBaseline: "middle", fillStyle: theme.ink });
      ctx.textAlign = "left"; ctx.fillText(row.label, box.x, y);
      ctx.textAlign = "right"; ctx.fillText(row.text, box.x + box.w, y);
      if (row.bare) return;
      const left = box.x + label;
      ctx.fillStyle = theme.line; ctx.fillRect(left, y - 5, room, 10);
      if (row.value === null) return;
      ctx.fillStyle = theme[row.colour] || row.colour;
      const [start, end] = [along(Math.min(0, row.value)), along(Math.max(0, row.value))];
      ctx.fillRect(left + start, y - 5, end - start, 10);
      Object.assign(ctx, { strokeStyle: theme.muted, lineWidth: 0.75, globalAlpha: 0.6 });   // an edge for pale ones
      ctx.strokeRect(left, y - 5, room, 10);
      ctx.globalAlpha = 1;
      ctx.fillStyle = theme.ink;
      if (layer.minimum < 0) ctx.fillRect(left + along(0) - 0.5, y - BAR_ROW / 2, 1, BAR_ROW);
      if (row.reference === null) return;
      ctx.fillRect(left + along(row.reference) - 1, y - 8, 2, 16);
    });
  },
};

// A stack of maps from the side. Cells stand over the pixels of the input that they are computed from.
DRAW.Chain = (ctx, layer, buffers, to, theme, box) => {
  const { levels, unit } = layer, row = chainRow(layer, box.w), beside = box.w >= CHAIN.beside;
  const gutter = beside ? CHAIN.gutter : 0, tall = Math.min(18, Math.max(7, (row - (beside ? 0 : 12)) * 0.55));
  const left = Math.min(...levels.map(({ start, jump }) => start - jump / 2));
  const right = Math.max(...levels.map(({ start, jump, size }) => start + (size - 0.5) * jump));
  const pixel = (box.w - gutter) / (right - left), x = (at) => box.x + gutter + (at - left) * pixel;
  const middle = (n) => box.y + (levels.length - n) * row - (beside ? row / 2 : tall / 2 + 3);
  const fill = (colour, alpha, cells) => {
    Object.assign(ctx, { fillStyle: colour, globalAlpha: alpha });
    ctx.beginPath();
    cells.forEach((cell) => ctx.rect(...cell));
    ctx.fill();
    ctx.globalAlpha = 1;
  };
  const units = (n) => levels[n].lit[unit].flatMap(([a, b]) => Array.from({ length: b - a }, (_, i) => a + i));
  const centre = (n, u) => x(levels[n].start + u * levels[n].jump);
  const spokes = levels.flatMap(({ reads }, n) => (reads && n ? units(n).flatMap((u) =>
    reads[u].map((read) => [centre(n, u), middle(n) + tall / 2, centre(n - 1, read), middle(n - 1) - tall / 2])) : []));
  levels.forEach(({ size, start, jump, lit }, n) => {
    const wide = jump * pixel, gap = wide > 6 ? 2 : wide > 3 ? 1 : 0, top = middle(n) - tall / 2;
    const run = ([a, b]) => (gap ? Array.from({ length: b - a }, (_, i) => [centre(n, a + i) - (wide - gap) / 2, top, wide - gap, tall])
      : [[centre(n, a) - wide / 2, top, (b - a) * wide, tall]]);
    const runs = lit[unit];
    fill(theme.line, 1, run([0, size]));
    if (runs.length) {
      const [from, until] = [runs[0][0], runs.at(-1)[1]];
      fill(theme.paper, 1, [[centre(n, from) - wide / 2, top - 1, (until - from) * wide, tall + 2]]);
      fill(theme.accent, 0.16, [[centre(n, from) - wide / 2, top - 3, (until - from) * wide, tall + 6]]);
    }
    fill(n === levels.length - 1 ? theme.mark : theme.accent, 1, runs.flatMap(run));
  });
  if (spokes.length <= CHAIN.most) {
    Object.assign(ctx, { strokeStyle: theme.accent, lineWidth: 1, globalAlpha: spokes.length > 120 ? 0.4 : 0.7 });
    ctx.beginPath();
    for (const [x0, y0, x1, y1] of spokes) { ctx.moveTo(x0, y0); ctx.lineTo(x1, y1); }
    ctx.stroke();
    ctx.globalAlpha = 1;
  }
  Object.assign(ctx, { font: `${FONT.caption} ${theme.family}`, textBaseline: "middle", strokeStyle: theme.paper,
                       lineWidth: 4, lineJoin: "round" });
  levels.forEach(({ label, size }, n) => {                           // over the lines, which they part
    const at = beside ? middle(n) : middle(n) - tall / 2 - 9;
    for (const [words, align, end, colour] of [[label, "left", box.x, theme.ink],
                                               [String(size), "right", beside ? box.x + gutter - 12 : box.x + box.w, theme.muted]]) {
      Object.assign(ctx, { textAlign: align, fillStyle: colour });
      if (!beside) ctx.strokeText(words, end, at);
      ctx.fillText(words, end, at);
    }
  });
  const [start, end] = layer.fields[unit], from = x(Math.max(start, left)), until = x(Math.min(end, right));
  const y = middle(0) + tall / 2 + 9, words = `${end - start} px`;
  fill(theme.mark, 1, [[from, y, until - from, 2], ...(start >= left ? [[from, y - 4, 2, 10]] : []),
                       ...(end <= right ? [[until - 2, y - 4, 2, 10]] : [])]);
  ctx.font = `${FONT.strong} ${theme.family}`;
  Object.assign(ctx, { textAlign: "center", textBaseline: "top", fillStyle: theme.ink });
  const half = ctx.measureText(words).width / 2 + 1;
  ctx.fillText(words, Math.min(Math.max((from + until) / 2, x(left) + half), box.x + box.w - half), y + 6);
};

function drawLegend(ctx, layer, buffers, box, theme) {
  const lut = buffers[layer.palette.buffer], y = box.y + box.h + 8, wide = Math.min(90, box.w / 3);
  ctx.font = `${FONT.caption} ${theme.family}`;
  Object.assign(ctx, { textBaseline: "middle", textAlign: "left", fillStyle: theme.muted });
  const low = String(layer.low), high = String(layer.high);
  ctx.fillText(low, box.x, y + 5);
  const start = box.x + ctx.measureText(low).width + 6;
  ctx.fillText(`${high}  ${layer.legend}`, start + wide + 6, y + 5);
  for (let i = 0; i < wide; i++) {
    const at = 3 * Math.floor(i / wide * lut.length / 3);
    ctx.fillStyle = `rgb(${lut[at]},${lut[at + 1]},${lut[at + 2]})`;
    ctx.fillRect(start + i, y, 1.5, 9);
  }
}

// Draws the whole state; returns the panels' boxes in CSS pixels, so that pointers can be placed over them.
function drawState(canvas, { panels, buffers, points }, width, theme, reserve) {
  const ctx = canvas.getContext("2d"), scale = window.devicePixelRatio || 1;
  const plain = panels.map((panel) => ({ ...panel, layers: plainLayers(panel.layers, points, buffers) }));
  const { boxes, height } = layOut(ctx, plain, width, theme.family, reserve);
  const size = { width: Math.round(width * scale), height: Math.round(height * scale) };
  if (canvas.width !== size.width || canvas.height !== size.height) {
    Object.assign(canvas, size);
    Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  }
  ctx.setTransform(scale, 0, 0, scale, 0, 0);
  ctx.clearRect(0, 0, width, height);
  plain.forEach((panel, i) => {
    const box = boxes[i], [rows, cols] = panel.size;
    const to = (x, y) => [box.x + x * box.w / cols, box.y + y * box.h / rows];
    ctx.font = `${FONT.title} ${theme.family}`;
    Object.assign(ctx, { textAlign: "left", textBaseline: "top", fillStyle: theme.ink });
    box.title.forEach((line, n) => ctx.fillText(line, box.x, box.top + 18 * n));
    Object.assign(ctx, { font: `${FONT.caption} ${theme.family}`, fillStyle: theme.muted });
    const start = box.y + box.h + (legendOf(panel) ? 26 : 8);
    box.caption.forEach((line, n) => ctx.fillText(line, box.x, start + 17 * n));
    for (const layer of panel.layers) {
      ctx.save();
      if (!FILLS[layer.kind]) {
        ctx.beginPath();
        ctx.rect(box.x - 2, box.y - 2, box.w + 4, box.h + 4);
        ctx.clip();
      }
      DRAW[layer.kind](ctx, layer, buffers, to, theme, box);
      ctx.restore();
    }
    if (legendOf(panel)) drawLegend(ctx, legendOf(panel), buffers, box, theme);
  });
  return boxes;
}
