"use strict";
// The part of the page for models that answer prompts. page.js, which comes
// next, has what is shared: $, tag, model, image, post, answered.
const COLORS = ["#d93d42", "#2f6fde", "#218358", "#b45309", "#8e4ec6",
                "#0e7490", "#c2298a", "#4d7c0f"];  // Of labels, in turn.
const MAX_SEED = 2 ** 31 - 1;
let answering = null;  // AbortController of the answer that is being written.
let objects = [];  // Of the last answer: {box, label, color, mask: canvas}.

// The answer comes as lines of JSON, the text in pieces.

async function askQuestion() {
  if (answering) answering.abort();  // The server stops, too.
  const mine = answering = new AbortController();
  const [of, prompt] = [image, $("question").value.trim()];
  $("error").textContent = $("answer").textContent = "";
  showObjects([]);
  $("answer-status").textContent = !of ? "Choose an image."
    : !prompt ? "Type a prompt." : "";
  try {
    if (of && prompt) await showAnswer(of, prompt, mine.signal);
  } catch (e) {
    if (!mine.signal.aborted) $("error").textContent = e.message;
  }
  if (answering === mine) busy(false);
}

async function showAnswer(of, prompt, signal) {
  busy(true);
  const response = await post(of, "answer", {
    prompt,
    sampler: $("sampler").value,
    max_len: +$("max-len").value,
    seed: Math.floor(Math.random() * MAX_SEED),
  }, signal);
  for await (const line of jsonLines(response)) {
    if (line.error) throw Error(line.error);
    if (line.text) $("answer").append(line.text);
    if (!line.done) continue;
    if (of.file) of.hash = line.hash;
    const found = await Promise.all(line.objects.map(withMask));
    if (!signal.aborted) showObjects(found);
    return;
  }
  throw Error("The server has stopped in the middle of the answer.");
}

async function* jsonLines(response) {
  const texts = response.body.pipeThrough(new TextDecoderStream());
  const reader = texts.getReader();
  let rest = "";
  for (;;) {
    const {done, value} = await answered(reader.read());
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

// Boxes and masks, on a canvas over the image.

// Turns the PNG of a mask into a canvas that is opaque inside of the object.
async function withMask(object) {
  if (!object.mask) return object;
  const picture = new Image();
  picture.src = `data:image/png;base64,${object.mask}`;
  await picture.decode();
  const mask = document.createElement("canvas");
  [mask.width, mask.height] = [picture.width, picture.height];
  const context = mask.getContext("2d");
  context.drawImage(picture, 0, 0);
  const pixels = context.getImageData(0, 0, mask.width, mask.height);
  for (let i = 0; i < pixels.data.length; i += 4)
    pixels.data[i + 3] = pixels.data[i];  // Brightness becomes opacity.
  context.putImageData(pixels, 0, 0);
  return {...object, mask};
}

function showObjects(found) {
  const labels = [...new Set(found.map(o => o.label))];
  objects = found.map(o => (
    {...o, color: COLORS[labels.indexOf(o.label) % COLORS.length]}));
  const list = $("objects");
  list.replaceChildren();
  for (const {label, box, color} of objects) {
    const li = tag("li", {title: box.map(x => x.toFixed(3)).join(", ")}, list);
    tag("i", {}, li).style.background = color;
    tag("span", {}, li, label || "(no label)");
  }
  const text = $("answer").textContent;
  $("answer-status").textContent = !text ? "The answer is empty."
    : objects.length && text.includes("<seg") && !model.masks
    ? "Masks are drawn if the server is started with --mask_codec." : "";
  drawObjects();
}

function drawObjects() {
  const [preview, canvas] = [$("preview"), $("boxes")];
  const [width, height] = [preview.clientWidth, preview.clientHeight];
  canvas.hidden = !objects.length || !preview.naturalWidth;
  if (canvas.hidden) return;
  canvas.width = width * devicePixelRatio;
  canvas.height = height * devicePixelRatio;
  canvas.style.left = `${preview.offsetLeft}px`;
  canvas.style.top = `${preview.offsetTop}px`;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(devicePixelRatio, devicePixelRatio);
  // The picture is in the middle of its element, see `object-fit`.
  const scale = Math.min(width / preview.naturalWidth,
                         height / preview.naturalHeight);
  const [w, h] = [preview.naturalWidth * scale, preview.naturalHeight * scale];
  context.translate((width - w) / 2, (height - h) / 2);
  for (const object of objects) drawObject(context, object, w, h);
}

function drawObject(context, {box, label, color, mask}, width, height) {
  const [top, bottom] = [box[0] * height, box[2] * height];
  const [left, right] = [box[1] * width, box[3] * width];
  if (mask) {
    const tint = mask.getContext("2d");
    tint.globalCompositeOperation = "source-in";
    tint.fillStyle = color;
    tint.fillRect(0, 0, mask.width, mask.height);
    context.globalAlpha = 0.5;
    context.drawImage(mask, left, top, right - left, bottom - top);
    context.globalAlpha = 1;
  }
  context.lineWidth = 2;
  context.strokeStyle = color;
  context.strokeRect(left, top, right - left, bottom - top);
  if (!label) return;
  context.font = "12px system-ui, sans-serif";
  context.textBaseline = "top";
  const y = Math.max(top - 16, 0);
  context.fillStyle = color;
  context.fillRect(left - 1, y, context.measureText(label).width + 8, 16);
  context.fillStyle = "#fff";
  context.fillText(label, left + 3, y + 2);
}

// The prompt and its options.

function showQuestions() {
  document.title = $("title").textContent = "big_vision question demo";
  $("kept").textContent = "prompt, options and the example";
  $("texts").hidden = true;
  $("questions").hidden = false;
  $("question").maxLength = model.max_prompt_chars;
  for (const text of model.prompts) {
    const button = tag("button", {type: "button"}, $("question-examples"), text);
    button.addEventListener("click", () => {
      $("question").value = text;
      ask();
    });
  }
  for (const name of model.samplers) tag("option", {}, $("sampler"), name);
  for (const num of [...model.max_lens].sort((a, b) => a - b))
    tag("option", {}, $("max-len"), num);
  $("asking").addEventListener("submit", e => { e.preventDefault(); ask(); });
  for (const id of ["sampler", "max-len"])
    $(id).addEventListener("change", ask);
  $("preview").addEventListener("load", drawObjects);
  const observer = new ResizeObserver(drawObjects);
  for (const id of ["preview", "drop"]) observer.observe($(id));
}

function saveQuestion(state) {
  state.set("prompt", $("question").value);
  state.set("sampler", $("sampler").value);
  state.set("tokens", $("max-len").value);
}

function restoreQuestion(state) {
  const known = (value, values) =>
    values.map(String).includes(value) ? value : values[0];
  $("question").value = state.get("prompt") ?? model.prompts[0];
  $("sampler").value = known(state.get("sampler"), model.samplers);
  $("max-len").value = known(state.get("tokens"), model.max_lens);
}
