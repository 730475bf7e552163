// Made by scripts/generate_types.py from what the handlers declare: not to be edited.

/**
 * The actions in the audit record.
 */
export type Action =
  | "submit"
  | "rerun"
  | "cancel"
  | "delete"
  | "read"
  | "list"
  | "audit"
  | "forget-user"
  | "remove-job"
  | "remove-log"
  | "remove-results"
  | "remove-upload"
  | "remove-object";
/**
 * Where a job is: the last three are ends, which a job never leaves.
 */
export type Status = "queued" | "pending" | "running" | "succeeded" | "failed" | "cancelled";

/**
 * An attempt of a job, by its pod.
 */
export interface Attempt {
  number: number;
  pod: string;
  phase: string;
  exit_code: number | null;
  created_at: string;
  started_at: string | null;
  ended_at: string | null;
}
/**
 * An entry of the audit record.
 */
export interface AuditEntry {
  at: string;
  who: string;
  kind: string;
  action: Action;
  name: string;
  user: string;
  rights: string[];
  address: string;
  request_id: string;
  detail: string;
}
/**
 * A page of entries.
 */
export interface AuditPage {
  items: AuditEntry[];
  next_cursor: string | null;
}
/**
 * What may be said when a job is cancelled.
 */
export interface CancelRequest {
  note?: string | null;
}
/**
 * An error.
 */
export interface Error {
  status: number;
  reason: string;
  message: string;
  details: unknown;
}
/**
 * How much of a user the service has begun to forget.
 */
export interface ForgottenUser {
  user: string;
  jobs: number;
  uploads: number;
}
/**
 * The lines that match a search.
 */
export interface FoundLines {
  items: LogLine[];
  truncated: boolean;
}
/**
 * A line of a log, and its number.
 */
export interface LogLine {
  line: number;
  text: string;
}
/**
 * The process responds.
 */
export interface Health {
  status: string;
}
/**
 * A job: what was asked for, and what became of it.
 */
export interface Job {
  id: string;
  user: string;
  name: string;
  status: Status;
  created_at: string;
  command: string[] | null;
  args: string[];
  notebook: NotebookOutput | null;
  collect: "outputs" | "workdir";
  image: string;
  profile: string | null;
  upload: string | null;
  working_dir: string | null;
  cpu_limit: number | null;
  mem_limit: number | null;
  shm_size: number | null;
  retries: number;
  retry_delay_seconds: number;
  retry_backoff: "exponential" | "fixed";
  active_deadline_seconds: number | null;
  priority: number;
  queue_name: string | null;
  reason: string;
  message: string;
  exit_code: number | null;
  started_at: string | null;
  ended_at: string | null;
  attempts: number;
  cancelled_by: string | null;
  cancel_note: string | null;
  env: {
    [k: string]: string | null;
  } | null;
  description: string;
  tags: {
    [k: string]: string;
  };
  outputs: JobOutputs | null;
}
/**
 * The notebook of a job. What it does not name of the notebook's parameters stays as it is in there.
 */
export interface NotebookOutput {
  path: string;
  parameters: {
    [k: string]: unknown;
  };
  expressions: {
    [k: string]: string;
  };
  kernel: string | null;
}
/**
 * What became of the files that a job wrote under ``$KBATCH_OUTPUT_DIR``, in short.
 */
export interface JobOutputs {
  state: "kept" | "failed" | "removed";
  files: number;
  size: number;
  omitted_files: number;
  omitted_size: number;
  message: string;
  pod: string;
}
/**
 * A job, for a token that may submit or cancel it and not read it.
 */
export interface JobBrief {
  id: string;
  user: string;
  name: string;
  status: Status;
  created_at: string;
}
/**
 * The numbers of jobs, by status.
 */
export interface JobCounts {
  counts: {
    queued: number;
    pending: number;
    running: number;
    succeeded: number;
    failed: number;
    cancelled: number;
  };
}
/**
 * Something that happened to a job, as a Kubernetes Event tells it.
 */
export interface JobEvent {
  time: string;
  type: string;
  reason: string;
  message: string;
  count: number;
}
/**
 * The events of a job.
 */
export interface JobEventList {
  items: JobEvent[];
}
/**
 * A page of jobs.
 */
export interface JobPage {
  items: Job[];
  next_cursor: string | null;
}
/**
 * What a user asks for. Anything that is not listed here cannot be asked for.
 */
export interface JobRequest {
  name: string;
  command?: string[] | null;
  /**
   * @maxItems 5000
   */
  args?: string[];
  notebook?: NotebookInput | null;
  collect?: ("outputs" | "workdir") | null;
  image?: string | null;
  profile?: string | null;
  env?: {
    [k: string]: string;
  };
  upload?: string | null;
  working_dir?: string | null;
  description?: string;
  tags?: {
    [k: string]: string;
  };
  cpu_limit?: number | null;
  mem_limit?: number | null;
  shm_size?: number | null;
  retries?: number;
  retry_delay_seconds?: number | null;
  retry_backoff?: "exponential" | "fixed";
  active_deadline_seconds?: number | null;
  priority?: number;
  queue_name?: string | null;
}
/**
 * The notebook of a job. What it does not name of the notebook's parameters stays as it is in there.
 */
export interface NotebookInput {
  path: string;
  parameters?: {
    [k: string]: unknown;
  };
  expressions?: {
    [k: string]: string;
  };
  kernel?: string | null;
}
/**
 * How many jobs there are, the users who have most of them, and the reasons that most failed for.
 */
export interface JobSummary {
  jobs: number;
  users: UserSum[];
  reasons: ReasonSum[];
}
/**
 * The jobs of one user.
 */
export interface UserSum {
  user: string;
  jobs: number;
  active: number;
  run_seconds: number;
}
/**
 * The jobs that failed for one reason.
 */
export interface ReasonSum {
  reason: string;
  jobs: number;
  newest: NewestJob;
}
/**
 * The newest of some jobs.
 */
export interface NewestJob {
  id: string;
  user: string;
  name: string;
  message: string;
}
/**
 * Numbered lines of a log, and where to continue to follow it.
 */
export interface LogLines {
  attempt: number;
  last_line: number;
  last_line_is_open: boolean;
  is_complete: boolean;
  place: string;
  items: LogLine[];
}
/**
 * A file that was not saved.
 */
export interface OmittedFile {
  path: string;
  size: number;
}
/**
 * A result file.
 */
export interface OutputFile {
  path: string;
  size: number;
  modified_at: string;
}
/**
 * The results of a job, and the first files that exceeded the limits.
 */
export interface OutputList {
  state: "kept" | "failed" | "removed";
  files: number;
  size: number;
  omitted_files: number;
  omitted_size: number;
  message: string;
  pod: string;
  items: OutputFile[];
  omitted: OmittedFile[];
}
/**
 * The state of a part, since when and why.
 */
export interface Part {
  state: "ok" | "failed" | "unknown";
  since: string;
  message: string;
  needed: boolean;
}
/**
 * One entry of the admin's ``profile_list`` as a user sees it.
 */
export interface Profile {
  slug: string;
  display_name: string;
  description: string;
  default: boolean;
  image: string;
  cpu_limit: number | null;
  mem_limit: number | null;
  extra_resource_limits: {
    [k: string]: string;
  };
}
/**
 * Profiles.
 */
export interface ProfileList {
  items: Profile[];
}
/**
 * A user's queued jobs, and why the first of them waits.
 */
export interface Queue {
  reason: string;
  message: string;
  jobs: Queued[];
}
/**
 * A queued job, and its place in the queue.
 */
export interface Queued {
  id: string;
  name: string;
  place: number;
}
/**
 * The state of all parts, and whether this process is the leader.
 */
export interface Ready {
  status: "ok" | "degraded" | "unavailable" | "stopping";
  failed: string[];
  parts: {
    [k: string]: Part;
  };
  leads: boolean;
}
/**
 * A step of a job.
 */
export interface Step {
  step: string;
  time: string;
  attempt: number | null;
}
/**
 * The steps of a job, in order, and its attempts.
 */
export interface Timeline {
  items: Step[];
  attempts: Attempt[];
}
/**
 * An upload.
 */
export interface Upload {
  id: string;
  size: number;
  sha256: string;
  created_at: string;
  expires_at: string;
  top_folder: string | null;
}
/**
 * The user a token belongs to. Limits of jobs, usage and queue are null for a token that may not read.
 */
export interface User {
  name: string;
  kind: string;
  groups: string[];
  admin: boolean;
  actions: string[];
  scopes: string[];
  limits: UserLimits;
  group_totals: {
    [k: string]: {
      [k: string]: number;
    };
  } | null;
  usage: {
    [k: string]: number;
  } | null;
  queue: Queue | null;
}
/**
 * The limits of a user: of requests, and of jobs by resource.
 */
export interface UserLimits {
  max_upload_bytes: number;
  max_job_bytes: number;
  max_body_bytes: number;
  jobs: {
    [k: string]: number;
  } | null;
}
/**
 * The version of the service.
 */
export interface Version {
  version: string;
}

/** All statuses, in the order in which a job has them. */
export const STATUSES: Status[] = ["queued","pending","running","succeeded","failed","cancelled"];

/** The names of all fields of a request. */
export const REQUEST_FIELDS: (keyof JobRequest)[] = ["name","command","args","notebook","collect","image","profile","env","upload","working_dir","description","tags","cpu_limit","mem_limit","shm_size","retries","retry_delay_seconds","retry_backoff","active_deadline_seconds","priority","queue_name"];
