// Shows every image of the session as a tile, the newest first. One tile is chosen; arrow keys go from one to the next.

import { byId, element } from "./dom.js";

export class Gallery {
  #list = byId("tiles");
  #tiles = new Map(); // from a picture to its list item, in the order of the page
  #chosen = null;
  #onchoose;

  constructor(onchoose) {
    this.#onchoose = onchoose;
    this.#list.addEventListener("keydown", (event) => this.#key(event));
  }

  get pictures() {
    return [...this.#tiles.keys()];
  }

  // Puts pictures before all others, in their order.
  add(pictures) {
    const added = pictures.map((picture) => [picture, this.#tile(picture)]);
    this.#tiles = new Map([...added, ...this.#tiles]);
    this.#list.prepend(...added.map(([, item]) => item));
    byId("gallery").hidden = false;
  }

  remove(picture) {
    const before = this.pictures;
    const place = before.indexOf(picture);
    this.#tiles.get(picture).remove();
    this.#tiles.delete(picture);
    picture.forget();
    byId("gallery").hidden = this.#tiles.size === 0;
    this.choose(before[place + 1] ?? before[place - 1] ?? null);
    this.#button(this.#chosen)?.focus();
  }

  choose(picture) {
    this.#chosen = picture;
    for (const each of this.pictures) {
      const button = this.#button(each);
      button.setAttribute("aria-current", String(each === picture));
      button.tabIndex = each === picture ? 0 : -1;
    }
    this.#onchoose(picture);
  }

  #button(picture) {
    return this.#tiles.get(picture)?.querySelector("button");
  }

  #tile(picture) {
    const image = element("img", { alt: "", hidden: true });
    const mark = element("span", { class: "mark", "aria-hidden": "true" });
    const name = element("span", { class: "name" }, picture.title);
    const button = element("button", { type: "button", class: "tile" }, element("span", { class: "face" }, image, mark), name);
    button.addEventListener("click", () => this.choose(picture));
    const draw = () => {
      const frame = picture.frames.at(-1);
      image.hidden = !frame;
      if (frame) image.src = frame.url;
      button.dataset.state = picture.state;
      mark.textContent = { failed: "!", cancelled: "×" }[picture.state] ?? "";
      button.setAttribute("aria-label", `${picture.label}. ${picture.progress}`);
    };
    picture.addEventListener("change", draw);
    draw();
    return element("li", {}, button);
  }

  #key(event) {
    const pictures = this.pictures;
    const place = pictures.indexOf(this.#chosen);
    const next = {
      ArrowRight: place + 1, ArrowLeft: place - 1, ArrowDown: place + this.#columns(), ArrowUp: place - this.#columns(),
      Home: 0, End: pictures.length - 1,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    if (!pictures[next]) return;
    this.choose(pictures[next]);
    this.#button(pictures[next]).focus();
  }

  #columns() {
    return getComputedStyle(this.#list).gridTemplateColumns.split(" ").length;
  }
}
