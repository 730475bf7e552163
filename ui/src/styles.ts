// What the components' styles have in common.
import { css } from "lit";

export const base = css`
  :host {
    display: block;
  }
  * {
    box-sizing: border-box;
  }
  [hidden] {
    display: none !important;
  }
  h1 {
    margin: 0;
    font-size: 1.5rem;
    line-height: 1.25;
    overflow-wrap: anywhere;
  }
  h2 {
    margin: 0 0 0.5rem;
    font-size: 1.1rem;
  }
  a {
    color: var(--kb-link);
  }
  code,
  pre {
    font-family: var(--kb-mono);
    font-size: 0.85rem;
  }
  .quiet {
    color: var(--kb-quiet);
  }
  .small {
    font-size: 0.85rem;
  }
  .row {
    display: flex;
    flex-wrap: wrap;
    gap: 0.5rem;
    align-items: center;
  }
  .grow {
    flex: 1 1 auto;
  }
  h1.grow {
    min-width: 9rem;
  }
  section {
    margin-top: 1.5rem;
  }
  :is(a, button, input, select, textarea, summary, [tabindex]):focus-visible {
    outline: 2px solid var(--kb-focus);
    outline-offset: 2px;
  }
  button,
  .button {
    display: inline-flex;
    align-items: center;
    gap: 0.35rem;
    min-height: 2.25rem;
    padding: 0.25rem 0.75rem;
    border: 1px solid var(--kb-control-line);
    border-radius: 0.375rem;
    background: var(--kb-back);
    color: var(--kb-text);
    font: inherit;
    font-size: 0.9rem;
    text-decoration: none;
    cursor: pointer;
  }
  button:hover:not(:disabled),
  .button:hover {
    background: var(--kb-hover);
  }
  button:disabled {
    opacity: 0.55;
    cursor: default;
  }
  button.primary,
  .button.primary {
    border-color: var(--kb-accent);
    background: var(--kb-accent);
    color: #ffffff;
  }
  button.primary:hover:not(:disabled),
  .button.primary:hover {
    filter: brightness(0.9);
  }
  button.danger {
    border-color: var(--kb-bad);
    color: var(--kb-bad);
  }
  button[aria-pressed="true"] {
    border-color: var(--kb-text);
    background: var(--kb-hover);
    font-weight: 600;
  }
  input:not([type="checkbox"], [type="radio"]),
  select,
  textarea {
    min-height: 2.25rem;
    padding: 0.25rem 0.5rem;
    border: 1px solid var(--kb-control-line);
    border-radius: 0.375rem;
    background: var(--kb-back);
    color: var(--kb-text);
    font: inherit;
    font-size: 0.95rem;
    max-width: 100%;
  }
  ::placeholder {
    color: var(--kb-quiet);
    opacity: 1;
  }
  input[type="checkbox"],
  input[type="radio"] {
    width: 1.1rem;
    height: 1.1rem;
    accent-color: var(--kb-accent);
  }
  .alert {
    padding: 0.6rem 0.9rem;
    border-radius: 0.375rem;
    background: var(--kb-note-back);
    color: var(--kb-note-text);
    overflow-wrap: anywhere;
  }
  .alert a {
    color: inherit;
  }
  .alert.bad {
    background: var(--kb-bad-back);
    color: var(--kb-bad-text);
  }
  .panel {
    padding: 1rem;
    border: 1px solid var(--kb-line);
    border-radius: 0.5rem;
    background: var(--kb-panel);
  }
  table {
    width: 100%;
    border-collapse: collapse;
  }
  th,
  td {
    padding: 0.45rem 0.75rem 0.45rem 0;
    border-bottom: 1px solid var(--kb-line);
    text-align: left;
    vertical-align: top;
  }
  th {
    color: var(--kb-quiet);
    font-size: 0.85rem;
    font-weight: 600;
    white-space: nowrap;
  }
  .number {
    text-align: right;
    font-variant-numeric: tabular-nums;
    white-space: nowrap;
  }
  .status {
    display: inline-block;
    padding: 0.05rem 0.6rem;
    border-radius: 1rem;
    background: #565e64;
    color: #ffffff;
    font-size: 0.8rem;
    font-weight: 600;
    white-space: nowrap;
  }
  .status.running {
    background: #0a58ca;
  }
  .status.succeeded {
    background: #146c43;
  }
  .status.failed {
    background: #b02a37;
  }
  .status.cancelled {
    background: #59359a;
  }
  dialog {
    width: min(32rem, calc(100vw - 2rem));
    padding: 1.25rem;
    border: 1px solid var(--kb-line);
    border-radius: 0.5rem;
    background: var(--kb-back);
    color: var(--kb-text);
  }
  dialog::backdrop {
    background: rgb(0 0 0 / 50%);
  }
  dialog .row {
    justify-content: flex-end;
    margin-top: 1rem;
  }
  .hidden {
    position: absolute;
    width: 1px;
    height: 1px;
    overflow: hidden;
    clip-path: inset(50%);
    white-space: nowrap;
  }
`;
