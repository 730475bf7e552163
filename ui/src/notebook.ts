// What it takes to run a notebook as a job: its parameters, and a command that leaves it executed among the results.

export interface Parameter {
  name: string;
  value: string;
}

interface Cell {
  cell_type: string;
  source: string | string[];
  metadata?: { tags?: string[] };
}

/** Return what the cell that is tagged "parameters" sets; nothing when it is no notebook or has no such cell. */
export function findParameters(text: string): Parameter[] {
  let cells: Cell[];
  try {
    cells = JSON.parse(text).cells ?? [];
  } catch {
    return [];
  }
  const cell = cells.find((each) => each.cell_type === "code" && each.metadata?.tags?.includes("parameters"));
  if (!cell) return [];
  const lines = (Array.isArray(cell.source) ? cell.source.join("") : cell.source).split("\n");
  const found = lines.map((line) => /^([A-Za-z_]\w*)\s*(?::[^=]+)?=\s*([^#]*?)\s*(?:#.*)?$/.exec(line));
  return found
    .filter((match) => match !== null)
    .map(([, name, value]) => ({ name, value: value.replace(/^(["'])(.*)\1$/, "$2") }));
}

const NAME = "run-notebook";

const SCRIPT = `notebook=$1; shift
if command -v papermill >/dev/null; then
  exec papermill "$notebook" "$KBATCH_OUTPUT_DIR/$(basename "$notebook")" "$@"
elif [ $# -gt 0 ]; then
  echo "The image has no papermill, which parameters take." >&2
  exit 64
elif command -v jupyter >/dev/null; then
  exec jupyter nbconvert --to notebook --execute --output-dir "$KBATCH_OUTPUT_DIR" "$notebook"
fi
echo "The image has neither papermill nor jupyter nbconvert." >&2
exit 64`;

/** Return the command that runs a notebook with its parameters. */
export function makeNotebookCommand(path: string, parameters: Parameter[]): string[] {
  const said = parameters.filter(({ name }) => name).flatMap(({ name, value }) => ["-p", name, value]);
  return ["sh", "-c", SCRIPT, NAME, path, ...said];
}

/** Return the notebook and the parameters of a command that was made here, or null for any other. */
export function readNotebookCommand(words: string[]): { path: string; parameters: Parameter[] } | null {
  if (words[2] !== SCRIPT || words[3] !== NAME || !words[4]) return null;
  const parameters: Parameter[] = [];
  for (let i = 5; i + 2 < words.length; i += 3) parameters.push({ name: words[i + 1], value: words[i + 2] });
  return { path: words[4], parameters };
}
