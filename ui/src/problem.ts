// How a component has the frame of the pages say what went wrong.
import { ApiError } from "./net/api";

/** Have the frame say what went wrong. */
export function tellProblem(element: HTMLElement, error: unknown): void {
  if ((error as Error).name === "AbortError") return;
  const told =
    error instanceof ApiError
      ? error
      : new ApiError(0, "Error", `Something went wrong on this page: ${error}. Reload it and try again.`);
  element.dispatchEvent(new CustomEvent("kbatch-problem", { detail: told, bubbles: true, composed: true }));
}
