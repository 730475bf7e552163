// What the form of a new job holds, and how that becomes the request of the API.
import type { FieldError, Job } from "../net/api";
import { joinWords, splitWords } from "../words";
import { makeNotebookRequest, type NotebookForm, openNotebook, suggestName } from "./notebook";
import type { Pair } from "./pairs-field";
import { findTopFolder } from "./top-folder";
import type { CodeFile } from "./zip";

export interface JobForm {
  name: string;
  command: string;
  inShell: boolean;
  profile: string;
  image: string;
  env: Pair[];
  tags: Pair[];
  description: string;
  cpu: string;
  memory: string;
  retries: string;
  priority: string;
  minutes: string;
  upload: string;
  /** The id of the job that the upload is of, or nothing. */
  uploadFrom: string;
  files: CodeFile[];
  /** The folder that all of the ZIP is in, or nothing. */
  topFolder: string;
  /** The folder of the code that the command runs in; nothing: that which holds all of it. */
  workingDir: string;
  /** The notebook that is to be run in the place of a command. */
  notebook: NotebookForm | null;
  /** Whether what is new or changed in the working folder is a result, too. */
  collects: boolean;
  /** Whether the words are arguments of the image's own command. */
  isArgs: boolean;
  /** What an earlier job asked for that this form does not show: it is asked for again. */
  kept: Record<string, unknown>;
}

export const emptyForm = (): JobForm => ({
  name: "",
  command: "",
  inShell: false,
  profile: "",
  image: "",
  env: [],
  tags: [],
  description: "",
  cpu: "",
  memory: "",
  retries: "",
  priority: "",
  minutes: "",
  upload: "",
  uploadFrom: "",
  files: [],
  topFolder: "",
  workingDir: "",
  notebook: null,
  collects: false,
  isArgs: false,
  kept: {},
});

const NAME = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/;

const NAME_HINT =
  "Use up to 63 characters: letters (A to Z), digits, '.', '_' and '-'. Start and end with a letter or digit.";

/** What is wrong with a field that has to be filled in: not to be said before it was. */
export const MISSING = "Enter a name.";

const toPairs = (map: Record<string, string | null>): Pair[] =>
  Object.entries(map).map(([name, value]) => ({ name, value: value ?? "" }));

const toMap = (pairs: Pair[]): Record<string, string> =>
  Object.fromEntries(pairs.filter(({ name }) => name).map(({ name, value }) => [name, value]));

/** Return the form that asks for what an earlier job was, but for its notebook. */
export function makeForm(job: Job): JobForm {
  const words = [...(job.command ?? []), ...job.args];
  const inShell = words.length === 3 && words[0] === "sh" && words[1] === "-c";
  return {
    ...emptyForm(),
    name: job.name,
    command: inShell ? words[2] : joinWords(words),
    collects: job.collect === "workdir",
    inShell,
    profile: job.profile ?? "",
    image: job.image,
    env: toPairs(job.env ?? {}),
    tags: toPairs(job.tags),
    description: job.description,
    cpu: job.cpu_limit === null ? "" : String(job.cpu_limit),
    memory: job.mem_limit === null ? "" : String(job.mem_limit),
    retries: job.retries ? String(job.retries) : "",
    priority: job.priority ? String(job.priority) : "",
    minutes: job.active_deadline_seconds === null ? "" : String(job.active_deadline_seconds / 60),
    upload: job.upload ?? "",
    uploadFrom: job.id,
    topFolder: job.working_dir ?? "",
    workingDir: job.working_dir ?? "",
    isArgs: job.command === null && job.args.length > 0,
    kept: {
      queue_name: job.queue_name ?? undefined,
      shm_size: job.shm_size ?? undefined,
      ...(job.retries ? { retry_delay_seconds: job.retry_delay_seconds, retry_backoff: job.retry_backoff } : {}),
    },
  };
}

/** Whether what was chosen is sent as it is. */
export function isZip(files: CodeFile[]): boolean {
  return files.length === 1 && files[0].path.toLowerCase().endsWith(".zip");
}

/** Return what the form changes to when code was dropped on it. */
export async function takeFiles(form: JobForm, files: CodeFile[]): Promise<Partial<JobForm>> {
  const notebooks = files.filter(({ path }) => path.endsWith(".ipynb"));
  const topFolder = isZip(files) ? await findTopFolder(files[0].file) : "";
  const changes: Partial<JobForm> = {
    files,
    upload: "",
    uploadFrom: "",
    notebook: null,
    collects: notebooks.length === 1,
    topFolder,
    workingDir: topFolder,
  };
  const first = files[0]?.path.split("/").pop() ?? "";
  if (!form.name && files.length === 1) {
    changes.name = suggestName(first, first.endsWith(".ipynb") ? "notebook" : "job");
  }
  if (notebooks.length === 1) {
    changes.notebook = await openNotebook(notebooks[0].path, await notebooks[0].file.text());
  } else if (!form.command && files.some(({ path }) => path === "main.py")) {
    changes.command = "python main.py";
  } else if (!form.command && files.length === 1 && first.endsWith(".py")) {
    changes.command = joinWords(["python", first]);
  }
  return changes;
}

/** Return the request, without the upload, and what is wrong with it as far as that is known here. */
export function makeRequest(form: JobForm): { request: Record<string, unknown>; problems: FieldError[] } {
  const problems: FieldError[] = [];
  const request: Record<string, unknown> = {
    ...form.kept,
    name: form.name.trim(),
    profile: form.profile || undefined,
    image: form.image.trim() || undefined,
    env: toMap(form.env),
    tags: toMap(form.tags),
    description: form.description,
    mem_limit: form.memory.trim() || undefined,
    collect: form.collects === Boolean(form.notebook) ? undefined : form.collects ? "workdir" : "outputs",
    working_dir: form.workingDir || undefined,
  };
  if (!form.name.trim()) problems.push({ field: "name", message: MISSING });
  else if (!NAME.test(form.name.trim())) problems.push({ field: "name", message: NAME_HINT });
  if (form.notebook) {
    const made = makeNotebookRequest(form.notebook);
    request.notebook = made.request;
    problems.push(...made.problems);
  } else {
    try {
      request[form.isArgs && !form.inShell ? "args" : "command"] = makeCommand(form);
    } catch (error) {
      problems.push({ field: "command", message: (error as Error).message });
    }
  }
  const number = (field: string, text: string, factor = 1) => {
    if (!text.trim()) return;
    const value = factor === 1 ? Number(text) : Math.round(Number(text) * factor);
    if (Number.isNaN(value)) problems.push({ field, message: "Enter a number." });
    else request[field] = value;
  };
  number("cpu_limit", form.cpu);
  number("retries", form.retries);
  number("priority", form.priority);
  number("active_deadline_seconds", form.minutes, 60);
  if (/^\d+$/.test(form.memory.trim())) request.mem_limit = Number(form.memory);
  return { request, problems };
}

function makeCommand(form: JobForm): string[] | undefined {
  if (!form.command.trim()) return undefined;
  return form.inShell ? ["sh", "-c", form.command] : splitWords(form.command);
}
