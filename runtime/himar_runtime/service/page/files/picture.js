// One image of the session, from the request to the last event; and the queue of those that are to be made.

import { ApiError, generate } from "./api.js";

export class Picture extends EventTarget {
  // title: what it shows, in words; values: fields of the request; seed: a BigInt.
  constructor(title, values, seed) {
    super();
    this.title = title;
    this.values = values;
    this.seed = seed;
    this.reset();
  }

  reset() {
    this.state = "waiting"; // "drawing", then "done", "failed" or "cancelled"
    this.frames = []; // {url, size}, from the roughest to the finished one
    this.recipe = null;
    this.seconds = null;
    this.truncated = false; // the prompt was longer than the model reads
    this.error = null;
    this.abort = new AbortController();
  }

  get open() {
    return this.state === "waiting" || this.state === "drawing";
  }

  // What it is, for a reader of it: the class or the prompt, and the seed.
  get label() {
    return `${this.title}, seed ${this.seed}`;
  }

  // The state in words; of a stream that shows something, what.
  get progress() {
    if (this.state === "drawing" && this.frames.length) return `Preview ${this.frames.length}`;
    return { waiting: "Waiting", drawing: "Started", done: "Finished", failed: "Failed", cancelled: "Cancelled" }[this.state];
  }

  // The recipe as JSON. Its seed may be beyond what JavaScript's numbers hold, so it is written from this picture's.
  get recipeText() {
    const text = JSON.stringify({ ...this.recipe, seed: "SEED" }, null, 2);
    return text.replace('"seed": "SEED"', `"seed": ${this.seed}`);
  }

  get fileName() {
    const words = this.title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60);
    return `${words || "image"}-seed-${this.seed}.png`;
  }

  async make() {
    const { signal } = this.abort; // another try has another one
    this.#become("drawing");
    try {
      for await (const event of generate(this.values, this.seed, signal)) {
        this.frames.push({ url: URL.createObjectURL(png(event.b64_json)), size: event.size });
        if (event.type === "image_generation.completed") {
          this.recipe = event.recipe;
          this.seconds = event.seconds.generate;
          this.truncated = Boolean(event.truncated?.length);
        }
        this.#changed();
      }
      this.#become("done");
    } catch (error) {
      if (signal.aborted) return;
      this.error = error instanceof ApiError ? error : new ApiError(0, `the answer cannot be read (${error.message}).`);
      this.#become("failed");
    }
  }

  cancel() {
    if (!this.open) return;
    this.abort.abort();
    this.#become("cancelled");
  }

  // Frees the images' memory.
  forget() {
    this.abort.abort();
    for (const frame of this.frames) URL.revokeObjectURL(frame.url);
  }

  #become(state) {
    this.state = state;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

// Makes pictures in their order, as many at once as the server has lanes: others wait here, where they fill no queue.
export class Queue {
  #waiting = [];
  #running = 0;
  #most;

  constructor(lanes) {
    this.#most = Math.min(lanes, 4); // a browser opens six connections to a server, and the page needs some
  }

  add(picture) {
    this.#waiting.push(picture);
    this.#next();
  }

  #next() {
    while (this.#running < this.#most && this.#waiting.length) {
      const picture = this.#waiting.shift();
      if (picture.state !== "waiting") continue;
      this.#running += 1;
      picture.make().finally(() => {
        this.#running -= 1;
        this.#next();
      });
    }
  }
}

function png(base64) {
  const text = atob(base64);
  return new Blob([Uint8Array.from(text, (character) => character.charCodeAt(0))], { type: "image/png" });
}
