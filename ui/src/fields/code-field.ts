// The code of a job: what was dropped or chosen, until it is sent.
import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { bytes, count } from "../format";
import { base } from "../styles";
import { type CodeFile, readChosen, readDropped } from "./zip";

@customElement("kbatch-code")
export class CodeField extends LitElement {
  @property({ attribute: false }) files: CodeFile[] = [];
  /** The id of an upload that is there already. */
  @property() upload = "";
  /** The id of the job that the upload is of, where it is not of this form. */
  @property({ attribute: false }) uploadFrom = "";
  @property({ reflect: true }) problem = "";
  @state() private isOver = false;

  static override styles = [
    base,
    css`
      .zone {
        padding: 1.25rem;
        border: 2px dashed var(--kb-control-line);
        border-radius: 0.5rem;
        text-align: center;
      }
      .zone.over {
        border-color: var(--kb-accent);
        background: var(--kb-hover);
      }
      .zone.bad {
        border-color: var(--kb-bad);
      }
      .row {
        justify-content: center;
      }
      p {
        margin: 0 0 0.5rem;
        overflow-wrap: anywhere;
      }
      .problem {
        color: var(--kb-bad);
      }
      label.button:focus-within {
        outline: 2px solid var(--kb-focus);
        outline-offset: 2px;
      }
    `,
  ];

  private take(files: CodeFile[]): void {
    if (!files.length) return;
    this.dispatchEvent(new CustomEvent<CodeFile[]>("choose", { detail: files }));
  }

  private clear(): void {
    this.dispatchEvent(new CustomEvent<CodeFile[]>("choose", { detail: [] }));
  }

  private async drop(event: DragEvent): Promise<void> {
    event.preventDefault();
    this.isOver = false;
    if (event.dataTransfer) this.take(await readDropped(event.dataTransfer));
  }

  private chosen(event: Event): void {
    const input = event.target as HTMLInputElement;
    if (input.files) this.take(readChosen(input.files));
    input.value = "";
  }

  override render(): TemplateResult {
    const over = (event: DragEvent) => {
      event.preventDefault();
      this.isOver = true;
    };
    return html`<div
      class="zone ${this.isOver ? "over" : ""} ${this.problem ? "bad" : ""}"
      role="group"
      aria-label="Code"
      aria-describedby=${this.problem ? "problem" : nothing}
      @dragover=${over}
      @dragleave=${() => (this.isOver = false)}
      @drop=${this.drop}
    >
      <p role="status">${this.describe()}</p>
      <div class="row">
        <label class="button">Choose files<input class="hidden" type="file" multiple @change=${this.chosen} /></label>
        <label class="button">Choose folder<input class="hidden" type="file" webkitdirectory @change=${this.chosen} /></label>
        ${this.files.length || this.upload ? html`<button type="button" @click=${this.clear}>Remove</button>` : nothing}
      </div>
      ${this.problem ? html`<p id="problem" class="problem small" role="alert">${this.problem}</p>` : nothing}
    </div>`;
  }

  private describe(): TemplateResult | string {
    const { files } = this;
    if (files.length) {
      const size = bytes(files.reduce((sum, { file }) => sum + file.size, 0));
      const names = files.slice(0, 3).map(({ path }) => path);
      const more = files.length > 3 ? `, and ${count(files.length - 3)} more` : "";
      return html`<strong>${names.join(", ")}${more}</strong> <span class="quiet">(${size})</span>`;
    }
    if (this.upload) return this.uploadFrom ? `Same code as ${this.uploadFrom}.` : "Your code is uploaded.";
    return "Drop a ZIP, a folder, files or a notebook here.";
  }
}
