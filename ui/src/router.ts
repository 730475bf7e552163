// Where in the pages we are: the path below the service's prefix, and changes of it without a reload.
// The browser's own history does it; the pages have few kinds of URLs, so a router would only wrap it.

/** Go to a URL of these pages. */
export function navigate(url: string, { replace = false, state = null as unknown } = {}): void {
  if (replace) history.replaceState(state, "", url);
  else history.pushState(state, "", url);
  dispatchEvent(new CustomEvent("kbatch-navigate"));
}

/** Return the handler that turns clicks on links below a prefix into `navigate`. */
export function makeLinkHandler(baseUrl: string): (event: MouseEvent) => void {
  return (event) => {
    if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey)
      return;
    const link = event.composedPath().find((each) => each instanceof HTMLAnchorElement);
    if (!(link instanceof HTMLAnchorElement) || link.target || link.hasAttribute("download")) return;
    const url = new URL(link.href, location.href);
    if (url.origin !== location.origin || !url.pathname.startsWith(baseUrl)) return;
    if (/^(api|static)\//.test(url.pathname.slice(baseUrl.length))) return;
    event.preventDefault();
    if (url.href !== location.href) navigate(url.href);
    scrollTo(0, 0);
  };
}

export interface Route {
  page: "jobs" | "job" | "submit" | "secrets" | "use" | "admin";
  jobId: string;
  query: URLSearchParams;
}

export function readRoute(baseUrl: string): Route {
  const path = location.pathname.slice(baseUrl.length).replace(/\/$/, "");
  const query = new URLSearchParams(location.search);
  const job = /^job\/([^/]+)$/.exec(path);
  if (job) return { page: "job", jobId: decodeURIComponent(job[1]), query };
  if (path === "submit" || path === "secrets" || path === "use" || path === "admin")
    return { page: path, jobId: "", query };
  return { page: "jobs", jobId: "", query };
}
