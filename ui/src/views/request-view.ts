// What a job was asked to be: in words, and as the exact request.
import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import { listFacts, listRequested } from "../fields/job-fields";
import { describeUse, listUses } from "../fields/secret-uses";
import { exactTime } from "../format";
import type { Job, NotebookOutput } from "../net/schema";
import { base } from "../styles";
import { joinWords } from "../words";

@customElement("kbatch-request")
export class RequestView extends LitElement {
  @property({ attribute: false }) job!: Job;
  @state() private showsValues = false;

  static override styles = [
    base,
    css`
      dl {
        display: grid;
        grid-template-columns: max-content 1fr;
        gap: 0.25rem 1.5rem;
        margin: 0;
      }
      dt {
        color: var(--kb-quiet);
      }
      dd code {
        white-space: pre-wrap;
      }
      dd {
        margin: 0;
        overflow-wrap: anywhere;
      }
      pre {
        max-height: 24rem;
        overflow: auto;
        padding: 0.75rem;
        border: 1px solid var(--kb-line);
        border-radius: 0.375rem;
        background: var(--kb-panel);
      }
      summary {
        cursor: pointer;
      }
    `,
  ];

  override render(): TemplateResult {
    const { job } = this;
    const command = joinWords([...(job.command ?? []), ...job.args]) || "image default";
    const facts: [string, unknown][] = [
      ...(job.notebook
        ? this.describeNotebook(job.notebook)
        : [["Command", html`<code>${command}</code>`] as [string, unknown]]),
      ["Results", job.collect === "workdir" ? "include new and changed files in the working directory" : null],
      ...listFacts(job),
      ["Secrets", listUses(job).map(describeUse).join(", ") || null],
      ["Server", job.taken],
      ["Exit code", job.exit_code],
      ["Reason", job.reason || null],
      ["Submitted", exactTime(job.created_at)],
      ...Object.entries(job.tags).map(([key, value]): [string, string] => [`Tag ${key}`, value]),
    ];
    return html`<section aria-labelledby="request">
      <h2 id="request">Request</h2>
      <dl>${facts.map(([name, value]) => (value === null ? nothing : html`<dt>${name}</dt><dd>${value}</dd>`))}</dl>
      <details>
        <summary>Request as JSON, for <code>POST api/v1/jobs</code></summary>
        <div class="row">
          ${
            // which there is with TLS only
            navigator.clipboard
              ? html`<button type="button" @click=${() => navigator.clipboard.writeText(this.makeRequest(job, true))}>Copy</button>`
              : nothing
          }
          ${
            Object.values(job.env ?? {}).some((value) => value !== null)
              ? html`<button type="button" aria-pressed=${this.showsValues ? "true" : "false"} @click=${() => (this.showsValues = !this.showsValues)}>Show environment values</button>`
              : nothing
          }
        </div>
        <pre tabindex="0">${this.makeRequest(job, this.showsValues)}</pre>
      </details>
    </section>`;
  }

  private describeNotebook({ path, kernel, ...set }: NotebookOutput): [string, unknown][] {
    const values = Object.entries(set.parameters).map(([name, value]) => `${name} = ${JSON.stringify(value)}`);
    const code = Object.entries(set.expressions).map(([name, value]) => `${name} = ${value}`);
    const lines = [...values, ...code].join("\n");
    return [
      ["Notebook", html`<code>${path}</code>`],
      ["Parameters", lines ? html`<code>${lines}</code>` : "notebook defaults"],
      ["Kernel", kernel],
    ];
  }

  private makeRequest(job: Job, withValues: boolean): string {
    const usual = job.notebook && job.upload ? "workdir" : "outputs";
    const known = job.env ?? {};
    const env = withValues ? known : Object.fromEntries(Object.keys(known).map((each) => [each, "…"]));
    const shown = { ...job, env, collect: job.collect === usual ? null : job.collect };
    const all = listRequested(job).map((name): [string, unknown] => [name, shown[name]]);
    const isSaid = (value: unknown) =>
      value !== null &&
      value !== "" &&
      value !== 0 &&
      !(typeof value === "object" && !Object.keys(value as object).length);
    return JSON.stringify(Object.fromEntries(all.filter(([, value]) => isSaid(value))), null, 2);
  }
}
