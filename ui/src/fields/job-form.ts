// What the form of a new job holds, and how that becomes the request of the API.
import type { FieldError } from "../net/api";
import type { Job, JobRequest } from "../net/schema";
import { joinWords, splitWords } from "../words";
import { INPUTS, listRequested } from "./job-fields";
import { makeNotebookRequest, type NotebookForm, openNotebook, suggestName } from "./notebook";
import type { Pair } from "./pairs-field";
import { type Choices, checkChoices } from "./profile-options";
import { listUses, makeSecretFields, SECRET_FIELDS, type SecretUse } from "./secret-uses";
import { NO_SERVER, type ServerChoice } from "./server-field";
import { findTopFolder } from "./top-folder";
import type { CodeFile } from "./zip";

/** The request that is made: the API checks the values. */
export type Request = Partial<Record<keyof JobRequest, unknown>>;

export interface JobForm {
  name: string;
  command: string;
  inShell: boolean;
  profile: string;
  /** What is chosen for the options of the profile, by what the request calls them; others have their default. */
  choices: Choices;
  /** What it takes from a server of the user. */
  server: ServerChoice;
  /** What was typed into the fields of `INPUTS`. */
  texts: Partial<Record<keyof JobRequest, string>>;
  env: Pair[];
  secrets: SecretUse[];
  tags: Pair[];
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
  kept: Request;
}

export const emptyForm = (): JobForm => ({
  name: "",
  command: "",
  inShell: false,
  profile: "",
  choices: {},
  server: NO_SERVER,
  texts: {},
  env: [],
  secrets: [],
  tags: [],
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

/** The fields that have a part of the form of their own. */
const PARTS = [
  ...["name", "command", "args", "notebook", "collect", "profile", "profile_options", "env", "upload", "working_dir"],
  "tags",
  ...["home", "results_to_home"],
];

/** What the form shows. */
const SHOWN: string[] = [...PARTS, ...SECRET_FIELDS, ...INPUTS.map(({ name }) => name)];

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
    choices: job.profile_options,
    server: { like: "", home: job.home ?? "", results_to_home: job.results_to_home },
    texts: Object.fromEntries(
      INPUTS.map(({ name, input }) => [name, job[name] ? (input.write ?? String)(job[name] as number) : ""]),
    ),
    env: toPairs(job.env ?? {}),
    secrets: listUses(job),
    tags: toPairs(job.tags),
    upload: job.upload ?? "",
    uploadFrom: job.id,
    topFolder: job.working_dir ?? "",
    workingDir: job.working_dir ?? "",
    isArgs: job.command === null && job.args.length > 0,
    kept: Object.fromEntries(
      listRequested(job)
        .filter((name) => !SHOWN.includes(name) && job[name] !== null)
        .map((name) => [name, job[name]]),
    ),
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
export function makeRequest(form: JobForm): { request: Request; problems: FieldError[] } {
  const problems: FieldError[] = checkChoices(form.choices);
  const request: Request = {
    ...form.kept,
    name: form.name.trim(),
    profile: (!form.server.like && form.profile) || undefined,
    profile_options: form.server.like ? undefined : form.choices,
    like: form.server.like || undefined,
    home: form.server.home || undefined,
    results_to_home: form.server.like || form.server.home ? form.server.results_to_home : undefined,
    env: toMap(form.env),
    tags: toMap(form.tags),
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
  const secrets = makeSecretFields(form.secrets);
  Object.assign(request, secrets.fields);
  problems.push(...secrets.problems);
  for (const { name, input } of INPUTS) {
    const text = (form.texts[name] ?? "").trim();
    if (!text) continue;
    const value = input.read ? input.read(text) : text;
    if (Number.isNaN(value)) problems.push({ field: name, message: "Enter a number." });
    else request[name] = value;
  }
  return { request, problems };
}

function makeCommand(form: JobForm): string[] | undefined {
  if (!form.command.trim()) return undefined;
  return form.inShell ? ["sh", "-c", form.command] : splitWords(form.command);
}
