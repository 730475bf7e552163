// What the form knows of a notebook that is to be run, and how that becomes the request of the API.
import type { FieldError } from "../net/api";
import type { NotebookOutput } from "../net/schema";
import type { Json, Read } from "./python";

/** A text is passed on as it is typed; code is a value, or an expression, of the notebook's language. */
export type Kind = "text" | "code";

export interface Parameter {
  name: string;
  kind: Kind;
  value: string;
  /** What the notebook has, to be left alone; null for a name that was added. */
  given: { kind: Kind; value: string } | null;
  comment: string;
}

export interface NotebookForm {
  path: string;
  kernel: string | null;
  /** In small letters: python, r, julia, … */
  language: string;
  parameters: Parameter[];
  /** Of the cell that is tagged "parameters", what is not read as parameters: all of it, where it is not Python. */
  source: string;
  /** Return what code is, or null where it is nothing that can be set. */
  read: (code: string) => Read | null;
}

interface Cell {
  cell_type: string;
  source: string | string[];
  metadata?: { tags?: string[] };
}

interface Content {
  cells?: Cell[];
  metadata?: { kernelspec?: { language?: string }; language_info?: { name?: string } };
}

/** Return the form of a notebook: what its cell that is tagged "parameters" sets; `text` is null where it is not there. */
export async function openNotebook(path: string, text: string | null): Promise<NotebookForm> {
  const python = await import("./python");
  let content: Content = {};
  try {
    content = JSON.parse(text ?? "{}");
  } catch {
    // no notebook, which the job will say
  }
  const { kernelspec, language_info } = content.metadata ?? {};
  const language = (language_info?.name ?? kernelspec?.language ?? "python").toLowerCase();
  const cells = Array.isArray(content.cells) ? content.cells : [];
  const cell = cells.find((each) => each.cell_type === "code" && each.metadata?.tags?.includes("parameters"));
  const source = Array.isArray(cell?.source) ? cell.source.join("") : (cell?.source ?? "");
  const form = { path, kernel: null, language };
  if (language !== "python") return { ...form, parameters: [], source, read: readOther };
  const { assignments, rest } = python.readCell(source);
  const parameters = assignments.map(({ name, source: code, comment }): Parameter => {
    const given = present(python.readExpression(code) ?? { code }, code);
    return { name, comment, given, ...given };
  });
  return { ...form, parameters, source: rest, read: python.readExpression };
}

/** Return the form with what an earlier job had set; `exact` is that job's notebook as ``parseExact`` reads it. */
export async function takeRequest(form: NotebookForm, exact: NotebookOutput): Promise<NotebookForm> {
  const { writeLiteral } = await import("./python");
  const write = form.language === "python" ? writeLiteral : JSON.stringify;
  const set = new Map<string, { kind: Kind; value: string }>();
  for (const [name, value] of Object.entries(exact.parameters)) {
    set.set(name, typeof value === "string" ? { kind: "text", value } : { kind: "code", value: write(value as Json) });
  }
  for (const [name, value] of Object.entries(exact.expressions)) set.set(name, { kind: "code", value });
  const known = form.parameters.map((each) => ({ ...each, ...set.get(each.name) }));
  for (const { name } of known) set.delete(name);
  const added = [...set].map(([name, each]): Parameter => ({ name, comment: "", given: null, ...each }));
  return { ...form, kernel: exact.kernel, parameters: [...known, ...added] };
}

/** Return a value as it is shown: a text of one literal without its quotes, anything else as it stands. */
function present(read: Read, code: string): { kind: Kind; value: string } {
  return "value" in read && typeof read.value === "string"
    ? { kind: "text", value: read.value }
    : { kind: "code", value: code };
}

/** Of a language that is not read here: what is JSON is a value of that type, anything else code. */
function readOther(text: string): Read | null {
  try {
    return { value: JSON.parse(text) };
  } catch {
    return text.trim() ? { code: text.trim() } : null;
  }
}

export const isChanged = ({ given, kind, value }: Parameter): boolean =>
  given === null || given.kind !== kind || given.value !== value;

/** Return what the API is asked for, and what is wrong with it: only what was changed is in it. */
export function makeNotebookRequest(form: NotebookForm): { request: NotebookOutput; problems: FieldError[] } {
  const { path, kernel } = form;
  const request: NotebookOutput = { path, parameters: {}, expressions: {}, kernel };
  const problems: FieldError[] = [];
  for (const each of form.parameters.filter((one) => one.name && isChanged(one))) {
    const { name, kind, value } = each;
    const read = kind === "text" ? { value } : form.read(value);
    if (read === null) {
      const message = `Enter a ${nameLanguage(form.language)} value or expression. For plain text, choose Text.`;
      problems.push({ field: `notebook.parameters.${name}`, message });
    } else if ("value" in read) {
      request.parameters[name] = read.value;
    } else {
      request.expressions[name] = read.code;
    }
  }
  return { request, problems };
}

/** Return the language's name as people write it. */
export const nameLanguage = (language: string): string => language[0].toUpperCase() + language.slice(1);

/** Return in words what a job's notebook is run with. */
export function describeNotebook({ path, parameters, expressions }: NotebookOutput): string {
  const values = Object.entries(parameters).map(([name, value]) => `${name} = ${JSON.stringify(value)}`);
  const code = Object.entries(expressions).map(([name, value]) => `${name} = ${value}`);
  const all = [...values, ...code].join(", ");
  return `Notebook ${path}${all ? `, parameters: ${all}` : ""}`;
}

/** Return a job's name that the service accepts, made of a file's: without its ending, and what names cannot have. */
export function suggestName(file: string, otherwise: string): string {
  const plain = file.replace(/\.\w+$/, "").replace(/[^A-Za-z0-9._-]+/g, "-");
  return (
    plain
      .replace(/^[^A-Za-z0-9]+/, "")
      .slice(0, 63)
      .replace(/[^A-Za-z0-9]+$/, "") || otherwise
  );
}
