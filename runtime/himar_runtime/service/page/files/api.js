// Talks to the server that this page came from, by addresses relative to the page: it may stand below a proxy's prefix.

const KEPT_TOKEN = "himar-token"; // of sessionStorage: this tab alone has it, until it is closed

export const keptToken = () => sessionStorage.getItem(KEPT_TOKEN);
export const keepToken = (token) => sessionStorage.setItem(KEPT_TOKEN, token);

// A refusal or a failure, in the server's sentence. status 0: there was no answer, or not all of it.
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  // Whether the same request may succeed later.
  get passes() {
    return [0, 401, 429, 503, 504].includes(this.status);
  }
}

// What GET /v1/model says.
export async function readModel() {
  return (await ask("v1/model", {})).json();
}

// Yields the events of POST /v1/images/generations, unfinished images and the last one; raises ApiError, and AbortError
// when `signal` was given. `seed` is a BigInt, which JSON.stringify cannot write: JavaScript's numbers end at 2^53.
export async function* generate(values, seed, signal) {
  const body = `{"seed":${seed},${JSON.stringify({ ...values, stream: true, partial_images: 3 }).slice(1)}`;
  const answer = await ask("v1/images/generations", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body,
    signal,
  });
  let complete = false;
  for await (const event of events(answer.body, signal)) {
    if (event.error) throw new ApiError(500, event.error.message);
    complete = event.type === "image_generation.completed";
    yield event;
  }
  if (!complete) throw new ApiError(0, "the connection ended before the image was finished.");
}

async function ask(path, options) {
  const token = keptToken();
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError(0, "the server cannot be reached.");
  }
  if (!answer.ok) throw new ApiError(answer.status, await sentence(answer));
  return answer;
}

// The sentence of a refusal: {"error": "…"}, or {"error": {"message": "…"}} of OpenAI's paths. A proxy's page has none.
async function sentence(answer) {
  try {
    const { error } = await answer.json();
    const said = typeof error === "string" ? error : error.message;
    if (said) return said;
  } catch {
    // not the server's own answer
  }
  return `the answer was ${answer.status} ${answer.statusText}`.trim() + ".";
}

// Yields the data of each event of a text/event-stream; comments, which keep a connection alive, have none.
async function* events(stream, signal) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const whole = (pending + value).split("\n\n");
      pending = whole.pop();
      for (const event of whole) {
        const lines = event.split("\n").filter((line) => line.startsWith("data:"));
        if (lines.length) yield JSON.parse(lines.map((line) => line.slice(5)).join("\n"));
      }
    }
  } catch (error) {
    if (signal.aborted || error instanceof SyntaxError) throw error;
    throw new ApiError(0, "the connection to the server broke.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
