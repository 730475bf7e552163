// Asks api/v1, the same that scripts and the command line use, and turns its errors into ApiError.
import type { Job } from "./schema";

export interface FieldError {
  field: string;
  message: string;
}

export class ApiError extends Error {
  /** `status` is 0 where the service did not answer, whoever else did. */
  constructor(
    readonly status: number,
    readonly reason: string,
    message: string,
    readonly details: unknown = undefined,
    readonly retryAfterSeconds: number | null = null,
  ) {
    super(message);
  }

  /** Whether something was only to be read, which the page does again. */
  isReading = false;

  get fields(): FieldError[] {
    return Array.isArray(this.details) ? (this.details as FieldError[]) : [];
  }

  /** Whether the same may be answered when it is asked again. */
  get isPassing(): boolean {
    return this.status === 0 || this.status >= 500;
  }

  /** Whether a new login would help. */
  get isLoginNeeded(): boolean {
    return this.status === 401 || this.reason === "XsrfCheckFailed";
  }
}

export type Query = Record<string, string | number | boolean | null | undefined | string[]>;

export interface Options {
  query?: Query;
  json?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

export class Api {
  /** Called when the service has answered well. */
  onAnswer: () => void = () => {};

  /** `headers` say who asks: an XSRF token beside the browser's cookie, or an Authorization. */
  constructor(
    readonly baseUrl: string,
    readonly headers: Record<string, string>,
  ) {}

  url(path: string, query: Query = {}): string {
    const words = new URLSearchParams();
    for (const [name, value] of Object.entries(query)) {
      if (Array.isArray(value)) {
        for (const each of value) words.append(name, each);
      } else if (value !== null && value !== undefined && value !== "") {
        words.append(name, String(value));
      }
    }
    const text = words.toString();
    return `${this.baseUrl}api/v1/${path}${text ? `?${text}` : ""}`;
  }

  async request(method: string, path: string, options: Options = {}): Promise<Response> {
    const headers: Record<string, string> = { Accept: "application/json", ...this.headers, ...options.headers };
    let body: string | undefined;
    if (options.json !== undefined) {
      headers["Content-Type"] = "application/json";
      body = JSON.stringify(options.json);
    }
    let answer: Response;
    try {
      answer = await fetch(this.url(path, options.query), { method, headers, body, signal: options.signal });
    } catch (error) {
      if ((error as Error).name === "AbortError") throw error;
      const words = "Can't reach the service. Check your connection.";
      throw note(method, new ApiError(0, "Unreachable", words));
    }
    if (!answer.ok) throw note(method, await readError(answer));
    this.onAnswer();
    return answer;
  }

  async json<T>(method: string, path: string, options: Options = {}): Promise<T> {
    const answer = await this.request(method, path, options);
    try {
      return (await answer.json()) as T;
    } catch (error) {
      if ((error as Error).name === "AbortError") throw error;
      throw note(method, makeError(0, ""));
    }
  }

  get<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
    return this.json<T>("GET", path, { query, signal });
  }
}

function note(method: string, error: ApiError): ApiError {
  error.isReading = method === "GET";
  return error;
}

async function readError(answer: Response): Promise<ApiError> {
  return makeError(answer.status, await answer.text(), answer.headers.get("Retry-After"));
}

/**
 * Return the error that an answer says; one that is not JSON is of a proxy in between.
 *
 * A 404 of such is no word on what was asked for: the hub's proxy gives it while hub and service start.
 */
export function makeError(status: number, text: string, retryAfter: string | null = null): ApiError {
  const seconds = retryAfter && /^\d+$/.test(retryAfter) ? Number(retryAfter) : null;
  try {
    const { reason, message, details } = JSON.parse(text);
    if (typeof message === "string") return new ApiError(status, String(reason), message, details, seconds);
  } catch {
    // not JSON
  }
  const isAway = status === 404 || status >= 500;
  return new ApiError(isAway ? 0 : status, "Unavailable", explainProxy(status), undefined, seconds);
}

/** Return what happened between the browser and the service, and what to do about it. */
function explainProxy(status: number): string {
  switch (status) {
    case 413:
      return (
        "A proxy in front of the hub rejected the upload because it is too large (413). " +
        "Ask an admin of the hub to raise the proxy's maximum body size."
      );
    case 502:
      return (
        "A proxy in front of the service can't reach it (502). Try again in a minute. " +
        "If the error persists, ask an admin of the hub whether the service is running."
      );
    case 504:
      return (
        "A proxy in front of the service stopped waiting for its answer (504). Your request may have succeeded: " +
        "check your jobs before you send it again. Ask an admin of the hub to raise the proxy's read timeout."
      );
    default:
      return `The service isn't responding${status ? ` (${status})` : ""}. Try again in a minute.`;
  }
}

export const isOver = (job: Job): boolean => ["succeeded", "failed", "cancelled"].includes(job.status);
