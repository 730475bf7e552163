// The table of jobs, which becomes a list of cards on a phone.
import { css } from "lit";

export const tableStyles = css`
  .check {
    width: 2rem;
  }
  .jobs td {
    overflow-wrap: anywhere;
  }
  .jobs tbody tr:hover {
    background: var(--kb-hover);
  }
  .name {
    min-width: 9rem;
  }
  .where,
  .message {
    font-size: 0.9rem;
  }
  .where {
    max-width: 14rem;
  }
  .time {
    white-space: nowrap;
    font-variant-numeric: tabular-nums;
  }
  .paging {
    margin-top: 1rem;
  }
  @media (max-width: 760px) {
    .jobs,
    .jobs tbody {
      display: block;
    }
    .jobs thead {
      display: none;
    }
    .jobs tr {
      display: grid;
      grid-template-columns: 2rem 1fr auto;
      gap: 0.1rem 0.5rem;
      padding: 0.6rem 0;
      border-bottom: 1px solid var(--kb-line);
    }
    .jobs td {
      padding: 0;
      border: 0;
    }
    .jobs td.check {
      grid-row: span 4;
    }
    .jobs td.name {
      grid-column: 2;
      grid-row: 1;
    }
    .jobs td:nth-child(2) {
      grid-column: 3;
      grid-row: 1;
    }
    .jobs td.where {
      grid-column: 2 / -1;
      max-width: none;
    }
    .jobs td.message {
      grid-column: 2 / -1;
    }
    .jobs td.message:empty {
      display: none;
    }
    .jobs .time + .time {
      text-align: right;
    }
  }
`;
