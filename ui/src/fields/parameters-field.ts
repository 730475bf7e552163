// The parameters of a notebook: those that it has, to be changed or left alone, and others.
import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, property } from "lit/decorators.js";
import type { FieldError } from "../net/api";
import { base } from "../styles";
import { groupStyles } from "./form-styles";
import { isChanged, type Kind, type NotebookForm, nameLanguage, type Parameter } from "./notebook";

@customElement("kbatch-parameters")
export class ParametersField extends LitElement {
  @property({ attribute: false }) notebook!: NotebookForm;
  /** What is wrong: `notebook.parameters.NAME`, or of all of them. */
  @property({ attribute: false }) problems: FieldError[] = [];

  static override styles = [
    base,
    groupStyles,
    css`
      .parameter {
        margin-top: 0.6rem;
      }
      .line {
        display: grid;
        grid-template-columns: minmax(6rem, 1fr) 2fr 6.5rem 5.5rem;
        gap: 0.5rem;
        align-items: start;
      }
      .line > label {
        padding-top: 0.4rem;
        font-family: var(--kb-mono);
        font-size: 0.9rem;
        overflow-wrap: anywhere;
      }
      .line > * {
        min-width: 0;
      }
      input.code,
      textarea.code {
        font-family: var(--kb-mono);
        font-size: 0.9rem;
      }
      textarea {
        resize: vertical;
      }
      .changed > label {
        font-weight: 700;
      }
      [aria-invalid="true"] {
        border-color: var(--kb-bad) !important;
      }
      .problem {
        margin-top: 0.2rem;
        color: var(--kb-bad);
      }
      pre {
        max-height: 12rem;
        overflow: auto;
        margin: 0.35rem 0 0;
        padding: 0.5rem 0.75rem;
        border: 1px solid var(--kb-line);
        background: var(--kb-panel);
      }
      .add {
        margin-top: 0.6rem;
      }
      @media (max-width: 600px) {
        .line {
          grid-template-columns: 1fr 6.5rem 5.5rem;
        }
        .line > :nth-child(1) {
          grid-column: 1 / -1;
          padding-top: 0;
        }
        .line > :nth-child(2) {
          grid-column: 1 / -1;
        }
      }
    `,
  ];

  private change(parameters: Parameter[]): void {
    this.dispatchEvent(new CustomEvent<Parameter[]>("change", { detail: parameters }));
  }

  private set(index: number, what: Partial<Parameter>): void {
    this.change(this.notebook.parameters.map((each, at) => (at === index ? { ...each, ...what } : each)));
  }

  private problemOf({ name }: Parameter): string {
    const fields = [`notebook.parameters.${name}`, `notebook.expressions.${name}`];
    return this.problems
      .filter(({ field }) => name && fields.includes(field))
      .map(({ message }) => message)
      .join("; ");
  }

  override render(): TemplateResult {
    const { parameters, source, language } = this.notebook;
    const known = parameters.flatMap(({ name }) => [`notebook.parameters.${name}`, `notebook.expressions.${name}`]);
    const others = this.problems.filter(({ field }) => !known.includes(field));
    return html`<fieldset>
      <legend>Parameters</legend>
      ${source ? html`<div class="quiet small">This ${nameLanguage(language)} code of the notebook runs unchanged. To change a variable that it sets, add a parameter.</div><pre tabindex="0">${source}</pre>` : nothing}
      ${parameters.map((each, index) => this.renderParameter(each, index))}
      <button type="button" class="add" @click=${() => this.add()}>Add parameter</button>
      ${others.map(({ field, message }) => html`<div class="problem small" role="alert">${[field.replace(/^notebook\.?/, ""), message].filter(Boolean).join(": ")}</div>`)}
    </fieldset>`;
  }

  private add(): void {
    const added: Parameter = { name: "", kind: "code", value: "", given: null, comment: "" };
    this.change([...this.notebook.parameters, added]);
  }

  private renderParameter(each: Parameter, index: number): TemplateResult {
    const { name, given, comment, kind } = each;
    const problem = this.problemOf(each);
    const shown = name || `parameter ${index + 1}`;
    const described = [comment && `comment-${index}`, problem && `problem-${index}`].filter(Boolean).join(" ");
    return html`<div class="parameter ${isChanged(each) ? "changed" : ""}">
      <div class="line">
        ${
          given
            ? html`<label for="value-${index}">${name}</label>`
            : html`<input class="code" aria-label="Name of parameter ${index + 1}" placeholder="Name" autocomplete="off" spellcheck="false" maxlength="100" .value=${name} @input=${(event: Event) => this.set(index, { name: (event.target as HTMLInputElement).value.trim() })} />`
        }
        ${this.renderValue(each, index, shown, problem, described)}
        <select aria-label="Type of ${shown}" .value=${kind} @change=${(event: Event) => this.set(index, { kind: (event.target as HTMLSelectElement).value as Kind })}>
          <option value="text">Text</option>
          <option value="code" ?selected=${kind === "code"}>${nameLanguage(this.notebook.language)}</option>
        </select>
        ${this.renderReset(each, index, shown)}
      </div>
      ${comment ? html`<div id="comment-${index}" class="quiet small">${comment}</div>` : nothing}
      ${problem ? html`<div id="problem-${index}" class="problem small" role="alert">${problem}</div>` : nothing}
    </div>`;
  }

  private renderValue(
    { value, kind, given }: Parameter,
    index: number,
    shown: string,
    problem: string,
    described: string,
  ): TemplateResult {
    const take = (event: Event) => this.set(index, { value: (event.target as HTMLInputElement).value });
    const rows = Math.min(Math.max(value.split("\n").length, given?.value.split("\n").length ?? 1), 12);
    const label = given ? nothing : `Value of ${shown}`;
    const invalid = problem ? "true" : "false";
    return rows > 1
      ? html`<textarea id="value-${index}" class=${kind} rows=${rows} aria-label=${label} aria-invalid=${invalid} aria-describedby=${described || nothing} spellcheck="false" .value=${value} @input=${take}></textarea>`
      : html`<input id="value-${index}" class=${kind} aria-label=${label} aria-invalid=${invalid} aria-describedby=${described || nothing} autocomplete="off" spellcheck="false" .value=${value} @input=${take} />`;
  }

  private renderReset(each: Parameter, index: number, shown: string): TemplateResult {
    const { given } = each;
    if (given) {
      return html`<button type="button" aria-label="Reset ${shown}" ?disabled=${!isChanged(each)} @click=${() => this.set(index, given)}>Reset</button>`;
    }
    const rest = this.notebook.parameters.filter((_, at) => at !== index);
    return html`<button type="button" aria-label="Remove ${shown}" @click=${() => this.change(rest)}>Remove</button>`;
  }
}
