// The secrets that a user keeps for jobs: added, replaced and deleted here, and never shown.
import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { formStyles } from "../fields/form-styles";
import { bytes, exactTime } from "../format";
import { type Api, ApiError, type FieldError } from "../net/api";
import type { Secret, SecretList, SecretRequest } from "../net/schema";
import { tellProblem } from "../problem";
import { base } from "../styles";

const KINDS: Record<Secret["kind"], string> = { value: "Value", registry: "Registry credentials" };

/** The most that the service takes. */
const MAX_BYTES = 64 * 1024;

@customElement("kbatch-secrets")
export class SecretsView extends LitElement {
  @property({ attribute: false }) api!: Api;
  @state() private secrets: Secret[] | null = null;
  @state() private kind: Secret["kind"] = "value";
  /** The secret that the form replaces; nothing: it adds one. */
  @state() private replaced = "";
  /** The content of a file, in the place of a value that is typed. */
  @state() private file: { name: string; content: string } | null = null;
  @state() private problems: FieldError[] = [];
  @state() private general = "";
  @state() private said = "";
  @state() private deleted: Secret | null = null;
  private stop = new AbortController();

  static override styles = [
    base,
    formStyles,
    css`
      td.actions {
        white-space: nowrap;
        text-align: right;
      }
      td {
        overflow-wrap: anywhere;
      }
      fieldset > label.choice {
        display: flex;
        font-weight: 400;
      }
      .intro {
        max-width: 52rem;
      }
      label.button:focus-within {
        outline: 2px solid var(--kb-focus);
        outline-offset: 2px;
      }
      @media (max-width: 760px) {
        thead {
          display: none;
        }
        table,
        tbody {
          display: block;
        }
        tr {
          display: grid;
          padding: 0.6rem 0;
          border-bottom: 1px solid var(--kb-line);
        }
        td,
        tbody th {
          padding: 0.1rem 0;
          border: 0;
        }
        td.actions {
          text-align: left;
        }
        td[data-label]::before {
          content: attr(data-label) ": ";
          color: var(--kb-quiet);
        }
      }
    `,
  ];

  override connectedCallback(): void {
    super.connectedCallback();
    this.stop = new AbortController();
    this.load();
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.stop.abort();
  }

  private async load(): Promise<void> {
    try {
      this.secrets = (await this.api.get<SecretList>("secrets", {}, this.stop.signal)).items;
    } catch (error) {
      tellProblem(this, error);
    }
  }

  private read(id: string): string {
    return this.renderRoot.querySelector<HTMLInputElement>(`#${id}`)?.value ?? "";
  }

  private async save(event: Event): Promise<void> {
    event.preventDefault();
    const name = this.replaced || this.read("name").trim();
    this.said = "";
    this.general = "";
    this.problems = this.check(name);
    if (this.problems.length) return this.showFirst();
    try {
      await this.api.json<Secret>("PUT", `secrets/${encodeURIComponent(name)}`, { json: this.makeRequest() });
      this.said = this.replaced ? `Secret ${name} replaced.` : `Secret ${name} added.`;
      this.empty();
      await this.load();
    } catch (error) {
      this.refuse(error);
    }
  }

  private makeRequest(): SecretRequest {
    if (this.kind === "value") return { value: this.file?.content ?? this.read("value") };
    return {
      registry: {
        server: this.read("server").trim(),
        username: this.read("username").trim(),
        password: this.read("password"),
      },
    };
  }

  /** Return what is wrong as far as that is known here; the rest is found out by the service. */
  private check(name: string): FieldError[] {
    const problems: FieldError[] = [];
    const demand = (field: string, value: string, words: string) => {
      if (!value) problems.push({ field, message: words });
    };
    demand("name", name, "Enter a name.");
    if (!this.replaced && this.secrets?.some((each) => each.name === name)) {
      problems.push({ field: "name", message: "You have a secret with this name. Replace it in the list above." });
    }
    if (this.kind === "value") demand("value", this.file?.content ?? this.read("value"), "Enter a value.");
    else {
      demand("server", this.read("server").trim(), "Enter the registry's host.");
      demand("username", this.read("username").trim(), "Enter a user name.");
      demand("password", this.read("password"), "Enter a password or a token.");
    }
    return problems;
  }

  private refuse(error: unknown): void {
    if (error instanceof ApiError && error.fields.length) {
      this.problems = error.fields.map((each) => ({ ...each, field: each.field.replace(/^registry\./, "") }));
      this.showFirst();
    } else if (error instanceof ApiError && error.isLoginNeeded) {
      tellProblem(this, error);
    } else {
      this.general = (error as Error).message;
    }
  }

  private async showFirst(): Promise<void> {
    await this.updateComplete;
    this.renderRoot.querySelector<HTMLElement>("[aria-invalid=true]")?.focus();
  }

  /** Forget what was typed. */
  private empty(): void {
    for (const input of this.renderRoot.querySelectorAll<HTMLInputElement>("form input:not([type=radio])")) {
      input.value = "";
    }
    this.replaced = "";
    this.file = null;
    this.problems = [];
    this.general = "";
  }

  private async replace(secret: Secret): Promise<void> {
    this.empty();
    this.said = "";
    this.replaced = secret.name;
    this.kind = secret.kind;
    await this.updateComplete;
    const first = this.renderRoot.querySelector<HTMLInputElement>(secret.kind === "value" ? "#value" : "#server");
    first?.scrollIntoView({ block: "center" });
    first?.focus();
  }

  private async askToDelete(secret: Secret): Promise<void> {
    this.deleted = secret;
    await this.updateComplete;
    this.renderRoot.querySelector("dialog")?.showModal();
  }

  private async delete(secret: Secret): Promise<void> {
    this.renderRoot.querySelector("dialog")?.close();
    try {
      await this.api.request("DELETE", `secrets/${encodeURIComponent(secret.name)}`);
      this.said = `Secret ${secret.name} deleted.`;
      if (this.replaced === secret.name) this.empty();
      await this.load();
    } catch (error) {
      tellProblem(this, error);
    }
  }

  private async takeFile(event: Event): Promise<void> {
    const input = event.target as HTMLInputElement;
    const file = input.files?.[0];
    input.value = "";
    if (!file) return;
    this.problems = [];
    try {
      if (file.size > MAX_BYTES) throw new Error(`${file.name} has ${bytes(file.size)}; the limit is 64 KiB.`);
      const content = decode(await file.arrayBuffer());
      if (content === null) throw new Error(`${file.name} is not text. Encode it, for example with base64.`);
      this.file = { name: file.name, content };
    } catch (error) {
      this.problems = [{ field: "value", message: (error as Error).message }];
    }
  }

  // How it looks

  override render(): TemplateResult {
    return html`
      <h1>Secrets</h1>
      <p class="intro">
        Tokens, passwords and keys for your jobs. They are stored encrypted, and nobody can read them here again. A job
        gets those that you choose in the form of a new job. Everyone who can submit jobs with your account can use them.
      </p>
      <div role="status">${this.said ? html`<p class="alert">${this.said}</p>` : nothing}</div>
      ${this.secrets === null ? nothing : this.renderList(this.secrets)} ${this.renderForm()} ${this.renderDialog()}
    `;
  }

  private renderList(secrets: Secret[]): TemplateResult {
    if (!secrets.length) return html`<p class="quiet">You have no secrets.</p>`;
    return html`<table>
      <thead>
        <tr><th scope="col">Name</th><th scope="col">Kind</th><th scope="col">Set</th><th scope="col">Last used by a job</th><th scope="col"><span class="hidden">Actions</span></th></tr>
      </thead>
      <tbody>
        ${secrets.map(
          (each) => html`<tr>
            <td><strong>${each.name}</strong></td>
            <td>${KINDS[each.kind]}${each.is_lost ? html`<br /><span class="problem small">Can no longer be decrypted. Replace it.</span>` : nothing}</td>
            <td data-label="Set">${exactTime(each.updated_at)}</td>
            <td data-label="Last used">${each.used_at ? exactTime(each.used_at) : "never"}</td>
            <td class="actions">
              <button type="button" aria-label="Replace ${each.name}" @click=${() => this.replace(each)}>Replace</button>
              <button type="button" class="danger" aria-label="Delete ${each.name}" @click=${() => this.askToDelete(each)}>Delete</button>
            </td>
          </tr>`,
        )}
      </tbody>
    </table>`;
  }

  private renderForm(): TemplateResult {
    const { replaced } = this;
    return html`<section aria-labelledby="form-title">
      <h2 id="form-title">${replaced ? `Replace ${replaced}` : "Add a secret"}</h2>
      <form novalidate autocomplete="off" @submit=${this.save}>
        ${replaced ? nothing : this.renderInput("name", "Name", { maxlength: 63, hint: "For example wandb-key." })}
        <fieldset class="field">
          <legend>Kind</legend>
          ${(Object.keys(KINDS) as Secret["kind"][]).map(
            (kind) =>
              html`<label class="choice"><input type="radio" name="kind" .checked=${this.kind === kind} @change=${() => this.choose(kind)} /> ${KINDS[kind]}</label>`,
          )}
        </fieldset>
        ${this.kind === "value" ? this.renderValue() : this.renderRegistry()}
        <div role="alert">${this.general ? html`<p class="alert bad">${this.general}</p>` : nothing}</div>
        <div class="row">
          <button class="primary" type="submit">${replaced ? "Replace" : "Add"}</button>
          ${replaced ? html`<button class="cancel" type="button" @click=${this.empty}>Cancel</button>` : nothing}
        </div>
      </form>
    </section>`;
  }

  private choose(kind: Secret["kind"]): void {
    this.kind = kind;
    this.problems = [];
  }

  private renderValue(): TemplateResult {
    const { file } = this;
    return html`
      ${
        file
          ? html`<div class="field"><div class="label">Value</div>
              <span role="status">Content of ${file.name} (${bytes(file.content.length)})</span>
              <button type="button" @click=${() => (this.file = null)}>Remove</button></div>`
          : this.renderInput("value", "Value", { type: "password", maxlength: MAX_BYTES })
      }
      <div class="row choice">
        <label class="button">Choose a file<input class="hidden" type="file" @change=${this.takeFile} /></label>
        <span class="quiet small">For a value of several lines, such as a key. 64 KiB at most.</span>
      </div>
    `;
  }

  private renderRegistry(): TemplateResult {
    return html`
      ${this.renderInput("server", "Registry", { maxlength: 253, hint: "For example quay.io; docker.io for Docker Hub." })}
      ${this.renderInput("username", "User name", { maxlength: 255 })}
      ${this.renderInput("password", "Password or token", { type: "password", maxlength: MAX_BYTES })}
    `;
  }

  private renderInput(id: string, label: string, { type = "text", maxlength = 255, hint = "" } = {}): TemplateResult {
    const problem = this.problems
      .filter(({ field }) => field === id)
      .map(({ message }) => message)
      .join("; ");
    const described = [problem ? `${id}-problem` : "", hint ? `${id}-hint` : ""].filter(Boolean).join(" ");
    // "new-password" because browsers fill in a password where it says "off"
    const autocomplete = type === "password" ? "new-password" : "off";
    return html`<div class="field">
      <label for=${id}>${label}</label>
      <input id=${id} type=${type} autocomplete=${autocomplete} spellcheck="false" autocapitalize="off" maxlength=${maxlength} aria-invalid=${problem ? "true" : "false"} aria-describedby=${described || nothing} />
      ${hint ? html`<div id="${id}-hint" class="quiet small">${hint}</div>` : nothing}
      ${problem ? html`<div id="${id}-problem" class="problem small">${problem}</div>` : nothing}
    </div>`;
  }

  private renderDialog(): TemplateResult | typeof nothing {
    const { deleted } = this;
    if (!deleted) return nothing;
    return html`<dialog aria-labelledby="delete-title" @close=${() => (this.deleted = null)}>
      <h2 id="delete-title">Delete ${deleted.name}?</h2>
      <p>Jobs that wait to start with it will fail. Running jobs keep it until they end.</p>
      <div class="row">
        <button type="button" @click=${() => this.renderRoot.querySelector("dialog")?.close()}>Keep</button>
        <button type="button" class="danger" @click=${() => this.delete(deleted)}>Delete</button>
      </div>
    </dialog>`;
  }
}

/** Return a file's text, or null where it is not UTF-8 or has a NUL. */
function decode(content: ArrayBuffer): string | null {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(content);
    return text.includes("\0") ? null : text;
  } catch {
    return null;
  }
}
