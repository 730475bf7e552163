// A job's log: follows it as it is written, and stays smooth at millions of lines, as it draws only those that are seen.
import { css, html, LitElement, nothing, type PropertyValues, type TemplateResult } from "lit";
import { customElement, query as find, property, state } from "lit/decorators.js";
import { count } from "../format";
import { type Api, isOver } from "../net/api";
import type { FoundLines, Job, LogLine } from "../net/schema";
import { tellProblem } from "../problem";
import { base } from "../styles";
import { ansiStyles, renderLine } from "./ansi";
import { LogLines } from "./log-lines";

/** Height of a line in pixels, as in the style below. */
const ROW = 20;

/** Browsers draw nothing that is much taller. */
const MAX_HEIGHT = 8_000_000;

const OVERSCAN = 20;

const MAX_HITS = 1000;

@customElement("kbatch-log")
export class LogView extends LitElement {
  @property({ attribute: false }) api!: Api;
  @property({ attribute: false }) job!: Job;
  @state() private attempt: number | null = null;
  @state() private isFollowing = true;
  @state() private wraps = false;
  @state() private hits: LogLine[] | null = null;
  @state() private hitsAreCut = false;
  @state() private hit = 0;
  @state() private marked = 0;
  @find(".scroller") private scroller!: HTMLElement;
  private lines!: LogLines;
  private stop = new AbortController();
  private words = "";
  private isDrawing = false;

  static override styles = [
    base,
    ansiStyles,
    css`
      .bar {
        margin-bottom: 0.5rem;
      }
      .bar button, .bar .button, .bar input, .bar select {
        min-height: 2rem;
      }
      input[type="search"] {
        width: 14rem;
      }
      .scroller {
        position: relative;
        min-height: 8rem;
        max-height: min(34rem, 75vh);
        overflow: auto;
        border: 1px solid var(--kb-line);
        border-radius: 0.375rem;
        background: var(--kb-panel);
        overflow-anchor: none;
      }
      .spacer {
        position: relative;
        min-width: 100%;
        overflow: hidden;
      }
      .layer {
        position: absolute;
        left: 0;
        min-width: 100%;
        font: 13px/20px var(--kb-mono);
      }
      .line {
        display: flex;
        min-height: 20px;
      }
      .line:hover, .line.marked {
        background: var(--kb-hover);
      }
      .line.hit {
        background: var(--kb-mark);
      }
      .line > a {
        flex: none;
        width: 4.5rem;
        padding-right: 0.75rem;
        color: var(--kb-quiet);
        text-align: right;
        text-decoration: none;
        user-select: none;
      }
      .line span.text {
        flex: 1;
        padding-right: 1rem;
        white-space: pre;
        tab-size: 8;
      }
      .wraps .layer {
        width: 100%;
      }
      .wraps .line span.text {
        min-width: 0;
        white-space: pre-wrap;
        overflow-wrap: anywhere;
      }
      .empty {
        padding: 1rem;
      }
      @media (max-width: 600px) {
        .line > a {
          width: 3rem;
          padding-right: 0.4rem;
        }
        .bar h2 {
          width: 100%;
        }
        .bar form,
        .bar input {
          width: 100%;
        }
        .scroller {
          max-height: 60vh;
        }
      }
    `,
  ];

  override connectedCallback(): void {
    super.connectedCallback();
    this.marked = Number(/^#L(\d+)$/.exec(location.hash)?.[1] ?? 0);
    if (this.marked) this.isFollowing = false;
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.stop.abort();
  }

  override willUpdate(changed: PropertyValues): void {
    const before: Job | undefined = changed.get("job");
    const isOther = changed.has("job") && before?.id !== this.job.id;
    // the newest attempt is shown, unless another was chosen
    const isNext = before && before.attempts !== this.job.attempts && this.attempt === null;
    if (isOther || isNext || changed.has("attempt")) this.open();
    else if (before && !isOver(before) && isOver(this.job) && this.lines.problem) this.open();
  }

  private open(): void {
    this.stop.abort();
    this.stop = new AbortController();
    const lines = new LogLines(this.api, this.job.id, this.attempt);
    this.lines = lines;
    this.hits = null;
    lines.addEventListener("change", () => lines === this.lines && this.see());
    // before its first attempt there is nothing to ask for
    if (this.job.attempts) lines.follow(this.stop.signal);
  }

  // Where we are

  /** Lines have come: go to the end if that is wanted, and draw. */
  private async see(): Promise<void> {
    if (!this.scroller) return;
    this.requestUpdate();
    await this.updateComplete;
    if (this.isFollowing) this.scroller.scrollTop = this.scroller.scrollHeight;
    else if (this.marked && !this.scroller.scrollTop) this.goTo(this.marked);
    this.draw();
  }

  private get height(): number {
    return Math.max(Math.min(this.lines.total * ROW, MAX_HEIGHT), ROW);
  }

  private get viewport(): number {
    return this.scroller?.clientHeight || 400;
  }

  /** How many lines are above, with the part of one that is. */
  private get top(): number {
    const { scrollTop } = this.scroller;
    if (this.lines.total * ROW <= MAX_HEIGHT) return scrollTop / ROW;
    const most = this.lines.total - this.viewport / ROW;
    return (scrollTop / (this.height - this.viewport)) * most;
  }

  private get isAtEnd(): boolean {
    return this.scroller.scrollTop + this.viewport >= this.height - 2;
  }

  private goTo(line: number): void {
    this.isFollowing = false;
    const wanted = Math.max(line - 1 - Math.floor(this.viewport / ROW / 3), 0);
    const isScaled = this.lines.total * ROW > MAX_HEIGHT;
    const most = this.lines.total - this.viewport / ROW;
    this.scroller.scrollTop = isScaled ? (wanted / most) * (this.height - this.viewport) : wanted * ROW;
    this.marked = line;
    this.draw();
  }

  private scrolled(): void {
    if (this.isFollowing && !this.isAtEnd) this.isFollowing = false;
    this.draw();
  }

  /** Draw with the next frame. */
  private draw(): void {
    if (this.isDrawing) return;
    this.isDrawing = true;
    requestAnimationFrame(() => {
      this.isDrawing = false;
      this.requestUpdate();
    });
  }

  // What is done

  private async search(event: Event): Promise<void> {
    event.preventDefault();
    const input = this.renderRoot.querySelector<HTMLInputElement>("#words");
    this.words = input?.value ?? "";
    if (!this.words) {
      this.hits = null;
      return;
    }
    try {
      const query = { search: this.words, limit: MAX_HITS, attempt: this.lines.attempt || null };
      const found = await this.api.get<FoundLines>(`jobs/${this.job.id}/logs`, query);
      this.hits = found.items;
      this.hitsAreCut = found.truncated;
      this.hit = 0;
      if (found.items.length) this.goTo(found.items[0].line);
    } catch (error) {
      tellProblem(this, error);
    }
  }

  private step(by: number): void {
    if (!this.hits?.length) return;
    this.hit = (this.hit + by + this.hits.length) % this.hits.length;
    this.goTo(this.hits[this.hit].line);
  }

  private follow(): void {
    this.isFollowing = !this.isFollowing;
    this.marked = 0;
    if (this.isFollowing) this.see();
  }

  // How it looks

  override render(): TemplateResult {
    const { lines } = this;
    return html`
      <div class="row bar">
        <h2 id="log-title" class="grow">Log <span class="quiet small">${lines.total ? `${count(lines.total)} ${lines.total === 1 ? "line" : "lines"}` : ""}</span></h2>
        ${this.renderAttempts()}
        <form role="search" class="row" @submit=${this.search}>
          <label class="hidden" for="words">Search the log</label>
          <input id="words" type="search" maxlength="1000" placeholder="Search the log" @search=${this.search} />
        </form>
        ${this.renderHits()}
        <button type="button" aria-pressed=${this.isFollowing ? "true" : "false"} @click=${this.follow}>Follow</button>
        <button type="button" aria-pressed=${this.wraps ? "true" : "false"} @click=${() => (this.wraps = !this.wraps)}>Wrap</button>
        <a class="button" download href=${this.api.url(`jobs/${this.job.id}/logs`, { download: true, attempt: this.attempt })}>Download</a>
      </div>
      ${lines.problem && lines.total && !lines.isComplete ? html`<p class="quiet small" role="status">${lines.problem}</p>` : nothing}
      <div class="scroller ${this.wraps ? "wraps" : ""}" tabindex="0" role="log" aria-live="off" aria-labelledby="log-title" @scroll=${this.scrolled}>
        ${lines.total ? this.renderLines() : html`<p class="empty quiet">${this.tellEmpty()}</p>`}
      </div>
    `;
  }

  private tellEmpty(): string {
    if (this.lines.isComplete) return "No output.";
    if (isOver(this.job) && !this.job.attempts) return "The job never started.";
    if (isOver(this.job)) return this.lines.problem || "Loading…";
    return this.lines.problem || "No output yet.";
  }

  private renderAttempts(): TemplateResult | typeof nothing {
    if (this.job.attempts < 2) return nothing;
    const choose = (event: Event) => {
      this.attempt = Number((event.target as HTMLSelectElement).value) || null;
    };
    return html`<label class="small quiet">Attempt
      <select @change=${choose}>
        <option value="">latest</option>
        ${Array.from({ length: this.job.attempts }, (_, index) => html`<option>${index + 1}</option>`)}
      </select>
    </label>`;
  }

  private renderHits(): TemplateResult | typeof nothing {
    if (!this.hits) return nothing;
    const most = `${count(this.hits.length)}${this.hitsAreCut ? "+" : ""}`;
    return html`<span class="row">
      <span class="small" role="status">${this.hits.length ? `${count(this.hit + 1)} of ${most}` : this.hitsAreCut ? "No matches in the part searched" : "No matches"}</span>
      <button type="button" aria-label="Previous match" ?disabled=${!this.hits.length} @click=${() => this.step(-1)}>↑</button>
      <button type="button" aria-label="Next match" ?disabled=${!this.hits.length} @click=${() => this.step(1)}>↓</button>
    </span>`;
  }

  private renderLines(): TemplateResult {
    const { total } = this.lines;
    const seen = Math.ceil(this.viewport / ROW) + 1;
    const scroller = this.scroller ?? null;
    const isAtEnd = scroller ? this.isAtEnd : true;
    const top = scroller ? this.top : 0;
    const over = this.wraps ? 0 : OVERSCAN;
    const first = isAtEnd ? Math.max(total - seen - OVERSCAN, 0) + 1 : Math.max(Math.floor(top) - over, 0) + 1;
    const last = Math.min(first + seen + 2 * OVERSCAN, total);
    this.lines.want(first, last);
    const y = (scroller?.scrollTop ?? 0) - (top - (first - 1)) * ROW;
    const place = isAtEnd ? "bottom: 0" : `transform: translateY(${y}px)`;
    const rows = [];
    for (let line = first; line <= last; line++) rows.push(this.renderRow(line));
    return html`<div class="spacer" .style=${`height: ${this.height}px; min-width: ${this.wraps ? "100%" : "max-content"}`}>
      <div class="layer" .style=${isAtEnd && this.height < this.viewport ? "top: 0" : place}>${rows}</div>
    </div>`;
  }

  private renderRow(line: number): TemplateResult {
    const text = this.lines.get(line);
    const isHit = this.hits?.[this.hit]?.line === line;
    const shown = text === undefined ? "…" : text === null ? "[line removed]" : renderLine(text);
    const mark = (event: Event) => {
      event.preventDefault();
      this.marked = line;
      history.replaceState(history.state, "", `#L${line}`);
    };
    return html`<div class="line ${isHit ? "hit" : this.marked === line ? "marked" : ""}"><a href="#L${line}" tabindex="-1" aria-label="Line ${line}" @click=${mark}>${line}</a><span class="text">${shown}</span></div>`;
  }
}
