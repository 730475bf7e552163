// The form of a new job.
import { css } from "lit";

export const formStyles = css`
  form {
    max-width: 52rem;
  }
  .field {
    display: block;
    margin: 1rem 0 0;
  }
  .field > label,
  .label,
  legend {
    display: block;
    padding: 0;
    font-weight: 600;
  }
  .field > input,
  textarea {
    width: 100%;
  }
  textarea {
    font-family: var(--kb-mono);
    resize: vertical;
  }
  #command,
  #image {
    font-family: var(--kb-mono);
    font-size: 0.9rem;
  }
  fieldset {
    margin: 0;
    padding: 0;
    border: 0;
  }
  .label .quiet {
    font-weight: 400;
  }
  kbatch-parameters + button {
    margin-top: 0.75rem;
  }
  .choice {
    display: flex;
    gap: 0.5rem;
    align-items: center;
    margin-top: 0.5rem;
  }
  .cards {
    display: grid;
    grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr));
    gap: 0.5rem;
    margin-top: 0.35rem;
  }
  .card {
    display: flex;
    gap: 0.6rem;
    padding: 0.75rem;
    border: 1px solid var(--kb-control-line);
    border-radius: 0.5rem;
    cursor: pointer;
  }
  .card:has(:checked) {
    border-color: var(--kb-accent);
    background: var(--kb-panel);
    box-shadow: inset 0 0 0 1px var(--kb-accent);
  }
  .card input {
    flex: none;
    margin-top: 0.2rem;
  }
  .columns {
    display: grid;
    grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr));
    gap: 0 1rem;
  }
  .columns .field {
    margin-top: 0.75rem;
  }
  [aria-invalid="true"] {
    border-color: var(--kb-bad) !important;
  }
  .problem {
    color: var(--kb-bad);
  }
  button[type="submit"],
  [role="status"].row {
    margin-top: 1.25rem;
  }
  summary {
    cursor: pointer;
    font-weight: 600;
  }
  progress {
    accent-color: var(--kb-accent);
  }
`;

/** A group of inputs that is a component of its own. */
export const groupStyles = css`
  fieldset {
    margin: 0;
    padding: 0;
    border: 0;
  }
  legend {
    padding: 0;
    font-weight: 600;
  }
`;
