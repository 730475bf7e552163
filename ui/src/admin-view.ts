// For admins: everybody's jobs.
import { html, LitElement, type TemplateResult } from "lit";
import { customElement, property } from "lit/decorators.js";
import type { Api, User } from "./api";
import "./jobs-view";
import { base } from "./styles";

@customElement("kbatch-admin")
export class AdminView extends LitElement {
  @property({ attribute: false }) api!: Api;
  @property({ attribute: false }) user!: User;
  @property({ attribute: false }) query = new URLSearchParams();
  static override styles = [base];

  override render(): TemplateResult {
    return html`<kbatch-jobs everybody .api=${this.api} .user=${this.user} .query=${this.query}></kbatch-jobs>`;
  }
}
