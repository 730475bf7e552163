// The form of a new job: code, profile, command; the server's errors stand beside what they are about.
import { html, LitElement, nothing, type PropertyValues, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { type Api, ApiError, type FieldError } from "../net/api";
import "../fields/code-field";
import { FIELDS, INPUTS } from "../fields/job-fields";
import {
  emptyForm,
  isZip,
  type JobForm,
  MISSING,
  makeForm,
  makeRequest,
  type Request,
  takeFiles,
} from "../fields/job-form";
import { type NotebookForm, openNotebook, type Parameter, takeRequest } from "../fields/notebook";
import { bytes } from "../format";
import "../fields/pairs-field";
import "../fields/parameters-field";
import { formStyles } from "../fields/form-styles";
import type { Pair } from "../fields/pairs-field";
import { type Choices, keepOffered } from "../fields/profile-options";
import { SECRET_FIELDS, type SecretUse } from "../fields/secret-uses";
import "../fields/secrets-field";
import "../fields/server-field";
import type { ServerChoice } from "../fields/server-field";
import { type CodeFile, makeZip, TooLarge } from "../fields/zip";
import type {
  Job,
  NotebookOutput,
  OutputList,
  Profile,
  ProfileList,
  ProfileOption,
  Secret,
  SecretList,
  User,
} from "../net/schema";
import { sendUpload } from "../net/upload";
import { tellProblem } from "../problem";
import { navigate } from "../router";
import { base } from "../styles";

interface Work {
  words: string;
  part: number;
}

/** The fields of a request that stand in the part of the form that can be folded. */
const FOLDED: string[] = [...INPUTS.map(({ name }) => name), "tags"];

/** The fields of a request about the user's server. */
const OF_SERVER = ["like", "home", "results_to_home"];

/** The fields of a request that have a place in the form. */
const PLACES = [
  ...["name", "upload", "working_dir", "profile", "profile_options", "command", "notebook", "collect", "env"],
  ...SECRET_FIELDS,
  ...OF_SERVER,
  ...FOLDED,
];

const LABELS: Record<string, string> = {
  name: "Name",
  upload: "Code",
  working_dir: "Working directory",
  command: "Command",
  notebook: "Parameters",
  env: "Environment variables",
  ...Object.fromEntries(SECRET_FIELDS.map((name) => [name, "Secrets"])),
  tags: "Tags",
  ...Object.fromEntries(FIELDS.map(({ name, label }) => [name, label])),
  ...Object.fromEntries(OF_SERVER.map((name) => [name, "Your server"])),
};

/** How long after a field is left its problem may come: one that moves a button under the pointer loses the click. */
const CHECK_MS = 250;

/** Of an executed notebook, so much is read for its parameters. */
const MAX_NOTEBOOK_BYTES = 20_000_000;

const COMMAND_HINT = "Program and arguments. Leave empty to use the image's own command.";
const ARGS_HINT = "Arguments for the image's own command.";

@customElement("kbatch-submit")
export class SubmitView extends LitElement {
  @property({ attribute: false }) api!: Api;
  @property({ attribute: false }) user!: User;
  /** The id of the job that the new one begins as. */
  @property() from = "";
  @state() private form: JobForm = emptyForm();
  @state() private profiles: Profile[] = [];
  @state() private secrets: Secret[] | null = null;
  @state() private problems: FieldError[] = [];
  @state() private general = "";
  @state() private work: Work | null = null;
  private stop = new AbortController();
  /** Sent with the request, so that sending it again after a lost answer makes no second job. */
  private key = "";
  private sentRequest = "";

  static override styles = [base, formStyles];

  override connectedCallback(): void {
    super.connectedCallback();
    this.loadProfiles();
    this.loadSecrets();
    addEventListener("focus", this.loadSecrets); // one may have been added in another tab
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    removeEventListener("focus", this.loadSecrets);
    this.stop.abort();
  }

  override willUpdate(changed: PropertyValues<this>): void {
    if (changed.has("from")) this.fill();
  }

  private async loadProfiles(): Promise<void> {
    try {
      this.profiles = (await this.api.get<ProfileList>("profiles")).items;
      if (!this.form.profile && !this.from)
        this.set({ profile: this.profiles.find((each) => each.default)?.slug ?? "" });
    } catch (error) {
      tellProblem(this, error);
    }
  }

  private loadSecrets = async (): Promise<void> => {
    try {
      this.secrets = (await this.api.get<SecretList>("secrets")).items;
    } catch (error) {
      tellProblem(this, error);
    }
  };

  private async fill(): Promise<void> {
    this.form = { ...emptyForm(), profile: this.profiles.find((each) => each.default)?.slug ?? "" };
    this.problems = [];
    this.general = "";
    if (!this.from) return;
    try {
      const answer = await this.api.request("GET", `jobs/${encodeURIComponent(this.from)}`);
      const text = await answer.text();
      const job = JSON.parse(text) as Job;
      this.form = makeForm(job);
      if (job.notebook) this.form = { ...this.form, notebook: await this.reopen(job, text) };
    } catch (error) {
      tellProblem(this, error);
    }
  }

  /** Return the form of an earlier job's notebook; what it could set is read from the one that came back. */
  private async reopen(job: Job, text: string): Promise<NotebookForm> {
    const { parseExact } = await import("../fields/python");
    const exact = (parseExact(text) as { notebook: NotebookOutput }).notebook;
    return takeRequest(await openNotebook(exact.path, await this.readExecuted(job, exact.path)), exact);
  }

  private async readExecuted(job: Job, path: string): Promise<string | null> {
    if (job.outputs?.state !== "kept") return null;
    const below = [job.working_dir, path.replace(/^(\.?\/+)+/, "")].filter(Boolean).join("/");
    const name = path.startsWith("/") ? path.replace(/.*\//, "") : below;
    try {
      const { items } = await this.api.get<OutputList>(`jobs/${job.id}/outputs`);
      if (!items.some((each) => each.path === name && each.size < MAX_NOTEBOOK_BYTES)) return null;
      const file = `jobs/${job.id}/outputs/${name.split("/").map(encodeURIComponent).join("/")}`;
      return await (await this.api.request("GET", file, { headers: { Accept: "*/*" } })).text();
    } catch {
      return null; // then only what was changed is shown
    }
  }

  /** The options of the chosen profile; nothing if it is not known. */
  private get options(): ProfileOption[] | undefined {
    return this.profiles.find(({ slug }) => slug === this.form.profile)?.profile_options;
  }

  private set(changes: Partial<JobForm>): void {
    this.form = { ...this.form, ...changes };
  }

  /** Take what was typed into a field: what was wrong with it may be so no more. */
  private take(field: string, changes: Partial<JobForm>): void {
    this.set(changes);
    this.problems = this.problems.filter((each) => !isOf(each, field));
  }

  /** Say what is wrong with a field as soon as it is left, as far as that is known here. */
  private check(field: string): void {
    const found = makeRequest(this.form).problems.filter((each) => isOf(each, field) && each.message !== MISSING);
    this.problems = [...this.problems.filter((each) => !isOf(each, field)), ...found];
  }

  private problemsOf(field: string): FieldError[] {
    return this.problems.filter((each) => isOf(each, field));
  }

  private problemOf(field: string): string {
    return this.problemsOf(field)
      .map((each) => (each.field === field ? each.message : `${each.field.slice(field.length + 1)}: ${each.message}`))
      .join("; ");
  }

  // What is done

  private async submit(event: Event): Promise<void> {
    event.preventDefault();
    if (this.work) return;
    // those of an earlier job may be gone
    if (this.options) this.set({ choices: keepOffered(this.options, this.form.choices) });
    const { request, problems } = makeRequest(this.form);
    this.problems = problems;
    this.general = "";
    if (problems.length) return this.showProblems();
    this.stop = new AbortController();
    try {
      if (this.form.files.length) await this.sendCode(this.form.files);
      if (this.form.upload) request.upload = this.form.upload;
      this.work = { words: "Submitting…", part: 1 };
      const job = await this.send(request);
      navigate(`${this.api.baseUrl}job/${encodeURIComponent(job.id)}`);
    } catch (error) {
      this.refuse(error);
    } finally {
      this.work = null;
    }
  }

  private send(request: Request): Promise<Job> {
    const text = JSON.stringify(request);
    if (text !== this.sentRequest) this.key = makeKey();
    this.sentRequest = text;
    const headers = { "Idempotency-Key": this.key };
    return this.api.json<Job>("POST", "jobs", { json: request, headers, signal: this.stop.signal });
  }

  private async sendCode(files: CodeFile[]): Promise<void> {
    const limit = Number(this.user.limits.max_upload_bytes) || Number.POSITIVE_INFINITY;
    const tell = (words: string) => (part: number) => (this.work = { words, part });
    try {
      const content = isZip(files)
        ? files[0].file
        : await makeZip(files, limit, tell("Compressing…"), this.stop.signal);
      if (content.size > limit) throw new TooLarge();
      this.work = { words: "Uploading…", part: 0 };
      const upload = await sendUpload(this.api, content, tell("Uploading…"), this.stop.signal);
      this.set({ upload: upload.id, uploadFrom: "", files: [] });
      if (isZip(files)) this.offerTopFolder(upload.top_folder ?? "");
    } catch (error) {
      if (error instanceof TooLarge)
        throw new FieldProblem("upload", `The ZIP of your code is larger than the limit of ${bytes(limit)}.`);
      if (error instanceof ApiError && error.status >= 400 && error.status < 500 && !error.isLoginNeeded) {
        throw new FieldProblem("upload", error.message);
      }
      throw error;
    }
  }

  /** Have the user choose where to run, if the service knows of a folder that this page could not tell. */
  private offerTopFolder(topFolder: string): void {
    if (!topFolder || topFolder === this.form.topFolder) return;
    this.set({ topFolder, workingDir: topFolder });
    throw new FieldProblem("working_dir", "Choose whether the command runs in this folder, then submit again.");
  }

  private refuse(error: unknown): void {
    if ((error as Error).name === "AbortError") {
      this.general = "Cancelled. The job was not submitted.";
    } else if (error instanceof FieldProblem) {
      this.problems = [{ field: error.field, message: error.message }];
    } else if (error instanceof ApiError && error.fields.length) {
      // the words of the command may be its arguments
      this.problems = error.fields.map((each) => (isOf(each, "args") ? { ...each, field: "command" } : each));
    } else if (error instanceof ApiError && error.isLoginNeeded) {
      tellProblem(this, error);
    } else {
      this.general = (error as Error).message;
    }
    this.showProblems();
  }

  /** Have what is wrong seen: the first field of those, and above the button what has no place of its own. */
  private async showProblems(): Promise<void> {
    const homeless = this.problems.filter(({ field }) => !PLACES.includes(getTop(field)));
    if (homeless.length) this.general = homeless.map(({ field, message }) => `${field}: ${message}`).join("; ");
    const advanced = this.renderRoot.querySelector("details");
    if (advanced && this.problems.some(({ field }) => FOLDED.includes(getTop(field)))) advanced.open = true;
    await this.updateComplete;
    await new Promise(requestAnimationFrame); // until the parts of the form have taken it up
    this.showFirst();
  }

  private showFirst(): void {
    const first = this.renderRoot.querySelector<HTMLElement>("[aria-invalid=true], [problem]:not([problem=''])");
    if (!first) return;
    const within = first.shadowRoot ?? first;
    const inner = ["[aria-invalid=true]", "input, button"].map((each) => within.querySelector<HTMLElement>(each));
    const field = inner.find(Boolean) ?? first;
    field.focus({ preventScroll: true });
    const said = within.querySelector(".problem") ?? first.closest(".field")?.querySelector(".problem");
    (said ?? first).scrollIntoView({ block: "center" });
  }

  // How it looks

  override render(): TemplateResult {
    const { form } = this;
    return html`
      <h1>${this.from ? "Run again with changes" : "New job"}</h1>
      <form novalidate @submit=${this.submit}>
        ${this.renderText("name", "Name", form.name, (name) => ({ name }), { maxlength: 63 })}
        <div class="field">
          <div class="label">Code <span class="quiet">(optional; the command runs in the folder with this code)</span></div>
          <kbatch-code
            .files=${form.files}
            .upload=${form.upload}
            .uploadFrom=${form.uploadFrom}
            .problem=${this.problemOf("upload")}
            @choose=${(event: CustomEvent<CodeFile[]>) => this.choose(event.detail)}
          ></kbatch-code>
          ${form.topFolder ? this.renderTopFolder() : nothing}
        </div>
        ${form.notebook ? this.renderNotebook(form.notebook) : this.renderCommand()} ${this.renderCollects()}
        ${this.renderServer()} ${form.server.like ? nothing : this.renderProfiles()}
        <kbatch-pairs class="field" label="Environment variables" noun="variable" .pairs=${form.env} .problem=${this.problemOf("env")} @change=${(event: CustomEvent<Pair[]>) => this.take("env", { env: event.detail })}></kbatch-pairs>
        ${this.renderSecrets()}
        ${this.renderAdvanced()}
        <div role="alert">${this.general ? html`<p class="alert bad">${this.general}</p>` : nothing}</div>
        ${this.renderSummary()}
        ${this.renderButtons()}
      </form>
    `;
  }

  private renderText(
    field: string,
    label: string,
    value: string,
    make: (value: string) => Partial<JobForm>,
    { maxlength = 512, hint = "", placeholder = "", rows = 0 } = {},
  ): TemplateResult {
    const problem = this.problemOf(field);
    const take = (event: Event) => this.take(field, make((event.target as HTMLInputElement).value));
    const check = () => setTimeout(() => this.check(field), CHECK_MS);
    const described = [problem ? `${field}-problem` : "", hint ? `${field}-hint` : ""].filter(Boolean).join(" ");
    const invalid = problem ? "true" : "false";
    return html`<div class="field">
      <label for=${field}>${label}</label>
      ${
        rows
          ? html`<textarea id=${field} rows=${rows} spellcheck="false" placeholder=${placeholder} aria-invalid=${invalid} aria-describedby=${described || nothing} .value=${value} @input=${take} @blur=${check}></textarea>`
          : html`<input id=${field} autocomplete="off" spellcheck="false" maxlength=${maxlength} placeholder=${placeholder} aria-invalid=${invalid} aria-describedby=${described || nothing} .value=${value} @input=${take} @blur=${check} />`
      }
      ${hint ? html`<div id="${field}-hint" class="quiet small">${hint}</div>` : nothing}
      ${problem ? html`<div id="${field}-problem" class="problem small">${problem}</div>` : nothing}
    </div>`;
  }

  private renderCommand(): TemplateResult {
    const { form } = this;
    return html`
      ${this.renderText("command", "Command", form.command, (command) => ({ command }), {
        rows: form.inShell ? 4 : 1,
        placeholder: "python main.py",
        hint: form.inShell ? "Runs with sh." : form.isArgs ? ARGS_HINT : COMMAND_HINT,
      })}
      <label class="choice"><input type="checkbox" .checked=${form.inShell} @change=${(event: Event) => this.take("command", { inShell: (event.target as HTMLInputElement).checked })} /> Run in a shell (pipes, &amp;&amp;, $VARIABLES)</label>
    `;
  }

  private renderTopFolder(): TemplateResult {
    const { topFolder, workingDir } = this.form;
    const problem = this.problemOf("working_dir");
    const change = (event: Event) =>
      this.take("working_dir", { workingDir: (event.target as HTMLInputElement).checked ? topFolder : "" });
    return html`<label class="choice" problem=${problem}><input type="checkbox" .checked=${workingDir !== ""} @change=${change} /> Run in folder <code>${topFolder}</code></label>
      ${this.form.uploadFrom ? nothing : html`<div class="quiet small">All files in this ZIP are in this folder.</div>`}
      ${problem ? html`<div class="problem small" role="alert">${problem}</div>` : nothing}`;
  }

  private renderNotebook(notebook: NotebookForm): TemplateResult {
    const problems = this.problemsOf("notebook");
    return html`<div class="field panel">
      <div class="label">Run notebook ${notebook.path}</div>
      <p class="quiet small">
        The executed copy is saved with the results. The image needs papermill or nbclient, which
        is installed with <code>nbconvert</code>.
      </p>
      <kbatch-parameters
        problem=${problems.length ? "yes" : ""}
        .notebook=${notebook}
        .problems=${problems}
        @change=${(event: CustomEvent<Parameter[]>) => this.take("notebook", { notebook: { ...notebook, parameters: event.detail } })}
      ></kbatch-parameters>
      <button type="button" @click=${() => this.take("notebook", { notebook: null })}>Use my own command</button>
    </div>`;
  }

  private renderCollects(): TemplateResult {
    const set = (event: Event) => this.take("collect", { collects: (event.target as HTMLInputElement).checked });
    return html`<label class="choice"><input type="checkbox" .checked=${this.form.collects} @change=${set} />
      Keep new and changed files in the working directory as results</label>`;
  }

  private renderSummary(): TemplateResult | typeof nothing {
    const placed = this.problems.filter(({ field }) => PLACES.includes(getTop(field)));
    if (!placed.length) return nothing;
    const names = [...new Set(placed.map(nameField))].join(", ");
    return html`<p class="problem small">
      Check these fields: ${names}. <button type="button" class="link" @click=${this.showFirst}>Go to the first</button>
    </p>`;
  }

  /** Take the code that was dropped or chosen. */
  private async choose(files: CodeFile[]): Promise<void> {
    this.take("upload", await takeFiles(this.form, files));
    this.problems = this.problems.filter((each) => !isOf(each, "notebook") && !isOf(each, "name"));
  }

  /** Choose a profile: it has an image and sizes of its own, so those of another, or of the job before, go. */
  private chooseProfile(profile: Profile): void {
    const own = INPUTS.filter(({ input }) => input.isOfProfile).map(({ name }) => [name, ""]);
    const texts = { ...this.form.texts, ...Object.fromEntries(own) };
    this.take("profile", { profile: profile.slug, choices: {}, texts });
    this.problems = this.problems.filter((each) => !isOf(each, "profile_options"));
  }

  private renderServer(): TemplateResult | typeof nothing {
    if (!(this.user.like || this.user.home)) return nothing;
    const problem = OF_SERVER.map((field) => this.problemOf(field))
      .filter(Boolean)
      .join("; ");
    const take = (event: CustomEvent<ServerChoice>) => {
      this.set({ server: event.detail });
      this.problems = this.problems.filter((each) => !OF_SERVER.some((field) => isOf(each, field)));
    };
    return html`<kbatch-server-choice class="field" .api=${this.api} .user=${this.user} .choice=${this.form.server} .problem=${problem} @change=${take}></kbatch-server-choice>`;
  }

  private renderProfiles(): TemplateResult | typeof nothing {
    if (!this.profiles.length) return nothing;
    const problem = this.problemOf("profile");
    return html`<fieldset class="field" problem=${problem}>
      <legend>Profile</legend>
      <div class="cards">
        ${this.profiles.map((profile) => {
          const facts = [
            profile.cpu_limit === null ? "" : `${profile.cpu_limit} ${profile.cpu_limit > 1 ? "CPUs" : "CPU"}`,
            profile.mem_limit === null ? "" : bytes(profile.mem_limit),
            ...Object.entries(profile.extra_resource_limits).map(([name, value]) => `${value} ${name}`),
          ];
          return html`<label class="card">
            <input type="radio" name="profile" .checked=${this.form.profile === profile.slug} @change=${() => this.chooseProfile(profile)} />
            <span><strong>${profile.display_name}</strong><br />
              ${profile.description ? html`${profile.description}<br />` : nothing}
              <span class="quiet small">${facts.filter(Boolean).join(" · ")}</span></span>
          </label>`;
        })}
      </div>
      ${problem ? html`<div class="problem small" role="alert">${problem}</div>` : nothing}
      ${this.renderChoices()}
    </fieldset>`;
  }

  private renderSecrets(): TemplateResult {
    const isOfSecrets = (each: FieldError) => SECRET_FIELDS.some((field) => isOf(each, field));
    const take = (event: CustomEvent<SecretUse[]>) => {
      this.set({ secrets: event.detail });
      this.problems = this.problems.filter((each) => !isOfSecrets(each));
    };
    const problem = this.problems
      .filter(isOfSecrets)
      .map(({ field, message }) =>
        field.includes(".") ? `${field.slice(field.indexOf(".") + 1)}: ${message}` : message,
      )
      .join("; ");
    return html`<kbatch-secret-uses
      class="field"
      .uses=${this.form.secrets}
      .secrets=${this.secrets}
      .page=${`${this.api.baseUrl}secrets`}
      .problem=${problem}
      @change=${take}
    ></kbatch-secret-uses>`;
  }

  private renderChoices(): TemplateResult | typeof nothing {
    const { options } = this;
    if (!options?.length) return nothing;
    const problems = this.problemsOf("profile_options");
    return html`<kbatch-profile-options
      problem=${problems.length ? "yes" : ""}
      .options=${options}
      .choices=${keepOffered(options, this.form.choices)}
      .problems=${problems}
      @change=${(event: CustomEvent<Choices>) => this.take("profile_options", { choices: event.detail })}
    ></kbatch-profile-options>`;
  }

  private renderAdvanced(): TemplateResult {
    const { form } = this;
    return html`<details class="field">
      <summary>More options</summary>
      <div class="columns">
        ${INPUTS.map(({ name, label, input }) => {
          const make = (text: string) => ({ texts: { ...this.form.texts, [name]: text } });
          return this.renderText(name, input.label ?? label, form.texts[name] ?? "", make, input);
        })}
      </div>
      <kbatch-pairs class="field" label="Tags" noun="tag" .pairs=${form.tags} .problem=${this.problemOf("tags")} @change=${(event: CustomEvent<Pair[]>) => this.take("tags", { tags: event.detail })}></kbatch-pairs>
    </details>`;
  }

  private renderButtons(): TemplateResult {
    if (!this.work) return html`<button class="primary" type="submit">Submit</button>`;
    const { words, part } = this.work;
    return html`<div class="row" role="status">
      <label>${words} ${Math.floor(part * 100)}% <progress max="1" value=${part}></progress></label>
      <button type="button" @click=${() => this.stop.abort()}>Cancel</button>
    </div>`;
  }
}

/** Return what the form calls the field that a problem is about. */
function nameField({ field }: FieldError): string {
  const [, , name] = field.split(".");
  const top = getTop(field);
  return top === "notebook" && name ? name : (LABELS[top] ?? top);
}

/** Return the field of the request that a path is in. */
function getTop(path: string): string {
  return path.split(/[.[]/)[0];
}

/** Whether something that is wrong is a matter of a field of the form. */
function isOf(problem: FieldError, field: string): boolean {
  return problem.field.startsWith(field) && /^([.[]|$)/.test(problem.field.slice(field.length));
}

/** Something that is wrong with one field, found out here. */
class FieldProblem extends Error {
  constructor(
    readonly field: string,
    message: string,
  ) {
    super(message);
  }
}

/** Return a new key; crypto.randomUUID is not there on a page without TLS. */
function makeKey(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((each) => each.toString(16).padStart(2, "0")).join("");
}
