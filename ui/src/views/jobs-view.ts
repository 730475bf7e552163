// The table of jobs: live, filtered, searched, a page at a time; and what is done to several at once.
import { css, html, LitElement, nothing, type PropertyValues, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { repeat } from "lit/directives/repeat.js";
import { type Api, ApiError } from "../net/api";
import { type Job, type JobCounts, type JobPage, STATUSES, type Status, type User } from "../net/schema";
import "./bulk-actions";
import "./progress-bar";
import { age, count, duration, exactTime, runSeconds } from "../format";
import { QUEUED_MS, repeatWhileVisible, watch } from "../net/events";
import { tellProblem } from "../problem";
import { navigate } from "../router";
import { base } from "../styles";
import { tableStyles } from "./table-styles";

/** The parts of the URL that leave jobs out. */
const FILTERS = ["status", "search", "tag", "user", "parent"];

const PAGE_SIZES = [50, 100, 500];

/** Milliseconds between two readings of the list or the counts, however much changes. */
const CALM_MS = 1000;

@customElement("kbatch-jobs")
export class JobsView extends LitElement {
  @property({ attribute: false }) api!: Api;
  @property({ attribute: false }) user!: User;
  @property({ attribute: false }) query = new URLSearchParams();
  /** Whether everybody's jobs are listed. */
  @property({ type: Boolean }) everybody = false;
  @state() private page: JobPage | null = null;
  @state() private counts: Record<Status, number> | null = null;
  @state() private selected = new Set<string>();
  @state() private isLive = true;
  @state() private isLoading = false;
  @state() private now = Date.now();
  private stop = new AbortController();
  private watching = new AbortController();
  private loading: AbortController | null = null;
  private timers = new Map<string, number>();

  static override styles = [
    base,
    tableStyles,
    css`
      .filters {
        margin: 0.75rem 0;
      }
      .filters button {
        min-height: 2rem;
      }
      input[type="search"] {
        width: 16rem;
      }
      @media (max-width: 600px) {
        form,
        input[type="search"] {
          width: 100%;
        }
      }
      .empty {
        padding: 2rem 0;
      }
    `,
  ];

  override connectedCallback(): void {
    super.connectedCallback();
    this.stop = new AbortController();
    const { signal } = this.stop;
    repeatWhileVisible(() => (this.now = Date.now()), 1000, signal);
    const isQueued = (job: Job) => job.status === "queued";
    repeatWhileVisible(() => this.page?.items.some(isQueued) && this.load(), QUEUED_MS, signal);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.stop.abort();
    this.loading?.abort();
    for (const timer of this.timers.values()) clearTimeout(timer);
  }

  /** Watch the jobs of who is asked for now, and of nobody else. */
  private begin(): void {
    this.watching.abort();
    this.watching = new AbortController();
    this.stop.signal.addEventListener("abort", () => this.watching.abort());
    watch(
      this.api,
      {
        path: "jobs/watch",
        query: { user: this.owner },
        onEvent: (event) => this.take(event.event, JSON.parse(event.data)),
        onState: (isLive) => (this.isLive = isLive),
        onRefused: (error) => tellProblem(this, error),
      },
      this.watching.signal,
    );
  }

  override willUpdate(changed: PropertyValues): void {
    if (!changed.has("query")) return;
    this.selected = new Set();
    this.load();
    const before: URLSearchParams | undefined = changed.get("query");
    if (!before || before.get("user") !== this.query.get("user")) {
      this.loadCounts();
      this.begin();
    }
  }

  private get owner(): string | undefined {
    if (!this.everybody) return undefined;
    return this.query.get("user") || "*";
  }

  private get statuses(): Status[] {
    return this.query.getAll("status") as Status[];
  }

  private get limit(): number {
    const limit = Number(this.query.get("limit"));
    return PAGE_SIZES.includes(limit) ? limit : PAGE_SIZES[0];
  }

  // What is shown

  private async load(): Promise<void> {
    this.loading?.abort();
    const loading = new AbortController();
    this.loading = loading;
    this.isLoading = true;
    try {
      const query = {
        status: this.statuses,
        search: this.query.get("search"),
        tag: this.query.getAll("tag"),
        parent: this.query.get("parent"),
        cursor: this.query.get("cursor"),
        limit: this.limit,
        user: this.owner,
      };
      this.page = await this.api.get<JobPage>("jobs", query, loading.signal);
    } catch (error) {
      if (loading.signal.aborted) return;
      tellProblem(this, error);
      if (error instanceof ApiError && error.isPassing) this.later("load", 5000);
    }
    this.isLoading = false;
  }

  private async loadCounts(): Promise<void> {
    try {
      const answer = await this.api.get<JobCounts>("jobs/counts", { user: this.owner });
      this.counts = answer.counts;
    } catch {
      this.later("counts", 5000); // the list says what is wrong
    }
  }

  /** Read the list or the counts soon, and not again and again. */
  private later(what: "load" | "counts", milliseconds = CALM_MS): void {
    if (this.timers.has(what)) return;
    const timer = setTimeout(() => {
      this.timers.delete(what);
      if (what === "load") this.load();
      else this.loadCounts();
    }, milliseconds);
    this.timers.set(what, timer);
  }

  private take(event: string, job: Job): void {
    this.later("counts");
    const items = this.page?.items ?? [];
    const isShown = items.some((each) => each.id === job.id);
    if (event === "job" && isShown && this.page) {
      this.page = { ...this.page, items: items.map((each) => (each.id === job.id ? job : each)) };
      if (this.statuses.length && !this.statuses.includes(job.status)) this.later("load");
    } else if (event === "deleted" && isShown && this.page) {
      this.page = { ...this.page, items: items.filter((each) => each.id !== job.id) };
      this.later("load");
    } else if (event === "reset" || !this.query.get("cursor")) {
      this.later("load");
    }
  }

  private go(changes: Record<string, string | string[] | null>, cursors: (string | null)[] = []): void {
    const query = new URLSearchParams(this.query);
    query.delete("cursor");
    for (const [name, value] of Object.entries(changes)) {
      query.delete(name);
      for (const each of [value ?? []].flat()) if (each) query.append(name, each);
    }
    const text = query.toString();
    navigate(`${location.pathname}${text ? `?${text}` : ""}`, { state: { cursors } });
  }

  private goOlder(): void {
    const cursors = (history.state?.cursors as (string | null)[] | undefined) ?? [];
    this.go({ cursor: this.page?.next_cursor ?? null }, [...cursors, this.query.get("cursor")]);
  }

  private goNewer(): void {
    const cursors = (history.state?.cursors as (string | null)[] | undefined) ?? [];
    this.go({ cursor: cursors.at(-1) ?? null }, cursors.slice(0, -1));
  }

  // What is done

  private toggle(id: string, isOn: boolean): void {
    const selected = new Set(this.selected);
    if (isOn) selected.add(id);
    else selected.delete(id);
    this.selected = selected;
  }

  // How it looks

  override render(): TemplateResult {
    const items = this.page?.items ?? [];
    return html`
      <div class="row">
        ${this.everybody ? html`<h2 class="grow">Jobs of all users</h2>` : html`<h1 class="grow">Jobs</h1>`}
        ${this.isLive ? nothing : html`<span class="quiet small" role="status">Reconnecting…</span>`}
        <a class="button primary" href="${this.api.baseUrl}submit">New job</a>
      </div>
      ${this.renderParent()} ${this.renderFilters()} ${this.renderBulk(items)}
      ${
        items.length
          ? this.renderTable(items)
          : html`<p class="empty quiet">${this.page === null ? "Loading…" : this.renderEmpty()}</p>`
      }
      ${this.renderPaging()}
    `;
  }

  private renderEmpty(): TemplateResult | string {
    if (FILTERS.some((name) => this.query.get(name))) {
      const clear = () => this.go(Object.fromEntries(FILTERS.map((name) => [name, null])));
      return html`No jobs match.
        <button type="button" @click=${clear}>Clear filters</button>`;
    }
    if (this.everybody) return "No jobs yet.";
    return html`You have no jobs yet. <a href="${this.api.baseUrl}submit">Submit your first job.</a>`;
  }

  private renderParent(): TemplateResult | typeof nothing {
    const parent = this.query.get("parent");
    if (!parent) return nothing;
    return html`<p class="small">
      Jobs that <a href="${this.api.baseUrl}job/${encodeURIComponent(parent)}">${parent}</a> has submitted.
      <button type="button" @click=${() => this.go({ parent: null })}>Show all jobs</button>
    </p>`;
  }

  private renderFilters(): TemplateResult {
    const chosen = this.statuses;
    const flip = (status: Status) =>
      this.go({ status: chosen.includes(status) ? chosen.filter((each) => each !== status) : [...chosen, status] });
    return html`
      <div class="row filters">
        ${this.everybody ? this.renderUserFilter() : nothing}
        <form role="search" @submit=${this.search}>
          <label class="hidden" for="search">Search by name</label>
          <input id="search" name="search" type="search" maxlength="63" placeholder="Search by name" .value=${this.query.get("search") ?? ""} @search=${this.search} />
        </form>
        <div class="row" role="group" aria-label="Filter by status">
          ${STATUSES.map(
            (
              status,
            ) => html`<button type="button" aria-pressed=${chosen.includes(status) ? "true" : "false"} @click=${() => flip(status)}>
              ${status} <span class="quiet">${this.counts ? count(this.counts[status]) : ""}</span>
            </button>`,
          )}
        </div>
      </div>
    `;
  }

  private renderUserFilter(): TemplateResult {
    const choose = (event: Event) => {
      event.preventDefault();
      this.go({ user: this.renderRoot.querySelector<HTMLInputElement>("#user")?.value.trim() ?? "" });
    };
    return html`<form @submit=${choose}>
      <label class="hidden" for="user">Filter by user</label>
      <input id="user" type="search" placeholder="Filter by user" .value=${this.query.get("user") ?? ""} @search=${choose} />
    </form>`;
  }

  private search(event: Event): void {
    event.preventDefault();
    const words = this.renderRoot.querySelector<HTMLInputElement>("#search")?.value.trim() ?? "";
    if (words !== (this.query.get("search") ?? "")) this.go({ search: words });
  }

  private renderBulk(items: Job[]): TemplateResult {
    const clear = () => (this.selected = new Set());
    const done = () => {
      clear();
      this.load();
    };
    const jobs = items.filter((job) => this.selected.has(job.id));
    return html`<kbatch-bulk .api=${this.api} .jobs=${jobs} ?everybody=${this.everybody} @clear=${clear} @done=${done}></kbatch-bulk>`;
  }

  private renderTable(items: Job[]): TemplateResult {
    const all = items.every((job) => this.selected.has(job.id));
    const selectAll = (event: Event) => {
      const isOn = (event.target as HTMLInputElement).checked;
      this.selected = new Set(isOn ? items.map((job) => job.id) : []);
    };
    return html`
      <table class="jobs" aria-label="Jobs" aria-busy=${this.isLoading ? "true" : "false"}>
        <thead>
          <tr>
            <th class="check"><input type="checkbox" aria-label="Select all on this page" .checked=${all} @change=${selectAll} /></th>
            <th scope="col">Status</th>
            <th scope="col">Name</th>
            ${this.everybody ? html`<th scope="col">User</th>` : nothing}
            <th scope="col">Profile or image</th>
            <th scope="col">Submitted</th>
            <th scope="col">Duration</th>
            <th scope="col">Message</th>
          </tr>
        </thead>
        <tbody>
          ${repeat(
            items,
            (job) => job.id,
            (job) => this.renderRow(job),
          )}
        </tbody>
      </table>
    `;
  }

  private renderRow(job: Job): TemplateResult {
    const seconds = runSeconds(job, this.now);
    const select = (event: Event) => this.toggle(job.id, (event.target as HTMLInputElement).checked);
    return html`<tr>
      <td class="check"><input type="checkbox" aria-label="Select ${job.name}" .checked=${this.selected.has(job.id)} @change=${select} /></td>
      <td><span class="status ${job.status}">${job.status}</span></td>
      <td class="name">
        <a href="${this.api.baseUrl}job/${encodeURIComponent(job.id)}">${job.name}</a>
        <div class="quiet small">${job.id}</div>
      </td>
      ${this.everybody ? html`<td class="user">${job.user}</td>` : nothing}
      <td class="where">${job.profile ?? job.image}</td>
      <td class="time"><time datetime=${job.created_at} title=${exactTime(job.created_at)}>${age(job.created_at, this.now)}</time></td>
      <td class="time">${seconds === null ? "" : duration(seconds)}</td>
      <td class="message">${job.message}${
        job.progress && job.status === "running"
          ? html`<kbatch-progress .progress=${job.progress}></kbatch-progress>`
          : nothing
      }</td>
    </tr>`;
  }

  private renderPaging(): TemplateResult {
    const cursor = this.query.get("cursor");
    if (!this.page || (!cursor && !this.page.next_cursor && this.limit === PAGE_SIZES[0])) return html``;
    const resize = (event: Event) => this.go({ limit: (event.target as HTMLSelectElement).value });
    return html`<nav class="row paging" aria-label="Pagination">
      <button type="button" ?disabled=${!cursor} @click=${() => this.go({})}>Newest</button>
      <button type="button" ?disabled=${!cursor} @click=${this.goNewer}>Newer</button>
      <button type="button" ?disabled=${!this.page.next_cursor} @click=${this.goOlder}>Older</button>
      <label class="small quiet">Rows per page
        <select @change=${resize}>
          ${PAGE_SIZES.map((size) => html`<option ?selected=${size === this.limit}>${size}</option>`)}
        </select>
      </label>
    </nav>`;
  }
}
