// How far a job is, as it has reported itself: a bar if it counts, and a line of text.
import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, property } from "lit/decorators.js";
import { count, exactTime } from "../format";
import type { JobProgress } from "../net/schema";
import { base } from "../styles";

@customElement("kbatch-progress")
export class ProgressBar extends LitElement {
  @property({ attribute: false }) progress!: JobProgress;

  static override styles = [
    base,
    css`
      progress {
        width: 12rem;
        max-width: 100%;
        height: 0.6rem;
        accent-color: var(--kb-accent);
      }
      span {
        overflow-wrap: anywhere;
        font-variant-numeric: tabular-nums;
      }
    `,
  ];

  override render(): TemplateResult {
    const { done, total, message, at } = this.progress;
    return html`<div class="row small" title="Reported ${exactTime(at)}">
      ${
        done !== null && total !== null
          ? html`<progress aria-label="Progress" max=${total} value=${Math.min(done, total)}></progress>
              <span>${count(done)} of ${count(total)} (${Math.floor((Math.min(done, total) / total) * 100)} %)</span>`
          : done !== null
            ? html`<span>${count(done)} done</span>`
            : nothing
      }
      ${message ? html`<span>${message}</span>` : nothing}
    </div>`;
  }
}
