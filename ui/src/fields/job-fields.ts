// The fields of a job that are one text or number: how each is asked for in the form, and shown on the job's page.
import { bytes, duration } from "../format";
import { type Job, type JobRequest, REQUEST_FIELDS } from "../net/schema";
import { type Choices, describeChoices } from "./profile-options";

export interface Input {
  /** Where it is not the field's own. */
  label?: string;
  hint?: string;
  placeholder?: string;
  maxlength?: number;
  /** Return the value that the API takes for what was typed; NaN where it is no number. */
  read?: (text: string) => unknown;
  /** Return what is to be typed for a value of the API. */
  write?: (value: number) => string;
  /** Whether a profile has one of its own, so that what was typed goes when another is chosen. */
  isOfProfile?: boolean;
}

export interface Field {
  name: keyof JobRequest;
  label: string;
  /** Return how a value is shown, where not as it is; null: not among the facts of a job's request. */
  show?: (value: number) => string | null;
  /** Without it, the form does not show it, and asks for what an earlier job had. */
  input?: Input;
}

const readSize = (text: string) => (/^\d+$/.test(text) ? Number(text) : text);

export const FIELDS: Field[] = [
  { name: "image", label: "Image", input: { hint: "Leave empty for the default.", isOfProfile: true } },
  { name: "profile", label: "Profile" },
  {
    name: "profile_options",
    label: "Profile options",
    show: (value) => describeChoices(value as unknown as Choices),
  },
  { name: "cpu_limit", label: "CPU limit", input: { placeholder: "2", read: Number, isOfProfile: true } },
  {
    name: "mem_limit",
    label: "Memory limit",
    show: bytes,
    input: { placeholder: "4G", read: readSize, isOfProfile: true },
  },
  { name: "shm_size", label: "Shared memory", show: bytes },
  {
    name: "active_deadline_seconds",
    label: "Time limit",
    show: duration,
    input: {
      label: "Time limit (minutes)",
      placeholder: "60",
      read: (text) => Math.round(Number(text) * 60),
      write: (value) => String(value / 60),
    },
  },
  { name: "retries", label: "Retries", input: { placeholder: "0", read: Number } },
  { name: "priority", label: "Priority", input: { label: "Priority among your jobs", placeholder: "0", read: Number } },
  { name: "queue_name", label: "Queue" },
  { name: "hub_scopes", label: "Hub scopes", show: (value) => String(value).replaceAll(",", ", ") || null },
  { name: "home", label: "Home folder of" },
  // the job's page has it at its top
  { name: "description", label: "Description", show: () => null, input: { maxlength: 4096 } },
];

/** What of that the form shows. */
export const INPUTS = FIELDS.filter((field): field is Field & { input: Input } => field.input !== undefined);

/** What says when a job is tried again, and nothing of one that is not. */
const OF_RETRIES: (keyof JobRequest)[] = ["retry_delay_seconds", "retry_backoff"];

/** Return the fields of the request that a job was made from; what it took from a server is in the others. */
export const listRequested = (job: Job): (keyof JobRequest)[] =>
  REQUEST_FIELDS.filter((name) => name !== "like" && (job.retries || !OF_RETRIES.includes(name)));

/** Return the facts of a job's request, each with its label; null for what was not asked for. */
export const listFacts = (job: Job): [string, unknown][] =>
  FIELDS.map(({ name, label, show }) => {
    const value = job[name];
    return [label, value ? (show ? show(value as number) : value) : null];
  });
