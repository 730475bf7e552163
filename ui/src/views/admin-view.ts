// For admins: who is busiest, why jobs failed, and everybody's jobs.
import { css, html, LitElement, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { count, countJobs, duration } from "../format";
import type { Api } from "../net/api";
import type { JobSummary, ReasonSum, User, UserSum } from "../net/schema";
import "./jobs-view";
import { tellProblem } from "../problem";
import { base } from "../styles";

const DAYS = [1, 7, 30];

const SHOWN = 10;

@customElement("kbatch-admin")
export class AdminView extends LitElement {
  @property({ attribute: false }) api!: Api;
  @property({ attribute: false }) user!: User;
  @property({ attribute: false }) query = new URLSearchParams();
  @state() private days = DAYS[0];
  @state() private summary: JobSummary | null = null;
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
      const since = new Date(Date.now() - this.days * 86_400_000).toISOString();
      this.summary = await this.api.get<JobSummary>("jobs/summary", { user: "*", since, limit: SHOWN }, signal);
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
        <label class="small quiet">Period
          <select @change=${choose}>${DAYS.map((days) => html`<option value=${days} ?selected=${days === this.days}>${days === 1 ? "24 hours" : `${days} days`}</option>`)}</select>
        </label>
        <button type="button" @click=${this.load}>Refresh</button>
      </div>
      ${this.summary ? this.renderSums(this.summary) : html`<p class="quiet">Loading…</p>`}
      <kbatch-jobs everybody .api=${this.api} .user=${this.user} .query=${this.query}></kbatch-jobs>
    `;
  }

  private renderSums({ jobs, users, reasons }: JobSummary): TemplateResult {
    return html`
      <p class="quiet">${countJobs(jobs)} in this period.</p>
      <div class="sums">${this.renderUsers(users)}${this.renderReasons(reasons)}</div>
    `;
  }

  private renderUsers(users: UserSum[]): TemplateResult {
    return html`<div>
      <h2 id="top-users">Top users</h2>
      ${
        users.length
          ? html`<table aria-labelledby="top-users">
              <thead><tr><th scope="col">User</th><th scope="col" class="number">Jobs</th><th scope="col" class="number">Active</th><th scope="col" class="number">Run time</th></tr></thead>
              <tbody>
                ${users.map(
                  (each) => html`<tr>
                    <td><a href="${this.api.baseUrl}admin?user=${encodeURIComponent(each.user)}">${each.user}</a></td>
                    <td class="number">${count(each.jobs)}</td><td class="number">${count(each.active)}</td>
                    <td class="number">${duration(each.run_seconds)}</td>
                  </tr>`,
                )}
              </tbody>
            </table>`
          : html`<p class="quiet">No jobs in this period.</p>`
      }
    </div>`;
  }

  private renderReasons(reasons: ReasonSum[]): TemplateResult {
    return html`<div>
      <h2 id="reasons">Failures by reason</h2>
      ${
        reasons.length
          ? html`<table aria-labelledby="reasons">
              <thead><tr><th scope="col">Reason</th><th scope="col" class="number">Jobs</th><th scope="col">Latest</th></tr></thead>
              <tbody>
                ${reasons.map(
                  ({ reason, jobs, newest }) => html`<tr>
                    <td>${reason || "Unknown"}</td><td class="number">${count(jobs)}</td>
                    <td><a href="${this.api.baseUrl}job/${encodeURIComponent(newest.id)}">${newest.name}</a> <span class="quiet small">${newest.message}</span></td>
                  </tr>`,
                )}
              </tbody>
            </table>`
          : html`<p class="quiet">No failures in this period.</p>`
      }
    </div>`;
  }
}
