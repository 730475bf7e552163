import { html, LitElement } from "lit";
import { customElement } from "lit/decorators.js";
@customElement("kbatch-submit")
export class SubmitView extends LitElement {
  override render() {
    return html``;
  }
}
