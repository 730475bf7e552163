// What a user uses and may use: limits, what runs and waits, hours of this month.
import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import type { Api, Job, JobPage, User } from "./api";
import { bytes, count, duration, runSeconds } from "./format";
import { tellProblem } from "./problem";
import { base } from "./styles";
import { type Listing, listSince } from "./sums";

const REFRESH_MS = 15_000;

@customElement("kbatch-use")
export class UseView extends LitElement {
  @property({ attribute: false }) api!: Api;
  @property({ attribute: false }) user!: User;
  @state() private active: Job[] | null = null;
  @state() private isCut = false;
  @state() private month: Listing | null = null;
  private stop = new AbortController();

  static override styles = [
    base,
    css`
      .tiles {
        display: grid;
        grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr));
        gap: 0.75rem;
        margin-top: 1rem;
      }
      .tile strong {
        display: block;
        font-size: 1.6rem;
        font-variant-numeric: tabular-nums;
      }
      dl {
        display: grid;
        grid-template-columns: max-content 1fr;
        gap: 0.25rem 1.5rem;
        margin: 0;
      }
      dt {
        color: var(--kb-quiet);
      }
      dd {
        margin: 0;
        overflow-wrap: anywhere;
      }
      @media (max-width: 600px) {
        dl {
          grid-template-columns: 1fr;
        }
        dd {
          margin-bottom: 0.4rem;
        }
      }
    `,
  ];

  override connectedCallback(): void {
    super.connectedCallback();
    this.stop = new AbortController();
    const timer = setInterval(() => !document.hidden && this.load(), REFRESH_MS);
    this.stop.signal.addEventListener("abort", () => clearInterval(timer));
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.stop.abort();
  }

  override firstUpdated(): void {
    this.load();
  }

  private async load(): Promise<void> {
    const { signal } = this.stop;
    try {
      this.user = await this.api.get<User>("user", {}, signal);
      const query = { status: ["queued", "pending", "running"], limit: 500 };
      const page = await this.api.get<JobPage>("jobs", query, signal);
      this.active = page.items;
      this.isCut = page.next_cursor !== null;
      const now = new Date();
      this.month = await listSince(this.api, new Date(now.getFullYear(), now.getMonth(), 1), undefined, signal);
    } catch (error) {
      if (!signal.aborted) tellProblem(this, error);
    }
  }

  override render(): TemplateResult {
    return html`
      <h1>Use</h1>
      <div class="tiles">${this.renderTiles()}</div>
      ${this.renderWaiting()}
      <section aria-labelledby="limits">
        <h2 id="limits">Limits</h2>
        ${this.renderValues(this.user.limits)}
      </section>
      ${
        this.user.usage
          ? html`<section aria-labelledby="usage"><h2 id="usage">Used</h2>${this.renderValues(this.user.usage)}</section>`
          : nothing
      }
      <section aria-labelledby="who">
        <h2 id="who">Who I am here</h2>
        <dl>
          <dt>Name</dt><dd>${this.user.name}</dd>
          ${this.user.groups.length ? html`<dt>Groups</dt><dd>${this.user.groups.join(", ")}</dd>` : nothing}
          <dt>May</dt><dd>${this.user.actions.join(", ")}</dd>
        </dl>
      </section>
    `;
  }

  private renderTiles(): TemplateResult {
    const running = this.active?.filter((job) => job.status === "running") ?? [];
    const waiting = this.active?.filter((job) => job.status !== "running") ?? [];
    const now = Date.now();
    const seconds = this.month?.jobs.reduce((sum, job) => sum + (runSeconds(job, now) ?? 0), 0) ?? 0;
    const tile = (value: string, words: string) =>
      html`<div class="panel tile"><strong>${value}</strong>${words}</div>`;
    const more = this.isCut ? "+" : "";
    return html`
      ${tile(this.active ? `${count(running.length)}${more}` : "…", "run now")}
      ${tile(this.active ? `${count(waiting.length)}${more}` : "…", "wait")}
      ${tile(this.month ? `${count(this.month.jobs.length)}${this.month.isCut ? "+" : ""}` : "…", "were submitted this month")}
      ${tile(this.month ? `${this.month.isCut ? "over " : ""}${duration(seconds)}` : "…", "they ran this month")}
    `;
  }

  private renderWaiting(): TemplateResult | typeof nothing {
    const waiting = (this.active ?? []).filter((job) => job.status !== "running").reverse();
    if (!waiting.length) return nothing;
    return html`<section aria-labelledby="waiting">
      <h2 id="waiting">What waits, the oldest first</h2>
      <ol>
        ${waiting.slice(0, 50).map((job) => html`<li><a href="${this.api.baseUrl}job/${encodeURIComponent(job.id)}">${job.name}</a> <span class="quiet">${job.message}</span></li>`)}
      </ol>
    </section>`;
  }

  /** Show what the API says, whatever it is: sizes and times by the ends of their names. */
  private renderValues(values: Record<string, unknown>): TemplateResult {
    return html`<dl>
      ${Object.entries(values)
        .filter(([, value]) => value !== null)
        .map(([name, value]) => html`<dt>${words(name)}</dt><dd>${show(name, value)}</dd>`)}
    </dl>`;
  }
}

function words(name: string): string {
  const text = name.replace(/_(bytes|seconds)$/, "").replace(/_/g, " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function show(name: string, value: unknown): string {
  if (typeof value === "number" && /bytes$|memory|^mem_/.test(name)) return bytes(value);
  if (typeof value === "number" && name.endsWith("_seconds")) return duration(value);
  if (typeof value === "number") return count(value);
  if (typeof value === "object" && value !== null) {
    return Object.entries(value)
      .map(([key, each]) => `${words(key)}: ${show(key, each)}`)
      .join(", ");
  }
  return String(value);
}
