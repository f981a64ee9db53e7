// Asks what the images are to show: a prompt, a few classes as buttons, or many classes by search.
//
// Each kind has `node`, `many` (whether several can be chosen), `missing` (what to say when nothing is), `focus()`,
// `chosen()` and `choose(subject)`. A subject is {prompt, title}: what the request says, of a class its number, and what
// people read.

import { element } from "./dom.js";
import { Search, titleOf } from "./search.js";

const MOST_BUTTONS = 24;

export function chooserOf(model, submit) {
  if (model.context === "text") return new Prompt(submit);
  const names = Array.from({ length: model.classes }, (_, number) => model.class_names?.[number] ?? "");
  return model.classes <= MOST_BUTTONS ? new Buttons(names) : new Search(names);
}

class Prompt {
  constructor(submit) {
    this.input = element("textarea", { id: "prompt", rows: 3, placeholder: "What is to be seen", "aria-describedby": "prompt-hint" });
    this.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      submit();
    });
    const hint = element("p", { class: "unseen", id: "prompt-hint" }, "Enter generates, Shift and Enter begin a line.");
    this.node = element("div", {}, element("label", { class: "field" }, "Prompt", this.input), hint);
    this.many = false;
    this.missing = "Write what is to be seen.";
  }

  focus() {
    this.input.focus();
  }

  chosen() {
    const prompt = this.input.value.trim();
    return prompt ? [{ prompt, title: prompt }] : [];
  }

  choose({ prompt }) {
    this.input.value = prompt;
  }
}

class Buttons {
  constructor(names) {
    this.names = names;
    this.boxes = names.map((_, number) => element("input", { type: "checkbox", value: number }));
    const labels = this.boxes.map((box, number) => this.#button(box, number));
    this.node = element("fieldset", { class: "pills" }, element("legend", {}, "Classes"), ...labels);
    this.many = true;
    this.missing = "Choose a class, or several.";
  }

  #button(box, number) {
    const shown = this.names[number] ? titleOf(this.names, number) : String(number);
    return element("label", { class: "pill", title: this.names[number] || null }, box, element("span", {}, shown));
  }

  focus() {
    this.boxes[0].focus();
  }

  chosen() {
    return this.boxes.flatMap((box, number) => (box.checked ? [{ prompt: String(number), title: titleOf(this.names, number) }] : []));
  }

  choose({ prompt }) {
    for (const box of this.boxes) box.checked = box.value === prompt;
  }
}
