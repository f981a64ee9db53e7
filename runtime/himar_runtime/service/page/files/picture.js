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

  // Forgets what an earlier try came to.
  reset() {
    for (const frame of this.frames ?? []) URL.revokeObjectURL(frame.url);
    this.state = "waiting"; // "drawing", then "done", "failed" or "cancelled"
    this.frames = []; // {url, size}, from the roughest to the finished one
    this.recipe = null;
    this.seconds = null;
    this.truncated = false; // the prompt was longer than the model reads
    this.error = null;
    this.abort = new AbortController();
    this.#changed();
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
    return { waiting: "Waiting", drawing: "Sent", done: "Finished", failed: "Failed", cancelled: "Cancelled" }[this.state];
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

  // Asks for the image and takes what comes. isPatient(): whether to wait on where the server's queues are full.
  async make(isPatient) {
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
      if (error.status === 429 && isPatient()) return this.reset();
      this.error = error instanceof ApiError ? error : new ApiError(0, `the answer cannot be read (${error.message}).`);
      this.#become("failed");
    }
  }

  cancel() {
    if (!this.open) return;
    this.abort.abort();
    this.#become("cancelled");
  }

  // Stops what is under way and frees the images' memory.
  forget() {
    this.cancel();
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

// Makes pictures in their order, a few at once: the others wait here, where they fill no queue of the server's.
export class Queue {
  #waiting = [];
  #running = 0;
  #sent = 0;
  #limit;
  #most; // up to the limit; less after the server's queue was found full

  // limit: how many the server can work on at once.
  constructor(limit) {
    this.#limit = Math.min(limit, 4); // a browser opens six connections to a server, and a stream takes one
    this.#most = this.#limit;
  }

  add(picture) {
    this.#waiting.push(picture);
    this.#next();
  }

  #next() {
    while (this.#running < this.#most && this.#waiting.length) {
      const picture = this.#waiting.shift();
      if (picture.state === "waiting") this.#make(picture);
    }
  }

  async #make(picture) {
    // Others of this page, sent before this one or since, may be what fills the server's queues.
    const others = this.#running > 0;
    const sent = ++this.#sent;
    this.#running += 1;
    await picture.make(() => others || this.#sent > sent);
    this.#running -= 1;
    if (picture.state === "waiting") {
      this.#most = Math.max(this.#running, 1);
      this.#waiting.unshift(picture);
    } else if (picture.state === "done") {
      this.#most = Math.min(this.#most + 1, this.#limit);
    }
    this.#next();
  }
}

function png(base64) {
  const text = atob(base64);
  return new Blob([Uint8Array.from(text, (character) => character.charCodeAt(0))], { type: "image/png" });
}
