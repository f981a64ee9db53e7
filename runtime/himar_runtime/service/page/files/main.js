// Asks the server what it serves, builds the page of that, and turns the form into pictures.

import { ApiError, keepToken, keptToken, readModel } from "./api.js";
import { chooserOf } from "./chooser.js";
import { announce, byId, element } from "./dom.js";
import { Gallery } from "./gallery.js";
import { Picture, Queue } from "./picture.js";
import { Stage } from "./stage.js";

const TINY = 128; // pixels of a side, up to which images are enlarged pixel by pixel
const MOST_AT_ONCE = 64; // images of one press of the button
const MOST_SEED = 2n ** 64n - 1n;

const stage = new Stage({ useAgain, tryAgain, remove: (picture) => gallery.remove(picture) });
const gallery = new Gallery((picture) => stage.show(picture));
let chooser = null;
let queue = null;

async function begin() {
  byId("notice").hidden = true;
  let model;
  try {
    model = await readModel();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) return askForToken(begin, error.message);
    return notice(error.message, true);
  }
  return build(model);
}

function build(model) {
  byId("name").textContent = model.name;
  document.title = `${model.name} · himar`;
  const from = model.context === "text" ? "from text" : `${model.classes} ${model.classes === 1 ? "class" : "classes"}`;
  byId("facts").textContent = `${from} · ${model.image_size} × ${model.image_size} · himar ${model.version}`;
  const style = document.documentElement.style;
  style.setProperty("--side", `${model.image_size}px`);
  document.documentElement.classList.toggle("tiny", model.image_size <= TINY);
  queue = new Queue(model.lanes * model.max_batch);
  chooser = chooserOf(model, () => byId("composer").requestSubmit());
  byId("chooser").replaceChildren(chooser.node);
  byId("count-name").textContent = chooser.many ? "Images of each" : "Images";
  byId("quality").replaceChildren(...model.sampling.map((name) => element("option", { value: name }, name)));
  if (!model.has_decoder) return notice("this bundle has no VAE decoder: its server makes latents, not images. Build one with --vae.");
  if (model.context === "text" && !model.prompts)
    return notice("this bundle has no text encoder, so it takes no prompts. Build one with --text.");
  byId("inputs").disabled = false;
  return undefined;
}

// Says why nothing can be made; again: whether that may be over soon.
function notice(sentence, again = false) {
  byId("notice-text").textContent = sentence;
  byId("reload").hidden = !again;
  byId("notice").hidden = false;
}

function askForToken(then, sentence) {
  const dialog = byId("token-dialog");
  byId("token-problem").textContent = keptToken() ? sentence : ""; // without one the title says it all
  dialog.oncancel = () => chooser || notice("this server wants a token.", true);
  byId("token-form").onsubmit = (event) => {
    event.preventDefault();
    keepToken(byId("token").value.trim());
    byId("token").value = "";
    dialog.close();
    then();
  };
  if (!dialog.open) dialog.showModal();
}

// What the form says: {subjects, quality, guidance, seed, count}; {problem, input} where it cannot be meant.
function readForm() {
  const seed = byId("seed").value.trim();
  const guidance = byId("guidance").value.trim().replace(",", ".");
  const count = Number(byId("count").value);
  const subjects = chooser.chosen();
  if (!subjects.length) return { problem: chooser.missing, input: chooser };
  if (!Number.isInteger(count) || count < 1 || count > 16) return { problem: "The number of images is from 1 to 16.", input: byId("count") };
  if (subjects.length * count > MOST_AT_ONCE)
    return { problem: `${subjects.length * count} images are more than ${MOST_AT_ONCE} at once.`, input: byId("count") };
  if (guidance && !/^\d*\.?\d+$/.test(guidance)) return { problem: "Guidance is a number, like 2.5.", input: byId("guidance") };
  if (seed && (!/^\d+$/.test(seed) || BigInt(seed) + BigInt(count - 1) > MOST_SEED))
    return { problem: `Seeds are whole numbers from 0 to ${MOST_SEED}.`, input: byId("seed") };
  return { subjects, quality: byId("quality").value, guidance, seed, count };
}

function submit() {
  const { problem, input, subjects, quality, guidance, seed, count } = readForm();
  byId("problem").textContent = problem ?? "";
  if (problem) return input.focus();
  const first = seed ? BigInt(seed) : BigInt(crypto.getRandomValues(new Uint32Array(1))[0]);
  const pictures = subjects.flatMap(({ prompt, title }) =>
    Array.from({ length: count }, (_, place) => {
      const values = { prompt, quality, ...(guidance ? { guidance_scale: Number(guidance) } : {}) };
      return new Picture(title, values, first + BigInt(place));
    }),
  );
  for (const picture of pictures) picture.addEventListener("change", () => changed(picture));
  gallery.add(pictures);
  gallery.choose(pictures[0]);
  for (const picture of pictures) queue.add(picture);
  showCancel();
  announce(pictures.length === 1 ? `Generating ${pictures[0].label}` : `Generating ${pictures.length} images`);
  const box = byId("stage").getBoundingClientRect();
  if (box.top > window.innerHeight / 2) byId("stage").scrollIntoView(); // on a phone it is below the form
  return undefined;
}

function changed(picture) {
  showCancel();
  if (lacksToken(picture)) askForToken(() => gallery.pictures.filter(lacksToken).forEach(tryAgain), picture.error.message);
  if (picture.open && picture === stage.picture) announce(picture.progress);
  if (!picture.open) announce(`${picture.label}. ${picture.progress}${picture.error ? `: ${picture.error.message}` : ""}`);
}

const lacksToken = (picture) => picture.state === "failed" && picture.error.status === 401;

function showCancel() {
  const open = gallery.pictures.filter((picture) => picture.open).length;
  byId("cancel").hidden = open === 0;
  byId("cancel").textContent = open > 1 ? `Cancel ${open}` : "Cancel";
}

function cancelAll() {
  for (const picture of gallery.pictures) picture.cancel();
}

function tryAgain(picture) {
  picture.reset();
  queue.add(picture);
}

function useAgain(picture) {
  chooser.choose({ prompt: picture.values.prompt });
  byId("quality").value = picture.values.quality;
  byId("guidance").value = picture.values.guidance_scale ?? "";
  byId("seed").value = String(picture.seed);
  byId("count").value = "1";
  byId("problem").textContent = "";
  announce("The form has the values of this image");
  chooser.focus();
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
byId("cancel").addEventListener("click", cancelAll);
byId("reload").addEventListener("click", begin);
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || event.isComposing) return;
  if (event.target.matches("select") || byId("token-dialog").open) return; // it closes those
  cancelAll();
});
begin();
