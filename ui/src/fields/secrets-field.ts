// The secrets of a new job: which of the user's it has, and as what.
import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, property } from "lit/decorators.js";
import type { Secret } from "../net/schema";
import { base } from "../styles";
import { groupStyles } from "./form-styles";
import { makeUse, type SecretUse, suggestUseName, USES } from "./secret-uses";

@customElement("kbatch-secret-uses")
export class SecretsField extends LitElement {
  @property({ attribute: false }) uses: SecretUse[] = [];
  /** The secrets that there are, or null until that is known. */
  @property({ attribute: false }) secrets: Secret[] | null = null;
  /** The address of the page on which secrets are kept. */
  @property({ attribute: false }) page = "";
  @property({ reflect: true }) problem = "";

  static override styles = [
    base,
    groupStyles,
    css`
      .use {
        display: grid;
        grid-template-columns: 2fr 2fr 3fr auto;
        gap: 0.5rem;
        margin-top: 0.35rem;
      }
      .use > * {
        min-width: 0;
      }
      button {
        margin-top: 0.35rem;
      }
      .use button {
        margin: 0;
        justify-self: end;
      }
      .problem {
        color: var(--kb-bad);
      }
      @media (max-width: 600px) {
        .use {
          margin-top: 0.75rem;
          grid-template-columns: 1fr auto;
        }
        .use > :not(button) {
          grid-column: 1;
        }
        .use button {
          grid-column: 2;
          grid-row: 1;
        }
      }
    `,
  ];

  private change(uses: SecretUse[]): void {
    this.uses = uses;
    this.dispatchEvent(new CustomEvent<SecretUse[]>("change", { detail: uses }));
  }

  override render(): TemplateResult {
    const secrets = this.secrets ?? [];
    const unused = secrets.find(({ name }) => !this.uses.some(({ secret }) => secret === name)) ?? secrets[0];
    return html`<fieldset aria-describedby=${this.problem ? "problem" : nothing}>
      <legend>Secrets</legend>
      ${this.uses.map((use, index) => this.renderUse(use, index))}
      ${
        this.uses.some(({ as }) => as === "file")
          ? html`<div class="quiet small">Files are in the folder <code>$KBATCH_SECRETS_DIR</code>.</div>`
          : nothing
      }
      ${
        unused
          ? html`<button type="button" @click=${() => this.change([...this.uses, makeUse(unused)])}>Add secret</button>`
          : html`<div class="quiet small">
              ${this.secrets === null ? "" : "You have no secrets."}
              Keep tokens and passwords for your jobs on the page <a href=${this.page} target="_blank">Secrets</a>.
            </div>`
      }
      ${this.problem ? html`<div id="problem" class="problem small" role="alert">${this.problem}</div>` : nothing}
    </fieldset>`;
  }

  private renderUse(use: SecretUse, index: number): TemplateResult {
    const secrets = this.secrets ?? [];
    const set = (what: Partial<SecretUse>) =>
      this.change(this.uses.map((each, at) => (at === index ? { ...each, ...what } : each)));
    const choose = (event: Event) => {
      const chosen = secrets.find(({ name }) => name === (event.target as HTMLSelectElement).value);
      if (chosen) set(makeUse(chosen));
    };
    const turn = (event: Event) => {
      const as = (event.target as HTMLSelectElement).value as SecretUse["as"];
      set({ as, name: suggestUseName(use.secret, as) });
    };
    const type = (event: Event) => set({ name: (event.target as HTMLInputElement).value });
    const isKnown = secrets.some(({ name }) => name === use.secret);
    return html`<div class="use">
      <select aria-label="Secret ${index + 1}" @change=${choose}>
        ${isKnown ? nothing : html`<option selected>${use.secret}${this.secrets ? " (missing)" : ""}</option>`}
        ${secrets.map(({ name }) => html`<option value=${name} ?selected=${name === use.secret}>${name}</option>`)}
      </select>
      ${
        use.as === "registry"
          ? html`<span class="quiet small">pulls the image</span><span></span>`
          : html`<select aria-label="Use of secret ${index + 1}" @change=${turn}>
                <option value="env" ?selected=${use.as === "env"}>${USES.env}</option>
                <option value="file" ?selected=${use.as === "file"}>${USES.file}</option>
              </select>
              <input aria-label="${USES[use.as]} of secret ${index + 1}" autocomplete="off" spellcheck="false" .value=${use.name} @input=${type} />`
      }
      <button type="button" aria-label="Remove secret ${index + 1}" @click=${() => this.change(this.uses.filter((_, at) => at !== index))}>×</button>
    </div>`;
  }
}
