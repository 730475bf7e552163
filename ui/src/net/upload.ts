// Sends a ZIP, and says how far it is: fetch cannot, so the older way of browsers is used.
import { type Api, ApiError, makeError } from "./api";
import type { Upload } from "./schema";

/** Return the upload once it is kept; `onProgress` is told the part that is sent, from 0 to 1. */
export function sendUpload(
  api: Api,
  content: Blob,
  onProgress: (part: number) => void,
  stop: AbortSignal,
): Promise<Upload> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", api.url("uploads"));
    for (const [name, value] of Object.entries(api.headers)) request.setRequestHeader(name, value);
    request.setRequestHeader("Content-Type", "application/zip");
    request.upload.addEventListener("progress", (event) => onProgress(event.loaded / event.total));
    request.addEventListener("load", () => {
      if (request.status === 201) resolve(JSON.parse(request.responseText));
      else reject(makeError(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    });
    request.addEventListener("error", () =>
      reject(new ApiError(0, "Unreachable", "The upload was interrupted. Check your connection and submit again.")),
    );
    request.addEventListener("abort", () => reject(new DOMException("cancelled", "AbortError")));
    stop.addEventListener("abort", () => request.abort());
    request.send(content);
  });
}
