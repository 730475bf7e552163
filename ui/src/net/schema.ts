// Made by scripts/generate_types.py from what the handlers declare: do not edit.

export type Action =
  | "submit"
  | "rerun"
  | "cancel"
  | "delete"
  | "read"
  | "list"
  | "audit"
  | "set-secret"
  | "delete-secret"
  | "forget-user"
  | "remove-job"
  | "remove-log"
  | "remove-results"
  | "remove-upload"
  | "remove-object";
export type Status = "queued" | "pending" | "running" | "succeeded" | "failed" | "cancelled";

export interface Attempt {
  number: number;
  pod: string;
  phase: string;
  exit_code: number | null;
  created_at: string;
  started_at: string | null;
  ended_at: string | null;
}
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
export interface AuditPage {
  items: AuditEntry[];
  next_cursor: string | null;
}
export interface CancelRequest {
  note?: string | null;
}
export interface Error {
  status: number;
  reason: string;
  message: string;
  details: unknown;
}
export interface ForgottenUser {
  user: string;
  jobs: number;
  uploads: number;
  secrets: number;
}
export interface FoundLines {
  items: LogLine[];
  truncated: boolean;
}
export interface LogLine {
  line: number;
  text: string;
}
export interface Health {
  status: string;
}
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
  secret_env: {
    [k: string]: string;
  };
  secret_files: {
    [k: string]: string;
  };
  registry_secrets: string[];
  profile_options: {
    [k: string]: string;
  };
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
  hub_scopes: string[];
  like: string | null;
  home: string | null;
  results_to_home: boolean;
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
  parent: string | null;
  children: number;
  progress: JobProgress | null;
  taken: string | null;
}
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
export interface JobOutputs {
  state: "kept" | "failed" | "removed";
  files: number;
  size: number;
  omitted_files: number;
  omitted_size: number;
  message: string;
  pod: string;
}
export interface JobProgress {
  done: number | null;
  total: number | null;
  message: string;
  at: string;
}
export interface JobBrief {
  id: string;
  user: string;
  name: string;
  status: Status;
  created_at: string;
}
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
export interface JobEvent {
  time: string;
  type: string;
  reason: string;
  message: string;
  count: number;
}
export interface JobEventList {
  items: JobEvent[];
}
export interface JobPage {
  items: Job[];
  next_cursor: string | null;
}
export interface JobRequest {
  name: string;
  command?: string[] | null;
  args?: string[];
  notebook?: NotebookInput | null;
  collect?: ("outputs" | "workdir") | null;
  image?: string | null;
  profile?: string | null;
  profile_options?: {
    [k: string]: string;
  };
  env?: {
    [k: string]: string;
  };
  secret_env?: {
    [k: string]: string;
  };
  secret_files?: {
    [k: string]: string;
  };
  registry_secrets?: string[];
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
  hub_scopes?: string[];
  like?: string | null;
  home?: boolean | string | null;
  results_to_home?: boolean | null;
  queue_name?: string | null;
}
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
export interface JobSummary {
  jobs: number;
  users: UserSum[];
  reasons: ReasonSum[];
}
export interface UserSum {
  user: string;
  jobs: number;
  active: number;
  run_seconds: number;
}
export interface ReasonSum {
  reason: string;
  jobs: number;
  newest: NewestJob;
}
export interface NewestJob {
  id: string;
  user: string;
  name: string;
  message: string;
}
export interface LogLines {
  attempt: number;
  last_line: number;
  last_line_is_open: boolean;
  is_complete: boolean;
  place: string;
  items: LogLine[];
}
export interface OmittedFile {
  path: string;
  size: number;
}
export interface OutputFile {
  path: string;
  size: number;
  modified_at: string;
}
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
export interface Part {
  state: "ok" | "failed" | "unknown";
  since: string;
  message: string;
  needed: boolean;
}
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
  profile_options: ProfileOption[];
}
export interface ProfileOption {
  name: string;
  display_name: string;
  choices: ProfileChoice[];
  unlisted_choice: UnlistedChoice | null;
}
export interface ProfileChoice {
  name: string;
  display_name: string;
  default: boolean;
}
export interface UnlistedChoice {
  display_name: string;
  display_name_in_choices: string;
  validation_regex: string | null;
  validation_message: string;
}
export interface ProfileList {
  items: Profile[];
}
export interface ProgressRequest {
  done?: number | null;
  total?: number | null;
  message?: string;
}
export interface Queue {
  reason: string;
  message: string;
  jobs: Queued[];
}
export interface Queued {
  id: string;
  name: string;
  place: number;
}
export interface Ready {
  status: "ok" | "degraded" | "unavailable" | "stopping";
  failed: string[];
  parts: {
    [k: string]: Part;
  };
  leads: boolean;
}
export interface RegistryLogin {
  server: string;
  username: string;
  password: string;
}
export interface Secret {
  name: string;
  kind: "value" | "registry";
  created_at: string;
  updated_at: string;
  used_at: string | null;
  is_lost: boolean;
}
export interface SecretList {
  items: Secret[];
}
export interface SecretRequest {
  value?: string | null;
  registry?: RegistryLogin | null;
}
export interface Server {
  name: string;
  display_name: string;
  is_running: boolean;
  like: string;
}
export interface ServerList {
  items: Server[];
}
export interface Step {
  step: string;
  time: string;
  attempt: number | null;
}
export interface Timeline {
  items: Step[];
  attempts: Attempt[];
}
export interface Upload {
  id: string;
  size: number;
  sha256: string;
  created_at: string;
  expires_at: string;
  top_folder: string | null;
}
export interface User {
  name: string;
  kind: string;
  groups: string[];
  admin: boolean;
  actions: string[];
  scopes: string[];
  like: boolean;
  home: boolean;
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
export interface UserLimits {
  max_upload_bytes: number;
  max_job_bytes: number;
  max_body_bytes: number;
  jobs: {
    [k: string]: number;
  } | null;
}
export interface Version {
  version: string;
}

/** All statuses, in the order in which a job has them. */
export const STATUSES: Status[] = ["queued","pending","running","succeeded","failed","cancelled"];

/** The names of all fields of a request. */
export const REQUEST_FIELDS: (keyof JobRequest)[] = ["name","command","args","notebook","collect","image","profile","profile_options","env","secret_env","secret_files","registry_secrets","upload","working_dir","description","tags","cpu_limit","mem_limit","shm_size","retries","retry_delay_seconds","retry_backoff","active_deadline_seconds","priority","hub_scopes","like","home","results_to_home","queue_name"];
