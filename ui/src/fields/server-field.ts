// What a job takes from a server of the user on the hub: all that it is like, or only its home.
import { html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import type { Api } from "../net/api";
import type { Server, ServerList, User } from "../net/schema";
import { tellProblem } from "../problem";
import { base } from "../styles";
import { formStyles } from "./form-styles";

/** The names are those of the request. */
export interface ServerChoice {
  /** The server that the job is like, or nothing. */
  like: string;
  /** The server whose home it has, or nothing. */
  home: string;
  results_to_home: boolean;
}

export const NO_SERVER: ServerChoice = { like: "", home: "", results_to_home: false };

const HOME_HINT = "Your home folder is mounted as in your server.";
const LIKE_HINT = "The job has the image, profile, environment and home folder of your server.";

@customElement("kbatch-server-choice")
export class ServerField extends LitElement {
  @property({ attribute: false }) api!: Api;
  @property({ attribute: false }) user!: User;
  @property({ attribute: false }) choice: ServerChoice = NO_SERVER;
  @property({ reflect: true }) problem = "";
  @state() private servers: Server[] = [];

  static override styles = [base, formStyles];

  override connectedCallback(): void {
    super.connectedCallback();
    if (this.user.like) this.load();
  }

  private async load(): Promise<void> {
    try {
      this.servers = (await this.api.get<ServerList>("servers")).items;
    } catch (error) {
      tellProblem(this, error);
    }
  }

  private change(changes: Partial<ServerChoice>): void {
    this.choice = { ...this.choice, ...changes };
    this.dispatchEvent(new CustomEvent<ServerChoice>("change", { detail: this.choice }));
  }

  override render(): TemplateResult | typeof nothing {
    const { choice, user } = this;
    if (!(this.servers.length || user.home)) return nothing;
    const hasHome = user.home && Boolean(choice.like || choice.home);
    return html`<fieldset aria-describedby=${this.problem ? "problem" : nothing}>
      <legend>Your server</legend>
      ${this.servers.length ? this.renderLike(this.servers) : nothing}
      ${user.home && !choice.like ? this.renderBox("Mount my home folder", choice.home !== "", (on) => ({ home: on ? "server" : "", results_to_home: false }), HOME_HINT) : nothing}
      ${hasHome ? this.renderBox("Save the results in my home folder, too", choice.results_to_home, (on) => ({ results_to_home: on }), "In jobs/, in a folder with the job's id.") : nothing}
      ${this.problem ? html`<div id="problem" class="problem small" role="alert">${this.problem}</div>` : nothing}
    </fieldset>`;
  }

  private renderLike(servers: Server[]): TemplateResult {
    const { like } = this.choice;
    const choose = (event: Event) => this.change({ like: (event.target as HTMLSelectElement).value });
    return html`
      ${this.renderBox("Same as my server", like !== "", (on) => ({ like: on ? servers[0].like : "", home: "", results_to_home: false }), LIKE_HINT)}
      ${
        like && servers.length > 1
          ? html`<select aria-label="Server" @change=${choose}>
              ${servers.map((each) => html`<option value=${each.like} ?selected=${each.like === like}>${each.display_name}${each.is_running ? "" : " (stopped)"}</option>`)}
            </select>`
          : nothing
      }`;
  }

  private renderBox(
    label: string,
    isOn: boolean,
    make: (on: boolean) => Partial<ServerChoice>,
    hint: string,
  ): TemplateResult {
    const change = (event: Event) => {
      event.stopPropagation(); // the choice as a whole is what has changed
      this.change(make((event.target as HTMLInputElement).checked));
    };
    return html`<label class="choice"><input type="checkbox" .checked=${isOn} @change=${change} /> ${label}</label>
      <div class="quiet small">${hint}</div>`;
  }
}
