import { html, LitElement } from "lit";
import { customElement } from "lit/decorators.js";
@customElement("kbatch-job")
export class JobView extends LitElement {
  override render() {
    return html``;
  }
}
