// Reads Python: what the assignments of a cell set, and which values of it JSON can say. Loaded when a notebook is there.
import { parser } from "@lezer/python";

type Node = ReturnType<typeof parser.parse>["topNode"];

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

export interface Assignment {
  name: string;
  /** The code of the value, as it stands there. */
  source: string;
  comment: string;
}

/** A value that JSON says exactly, as Python means it; anything else is code. */
export type Read = { value: Json } | { code: string };

/**
 * Return what a cell sets at its top level by simple assignments, each name once, with the last that it gets, and
 * the lines that have anything else: `a, b = 1, 2`, `c = d = 3`, `import x`, what IPython takes for commands.
 */
export function readCell(cell: string): { assignments: Assignment[]; rest: string } {
  return unlessTooDeep(() => readStatements(cell), { assignments: [], rest: cell });
}

function readStatements(cell: string): { assignments: Assignment[]; rest: string } {
  const text = blankMagics(cell);
  const found = new Map<string, Assignment>();
  const others: Node[] = [];
  for (const statement of listStatements(parser.parse(text).topNode)) {
    const [target, ...rest] = listChildren(statement);
    const operators = rest.filter(({ name }) => name === "AssignOp");
    const isPlain = rest[0]?.name === "AssignOp" || (rest[0]?.name === "TypeDef" && rest[1]?.name === "AssignOp");
    const isOne = statement.name === "AssignStatement" && target.name === "VariableName" && operators.length === 1;
    if (!isOne || !isPlain || hasError(statement)) {
      others.push(statement);
      continue;
    }
    const name = text.slice(target.from, target.to);
    const source = text.slice(operators[0].to, statement.to).trim();
    const comment = /^[ \t]*#[ \t]*(.*)/.exec(text.slice(statement.to))?.[1].trim() ?? "";
    found.set(name, { name, source, comment });
  }
  return { assignments: [...found.values()], rest: pickLines(cell, text, others) };
}

/** Return the lines of a cell that statements are on, or that are blank in its text as Python. */
function pickLines(cell: string, text: string, statements: Node[]): string {
  // without the newlines that the parser counts to a block
  const ends = statements.map(({ from, to }) => from + text.slice(from, to).trimEnd().length);
  let start = 0;
  let next = 0;
  const isPicked = (line: string): boolean => {
    const from = start;
    const to = from + line.length;
    start = to + 1;
    while (next < statements.length && ends[next] <= from) next++;
    return line !== text.slice(from, to) || (next < statements.length && statements[next].from < to);
  };
  return cell.split("\n").filter(isPicked).join("\n");
}

/** Return what a text is, or null where it is not one expression. */
export function readExpression(text: string): Read | null {
  return unlessTooDeep(() => readCode(text.trim()), null);
}

/** Return what is read, or something else where the text is nested more deeply than the stack allows; Python refuses it, too. */
function unlessTooDeep<Result>(read: () => Result, otherwise: Result): Result {
  try {
    return read();
  } catch (error) {
    if (error instanceof RangeError) return otherwise;
    throw error;
  }
}

function readCode(code: string): Read | null {
  const top = parser.parse(code).topNode;
  const [statement, ...more] = listChildren(top);
  if (statement?.name !== "ExpressionStatement" || more.length || hasError(top)) return null;
  const parts = listChildren(statement);
  if (parts[0].name === "*") return null;
  const value = parts.length === 1 ? readLiteral(parts[0], code) : undefined;
  return value === undefined ? { code } : { value };
}

/** Return the code of a value, as Python's repr does. */
export function writeLiteral(value: Json | Exact): string {
  if (value instanceof Exact) return value.text;
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(writeLiteral).join(", ")}]`;
  if (typeof value === "object") {
    const pairs = Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${writeLiteral(each)}`);
    return `{${pairs.join(", ")}}`;
  }
  return JSON.stringify(value);
}

/** A number that JavaScript does not tell from another one: 2.0, or one of more than 53 bits. */
export class Exact {
  constructor(readonly text: string) {}
}

/** Return parsed JSON in which such numbers are kept as they are written. */
export function parseExact(text: string): unknown {
  const mark = "\u0001number ";
  const marked = text.replace(/"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g, (token) =>
    token.startsWith('"') || isExact(token) ? token : JSON.stringify(mark + token),
  );
  return JSON.parse(marked, (_, value) =>
    typeof value === "string" && value.startsWith(mark) ? new Exact(value.slice(mark.length)) : value,
  );
}

/** Whether JSON says a number of Python as JavaScript writes it. */
function isExact(token: string): boolean {
  const number = Number(token);
  if (/[.eE]/.test(token)) return Number.isFinite(number) && !Number.isInteger(number);
  return Number.isSafeInteger(number);
}

function listStatements(top: Node): Node[] {
  return listChildren(top)
    .flatMap((node) => (node.name === "StatementGroup" ? listChildren(node) : [node]))
    .filter(({ name }) => name !== ";");
}

function listChildren(node: Node): Node[] {
  const children: Node[] = [];
  for (let child = node.firstChild; child; child = child.nextSibling) {
    if (child.name !== "Comment") children.push(child);
  }
  return children;
}

function hasError(node: Node): boolean {
  let found = false;
  node.cursor().iterate((each) => {
    found ||= each.type.isError;
  });
  return found;
}

/** What IPython takes for commands is no Python: each such line is blank, unless it is a part of a string. */
function blankMagics(cell: string): string {
  const strings: [number, number][] = [];
  parser.parse(cell).iterate({
    enter: ({ name, from, to }) => {
      if (name === "String" || name === "FormatString") strings.push([from, to]);
    },
  });
  return cell.replace(/^[%!].*$/gm, (line, at: number) =>
    strings.some(([from, to]) => from < at && at < to) ? line : " ".repeat(line.length),
  );
}

/** Return the value of a literal that JSON can say, else undefined. */
function readLiteral(node: Node, code: string): Json | undefined {
  const text = code.slice(node.from, node.to);
  switch (node.name) {
    case "None":
      return null;
    case "Boolean":
      return text === "True";
    case "Number":
      return readNumber(text);
    case "String":
      return readString(text);
    case "UnaryExpression": {
      const [operator, operand] = listChildren(node);
      const value = operand.name === "Number" ? readLiteral(operand, code) : undefined;
      const sign = code.slice(operator.from, operator.to);
      // JSON has no -0, and ~ is no sign
      return typeof value === "number" && value && sign === "-" ? -value : undefined;
    }
    case "ParenthesizedExpression": {
      const inner = listChildren(node).filter(({ name }) => name !== "(" && name !== ")");
      return inner.length === 1 ? readLiteral(inner[0], code) : undefined;
    }
    case "ArrayExpression":
      return readAll(node, code);
    case "DictionaryExpression":
      return readDictionary(node, code);
    default:
      return undefined;
  }
}

function readAll(node: Node, code: string): Json[] | undefined {
  const items: Json[] = [];
  for (const child of listChildren(node)) {
    if (["[", "]", "{", "}", ",", ":"].includes(child.name)) continue;
    const value = readLiteral(child, code);
    if (value === undefined) return undefined;
    items.push(value);
  }
  return items;
}

function readDictionary(node: Node, code: string): Json | undefined {
  const items = readAll(node, code);
  const made: { [name: string]: Json } = Object.create(null);
  for (let i = 0; items && i < items.length; i += 2) {
    const name = items[i];
    if (typeof name !== "string") return undefined;
    made[name] = items[i + 1];
  }
  return items && made;
}

function readNumber(text: string): number | undefined {
  const digits = text.replaceAll("_", "");
  if (/^(0|[1-9]\d*)$/.test(digits) || /^0[xXoObB]/.test(digits)) {
    return Number.isSafeInteger(Number(digits)) ? Number(digits) : undefined;
  }
  return /[.eE]/.test(digits) && !/[jJ]/.test(digits) && isExact(digits) ? Number(digits) : undefined;
}

const ESCAPES: Record<string, string> = {
  "\n": "",
  "\\": "\\",
  "'": "'",
  '"': '"',
  a: "\x07",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
  v: "\v",
};

function readString(text: string): string | undefined {
  const [, prefix, quote] = /^([a-zA-Z]*)("""|'''|"|')/.exec(text) ?? [];
  const inner = quote && text.slice(prefix.length + quote.length, -quote.length);
  if (inner === undefined || !/^[rRuU]?$/.test(prefix)) return undefined;
  if (/^[rR]$/.test(prefix)) return inner;
  let isKnown = true;
  const value = inner.replace(
    /\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3})|(\r?\n|[\s\S]))/g,
    (all, x, u, long, octal, letter) => {
      const number = octal ? Number.parseInt(octal, 8) : Number.parseInt(x ?? u ?? long ?? "", 16);
      if (Number.isInteger(number) && number <= 0x10ffff && (number & 0xfffff800) !== 0xd800) {
        return String.fromCodePoint(number);
      }
      const known = ESCAPES[String(letter).replace("\r\n", "\n")];
      isKnown &&= known !== undefined;
      return known ?? all;
    },
  );
  return isKnown ? value : undefined;
}
