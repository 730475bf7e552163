// The lines of one attempt's log: those that are looked at are read, a few are kept, new ones come as they are written.
import { type Api, ApiError } from "../net/api";
import { abortTogether, readPieces, sleep, untilVisible } from "../net/events";
import type { LogLines as Answer } from "../net/schema";
import { foldLine, hasControls } from "./terminal";

/** Lines that are read at once. */
const CHUNK = 500;

/** Chunks that are kept: a log of a gigabyte must not be kept in a browser. */
const KEPT_CHUNKS = 60;

/** Characters of a line that are kept, as the API sends no more either. */
const MAX_LINE = 8192;

const RETRY_MS = [1000, 2000, 5000, 10_000];

export class LogLines extends EventTarget {
  /** How many lines there are. */
  total = 0;
  attempt = 0;
  isComplete = false;
  /** Why there is no log (yet). */
  problem = "";
  private chunks = new Map<number, Map<number, string>>();
  private loading = new Map<number, AbortController>();
  private isOpen = false;
  private place = "";

  constructor(
    private readonly api: Api,
    private readonly jobId: string,
    private readonly wantedAttempt: number | null,
  ) {
    super();
  }

  /** Return a line, null where it was cut out, or undefined when it is not read yet. */
  get(line: number): string | null | undefined {
    const chunk = this.chunks.get(Math.floor((line - 1) / CHUNK));
    if (!chunk) return undefined;
    return chunk.get(line) ?? null;
  }

  /** See to it that some lines are read, and forget those that are not looked at. */
  want(first: number, last: number): void {
    const wanted = new Set<number>();
    for (let n = Math.floor((first - 1) / CHUNK); n <= Math.floor((last - 1) / CHUNK); n++) wanted.add(n);
    for (const [number, loading] of this.loading) if (!wanted.has(number)) loading.abort();
    for (const number of wanted) {
      const chunk = this.chunks.get(number);
      if (chunk) {
        this.chunks.delete(number); // the last that was looked at stands at the end
        this.chunks.set(number, chunk);
      } else if (!this.loading.has(number) && number * CHUNK < this.total) {
        this.load(number);
      }
    }
    for (const number of this.chunks.keys()) {
      if (this.chunks.size <= KEPT_CHUNKS) break;
      if (!wanted.has(number)) this.chunks.delete(number);
    }
  }

  private async load(number: number): Promise<void> {
    const loading = new AbortController();
    this.loading.set(number, loading);
    try {
      const answer = await this.read(number * CHUNK + 1, CHUNK, loading.signal);
      this.keep(number, answer);
    } catch (error) {
      if (error instanceof ApiError && !loading.signal.aborted) await sleep(RETRY_MS[1]);
    }
    if (this.loading.get(number) === loading) this.loading.delete(number);
    this.tell();
  }

  private read(line: number, limit: number, signal: AbortSignal): Promise<Answer> {
    const query = { line, limit, attempt: this.wantedAttempt ?? (this.attempt || null) };
    return this.api.get<Answer>(`jobs/${this.jobId}/logs`, query, signal);
  }

  private keep(number: number, answer: Answer): void {
    const chunk = new Map(answer.items.map(({ line, text }) => [line, text]));
    const end = (number + 1) * CHUNK;
    // what was written while it was read comes by the other way, and may be more
    const known = this.chunks.get(number);
    if (known && known.size > chunk.size) return;
    if (answer.last_line < Math.min(end, this.total)) return;
    this.chunks.set(number, chunk);
  }

  private tell(): void {
    this.dispatchEvent(new Event("change"));
  }

  /** Read on until the attempt's log is complete, or `stop`: first what is there, then what comes. */
  async follow(stop: AbortSignal): Promise<void> {
    for (let failures = 0; !stop.aborted; ) {
      await untilVisible(stop);
      let least = 0;
      try {
        await this.catchUp(stop);
        failures = 0;
        if (this.isComplete) return;
        await this.stream(stop);
      } catch (error) {
        if (stop.aborted) return;
        if (document.hidden) continue; // let go of, to be taken up where it was
        failures += 1;
        if (error instanceof ApiError) {
          this.problem = error.message;
          if (error.status === 429) least = 1000 * (error.retryAfterSeconds ?? 0);
          else if (!error.isPassing && error.reason !== "LogNotFound") {
            this.tell();
            return;
          }
        }
        this.tell();
      }
      await sleep(Math.max(least, RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]), stop);
    }
  }

  /** Read the end of the log as it is now. */
  private async catchUp(stop: AbortSignal): Promise<void> {
    const number = Math.max(Math.floor((this.total - 1) / CHUNK), 0);
    const answer = await this.read(number * CHUNK + 1, 1, stop);
    if (this.attempt && answer.attempt !== this.attempt) this.chunks.clear();
    this.attempt = answer.attempt;
    this.total = answer.last_line;
    const last = Math.max(Math.floor((this.total - 1) / CHUNK), 0);
    const end = await this.read(last * CHUNK + 1, CHUNK, stop);
    this.problem = "";
    this.total = end.last_line;
    this.isOpen = end.last_line_is_open;
    this.isComplete = end.is_complete;
    this.place = end.place;
    for (const each of this.chunks.keys()) if (each >= number) this.chunks.delete(each);
    this.keep(last, end);
    this.tell();
  }

  private async stream(stop: AbortSignal): Promise<void> {
    const connection = new AbortController();
    const release = abortTogether(stop, connection);
    try {
      const headers = { Accept: "text/plain", "Last-Event-ID": this.place };
      const query = { follow: true, attempt: this.attempt };
      const answer = await this.api.request("GET", `jobs/${this.jobId}/logs`, {
        query,
        headers,
        signal: connection.signal,
      });
      for await (const piece of readPieces(answer, connection)) {
        if (stop.aborted) return;
        this.append(piece);
        this.tell();
      }
    } finally {
      release();
      connection.abort();
    }
  }

  private append(text: string): void {
    const parts = text.split("\n");
    const isOpen = parts.at(-1) !== "";
    if (!isOpen) parts.pop();
    parts.forEach((part, index) => {
      const isEnded = index < parts.length - 1 || !isOpen;
      const before = index === 0 && this.isOpen ? (this.get(this.total) ?? "") : null;
      if (before === null) this.total += 1;
      const line = (before ?? "") + part;
      this.put(this.total, isEnded ? line.replace(/\r$/, "") : line);
    });
    if (parts.length) this.isOpen = isOpen;
  }

  private put(line: number, text: string): void {
    const number = Math.floor((line - 1) / CHUNK);
    let chunk = this.chunks.get(number);
    if (!chunk && line % CHUNK === 1) {
      chunk = new Map();
      this.chunks.set(number, chunk);
    }
    // of a chunk that was forgotten all is read again, when it is looked at
    chunk?.set(line, shorten(text));
    if (this.chunks.size > KEPT_CHUNKS) this.chunks.delete(this.chunks.keys().next().value as number);
  }
}

/** Return what is kept of a line: of one that is drawn again and again what is seen of it, and its cursor. */
function shorten(text: string): string {
  if (hasControls(text)) return foldLine(text, MAX_LINE);
  return text.length > MAX_LINE ? `${text.slice(0, MAX_LINE)} …` : text;
}
