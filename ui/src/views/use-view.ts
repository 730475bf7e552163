// What a user uses and may use: limits, what runs and waits, hours of this month.
import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { bytes, count, duration } from "../format";
import type { Api } from "../net/api";
import { repeatWhileVisible } from "../net/events";
import type { Job, JobPage, User } from "../net/schema";
import { tellProblem } from "../problem";
import { base } from "../styles";

const REFRESH_MS = 15_000;

@customElement("kbatch-use")
export class UseView extends LitElement {
  @property({ attribute: false }) api!: Api;
  @property({ attribute: false }) user!: User;
  @state() private active: Job[] | null = null;
  @state() private isCut = false;
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
    repeatWhileVisible(() => this.load(), REFRESH_MS, this.stop.signal);
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
    } catch (error) {
      if (!signal.aborted) tellProblem(this, error);
    }
  }

  override render(): TemplateResult {
    return html`
      <h1>Usage</h1>
      <div class="tiles">${this.renderTiles()}</div>
      ${this.renderWaiting()}
      <section aria-labelledby="limits">
        <h2 id="limits">Limits</h2>
        ${this.renderLimits()}
        <p class="quiet">
          Uploads can be up to ${bytes(this.user.limits.max_upload_bytes)}; other requests up to
          ${bytes(this.user.limits.max_job_bytes)}.
        </p>
      </section>
      ${Object.entries(this.user.group_totals ?? {}).map(
        ([group, limits]) => html`<section>
          <h2>Group ${group} (all members)</h2>
          <dl>
            ${Object.entries(limits).map(([name, limit]) => html`<dt>${words(name)}</dt><dd>${show(name, limit)}</dd>`)}
          </dl>
        </section>`,
      )}
      <section aria-labelledby="who">
        <h2 id="who">Your account</h2>
        <dl>
          <dt>Name</dt><dd>${this.user.name}</dd>
          ${this.user.groups.length ? html`<dt>Groups</dt><dd>${this.user.groups.join(", ")}</dd>` : nothing}
          <dt>Permissions</dt><dd>${this.user.actions.join(", ")}</dd>
        </dl>
      </section>
    `;
  }

  /** Amounts by resource; nothing for a token that may not read. */
  private get usage(): Record<string, number> {
    return this.user.usage ?? {};
  }

  private renderTiles(): TemplateResult {
    const running = this.active?.filter((job) => job.status === "running") ?? [];
    const waiting = this.active?.filter((job) => job.status !== "running") ?? [];
    const tile = (value: string, words: string) =>
      html`<div class="panel tile"><strong>${value}</strong>${words}</div>`;
    const more = this.isCut ? "+" : "";
    return html`
      ${tile(this.active ? `${count(running.length)}${more}` : "…", "running")}
      ${tile(this.active ? `${count(waiting.length)}${more}` : "…", "waiting")}
      ${tile(duration((this.usage[HOURS] ?? 0) * 3600), "total run time this month")}
    `;
  }

  private renderWaiting(): TemplateResult | typeof nothing {
    const waiting = (this.active ?? []).filter((job) => job.status !== "running").reverse();
    if (!waiting.length) return nothing;
    const places = new Map(this.user.queue?.jobs.map((job) => [job.id, job.place]));
    // in the order in which they start: those that are handed over, then by place
    waiting.sort((one, other) => (places.get(one.id) ?? 0) - (places.get(other.id) ?? 0));
    return html`<section aria-labelledby="waiting">
      <h2 id="waiting">Queue (next job first)</h2>
      <ol>
        ${waiting.slice(0, SHOWN).map((job) => html`<li><a href="${this.api.baseUrl}job/${encodeURIComponent(job.id)}">${job.name}</a> <span class="quiet">${job.message}</span></li>`)}
      </ol>
      ${waiting.length > SHOWN ? html`<p class="quiet">… and ${count(waiting.length - SHOWN)} more</p>` : nothing}
    </section>`;
  }

  private renderLimits(): TemplateResult {
    const { jobs } = this.user.limits;
    if (jobs === null)
      return html`<p>Your limits can't be loaded right now. Your jobs wait until the service can read them.</p>`;
    const names = [...new Set([...Object.keys(this.usage), ...Object.keys(jobs)])];
    return html`<table>
      <thead>
        <tr><th scope="col">Resource</th><th scope="col" class="number">In use</th><th scope="col" class="number">Limit</th></tr>
      </thead>
      <tbody>
        ${names.map((name) => this.renderLimit(name, jobs))}
      </tbody>
    </table>`;
  }

  private renderLimit(name: string, limits: Record<string, number>): TemplateResult {
    const limit = limits[name];
    return html`<tr>
      <th scope="row">${words(name)}</th>
      <td class="number">${show(name, this.usage[name] ?? 0)}</td>
      <td class="number">${limit === undefined ? html`<span class="quiet">no limit</span>` : show(name, limit)}</td>
    </tr>`;
  }
}

const HOURS = "job_hours_per_month";
const NAMES: Record<string, string> = {
  queued: "Queued jobs",
  running: "Running jobs",
  cpu: "CPUs",
  [HOURS]: "Job-hours this month",
};

/** Waiting jobs that are listed. */
const SHOWN = 50;

function words(name: string): string {
  if (name.includes("/")) return name; // of a resource like nvidia.com/gpu it is the name in Kubernetes
  return NAMES[name] ?? name.charAt(0).toUpperCase() + name.slice(1);
}

function show(name: string, amount: number): string {
  if (name === "memory") return bytes(amount);
  return Number.isInteger(amount) ? count(amount) : amount.toFixed(2);
}
