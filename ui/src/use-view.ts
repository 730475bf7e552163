import { html, LitElement } from "lit";
import { customElement } from "lit/decorators.js";
@customElement("kbatch-use")
export class UseView extends LitElement {
  override render() {
    return html``;
  }
}
