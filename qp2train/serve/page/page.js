// A region of a slide, prompts on it, and what the server answers. Coordinates are full-resolution pixels of the slide.
"use strict";

const $ = (id) => document.getElementById(id);
const canvas = $("view"), pen = canvas.getContext("2d");
const LEAST = 16; // pixels of the slide across the view
const DRAG = 5; // pixels of the screen that a hand moves while it clicks
const state = { size: null, box: null, picture: null, steps: [], saved: [], drag: null, shown: 0 };

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").className = bad ? "bad" : "";
}

async function ask(path, how = {}) {
  if (how.body) how = { ...how, headers: { "Content-Type": "application/json" }, body: JSON.stringify(how.body) };
  const answer = await fetch(path, how);
  if (!answer.ok) {
    let said = answer.statusText;
    try { said = (await answer.json()).detail; } catch (error) { console.warn(error); }
    throw new Error(said);
  }
  return answer;
}

// What goes wrong is shown, and nothing is lost: every action can be tried again.
const trying = (action) => async (...given) => {
  try { await action(...given); } catch (error) { say(error.message, true); }
};

const entryPath = () => `api/v1/entries/${encodeURIComponent($("entry").value)}`;
const last = () => state.steps[state.steps.length - 1];
const scale = () => canvas.width / state.box.width; // screen pixels per slide pixel

function toSlide(event) {
  const at = canvas.getBoundingClientRect();
  return [
    state.box.x + ((event.clientX - at.left) / at.width) * state.box.width,
    state.box.y + ((event.clientY - at.top) / at.height) * state.box.height,
  ];
}

function boxOf([x0, y0], [x1, y1]) {
  return { x: Math.min(x0, x1), y: Math.min(y0, y1), width: Math.abs(x1 - x0), height: Math.abs(y1 - y0) };
}

// The part of the view that lies on the slide.
function inside(box) {
  const x = Math.max(0, box.x), y = Math.max(0, box.y);
  return {
    x, y,
    width: Math.min(state.size.width, box.x + box.width) - x,
    height: Math.min(state.size.height, box.y + box.height) - y,
  };
}

function draw() {
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (!state.box) return;
  const s = scale();
  const place = (x, y) => [(x - state.box.x) * s, (y - state.box.y) * s];
  if (state.picture) {
    const { image, box } = state.picture;
    pen.drawImage(image, ...place(box.x, box.y), box.width * s, box.height * s);
  }
  const outline = (feature, colour) => {
    const { type, coordinates } = feature.geometry;
    pen.beginPath();
    for (const polygon of type === "Polygon" ? [coordinates] : coordinates) {
      for (const ring of polygon) {
        ring.forEach(([x, y], i) => pen[i ? "lineTo" : "moveTo"](...place(x, y)));
        pen.closePath();
      }
    }
    pen.fillStyle = colour + "40";
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    pen.fill("evenodd");
    pen.stroke();
  };
  for (const { feature } of state.saved.filter((one) => one.entry === $("entry").value)) outline(feature, "#1565c0");
  const step = last();
  if (step) {
    if (step.found) outline(step.found, "#2e7d32");
    step.points.forEach(([x, y], i) => {
      const [px, py] = place(x, y);
      pen.beginPath();
      pen.arc(px, py, 5, 0, 2 * Math.PI);
      pen.fillStyle = step.labels[i] ? "#2e7d32" : "#c62828";
      pen.fill();
      pen.strokeStyle = "#fff";
      pen.stroke();
    });
  }
  const dragged = state.drag && state.drag.moved ? boxOf(state.drag.from, state.drag.to) : step && step.box;
  if (dragged) {
    pen.strokeStyle = "#ef6c00";
    pen.setLineDash([6, 4]);
    pen.strokeRect(...place(dragged.x, dragged.y), dragged.width * s, dragged.height * s);
    pen.setLineDash([]);
  }
}

async function show(box) {
  state.box = box;
  draw();
  const part = inside(box), number = ++state.shown;
  if (part.width <= 0 || part.height <= 0) return;
  const asked = new URLSearchParams({ ...part, max_px: canvas.width });
  const blob = await (await ask(`${entryPath()}/region.png?${asked}`)).blob();
  const image = await createImageBitmap(blob);
  if (number !== state.shown) return; // a later view was asked for meanwhile
  state.picture = { image, box: part };
  draw();
  document.body.dataset.shown = number;
}

function zoomed(factor, [x, y] = [state.box.x + state.box.width / 2, state.box.y + state.box.height / 2]) {
  const most = 2 * Math.max(state.size.width, (state.size.height * canvas.width) / canvas.height);
  const width = Math.min(Math.max(state.box.width * factor, LEAST), most), f = width / state.box.width;
  const { box } = state;
  return { x: x - (x - box.x) * f, y: y - (y - box.y) * f, width, height: box.height * f };
}

function moved(dx, dy) {
  const { box } = state;
  return { ...box, x: box.x + dx * box.width, y: box.y + dy * box.height };
}

// A step counts from the click on, so that a second click before the answer adds to it.
async function predict(step) {
  const found = [...state.steps].reverse().map((before) => before.found).find(Boolean);
  state.steps.push(step);
  draw();
  let features;
  try {
    features = await (await ask(`${entryPath()}/predict`, {
      method: "POST",
      body: {
        region: inside(state.box), model: $("model").value, points: step.points, labels: step.labels, box: step.box,
        mask: found ? found.geometry : null, class_name: $("class").value || null,
      },
    })).json();
  } catch (error) {
    state.steps = state.steps.filter((one) => one !== step);
    draw();
    throw error;
  }
  step.found = features[0] || null;
  if (!state.steps.includes(step)) return; // taken back meanwhile
  tell();
  draw();
}

function tell() {
  const step = last(), found = step && step.found;
  document.body.dataset.steps = state.steps.length;
  if (!step) $("answer").textContent = "";
  else if (!found) $("answer").textContent = "Nothing was found.";
  else $("answer").textContent = `Found; predicted IoU ${found.properties.measurements["Predicted IoU"]}.`;
  say("");
}

const click = trying(async ([x, y], belongs) => {
  const before = last() || { points: [], labels: [], box: null };
  await predict({ points: [...before.points, [x, y]], labels: [...before.labels, belongs ? 1 : 0], box: before.box });
});

const drawBox = trying(async (box) => {
  state.steps = [];
  await predict({ points: [], labels: [], box });
});

function undo() {
  state.steps.pop();
  tell();
  draw();
}

function forget() {
  state.steps = [];
  tell();
  draw();
}

const save = trying(async () => {
  const step = last();
  if (!step || !step.found) throw new Error("There is nothing to save: click an object first.");
  const entry = $("entry").value, model = $("model").value, feature = step.found, name = $("class").value;
  feature.properties.classification = name ? { names: name.split(": ") } : null;
  $("save").disabled = true; // once is enough
  try {
    await ask(`${entryPath()}/objects`, { method: "POST", body: { model, features: [feature] } });
  } finally {
    $("save").disabled = false;
  }
  state.saved.push({ entry, model, feature });
  forget();
  say("Saved.");
  await load();
});

const unsave = trying(async () => {
  const one = state.saved[state.saved.length - 1];
  if (!one) throw new Error("Nothing was saved from this page.");
  const asked = new URLSearchParams({ model: one.model, object_id: one.feature.id });
  const path = `api/v1/entries/${encodeURIComponent(one.entry)}/objects?${asked}`;
  const done = await (await ask(path, { method: "DELETE" })).json();
  state.saved.pop();
  draw();
  say(done.removed ? "Taken out again." : "It is no longer there, or was edited in QuPath: it stays as it is.");
});

const open = trying(async () => {
  forget();
  state.picture = state.box = null;
  draw();
  if (!$("entry").value) return;
  state.size = await (await ask(entryPath())).json();
  const { width, height } = state.size;
  const across = Math.max(width, (height * canvas.width) / canvas.height), down = (across * canvas.height) / canvas.width;
  await show({ x: (width - across) / 2, y: (height - down) / 2, width: across, height: down });
});

async function load() {
  const text = await (await ask("metrics")).text();
  const of = (name) => Number((text.match(new RegExp(`^${name} (\\S+)`, "m")) || [0, 0])[1]);
  $("load").textContent = `${of("qp2train_queue")} requests in the queue; ${of("qp2train_views")} views kept, `
    + `${(of("qp2train_views_bytes") / 2 ** 20).toFixed(0)} MiB.`;
}

function options(select, all) {
  select.replaceChildren(...all.map(([value, text]) => new Option(text, value)));
}

function row(...cells) {
  const line = document.createElement("tr");
  for (const text of cells) line.insertCell().textContent = text;
  return line;
}

canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("pointerdown", (event) => {
  if (!state.box || (event.button !== 0 && event.button !== 2)) return;
  canvas.setPointerCapture(event.pointerId);
  const at = toSlide(event);
  state.drag = { from: at, to: at, screen: [event.clientX, event.clientY], moved: false, button: event.button };
});
canvas.addEventListener("pointermove", (event) => {
  if (!state.drag || state.drag.button !== 0) return;
  const [x, y] = state.drag.screen;
  state.drag.to = toSlide(event);
  state.drag.moved ||= Math.hypot(event.clientX - x, event.clientY - y) > DRAG;
  draw();
});
canvas.addEventListener("pointerup", (event) => {
  const { drag } = state;
  state.drag = null;
  if (!drag) return;
  if (drag.moved) drawBox(boxOf(drag.from, toSlide(event)));
  else click(drag.from, drag.button === 0 && !event.altKey);
});
canvas.addEventListener("pointercancel", () => { state.drag = null; draw(); });
canvas.addEventListener("wheel", trying(async (event) => {
  event.preventDefault();
  if (state.box) await show(zoomed(event.deltaY > 0 ? 1.25 : 0.8, toSlide(event)));
}), { passive: false });
canvas.addEventListener("keydown", trying(async (event) => {
  if (!state.box) return;
  const step = 0.2;
  const views = {
    ArrowLeft: () => moved(-step, 0), ArrowRight: () => moved(step, 0),
    ArrowUp: () => moved(0, -step), ArrowDown: () => moved(0, step),
    "+": () => zoomed(0.5), "-": () => zoomed(2),
  };
  if (views[event.key]) {
    event.preventDefault();
    await show(views[event.key]());
  } else if (event.key === "Enter") {
    const { box } = state;
    await click([box.x + box.width / 2, box.y + box.height / 2], !event.shiftKey);
  } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) undo();
}));
$("in").addEventListener("click", trying(async () => { if (state.box) await show(zoomed(0.5)); }));
$("out").addEventListener("click", trying(async () => { if (state.box) await show(zoomed(2)); }));
$("undo").addEventListener("click", undo);
$("new").addEventListener("click", forget);
$("save").addEventListener("click", save);
$("unsave").addEventListener("click", unsave);
$("entry").addEventListener("change", open);
$("model").addEventListener("change", forget);
$("choose").addEventListener("submit", (event) => event.preventDefault());

trying(async () => {
  $("address").textContent = new URL("sam/", location.href).href;
  const models = await (await ask("api/v1/models")).json();
  options($("model"), models.map((one) => [one.url, one.fallback ? `${one.name} (colours alone)` : one.name]));
  $("models").replaceChildren(...models.map((one) => row(one.name, one.url, one.source)));
  await load();
  const entries = await (await ask("api/v1/entries")).json();
  options($("entry"), entries.map((one) => [one.id, one.name]));
  await open();
})();
