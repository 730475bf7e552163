// For admins: who is busiest, why jobs failed, and everybody's jobs.
import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import type { Api, Job, User } from "./api";
import { count, duration, runSeconds } from "./format";
import "./jobs-view";
import { tellProblem } from "./problem";
import { base } from "./styles";
import { groupBy, isActive, type Listing, listSince } from "./sums";

const DAYS = [1, 7, 30];

const SHOWN = 10;

@customElement("kbatch-admin")
export class AdminView extends LitElement {
  @property({ attribute: false }) api!: Api;
  @property({ attribute: false }) user!: User;
  @property({ attribute: false }) query = new URLSearchParams();
  @state() private days = DAYS[0];
  @state() private listing: Listing | null = null;
  private stop = new AbortController();

  static override styles = [
    base,
    css`
      .sums {
        display: grid;
        grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr));
        gap: 1.5rem;
        margin: 0.75rem 0 2rem;
      }
      td {
        overflow-wrap: anywhere;
      }
    `,
  ];

  override firstUpdated(): void {
    if (this.user.admin) this.load();
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.stop.abort();
  }

  private async load(): Promise<void> {
    this.stop.abort();
    this.stop = new AbortController();
    const { signal } = this.stop;
    try {
      this.listing = await listSince(this.api, new Date(Date.now() - this.days * 86_400_000), "*", signal);
    } catch (error) {
      if (!signal.aborted) tellProblem(this, error);
    }
  }

  override render(): TemplateResult {
    if (!this.user.admin) return html`<h1>Admin</h1><p>This page is for admins of the service.</p>`;
    const choose = (event: Event) => {
      this.days = Number((event.target as HTMLSelectElement).value);
      this.load();
    };
    return html`
      <div class="row">
        <h1 class="grow">Admin</h1>
        <label class="small quiet">Jobs of the last
          <select @change=${choose}>${DAYS.map((days) => html`<option value=${days} ?selected=${days === this.days}>${days === 1 ? "day" : `${days} days`}</option>`)}</select>
        </label>
        <button type="button" @click=${this.load}>Read again</button>
      </div>
      ${this.listing ? this.renderSums(this.listing) : html`<p class="quiet">Reading …</p>`}
      <kbatch-jobs everybody .api=${this.api} .user=${this.user} .query=${this.query}></kbatch-jobs>
    `;
  }

  private renderSums({ jobs, isCut }: Listing): TemplateResult {
    const failed = jobs.filter((job) => job.status === "failed");
    return html`
      ${isCut ? html`<p class="quiet">There were more: these are the newest ${count(jobs.length)}.</p>` : nothing}
      <div class="sums">
        ${this.renderUsers(groupBy(jobs, (job) => job.user))}
        ${this.renderReasons(groupBy(failed, (job) => job.reason || "no reason"))}
      </div>
    `;
  }

  private renderUsers(groups: [string, Job[]][]): TemplateResult {
    const now = Date.now();
    const ran = (jobs: Job[]) => jobs.reduce((sum, job) => sum + (runSeconds(job, now) ?? 0), 0);
    return html`<div>
      <h2 id="busiest">Busiest</h2>
      ${
        groups.length
          ? html`<table aria-labelledby="busiest">
              <thead><tr><th scope="col">User</th><th scope="col" class="number">Jobs</th><th scope="col" class="number">Not over</th><th scope="col" class="number">Ran</th></tr></thead>
              <tbody>
                ${groups.slice(0, SHOWN).map(
                  ([user, jobs]) => html`<tr>
                    <td><a href="${this.api.baseUrl}admin?user=${encodeURIComponent(user)}">${user}</a></td>
                    <td class="number">${count(jobs.length)}</td><td class="number">${count(jobs.filter(isActive).length)}</td>
                    <td class="number">${duration(ran(jobs))}</td>
                  </tr>`,
                )}
              </tbody>
            </table>`
          : html`<p class="quiet">Nobody.</p>`
      }
    </div>`;
  }

  private renderReasons(groups: [string, Job[]][]): TemplateResult {
    return html`<div>
      <h2 id="reasons">Failures by reason</h2>
      ${
        groups.length
          ? html`<table aria-labelledby="reasons">
              <thead><tr><th scope="col">Reason</th><th scope="col" class="number">Jobs</th><th scope="col">The newest</th></tr></thead>
              <tbody>
                ${groups.slice(0, SHOWN).map(
                  ([reason, jobs]) => html`<tr>
                    <td>${reason}</td><td class="number">${count(jobs.length)}</td>
                    <td><a href="${this.api.baseUrl}job/${encodeURIComponent(jobs[0].id)}">${jobs[0].name}</a> <span class="quiet small">${jobs[0].message}</span></td>
                  </tr>`,
                )}
              </tbody>
            </table>`
          : html`<p class="quiet">There were none.</p>`
      }
    </div>`;
  }
}
