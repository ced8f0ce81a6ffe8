// Talking to the API: requests, and the stream of changes. The stream is read with fetch and not with EventSource,
// which cannot send a token and tells nothing of why a connection failed.

const TOKEN = "tasktide-token";

/** The API refused or could not be reached; `status` is 0 for the latter. */
export class ApiError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The server's clock as last told. A manual clock stands still between two answers, and so does the page's. */
export const clock = {
  server: Date.now(),
  at: Date.now(),
  still: false,
  now() {
    return this.still ? this.server : this.server + (Date.now() - this.at);
  },
  tell(asOf) {
    const server = Date.parse(asOf);
    if (Number.isNaN(server)) return;
    const passed = Date.now() - this.at;
    if (passed > 1500) this.still = server === this.server;
    if (passed > 1500 || server > this.server) [this.server, this.at] = [server, Date.now()];
  },
};

/** Keeps a token for this tab. */
export const useToken = (token) => sessionStorage.setItem(TOKEN, token);

function headers(more) {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { ...more, authorization: `Bearer ${token}` } : more;
}

/** Makes an address of a path and parameters; those without value are left out. */
export function address(path, parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters ?? {})) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

/** Reads a resource. */
export async function read(path, parameters, signal) {
  let response;
  try {
    response = await fetch(address(path, parameters), { headers: headers({ accept: "application/json" }), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server cannot be reached.");
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) {
    throw new ApiError(response.status, body?.detail ?? `The server answered ${response.status}.`, body?.type);
  }
  if (body?.asOf) clock.tell(body.asOf);
  return body;
}

/**
 * Follows the stream until `stop()` of what it returns. `on.state` hears `connecting`, `live`, `waiting` (with the
 * milliseconds until the next try) and `refused`; `on.event` hears each event; `on.reset` that changes were missed.
 */
export function follow(parameters, on) {
  const abort = new AbortController();
  let lastId = null;
  let failures = 0;

  async function once() {
    const more = { accept: "text/event-stream" };
    if (lastId) more["last-event-id"] = lastId;
    const response = await fetch(address("/v1/stream", parameters), { headers: headers(more), signal: abort.signal, cache: "no-store" });
    if (!response.ok) {
      const body = await response.json().catch(() => null);
      throw new ApiError(response.status, body?.detail ?? `The stream answered ${response.status}.`, body?.type);
    }
    on.state("live");
    failures = 0;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      let end;
      while ((end = text.indexOf("\n\n")) >= 0) {
        block(text.slice(0, end));
        text = text.slice(end + 2);
      }
    }
  }

  function block(text) {
    let name = "message";
    let data = null;
    for (const line of text.split("\n")) {
      const colon = line.indexOf(": ");
      if (colon <= 0) continue;
      const value = line.slice(colon + 2);
      if (line.startsWith("event:")) name = value;
      else if (line.startsWith("id:")) lastId = value;
      else if (line.startsWith("data:")) data = data === null ? value : `${data}\n${value}`;
    }
    if (data === null) return;
    if (name === "reset") on.reset();
    else on.event(name, JSON.parse(data));
  }

  async function forever() {
    while (!abort.signal.aborted) {
      if (failures === 0) on.state("connecting");
      try {
        await once();
      } catch (error) {
        if (abort.signal.aborted) return;
        if (error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429) {
          on.state("refused", error);
          return;
        }
      }
      if (abort.signal.aborted) return;
      failures += 1;
      // Jitter, so that all pages do not come back in the same moment after a restart.
      const wait = Math.min(15_000, 500 * 2 ** Math.min(failures, 5)) * (0.5 + Math.random() / 2);
      on.state("waiting", wait);
      await new Promise((again) => setTimeout(again, wait));
    }
  }

  forever();
  return { stop: () => abort.abort() };
}
