// A job's results: the list, a look at text and images, and downloads.
import { css, html, LitElement, nothing, type PropertyValues, type TemplateResult } from "lit";
import { customElement, query as find, property, state } from "lit/decorators.js";
import { bytes, count, exactTime } from "../format";
import { type Api, ApiError, isOver } from "../net/api";
import type { Job, OmittedFile, OutputFile, OutputList } from "../net/schema";
import { tellProblem } from "../problem";
import { base } from "../styles";

const IMAGES = /\.(png|jpe?g|gif|webp)$/i;

const TEXTS = /\.(txt|log|md|csv|tsv|json)$/i;

/** Bytes of a text that are shown. */
const MAX_TEXT = 64 * 1024;

const SHOWN = 200;

@customElement("kbatch-outputs")
export class OutputsView extends LitElement {
  @property({ attribute: false }) api!: Api;
  @property({ attribute: false }) job!: Job;
  @state() private files: OutputFile[] | null = null;
  @state() private omitted: OmittedFile[] = [];
  @state() private problem = "";
  @state() private most = SHOWN;
  @state() private filter = "";
  @state() private open: OutputFile | null = null;
  @state() private text: string | null = null;
  @find("dialog") private dialog!: HTMLDialogElement;

  static override styles = [
    base,
    css`
      dialog {
        width: min(60rem, calc(100vw - 2rem));
        max-height: calc(100vh - 4rem);
      }
      dialog img {
        display: block;
        max-width: 100%;
        max-height: 70vh;
        margin: auto;
        background: #ffffff;
      }
      dialog pre {
        max-height: 65vh;
        margin: 0;
        overflow: auto;
        padding: 0.75rem;
        border: 1px solid var(--kb-line);
        background: var(--kb-panel);
        white-space: pre;
      }
      td.path {
        overflow-wrap: anywhere;
      }
      details {
        margin-bottom: 0.75rem;
      }
      summary {
        cursor: pointer;
      }
      ul {
        max-height: 16rem;
        overflow: auto;
        margin: 0.35rem 0 0;
        padding-left: 1.25rem;
      }
      li {
        overflow-wrap: anywhere;
      }
      td button {
        min-height: 1.9rem;
      }
      @media (max-width: 600px) {
        .modified {
          display: none;
        }
      }
    `,
  ];

  override willUpdate(changed: PropertyValues<this>): void {
    const before = changed.get("job");
    if (changed.has("job") && (before?.id !== this.job.id || before?.outputs?.state !== this.job.outputs?.state)) {
      this.load();
    }
  }

  private async load(): Promise<void> {
    this.files = null;
    this.omitted = [];
    if (this.job.outputs?.state !== "kept") return;
    try {
      const listing = await this.api.get<OutputList>(`jobs/${this.job.id}/outputs`);
      this.files = listing.items;
      this.omitted = listing.omitted;
      this.problem = "";
    } catch (error) {
      this.problem = error instanceof ApiError ? error.message : String(error);
      const isBusy = error instanceof ApiError && error.status === 429;
      if (isBusy && this.isConnected) setTimeout(() => this.load(), 1000 * (error.retryAfterSeconds ?? 10));
    }
  }

  private url(file: OutputFile): string {
    return this.api.url(`jobs/${this.job.id}/outputs/${file.path.split("/").map(encodeURIComponent).join("/")}`);
  }

  private async show(file: OutputFile): Promise<void> {
    this.open = file;
    this.text = null;
    this.dialog.showModal();
    if (IMAGES.test(file.path)) return;
    try {
      const path = this.url(file).slice(this.api.url("").length);
      const headers = { Accept: "*/*", ...(file.size > MAX_TEXT ? { Range: `bytes=0-${MAX_TEXT - 1}` } : {}) };
      this.text = await (await this.api.request("GET", path, { headers })).text();
    } catch (error) {
      this.dialog.close();
      tellProblem(this, error);
    }
  }

  override render(): TemplateResult {
    return html`<section aria-labelledby="results">
      <div class="row">
        <h2 id="results" class="grow">Results</h2>
        ${
          this.files && this.files.length > 0
            ? html`<a class="button" download href=${this.api.url(`jobs/${this.job.id}/outputs.zip`)}>Download all</a>`
            : nothing
        }
      </div>
      ${this.renderState()} ${this.renderOmitted()} ${this.files?.length ? this.renderFiles(this.files) : nothing} ${this.renderDialog()}
    </section>`;
  }

  private renderState(): TemplateResult {
    const { outputs } = this.job;
    if (this.problem) return html`<p class="quiet">${this.problem}</p>`;
    if (!outputs && isOver(this.job) && !this.job.attempts) return html`<p class="quiet">No result files.</p>`;
    if (!outputs)
      return html`<p class="quiet">Files the job writes to <code>$KBATCH_OUTPUT_DIR</code> appear here when it ends.</p>`;
    if (outputs.state !== "kept") return html`<p>${outputs.message}</p>`;
    const files = outputs.files === 1 ? "1 file" : `${count(outputs.files)} files`;
    const what = outputs.files ? `${files}, ${bytes(outputs.size)}.` : "No result files.";
    return html`<p class="quiet">${what} ${outputs.message}</p>`;
  }

  private renderOmitted(): TemplateResult | typeof nothing {
    const { omitted } = this;
    if (!omitted.length) return nothing;
    const more = (this.job.outputs?.omitted_files ?? 0) - omitted.length;
    return html`<details>
      <summary>Files not kept</summary>
      <ul>
        ${omitted.map(({ path, size }) => html`<li>${path} <span class="quiet">(${bytes(size)})</span></li>`)}
        ${more > 0 ? html`<li>and ${count(more)} more</li>` : nothing}
      </ul>
    </details>`;
  }

  private renderFiles(files: OutputFile[]): TemplateResult {
    const found = files.filter((file) => file.path.toLowerCase().includes(this.filter.toLowerCase()));
    const filter = (event: Event) => {
      this.filter = (event.target as HTMLInputElement).value;
      this.most = SHOWN;
    };
    return html`
      ${
        files.length > 20
          ? html`<label class="hidden" for="filter">Filter files</label>
              <input id="filter" type="search" placeholder="Filter files" @input=${filter} />`
          : nothing
      }
      <table aria-labelledby="results">
        <thead>
          <tr>
            <th scope="col">File</th>
            <th scope="col" class="number">Size</th>
            <th scope="col" class="modified">Modified</th>
            <th scope="col"><span class="hidden">Preview</span></th>
          </tr>
        </thead>
        <tbody>
          ${found.slice(0, this.most).map((file) => this.renderFile(file))}
        </tbody>
      </table>
      ${found.length > this.most ? html`<p><button type="button" @click=${() => (this.most += SHOWN)}>Show ${SHOWN} more of ${count(found.length)}</button></p>` : nothing}
    `;
  }

  private renderFile(file: OutputFile): TemplateResult {
    const canShow = IMAGES.test(file.path) || TEXTS.test(file.path);
    return html`<tr>
      <td class="path"><a download href=${this.url(file)}>${file.path}</a></td>
      <td class="number">${bytes(file.size)}</td>
      <td class="modified">${exactTime(file.modified_at)}</td>
      <td class="number">${canShow ? html`<button type="button" aria-label="Preview ${file.path}" @click=${() => this.show(file)}>Preview</button>` : nothing}</td>
    </tr>`;
  }

  private renderDialog(): TemplateResult {
    const file = this.open;
    const isImage = file && IMAGES.test(file.path);
    return html`<dialog aria-labelledby="file-title" @close=${() => (this.open = null)}>
      <h2 id="file-title">${file?.path}</h2>
      ${isImage ? html`<img src=${this.url(file)} alt=${file.path} />` : html`<pre tabindex="0">${this.text ?? "Loading…"}</pre>`}
      ${file && !isImage && file.size > MAX_TEXT ? html`<p class="quiet small">Showing the first ${bytes(MAX_TEXT)} of ${bytes(file.size)}.</p>` : nothing}
      <div class="row">
        ${file ? html`<a class="button" download href=${this.url(file)}>Download</a>` : nothing}
        <button type="button" autofocus @click=${() => this.dialog.close()}>Close</button>
      </div>
    </dialog>`;
  }
}
