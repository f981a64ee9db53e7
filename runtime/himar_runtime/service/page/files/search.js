// Chooses classes among many by a part of the name or by the number: a combobox as the ARIA practices describe it.

import { announce, element } from "./dom.js";

const MOST_SHOWN = 60;

// What a class is called: the first of its names, or its number.
export const titleOf = (names, number) => names[number].split(",")[0] || `Class ${number}`;

export class Search {
  #numbers = []; // of the chosen classes, in their order
  #found = [];
  #active = -1;

  constructor(names) {
    this.names = names;
    const known = names.some((name) => name);
    this.many = true;
    this.missing = "Choose a class, or several.";
    this.chips = element("ul", { class: "chips", "aria-label": "Chosen classes" });
    this.input = element("input", {
      id: "class", role: "combobox", "aria-expanded": "false", "aria-controls": "class-list", "aria-autocomplete": "list",
      autocomplete: "off", spellcheck: "false",
      placeholder: known ? `Search ${names.length} names or numbers` : `0 to ${names.length - 1}`,
    });
    this.list = element("ul", { id: "class-list", role: "listbox", "aria-label": "Classes" });
    this.more = element("p", { class: "quiet" });
    this.popup = element("div", { class: "popup", hidden: true }, this.list, this.more);
    this.random = element("button", { type: "button", class: "quiet-button" }, "Add a random one");
    this.random.addEventListener("click", () => this.#add(Math.floor(Math.random() * names.length)));
    this.input.addEventListener("input", () => this.#show());
    this.input.addEventListener("click", () => this.#show());
    this.input.addEventListener("keydown", (event) => this.#key(event));
    this.input.addEventListener("blur", () => this.#hide());
    // Not the click: the field would lose the focus before it.
    this.popup.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      const option = event.target.closest("[role=option]");
      if (option) this.#add(Number(option.dataset.number));
    });
    const box = element("div", { class: "combobox" }, this.input, this.popup);
    const label = element("label", { for: "class" }, "Classes");
    this.node = element("div", { class: "field" }, element("div", { class: "spread" }, label, this.random), this.chips, box);
  }

  focus() {
    this.input.focus();
  }

  // Text that is still in the field counts: the first class that it finds.
  chosen() {
    if (this.input.value.trim() && this.#find().length) this.#add(this.#find()[0]);
    return this.#numbers.map((number) => ({ prompt: String(number), title: this.#title(number) }));
  }

  choose({ prompt }) {
    this.#numbers = [Number(prompt)];
    this.#drawChips();
  }

  #title(number) {
    return titleOf(this.names, number);
  }

  // Numbers of the classes that the text may mean: its number first, beginnings of names and of their words next.
  #find() {
    const wanted = this.input.value.trim().toLowerCase();
    const ranks = this.names.map((name, number) => {
      const lower = name.toLowerCase();
      if (wanted === "") return 4;
      if (String(number) === wanted || lower === wanted) return 0;
      if (lower.startsWith(wanted)) return 1;
      if (String(number).startsWith(wanted) || lower.split(/[\s,]+/).some((word) => word.startsWith(wanted))) return 2;
      return lower.includes(wanted) ? 3 : 9;
    });
    const found = ranks.flatMap((rank, number) => (rank < 9 ? [number] : []));
    return found.sort((one, other) => ranks[one] - ranks[other] || one - other);
  }

  #show() {
    const found = this.#find();
    this.#found = found.slice(0, MOST_SHOWN);
    const options = this.#found.map((number, place) =>
      element(
        "li",
        { role: "option", id: `class-option-${place}`, "data-number": number, "aria-selected": String(this.#numbers.includes(number)) },
        element("span", {}, this.names[number] || `Class ${number}`),
        element("span", { class: "number" }, String(number)),
      ),
    );
    const more = found.length - options.length;
    this.list.replaceChildren(...options);
    this.list.hidden = found.length === 0;
    this.more.textContent = !found.length ? "No class has this in its name or number." : more ? `${more} more; write more of the name.` : "";
    this.popup.hidden = false;
    if (this.input.value.trim()) announce(`${found.length || "No"} ${found.length === 1 ? "class" : "classes"}`);
    this.input.setAttribute("aria-expanded", "true");
    this.#activate(this.input.value.trim() && found.length ? 0 : -1);
  }

  #hide() {
    this.popup.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
    this.#active = -1;
  }

  #activate(place) {
    this.list.querySelector(".active")?.classList.remove("active");
    this.#active = place;
    if (place < 0) return this.input.removeAttribute("aria-activedescendant");
    const option = this.list.children[place];
    option.classList.add("active");
    option.scrollIntoView({ block: "nearest" });
    return this.input.setAttribute("aria-activedescendant", option.id);
  }

  #key(event) {
    const open = !this.popup.hidden;
    const last = this.#found.length - 1;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!open) this.#show();
      if (!open && this.#active === 0) return; // the best match is there already
      const next = this.#active + (event.key === "ArrowDown" ? 1 : -1);
      this.#activate(next > last ? 0 : next < 0 ? last : next);
    } else if (event.key === "Enter" && open && this.#active >= 0) {
      event.preventDefault();
      this.#add(this.#found[this.#active]);
    } else if (event.key === "Escape" && open) {
      event.preventDefault();
      event.stopPropagation(); // else it would cancel what is being made
      this.#hide();
    } else if (event.key === "Backspace" && this.input.value === "" && this.#numbers.length) {
      this.#remove(this.#numbers.at(-1));
    }
  }

  #add(number) {
    if (!this.#numbers.includes(number)) this.#numbers.push(number);
    this.input.value = "";
    this.#hide();
    this.#drawChips();
    announce(`${this.#title(number)} chosen`);
  }

  #remove(number) {
    this.#numbers = this.#numbers.filter((each) => each !== number);
    this.#drawChips();
    this.input.focus();
    this.#hide();
    announce(`${this.#title(number)} removed`);
  }

  #drawChips() {
    const chips = this.#numbers.map((number) => {
      const remove = element("button", { type: "button", "aria-label": `Remove ${this.#title(number)}` }, "×");
      remove.addEventListener("click", () => this.#remove(number));
      return element("li", { title: `${number}: ${this.names[number]}` }, this.#title(number), remove);
    });
    this.chips.replaceChildren(...chips);
  }
}
