"use strict";
// The page shows what the user types with textContent only, never as HTML.
const $ = id => document.getElementById(id);
const WAIT = 250;  // Milliseconds without a key before the server is asked.
const NOTES = {  // About the mode that is not the loss.
  sigmoid: "This model was trained with a softmax over texts: probabilities " +
           "of a prompt on its own are not calibrated.",
  softmax: "This model was trained with a sigmoid for each text: one of " +
           "these prompts gets the most, even if none is right.",
};
let model;  // What /api/model says.
let image = null;  // {example}, or {file}; {hash} once the server knows it.
let result = null;  // Last answer, with its prompts.
let timer = 0, asking = false, again = false;

function tag(name, attrs, parent, text) {
  const el = document.createElement(name);
  for (const [k, v] of Object.entries(attrs)) el.setAttribute(k, v);
  if (text !== undefined) el.textContent = text;
  parent.append(el);
  return el;
}

const classifier = () => model.num_classes !== undefined;
const answersPrompts = () => model.samplers !== undefined;
const mode = () => document.querySelector("[name=mode]:checked").value;
const setMode = value => {
  document.querySelector(`[name=mode][value=${value}]`).checked = true;
};
const prompts = () =>
  $("prompts").value.split("\n").map(s => s.trim()).filter(s => s);

function percent(p) {
  const v = 100 * p;
  if (v >= 10) return v.toFixed(1) + "%";
  if (v === 0 || v >= 0.001) return +v.toPrecision(2) + "%";
  return v.toExponential(1) + "%";
}

// Asking the server: one request at a time, then one for all that came since.

function askSoon() {
  clearTimeout(timer);
  timer = setTimeout(ask, WAIT);
}

const busy = on => document.body.setAttribute("aria-busy", String(on));

async function ask() {
  clearTimeout(timer);
  saveState();
  if (answersPrompts()) return askQuestion();
  if (asking) { again = true; return; }
  asking = true;
  busy(true);
  do {
    again = false;
    const [of, lines] = [image, prompts()];
    let answer = null, error = "";
    try {
      if (of) answer = classifier() ? await send(of, "classes", {})
        : {...await send(of, "similarity", {prompts: lines}), prompts: lines};
    } catch (e) {
      error = e.message;
    }
    if (again) continue;  // Of an image or prompts that changed meanwhile.
    result = answer;
    $("error").textContent = error;
    render();
  } while (again);
  asking = false;
  busy(false);
}

async function send(of, path, more) {
  const answer = await answered((await post(of, path, more)).json());
  if (of.file) of.hash = answer.hash;
  return answer;
}

// Asks about an image; what answers may be read in pieces.
async function post(of, path, more, signal) {
  if (of.file && of.file.size > model.max_image_bytes)
    throw Error(`The image is too large: ${(of.file.size / 1e6).toFixed(1)} ` +
                `MB, at most ${model.max_image_bytes / 1e6} MB can be.`);
  const source = of.hash ? {hash: of.hash}
    : of.file ? {image: await base64(of.file)} : {example: of.example};
  const response = await answered(fetch(`api/${path}`, {
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify({...source, ...more}),
    signal,
  }));
  if (response.status === 410 && of.file) {  // Forgotten, or a new server.
    of.hash = null;
    return post(of, path, more, signal);
  }
  if (!response.ok) throw Error((await answered(response.json())).error);
  return response;
}

async function answered(promise) {
  try {
    return await promise;
  } catch {
    throw Error("The server does not answer: is it still running?");
  }
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1] || "");
    reader.onerror = () => reject(Error(`${file.name} cannot be read.`));
    reader.readAsDataURL(file);
  });
}

// What is shown.

function rowsOfPrompts() {
  const now = mode();
  return result.prompts.map((text, i) => (
    {text, p: result[now][i], logit: result.logits[i]}));
}

const rowsOfClasses = () =>
  result.names.map((text, i) => ({text, p: result.probabilities[i]}));

function note() {
  if (!classifier()) return mode() === model.loss_fn ? "" : NOTES[mode()];
  const left = model.num_classes - (result ? result.names.length : 0);
  const more = result && left > 0 ? `The other ${left} classes are less ` +
    "probable. " : "";
  return more + (model.loss_fn !== "sigmoid" ? "" : "Each class has a " +
    "probability of its own: they need not sum to 100%.");
}

function render() {
  $("note").textContent = note();
  const rows = !result ? [] : classifier() ? rowsOfClasses() : rowsOfPrompts();
  const best = rows.reduce((a, b) => b.p > a.p ? b : a, rows[0]);
  if ($("sort").checked) rows.sort((a, b) => b.p - a.p);
  const bars = $("bars");
  while (bars.children.length > rows.length) bars.lastChild.remove();
  while (bars.children.length < rows.length) {
    const li = tag("li", {}, bars);
    for (const name of ["prompt", "percent", "logit"])
      tag("span", {class: name}, li);
    tag("div", {class: "bar"},
        tag("div", {class: "track", "aria-hidden": "true"}, li));
  }
  rows.forEach(({text, p, logit}, i) => {
    const find = name => bars.children[i].querySelector(name);
    find(".prompt").textContent = text;
    find(".percent").textContent = percent(p);
    find(".percent").title = String(p);
    find(".logit").textContent = logit === undefined ? ""
      : `logit ${logit.toFixed(2).replace("-", "−")}`;
    find(".bar").style.width = `${100 * p}%`;
  });
  $("status").textContent =
    best ? `Most probable: “${best.text}”, ${percent(best.p)}.`
    : image || $("error").textContent ? ""
    : "Choose an image to see probabilities.";
}

// The page of a classifier has no prompts.
function showClasses() {
  document.title = $("title").textContent = "big_vision classifier demo";
  $("prompts-title").textContent = "Classes";
  $("bars").setAttribute("aria-label", "Probabilities of the classes");
  $("kept").textContent = "the example";
  document.body.classList.add("classifier");
  for (const id of ["prompts", "options"]) $(id).hidden = true;
}

function showImage(url, name) {
  const preview = $("preview");
  if (preview.src.startsWith("blob:")) URL.revokeObjectURL(preview.src);
  preview.hidden = !url;
  if (url) preview.src = url; else preview.removeAttribute("src");
  preview.alt = name;
  $("name").textContent = name;
  $("hint").textContent = image ? "Drop, paste or choose another"
    : "Drop an image here, paste one, or click to choose a file";
  [...$("examples").children].forEach((button, i) =>
    button.setAttribute("aria-pressed", !!image && image.example === i));
}

function chooseFile(file) {
  if (!file) return;
  image = {file};
  showImage(URL.createObjectURL(file), file.name || "Your image");
  ask();
}

function chooseExample(i) {
  image = {example: i};
  showImage(`api/example/${i}`, model.examples[i] ?? "");
}

// The fragment of the URL: example, mode, order, prompts.

function saveState() {
  const state = new URLSearchParams();
  if (image && !image.file) state.set("example", image.example);
  if (answersPrompts()) saveQuestion(state);
  else if (!classifier()) saveOptions(state);
  history.replaceState(null, "", "#" + state);
}

function saveOptions(state) {
  state.set("mode", mode());
  state.set("order", $("sort").checked ? "probability" : "entry");
  state.set("prompts", $("prompts").value);
}

function restoreOptions(state) {
  const wanted = state.get("mode");
  setMode(Object.hasOwn(NOTES, wanted) ? wanted : model.loss_fn);
  $("sort").checked = state.get("order") !== "entry";
  $("prompts").value = state.get("prompts") ?? model.prompts.join("\n");
}

function restoreState() {
  const state = new URLSearchParams(location.hash.slice(1));
  if (answersPrompts()) restoreQuestion(state);
  else if (!classifier()) restoreOptions(state);
  const first = location.hash || !model.examples.length ? "" : "0";
  const example = state.get("example") ?? first;
  if (/^[0-9]{1,9}$/.test(example)) {  // The server says if there is none.
    chooseExample(+example);
  } else if (!image || !image.file) {
    image = null;
    showImage("", "");
  }
  ask();
}

async function start() {
  model = await answered((await answered(fetch("api/model"))).json());
  $("model").textContent = answersPrompts() ? model.name : classifier()
    ? `${model.name}, ${model.num_classes} classes`
    : `${model.name}, trained with ${model.loss_fn} loss`;
  if (classifier()) showClasses();
  if (answersPrompts()) showQuestions();
  model.examples.forEach((title, i) => {
    const button = tag("button", {type: "button", title}, $("examples"));
    tag("img", {src: `api/example/${i}`, alt: title, draggable: "false"},
        button);
    button.addEventListener("click", () => { chooseExample(i); ask(); });
  });
  $("prompts").addEventListener("input", askSoon);
  for (const input of [...document.querySelectorAll("[name=mode]"), $("sort")])
    input.addEventListener("change", () => { saveState(); render(); });
  $("file").addEventListener("change", () => {
    chooseFile($("file").files[0]);
    $("file").value = "";  // So that the same file can be chosen again.
  });
  $("preview").addEventListener("error", () => { $("preview").hidden = true; });

  const hasFiles = e => [...e.dataTransfer.types].includes("Files");
  const mark = on => document.body.classList.toggle("dragging", on);
  // Anywhere on the page; without this the browser would open the file.
  addEventListener("dragover", e => {
    if (!hasFiles(e)) return;
    e.preventDefault();
    mark(true);
  });
  addEventListener("dragleave", e => { if (!e.relatedTarget) mark(false); });
  addEventListener("drop", e => {
    mark(false);
    if (!hasFiles(e)) return;
    e.preventDefault();
    chooseFile(e.dataTransfer.files[0]);
  });
  addEventListener("paste", e => {
    const file = e.clipboardData.files[0];
    if (!file) return;  // Text goes where the cursor is.
    e.preventDefault();
    chooseFile(file);
  });
  addEventListener("hashchange", restoreState);
  restoreState();
}

start().catch(e => { $("error").textContent = e.message; });
