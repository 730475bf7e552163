// A list of names with values, such as an environment.
import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, property } from "lit/decorators.js";
import { base } from "../styles";
import { groupStyles } from "./form-styles";

export interface Pair {
  name: string;
  value: string;
}

@customElement("kbatch-pairs")
export class PairsField extends LitElement {
  @property() label = "";
  @property() noun = "one";
  @property({ reflect: true }) problem = "";
  @property({ attribute: false }) pairs: Pair[] = [];

  static override styles = [
    base,
    groupStyles,
    css`
      .pair {
        display: grid;
        grid-template-columns: 1fr 2fr auto;
        gap: 0.5rem;
        margin-top: 0.35rem;
      }
      input {
        min-width: 0;
      }
      button {
        margin-top: 0.35rem;
      }
      .pair button {
        margin: 0;
      }
      .problem {
        color: var(--kb-bad);
      }
    `,
  ];

  private change(pairs: Pair[]): void {
    this.pairs = pairs;
    this.dispatchEvent(new CustomEvent<Pair[]>("change", { detail: pairs }));
  }

  override render(): TemplateResult {
    const set = (index: number, what: Partial<Pair>) =>
      this.change(this.pairs.map((pair, at) => (at === index ? { ...pair, ...what } : pair)));
    return html`<fieldset aria-describedby=${this.problem ? "problem" : nothing}>
      <legend>${this.label}</legend>
      ${this.pairs.map(
        (pair, index) => html`<div class="pair">
          <input aria-label="Name of ${this.noun} ${index + 1}" placeholder="Name" .value=${pair.name} @input=${(event: Event) => set(index, { name: (event.target as HTMLInputElement).value })} />
          <input aria-label="Value of ${this.noun} ${index + 1}" placeholder="Value" .value=${pair.value} @input=${(event: Event) => set(index, { value: (event.target as HTMLInputElement).value })} />
          <button type="button" aria-label="Remove ${this.noun} ${index + 1}" @click=${() => this.change(this.pairs.filter((_, at) => at !== index))}>×</button>
        </div>`,
      )}
      <button type="button" @click=${() => this.change([...this.pairs, { name: "", value: "" }])}>Add ${this.noun}</button>
      ${this.problem ? html`<div id="problem" class="problem small" role="alert">${this.problem}</div>` : nothing}
    </fieldset>`;
  }
}
