// The options of a profile: a list of choices for each, and a text field for a choice that is not in the list.
import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, property } from "lit/decorators.js";
import type { FieldError } from "../net/api";
import type { ProfileOption, UnlistedChoice } from "../net/schema";
import { base } from "../styles";

/** What is chosen for the options, as a request has it. */
export type Choices = Record<string, string>;

/** How the name of a choice ends that is not in the list; as in KubeSpawner. */
const UNLISTED = "--unlisted-choice";

/** What the list of an option has for such a choice: no name of one is empty. */
const OTHER = "";

@customElement("kbatch-profile-options")
export class ProfileOptions extends LitElement {
  @property({ attribute: false }) options: ProfileOption[] = [];
  @property({ attribute: false }) choices: Choices = {};
  @property({ attribute: false }) problems: FieldError[] = [];
  /** Whether there is any problem: the form looks for this. */
  @property({ reflect: true }) problem = "";

  static override styles = [
    base,
    css`
      .options {
        display: grid;
        grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr));
        gap: 0.75rem 1rem;
        margin-top: 0.75rem;
      }
      label {
        display: block;
        font-weight: 600;
      }
      input,
      select {
        width: 100%;
        min-width: 0;
      }
      .own {
        margin-top: 0.5rem;
      }
      [aria-invalid="true"] {
        border-color: var(--kb-bad) !important;
      }
      .problem {
        color: var(--kb-bad);
      }
    `,
  ];

  /** Take a choice for an option, in the place of what was chosen for it before. */
  private take(option: ProfileOption, key: string, value: string): void {
    const { [option.name]: _, [option.name + UNLISTED]: __, ...others } = this.choices;
    this.choices = { ...others, [key]: value };
    this.dispatchEvent(new CustomEvent<Choices>("change", { detail: this.choices }));
  }

  private problemOf(key: string): string {
    return this.problems
      .filter(({ field }) => field === `profile_options.${key}`)
      .map(({ message }) => message)
      .join("; ");
  }

  override render(): TemplateResult {
    return html`<div class="options">${this.options.map((option) => this.renderOption(option))}</div>`;
  }

  private renderOption(option: ProfileOption): TemplateResult {
    const { name, unlisted_choice: own } = option;
    const usual = option.choices.find((each) => each.default)?.name;
    const isOwn = own !== null && (name + UNLISTED in this.choices || usual === undefined);
    const chosen = isOwn ? OTHER : (this.choices[name] ?? usual);
    const problem = this.problemOf(name);
    const choose = (event: Event) => {
      const value = (event.target as HTMLSelectElement).value;
      this.take(option, value === OTHER ? name + UNLISTED : name, value);
    };
    return html`<div>
      ${
        option.choices.length
          ? html`<label for=${name}>${option.display_name}</label>
            <select id=${name} aria-invalid=${problem ? "true" : "false"} aria-describedby=${problem ? `${name}-problem` : nothing} @change=${choose}>
              ${option.choices.map((each) => html`<option value=${each.name} .selected=${each.name === chosen}>${each.display_name}</option>`)}
              ${own ? html`<option value=${OTHER} .selected=${isOwn}>${own.display_name_in_choices}</option>` : nothing}
            </select>
            ${problem ? html`<div id="${name}-problem" class="problem small">${problem}</div>` : nothing}`
          : nothing
      }
      ${isOwn ? this.renderOwn(option, own) : nothing}
    </div>`;
  }

  private renderOwn(option: ProfileOption, own: UnlistedChoice): TemplateResult {
    const key = option.name + UNLISTED;
    const problem = this.problemOf(key);
    // the server says the same of a value that is none
    const hint = own.validation_message === problem ? "" : own.validation_message;
    const described = [problem ? `${key}-problem` : "", hint ? `${key}-hint` : ""].filter(Boolean).join(" ");
    const take = (event: Event) => this.take(option, key, (event.target as HTMLInputElement).value);
    return html`<div class="own">
      <label for=${key}>${own.display_name}</label>
      <input id=${key} maxlength="512" autocomplete="off" spellcheck="false" aria-invalid=${problem ? "true" : "false"} aria-describedby=${described || nothing} .value=${this.choices[key] ?? ""} @input=${take} />
      ${hint ? html`<div id="${key}-hint" class="quiet small">${hint}</div>` : nothing}
      ${problem ? html`<div id="${key}-problem" class="problem small">${problem}</div>` : nothing}
    </div>`;
  }
}

/** Return those of the choices that the options of a profile offer: the others are of an earlier time. */
export function keepOffered(options: ProfileOption[], choices: Choices): Choices {
  const isOffered = ([key, value]: [string, string]) =>
    options.some(({ name, choices: listed, unlisted_choice }) =>
      key === name ? listed.some((each) => each.name === value) : key === name + UNLISTED && unlisted_choice,
    );
  return Object.fromEntries(Object.entries(choices).filter(isOffered));
}

/** What is wrong with the choices, as far as that is known here. */
export function checkChoices(choices: Choices): FieldError[] {
  return Object.entries(choices)
    .filter(([key, value]) => key.endsWith(UNLISTED) && !value.trim())
    .map(([key]) => ({ field: `profile_options.${key}`, message: "Enter a value, or choose one of the list." }));
}

/** Return the choices of a job in words; null if it has none. */
export function describeChoices(choices: Choices): string | null {
  const said = Object.entries(choices).map(([key, value]) => `${key.replace(UNLISTED, "")}: ${value}`);
  return said.join(", ") || null;
}
