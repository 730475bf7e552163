// Server-sent events by fetch: with headers (no token in a URL), and reconnecting from the last id.
import { createParser } from "eventsource-parser";
import { type Api, ApiError, type Query } from "./api";

export interface ServerEvent {
  event: string;
  data: string;
  id: string;
}

/** Milliseconds without a byte (there is a comment every 15 s) after which a connection counts as dead. */
const SILENCE_MS = 45_000;

/** Milliseconds that a hidden page goes on: a browser has few connections to one server. */
const HIDDEN_MS = 30_000;

/** Milliseconds after which the place of a queued job is read again: no event tells of those before it. */
export const QUEUED_MS = 15_000;

const DELAYS_MS = [500, 1000, 2000, 5000, 10_000, 20_000];

export async function* readPieces(answer: Response, signal: AbortController): AsyncGenerator<string> {
  if (!answer.body) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let timer = 0;
  try {
    while (true) {
      clearTimeout(timer);
      timer = setTimeout(() => signal.abort(), SILENCE_MS);
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    clearTimeout(timer);
    reader.cancel().catch(() => {});
  }
}

export async function* parseEvents(pieces: AsyncIterable<string>): AsyncGenerator<ServerEvent> {
  const found: ServerEvent[] = [];
  const parser = createParser({
    onEvent: ({ event = "message", data, id = "" }) => found.push({ event, data, id }),
  });
  for await (const piece of pieces) {
    parser.feed(piece);
    yield* found.splice(0);
  }
}

export interface Watcher {
  path: string;
  query?: Query;
  onEvent: (event: ServerEvent) => void;
  /** Told whether the connection is there. */
  onState: (isLive: boolean) => void;
  /** Told of what trying again does not mend. */
  onRefused: (error: ApiError) => void;
}

/** Watch until `stop` is aborted, through lost connections, restarts of the service and hidden pages. */
export async function watch(api: Api, watcher: Watcher, stop: AbortSignal): Promise<void> {
  let lastId = "";
  let failures = 0;
  while (!stop.aborted) {
    await untilVisible(stop);
    const connection = new AbortController();
    const release = abortTogether(stop, connection);
    try {
      const headers: Record<string, string> = { Accept: "text/event-stream" };
      if (lastId) headers["Last-Event-ID"] = lastId;
      const options = { query: watcher.query, headers, signal: connection.signal };
      const answer = await api.request("GET", watcher.path, options);
      watcher.onState(true);
      for await (const event of parseEvents(readPieces(answer, connection))) {
        failures = 0;
        if (event.id) lastId = event.id;
        watcher.onEvent(event);
      }
    } catch (error) {
      if (stop.aborted) return;
      if (error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429) {
        watcher.onState(false);
        watcher.onRefused(error);
        return;
      }
    } finally {
      release();
      connection.abort();
    }
    if (stop.aborted) return;
    if (!document.hidden) watcher.onState(false);
    await sleep(DELAYS_MS[Math.min(failures, DELAYS_MS.length - 1)] * (0.75 + Math.random() / 2), stop);
    failures += 1;
  }
}

/** Abort the connection with `stop`, or when the page was hidden for a while; return what ends the looking. */
export function abortTogether(stop: AbortSignal, connection: AbortController): () => void {
  let timer = 0;
  const abort = () => connection.abort();
  const look = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(abort, HIDDEN_MS);
  };
  stop.addEventListener("abort", abort);
  document.addEventListener("visibilitychange", look);
  return () => {
    clearTimeout(timer);
    stop.removeEventListener("abort", abort);
    document.removeEventListener("visibilitychange", look);
  };
}

/** Do something each so many milliseconds while the page is looked at, until `stop` is aborted. */
export function repeatWhileVisible(action: () => void, milliseconds: number, stop: AbortSignal): void {
  const timer = setInterval(() => !document.hidden && action(), milliseconds);
  stop.addEventListener("abort", () => clearInterval(timer));
}

/** Return when the page is looked at, or `stop` is aborted. */
export async function untilVisible(stop: AbortSignal): Promise<void> {
  while (document.hidden && !stop.aborted) {
    await new Promise<void>((resolve) => {
      document.addEventListener("visibilitychange", () => resolve(), { once: true });
      stop.addEventListener("abort", () => resolve(), { once: true });
    });
  }
}

export function sleep(milliseconds: number, stop?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    stop?.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        resolve();
      },
      { once: true },
    );
  });
}
