// What is done to several jobs at once: asks first, says how far it is, and what could not be done.
import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, query as find, property, state } from "lit/decorators.js";
import { countJobs } from "../format";
import { type Api, ApiError, isOver } from "../net/api";
import type { Job } from "../net/schema";
import { base } from "../styles";

const AT_ONCE = 4;

interface Bulk {
  action: "cancel" | "delete";
  done: number;
  total: number;
  /** Why, for those whose jobs they are. */
  note: string;
  problems: string[];
}

/** Tells by the events `clear` and `done` that nothing is to be selected any more. */
@customElement("kbatch-bulk")
export class BulkActions extends LitElement {
  @property({ attribute: false }) api!: Api;
  /** Those that are selected. */
  @property({ attribute: false }) jobs: Job[] = [];
  /** Whether they may be other people's. */
  @property({ type: Boolean }) everybody = false;
  @state() private bulk: Bulk | null = null;
  @state() private asked: Bulk["action"] | null = null;
  @find("dialog") private dialog!: HTMLDialogElement;

  static override styles = [
    base,
    css`
      #note {
        width: 100%;
      }
      progress {
        width: 12rem;
        accent-color: var(--kb-accent);
      }
    `,
  ];

  private ask(action: Bulk["action"]): void {
    this.asked = action;
    this.dialog.showModal();
  }

  private async run(): Promise<void> {
    const action = this.asked;
    const note = this.renderRoot.querySelector<HTMLInputElement>("#note")?.value ?? "";
    this.dialog.close();
    const ids = this.jobs.filter((job) => action === "delete" || !isOver(job)).map((job) => job.id);
    if (!action || !ids.length) return;
    const bulk: Bulk = { action, done: 0, total: ids.length, note, problems: [] };
    this.bulk = bulk;
    await Promise.all(Array.from({ length: AT_ONCE }, () => this.work(bulk, ids)));
    if (!bulk.problems.length) this.bulk = null;
    this.dispatchEvent(new Event("done"));
  }

  private async work(bulk: Bulk, ids: string[]): Promise<void> {
    for (let id = ids.shift(); id !== undefined && this.isConnected; id = ids.shift()) {
      try {
        const json = bulk.note ? { note: bulk.note } : undefined;
        if (bulk.action === "cancel") await this.api.request("POST", `jobs/${id}/cancel`, { json });
        else await this.api.request("DELETE", `jobs/${id}`);
      } catch (error) {
        // one that ended meanwhile, or is gone, needs nothing more
        if (!(error instanceof ApiError && [404, 409].includes(error.status))) {
          bulk.problems.push(`${id}: ${(error as Error).message}`);
        }
      }
      bulk.done += 1;
      this.bulk = { ...bulk };
    }
  }

  override render(): TemplateResult {
    return html`${this.bulk ? this.renderProgress(this.bulk) : this.renderButtons()} ${this.renderDialog()}`;
  }

  private renderProgress({ action, done, total, problems }: Bulk): TemplateResult {
    return html`<div class="panel" role="status">
      <div class="row">
        <label>${action === "cancel" ? "Cancelling jobs" : "Deleting jobs"}: ${done} of ${total} <progress max=${total} value=${done}></progress></label>
        ${done === total ? html`<button type="button" @click=${() => (this.bulk = null)}>Close</button>` : nothing}
      </div>
      ${problems.map((problem) => html`<div class="small">${problem}</div>`)}
    </div>`;
  }

  private renderButtons(): TemplateResult | typeof nothing {
    if (!this.jobs.length) return nothing;
    return html`<div class="panel row">
      <span class="grow">${this.jobs.length} selected</span>
      <button type="button" ?disabled=${this.jobs.every(isOver)} @click=${() => this.ask("cancel")}>Cancel</button>
      <button type="button" class="danger" @click=${() => this.ask("delete")}>Delete</button>
      <button type="button" @click=${() => this.dispatchEvent(new Event("clear"))}>Clear selection</button>
    </div>`;
  }

  private renderDialog(): TemplateResult {
    const { jobs } = this;
    const going = jobs.filter((job) => !isOver(job)).length;
    const isCancel = this.asked === "cancel";
    const action = isCancel ? `Cancel ${countJobs(going)}` : `Delete ${countJobs(jobs.length)}`;
    return html`<dialog aria-labelledby="dialog-title">
      <h2 id="dialog-title">${action}?</h2>
      <p>
        ${
          isCancel
            ? `${going === 1 ? "It" : "They"} will be stopped. Results written so far are kept.`
            : `${jobs.length === 1 ? "Its log" : "Their logs"} and results will be deleted too. This can't be undone.${going ? ` ${countJobs(going)} ${going === 1 ? "is" : "are"} still active and will be cancelled.` : ""}`
        }
      </p>
      ${
        this.everybody && isCancel
          ? html`<label for="note">Reason (shown to the owners of the jobs)</label>
              <input id="note" maxlength="1000" />`
          : nothing
      }
      <div class="row">
        <button type="button" autofocus @click=${() => this.dialog.close()}>${isCancel ? "Keep running" : "Keep"}</button>
        <button type="button" class="danger" @click=${this.run}>${action}</button>
      </div>
    </dialog>`;
  }
}
