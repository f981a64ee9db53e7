// Shows one image large, while it sharpens and when it is finished: its unfinished images, its recipe, what can be done.

import { announce, byId, element } from "./dom.js";

export class Stage {
  #node = byId("stage");
  #picture = null;
  #parts = null;
  #pinned = null; // the frame that the user looks at, of a strip; null: the newest
  #actions;
  #redraw = () => this.#draw();

  // actions: useAgain(picture), tryAgain(picture), remove(picture).
  constructor(actions) {
    this.#actions = actions;
  }

  get picture() {
    return this.#picture;
  }

  show(picture) {
    if (picture === this.#picture) return;
    this.#picture?.removeEventListener("change", this.#redraw);
    this.#picture = picture;
    this.#pinned = null;
    this.#parts?.figure.remove();
    byId("empty").hidden = picture !== null;
    if (picture === null) return;
    this.#parts = this.#build(picture);
    this.#node.append(this.#parts.figure);
    picture.addEventListener("change", this.#redraw);
    this.#draw();
  }

  #build(picture) {
    const frame = element("div", { class: "frame" });
    const state = element("p", { class: "state" });
    const strip = element("div", { class: "strip", role: "group", "aria-label": "How it became" });
    const facts = element("dl", { class: "facts" });
    const row = element("div", { class: "row" });
    const recipe = element("details", { class: "recipe", hidden: true }, element("summary", {}, "Recipe"), element("pre", { tabindex: 0, "aria-label": "Recipe as JSON" }));
    const title = element("p", { class: picture.title.length > 80 ? "long title" : "title" }, picture.title);
    const caption = element("figcaption", {}, element("div", { class: "spread" }, title, state), strip, facts, row, recipe);
    const figure = element("figure", {}, frame, caption);
    return { figure, frame, state, strip, facts, row, recipe };
  }

  #draw() {
    const picture = this.#picture;
    const { figure, frame, state, strip } = this.#parts;
    figure.dataset.state = picture.state;
    state.textContent = picture.progress;
    const shown = picture.frames[this.#pinned ?? picture.frames.length - 1];
    this.#drawFrame(frame, picture, shown);
    this.#drawStrip(strip, picture, shown);
    this.#drawFacts(picture);
    this.#drawActions(picture);
  }

  #drawFrame(frame, picture, shown) {
    if (picture.state === "failed") {
      const { status, message } = picture.error;
      const again = [429, 503].includes(status) && !message.includes("try again") ? "Try again in a moment." : null;
      frame.replaceChildren(element("div", { class: "failure" }, element("p", { class: "said" }, message), again && element("p", {}, again)));
      return;
    }
    const now = frame.querySelector("img:last-of-type");
    if (shown && now?.src !== shown.url) {
      // The one before stays below until the new one has faded in over it.
      for (const old of [...frame.querySelectorAll("img")].slice(0, -1)) old.remove();
      const image = element("img", { src: shown.url, alt: `${picture.label}${shown === picture.frames.at(-1) && picture.state === "done" ? "" : ", unfinished"}` });
      if (matchMedia("(prefers-reduced-motion: reduce)").matches) now?.remove();
      image.addEventListener("animationend", () => now?.remove());
      frame.querySelector(".failure")?.remove();
      frame.append(image);
    } else if (!shown) {
      frame.replaceChildren();
    } else if (picture.state === "done" && shown === picture.frames.at(-1)) {
      now.alt = picture.label;
    }
  }

  #drawStrip(strip, picture, shown) {
    strip.hidden = picture.frames.length < 2;
    while (strip.children.length > picture.frames.length) strip.lastChild.remove(); // of an earlier try
    const last = picture.frames.length - 1;
    picture.frames.forEach((each, place) => {
      const finished = place === last && picture.state === "done";
      const [side] = each.size.split("x");
      const name = finished ? `Image, ${side} by ${side} pixels` : `Preview ${place + 1}, ${side} by ${side} pixels`;
      let button = strip.children[place];
      if (!button) {
        button = element("button", { type: "button" }, element("img", { src: each.url, alt: "" }));
        button.addEventListener("click", () => {
          this.#pinned = place === picture.frames.length - 1 ? null : place;
          this.#draw();
        });
        strip.append(button);
      }
      button.setAttribute("aria-label", name);
      button.title = name;
      button.setAttribute("aria-pressed", String(each === shown));
    });
  }

  #drawFacts(picture) {
    const { facts, recipe } = this.#parts;
    const { quality, guidance_scale: guidance } = picture.values;
    const done = picture.state === "done";
    const values = [
      ["Seed", String(picture.seed)],
      ["Quality", quality],
      guidance !== undefined && ["Guidance", String(guidance)],
      done && ["Size", picture.frames.at(-1).size.replace("x", " × ")],
      picture.truncated && ["Prompt", "cut: longer than the model reads"],
      done && ["Time", `${picture.seconds.toFixed(picture.seconds < 10 ? 2 : 0)} s`],
    ];
    facts.replaceChildren(...values.filter(Boolean).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
    recipe.hidden = !done;
    if (done) recipe.querySelector("pre").textContent = picture.recipeText;
  }

  #drawActions(picture) {
    const { row } = this.#parts;
    if (row.dataset.state === picture.state) return; // a button that has the focus keeps it
    row.dataset.state = picture.state;
    const button = (name, act) => element("button", { type: "button", onclick: act }, name);
    const { useAgain, tryAgain, remove } = this.#actions;
    const copy = button("Copy recipe", async () => {
      try {
        await navigator.clipboard.writeText(picture.recipeText);
        announce("Recipe copied");
        copy.textContent = "Copied";
        setTimeout(() => (copy.textContent = "Copy recipe"), 2000);
      } catch {
        this.#parts.recipe.open = true; // pages without TLS have no clipboard: there it can be selected
        this.#parts.recipe.querySelector("pre").focus();
      }
    });
    const actions = {
      waiting: [button("Cancel this one", () => picture.cancel())],
      drawing: [button("Cancel this one", () => picture.cancel())],
      done: [
        element("a", { class: "button primary", href: picture.frames.at(-1)?.url ?? "", download: picture.fileName }, "Download PNG"),
        button("Reuse settings", () => useAgain(picture)),
        copy,
        button("Remove", () => remove(picture)),
      ],
      failed: [picture.error?.passes && button("Try again", () => tryAgain(picture)), button("Remove", () => remove(picture))],
      cancelled: [button("Try again", () => tryAgain(picture)), button("Remove", () => remove(picture))],
    }[picture.state];
    row.replaceChildren(...actions.filter(Boolean));
  }
}
