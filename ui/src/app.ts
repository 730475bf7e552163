// The frame of the pages: header, the view that the URL names, and what concerns all of them.
import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import "./views/admin-view";
import { Api, ApiError } from "./net/api";
import type { User } from "./net/schema";
import "./views/job-view";
import "./views/jobs-view";
import { makeLinkHandler, type Route, readRoute } from "./router";
import { base } from "./styles";
import "./views/secrets-view";
import "./views/submit-view";
import "./views/use-view";

const TITLES = { jobs: "Jobs", job: "Job", submit: "New job", secrets: "Secrets", use: "Usage", admin: "Admin" };

@customElement("kbatch-app")
export class KbatchApp extends LitElement {
  @property({ attribute: "base-url" }) baseUrl = "/";
  @property({ attribute: "hub-url" }) hubUrl = "/hub/";
  @property({ attribute: "user" }) userName = "";
  @property({ attribute: "xsrf-token" }) xsrfToken = "";
  @state() private route!: Route;
  @state() private user: User | null = null;
  @state() private problem: ApiError | null = null;
  @state() private isLoggedOut = false;
  private api!: Api;

  static override styles = [
    base,
    css`
      header {
        display: flex;
        flex-wrap: wrap;
        gap: 0.25rem 1.25rem;
        align-items: center;
        padding: 0.5rem 1.25rem;
        border-bottom: 1px solid var(--kb-line);
        background: var(--kb-panel);
      }
      header a {
        padding: 0.35rem 0;
        color: var(--kb-text);
        text-decoration: none;
      }
      header a:hover {
        text-decoration: underline;
      }
      header a[aria-current] {
        border-bottom: 2px solid var(--kb-link);
        font-weight: 600;
      }
      nav {
        display: flex;
        flex-wrap: wrap;
        gap: 0 1.25rem;
      }
      .brand {
        font-weight: 700;
      }
      .skip {
        position: absolute;
        left: -100rem;
      }
      .skip:focus {
        position: static;
      }
      main {
        max-width: 90rem;
        margin: 0 auto;
        padding: 1.25rem 1.25rem 4rem;
      }
      .end {
        display: flex;
        gap: 0.75rem;
        align-items: center;
        margin-left: auto;
      }
      .end button {
        min-height: 2rem;
        padding: 0 0.5rem;
      }
      .alert {
        margin-bottom: 1rem;
      }
      @media (max-width: 600px) {
        header {
          padding: 0.5rem 0.75rem;
        }
        main {
          padding: 0.75rem 0.75rem 3rem;
        }
        .user {
          display: none;
        }
      }
    `,
  ];

  override connectedCallback(): void {
    super.connectedCallback();
    this.api = new Api(this.baseUrl, { "X-XSRFToken": this.xsrfToken });
    this.api.onAnswer = () => {
      if (this.problem?.isReading && this.problem.isPassing) this.problem = null; // what was to be read is there
    };
    this.route = readRoute(this.baseUrl);
    addEventListener("popstate", this.look);
    addEventListener("kbatch-navigate", this.look);
    this.addEventListener("click", makeLinkHandler(this.baseUrl));
    this.addEventListener("kbatch-problem", (event) => this.hear((event as CustomEvent<ApiError>).detail));
    this.loadUser();
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    removeEventListener("popstate", this.look);
    removeEventListener("kbatch-navigate", this.look);
  }

  private look = (): void => {
    const before = this.route.page;
    this.route = readRoute(this.baseUrl);
    if (before !== this.route.page) this.updateComplete.then(() => this.renderRoot.querySelector("main")?.focus());
  };

  private async loadUser(): Promise<void> {
    try {
      this.user = await this.api.get<User>("user");
    } catch (error) {
      if (error instanceof ApiError) this.hear(error);
      if (!this.isLoggedOut) setTimeout(() => this.loadUser(), 5000);
    }
  }

  private hear(error: ApiError): void {
    if (error.isLoginNeeded) this.isLoggedOut = true;
    else this.problem = error;
  }

  private switchTheme(): void {
    const isDark = document.documentElement.dataset.bsTheme === "dark";
    localStorage.setItem("jupyterhub-bs-theme", isDark ? "light" : "dark");
    dispatchEvent(new CustomEvent("kbatch-theme"));
  }

  override updated(): void {
    if (this.route.page !== "job") document.title = `${TITLES[this.route.page]} · kbatch`;
  }

  override render(): TemplateResult {
    const link = (page: Route["page"], path: string) =>
      html`<a href=${this.baseUrl + path} aria-current=${this.route.page === page ? "page" : nothing}>${TITLES[page]}</a>`;
    return html`
      <header>
        <button type="button" class="skip" @click=${this.skip}>Skip to content</button>
        <a class="brand" href=${this.baseUrl}>kbatch</a>
        <nav aria-label="Main">
          ${link("jobs", "")} ${link("submit", "submit")} ${link("secrets", "secrets")} ${link("use", "use")}
          ${this.user?.admin ? link("admin", "admin") : nothing}
        </nav>
        <div class="end">
          <button type="button" @click=${this.switchTheme} aria-label="Switch between dark and light theme" title="Switch between dark and light theme">◐</button>
          <a href="${this.hubUrl}home" target="_top">JupyterHub</a>
          <span class="user quiet">${this.userName}</span>
        </div>
      </header>
      <main tabindex="-1">
        ${this.isLoggedOut ? this.renderLogin() : nothing}
        ${this.problem ? this.renderProblem(this.problem) : nothing}
        ${this.user ? this.renderView(this.user) : nothing}
      </main>
    `;
  }

  private skip(): void {
    this.renderRoot.querySelector("main")?.focus();
  }

  private renderLogin(): TemplateResult {
    return html`<div class="alert" role="alert">
      You've been signed out. <a href=${location.href} target="_top">Sign in again</a> to continue (anything you typed here will be lost).
    </div>`;
  }

  private renderProblem(error: ApiError): TemplateResult {
    return html`<div class="alert bad row" role="alert">
      <span class="grow">${error.message}</span>
      <button type="button" @click=${() => (this.problem = null)}>Close</button>
    </div>`;
  }

  private renderView(user: User): TemplateResult {
    const { page, jobId, query } = this.route;
    if (page === "job") return html`<kbatch-job .api=${this.api} .user=${user} .jobId=${jobId}></kbatch-job>`;
    if (page === "submit")
      return html`<kbatch-submit .api=${this.api} .user=${user} .from=${query.get("from") ?? ""}></kbatch-submit>`;
    if (page === "secrets") return html`<kbatch-secrets .api=${this.api}></kbatch-secrets>`;
    if (page === "use") return html`<kbatch-use .api=${this.api} .user=${user}></kbatch-use>`;
    if (page === "admin") return html`<kbatch-admin .api=${this.api} .user=${user} .query=${query}></kbatch-admin>`;
    return html`<kbatch-jobs .api=${this.api} .user=${user} .query=${query}></kbatch-jobs>`;
  }
}
