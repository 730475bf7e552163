// One job: what became of it and why, its timeline, log, results, attempts, and what was asked for.
import { css, html, LitElement, nothing, type PropertyValues, type TemplateResult } from "lit";
import { customElement, query as find, property, state } from "lit/decorators.js";
import { clockTime, countJobs, duration, exactTime, runSeconds } from "../format";
import { type Api, ApiError, isOver } from "../net/api";
import { QUEUED_MS, repeatWhileVisible, watch } from "../net/events";
import type { Attempt, Job, Step, Timeline, User } from "../net/schema";
import "../log/log-view";
import { describeNotebook } from "../fields/notebook";
import "./outputs-view";
import "./progress-bar";
import "./request-view";
import { tellProblem } from "../problem";
import { navigate } from "../router";
import { base } from "../styles";

const STEPS: Record<string, string> = {
  accepted: "Accepted",
  handed_over: "Launched",
  scheduled: "Node assigned",
  code_fetched: "Code fetched",
  image_pulled: "Image ready",
  running: "Running",
  attempt_ended: "Attempt ended",
  cancel_requested: "Cancel requested",
};

function nameStep({ step, attempt }: Step, many: boolean): string {
  if (!many || !attempt) return STEPS[step] ?? step;
  return step === "attempt_ended" ? `Attempt ${attempt} ended` : `${STEPS[step] ?? step} (attempt ${attempt})`;
}

@customElement("kbatch-job")
export class JobView extends LitElement {
  @property({ attribute: false }) api!: Api;
  @property({ attribute: false }) user!: User;
  @property({ attribute: false }) jobId = "";
  @state() private job: Job | null = null;
  @state() private steps: Step[] = [];
  @state() private attempts: Attempt[] = [];
  @state() private missing = "";
  @state() private now = Date.now();
  @state() private isBusy = false;
  @find("dialog") private dialog!: HTMLDialogElement;
  private stop = new AbortController();

  static override styles = [
    base,
    css`
      .message {
        margin: 0.5rem 0 0;
        font-size: 1.05rem;
        overflow-wrap: anywhere;
      }
      .notebook {
        margin-top: 0.25rem;
        overflow-wrap: anywhere;
        display: -webkit-box;
        -webkit-line-clamp: 3;
        -webkit-box-orient: vertical;
        overflow: hidden;
      }
      .progress,
      .family {
        margin-top: 0.5rem;
      }
      .message.failed {
        color: var(--kb-bad);
      }
      ol {
        display: flex;
        flex-wrap: wrap;
        gap: 1rem 0;
        margin: 1rem 0 0;
        padding: 0;
        list-style: none;
      }
      li {
        position: relative;
        min-width: 7.5rem;
        padding: 0.9rem 1rem 0 0;
        border-top: 3px solid var(--kb-good);
      }
      li::before {
        position: absolute;
        top: -8px;
        left: 0;
        width: 13px;
        height: 13px;
        border-radius: 50%;
        background: var(--kb-good);
        content: "";
      }
      li.now {
        border-top-style: dashed;
      }
      li.failed::before {
        background: var(--kb-bad);
      }
      li:last-child {
        border-top-color: transparent;
      }
      .scroll {
        overflow-x: auto;
      }
    `,
  ];

  override connectedCallback(): void {
    super.connectedCallback();
    this.begin();
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.stop.abort();
  }

  override willUpdate(changed: PropertyValues<this>): void {
    if (changed.has("jobId") && changed.get("jobId")) this.begin();
    if (this.job) document.title = `${this.job.name} · kbatch`;
  }

  private begin(): void {
    this.stop.abort();
    this.stop = new AbortController();
    const { signal } = this.stop;
    this.job = null;
    this.steps = [];
    this.missing = "";
    repeatWhileVisible(() => (this.now = Date.now()), 1000, signal);
    repeatWhileVisible(() => this.job?.status === "queued" && this.load(signal), QUEUED_MS, signal);
    this.load(signal).then(() => {
      if (!signal.aborted && this.job) this.watch(this.job, signal);
    });
  }

  private watch(job: Job, signal: AbortSignal): void {
    watch(
      this.api,
      {
        path: "jobs/watch",
        query: { user: job.user === this.user.name ? undefined : job.user },
        onEvent: ({ event, data }) => {
          const seen = JSON.parse(data) as Job;
          if (event === "reset") this.load(signal);
          else if (seen.id !== this.jobId) return;
          else if (event === "deleted") this.missing = "This job was deleted.";
          else this.take(seen, signal);
        },
        onState: () => {},
        onRefused: (error) => tellProblem(this, error),
      },
      signal,
    );
  }

  private take(seen: Job, signal: AbortSignal): void {
    this.job = { ...seen, env: this.job?.env ?? seen.env };
    this.loadTimeline(signal);
  }

  private async load(signal: AbortSignal): Promise<void> {
    try {
      this.job = await this.api.get<Job>(`jobs/${encodeURIComponent(this.jobId)}`, {}, signal);
      await this.loadTimeline(signal);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && error.status === 404) this.missing = error.message;
      else tellProblem(this, error);
      if (error instanceof ApiError && error.isPassing) {
        setTimeout(() => !signal.aborted && this.loadOrBegin(signal), 5000);
      }
    }
  }

  private loadOrBegin(signal: AbortSignal): void {
    if (this.job) this.load(signal);
    else this.begin();
  }

  private async loadTimeline(signal: AbortSignal): Promise<void> {
    try {
      const path = `jobs/${encodeURIComponent(this.jobId)}/timeline`;
      const told = await this.api.get<Timeline>(path, {}, signal);
      this.steps = told.items;
      this.attempts = told.attempts;
    } catch {
      // it comes with the next change
    }
  }

  private async act(method: string, path: string, json?: unknown): Promise<Job | null> {
    this.isBusy = true;
    try {
      const answer = await this.api.request(method, `jobs/${encodeURIComponent(this.jobId)}${path}`, { json });
      return answer.status === 204 ? null : ((await answer.json()) as Job);
    } catch (error) {
      tellProblem(this, error);
      throw error;
    } finally {
      this.isBusy = false;
    }
  }

  private async cancel(): Promise<void> {
    const note = this.renderRoot.querySelector<HTMLInputElement>("#note")?.value;
    const job = await this.act("POST", "/cancel", note ? { note } : undefined).catch(() => null);
    if (job) this.take(job, this.stop.signal);
  }

  private async rerun(): Promise<void> {
    const job = await this.act("POST", "/rerun").catch(() => null);
    if (job) navigate(`${this.api.baseUrl}job/${encodeURIComponent(job.id)}`);
  }

  private async delete(): Promise<void> {
    this.dialog.close();
    try {
      await this.act("DELETE", "");
      navigate(this.api.baseUrl);
    } catch {
      // the frame says why
    }
  }

  // How it looks

  override render(): TemplateResult {
    if (this.missing)
      return html`<h1>Job not found</h1><p>${this.missing}</p><p><a href=${this.api.baseUrl}>Back to jobs</a></p>`;
    const { job } = this;
    if (!job) return html`<p class="quiet">Loading…</p>`;
    return html`
      ${this.renderHead(job)} ${this.renderTimeline(job)}
      <section><kbatch-log .api=${this.api} .job=${job}></kbatch-log></section>
      <kbatch-outputs .api=${this.api} .job=${job}></kbatch-outputs>
      ${this.renderAttempts()}
      <kbatch-request .job=${job}></kbatch-request>
      ${this.renderDialog(job)}
    `;
  }

  private renderHead(job: Job): TemplateResult {
    const isMine = job.user === this.user.name;
    return html`
      <div class="row">
        <h1>${job.name}</h1>
        <span class="status ${job.status}" role="status">${job.status}</span>
        <span class="grow"></span>
        ${
          isMine || isOver(job)
            ? nothing
            : html`<label class="hidden" for="note">Reason for cancelling</label>
                <input id="note" maxlength="1000" placeholder="Reason (shown to ${job.user})" />`
        }
        ${isOver(job) ? nothing : html`<button type="button" ?disabled=${this.isBusy} @click=${this.cancel}>Cancel</button>`}
        ${
          isMine
            ? html`<button type="button" ?disabled=${this.isBusy} @click=${this.rerun}>Run again</button>
                <a class="button" href="${this.api.baseUrl}submit?from=${encodeURIComponent(job.id)}">Run again with changes</a>`
            : nothing
        }
        <button type="button" class="danger" ?disabled=${this.isBusy} @click=${() => this.dialog.showModal()}>Delete</button>
      </div>
      <div class="quiet small">${job.id}${isMine ? "" : ` · ${job.user}`}${job.description ? ` · ${job.description}` : ""}</div>
      ${job.notebook ? html`<div class="notebook">${describeNotebook(job.notebook)}</div>` : nothing}
      ${job.message ? html`<p class="message ${job.status}">${job.message}</p>` : nothing}
      ${job.progress ? html`<kbatch-progress class="progress" .progress=${job.progress}></kbatch-progress>` : nothing}
      ${this.renderFamily(job)}
    `;
  }

  /** Lead to the job that submitted this one, and to those that it has submitted. */
  private renderFamily({ id, parent, children, user }: Job): TemplateResult | typeof nothing {
    if (!parent && !children) return nothing;
    const root = this.api.baseUrl;
    const list =
      user === this.user.name
        ? `${root}?parent=${encodeURIComponent(id)}`
        : `${root}admin?user=${encodeURIComponent(user)}&parent=${encodeURIComponent(id)}`;
    return html`<div class="small family">
      ${parent ? html`Submitted by the job <a href="${root}job/${encodeURIComponent(parent)}">${parent}</a>. ` : nothing}
      ${children ? html`It has submitted <a href=${list}>${countJobs(children)}</a>.` : nothing}
    </div>`;
  }

  private renderTimeline(job: Job): TemplateResult {
    const many = this.attempts.length > 1;
    const steps = this.steps.filter(({ step }) => step !== "ended" && (many || step !== "attempt_ended"));
    const seconds = runSeconds(job, this.now);
    const end = job.ended_at
      ? { succeeded: "Succeeded", failed: "Failed", cancelled: "Cancelled" }[job.status as "failed"]
      : "";
    return html`<ol aria-label="Timeline">
      ${steps.map(
        (each, index) => html`<li class=${!end && index === steps.length - 1 ? "now" : ""}>
          <div>${nameStep(each, many)}</div>
          <time class="quiet small" datetime=${each.time} title=${exactTime(each.time)}>${clockTime(each.time)}</time>
        </li>`,
      )}
      ${
        end && job.ended_at
          ? html`<li class=${job.status}>
              <div>${end}</div>
              <time class="quiet small" datetime=${job.ended_at} title=${exactTime(job.ended_at)}>${clockTime(job.ended_at)}${seconds === null ? "" : `, ran for ${duration(seconds)}`}</time>
            </li>`
          : html`<li><div class="quiet">${seconds === null ? "Waiting" : `${duration(seconds)} so far`}</div></li>`
      }
    </ol>`;
  }

  private renderAttempts(): TemplateResult | typeof nothing {
    if (this.attempts.length < 2) return nothing;
    return html`<section aria-labelledby="attempts">
      <h2 id="attempts">Attempts</h2>
      <div class="scroll" tabindex="0" role="group" aria-labelledby="attempts">
        <table aria-labelledby="attempts">
          <thead>
            <tr><th scope="col">Attempt</th><th scope="col">Result</th><th scope="col">Exit code</th><th scope="col">Started</th><th scope="col">Duration</th></tr>
          </thead>
          <tbody>
            ${this.attempts.map((each) => {
              const seconds = runSeconds(each, this.now);
              return html`<tr>
                <td>${each.number}</td><td>${each.phase}</td><td>${each.exit_code ?? ""}</td>
                <td>${each.started_at ? exactTime(each.started_at) : ""}</td><td>${seconds === null ? "" : duration(seconds)}</td>
              </tr>`;
            })}
          </tbody>
        </table>
      </div>
    </section>`;
  }

  private renderDialog(job: Job): TemplateResult {
    return html`<dialog aria-labelledby="delete-title">
      <h2 id="delete-title">Delete ${job.name}?</h2>
      <p>${isOver(job) ? "" : "It is still active and will be cancelled. "}Its log and results will be deleted. This can't be undone.</p>
      <div class="row">
        <button type="button" autofocus @click=${() => this.dialog.close()}>Keep</button>
        <button type="button" class="danger" @click=${this.delete}>Delete job</button>
      </div>
    </dialog>`;
  }
}
