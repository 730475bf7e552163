// A line of a log as a terminal shows it: the last state of a progress bar, colours and links, and nothing else.
// The same rules as in kbatch_server/logs/terminal.py, for lines that are still being written. A terminal emulator
// (xterm.js) would wrap and scroll, and draws into a screen of its own, which the search of a browser does not find.

/** Columns after the end of a line that its cursor can be moved to. */
const MAX_GAP = 256;

/** Characters of a link's target. */
const MAX_LINK = 2083;

const MAX_PARAMETERS = 128;

/** Characters of all parameters of a style together; text with a longer one is shown without. */
const MAX_STYLE = 128;

/** Characters of colours and links that a folded line may have more than it had, and for each column that it keeps. */
const LOOKS_EXTRA = 256;
const FOLDED_LOOKS = 8;

/** Escape sequences of ECMA-48; no part of it goes back over what it has read. */
const TOKEN =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what it looks for
  /(?<move>[\r\b])|\x1b\[(?<parameters>[0-?]*)[ -/]*(?<final>[@-~])|\x1b\](?<command>[^\x07\x1b]*)(?:\x07|\x1b\\)|\x1b[PX^_][^\x1b]*\x1b\\|(?<rest>\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*\x1b?|[PX^_][^\x1b]*\x1b?|[ -/]*)$)|\x1b(?:[ -/]*[0-~])?/g;

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what it looks for
const CONTROL = /[\x1b\r\b]/;

export interface Segment {
  text: string;
  /** The parameters of its colour, as in `ESC [ … m`. */
  style: string;
  /** The target of a link, or nothing. */
  link: string;
}

export function hasControls(text: string): boolean {
  return CONTROL.test(text);
}

/** Return what is seen of a whole line. */
export function drawLine(text: string): Segment[] {
  const line = new Line(Number.POSITIVE_INFINITY);
  line.write(text);
  return line.segments();
}

/**
 * Return a shorter text that means the same as the beginning of a line, whatever comes after it: its colours and
 * links only as long as they take hardly more characters than the line had.
 */
export function foldLine(text: string, columns: number): string {
  const line = new Line(columns);
  const rest = line.write(text);
  return line.render(Math.min(text.length + LOOKS_EXTRA, FOLDED_LOOKS * columns)) + rest;
}

class Line {
  private cells: string[] = [];
  private looks: Look[] = [];
  private column = 0;
  private style = new Map<string, string>();
  private look = PLAIN;
  private isElsewhere = false;
  private hasMoved = false;

  constructor(private readonly columns: number) {}

  write(text: string): string {
    let at = 0;
    for (const token of text.matchAll(TOKEN)) {
      const { move, parameters, final, command, rest } = token.groups as Record<string, string | undefined>;
      this.put(text.slice(at, token.index));
      at = token.index + token[0].length;
      if (rest !== undefined) return rest.length <= MAX_LINK ? rest : "";
      if (move) this.move(move === "\r" ? 0 : this.column - 1);
      else if (final) this.control(final, parameters ?? "");
      else if (command) this.link(command);
    }
    this.put(text.slice(at));
    return "";
  }

  private put(run: string): void {
    if (!run) return;
    if (this.isElsewhere) {
      this.erase(0);
      this.isElsewhere = false;
      this.column = 0;
    }
    while (this.cells.length < this.column) {
      this.cells.push(" ");
      this.looks.push(PLAIN);
    }
    for (const character of run) {
      if (this.column >= this.columns) break;
      this.cells[this.column] = character;
      this.looks[this.column] = this.look;
      this.column += 1;
    }
  }

  private erase(start: number): void {
    this.cells.length = Math.min(this.cells.length, start);
    this.looks.length = this.cells.length;
  }

  private move(column: number): void {
    this.column = Math.min(Math.max(column, 0), this.cells.length + MAX_GAP, this.columns);
    this.hasMoved = true;
  }

  private control(final: string, parameters: string): void {
    if (parameters.length > MAX_PARAMETERS || /[<=>?]/.test(parameters)) return;
    if (final === "m") {
      restyle(this.style, parameters);
      const style = [...this.style.values()].join(";");
      this.look = { style: style.length <= MAX_STYLE ? style : "", link: this.look.link };
      return;
    }
    const number = Number.parseInt(parameters, 10) || 0;
    const step = Math.max(number, 1);
    if ("ABEFHdf".includes(final)) {
      this.isElsewhere = true;
      this.hasMoved = true;
    } else if (final === "C") this.move(this.column + step);
    else if (final === "D") this.move(this.column - step);
    else if (final === "G") this.move(step - 1);
    else if ("JK".includes(final) && number !== 1 && !this.isElsewhere) {
      this.hasMoved = true;
      this.erase(number === 0 ? this.column : 0);
    }
  }

  private link(command: string): void {
    const [kind, , ...target] = command.split(";");
    const link = target.join(";");
    if (kind === "8") this.look = { style: this.look.style, link: link.length <= MAX_LINK ? link : "" };
  }

  segments(): Segment[] {
    let size = this.cells.length;
    // spaces at the end are how a program wipes out what it wrote before
    if (this.hasMoved) while (size && this.cells[size - 1] === " " && isPlain(this.looks[size - 1])) size -= 1;
    return this.group(size);
  }

  private group(size: number): Segment[] {
    const found: Segment[] = [];
    for (let at = 0; at < size; at++) {
      const { style, link } = this.looks[at];
      const last = found.at(-1);
      if (last && last.style === style && last.link === link) last.text += this.cells[at];
      else found.push({ text: this.cells[at], style, link });
    }
    return found;
  }

  render(most: number): string {
    const segments = this.group(this.cells.length);
    const looks = chooseLooks([...segments, this.look], most);
    // a carriage return at its beginning keeps in mind that the cursor was moved
    let text = this.hasMoved ? "\r" : "";
    let before = PLAIN;
    segments.forEach((segment, index) => {
      text += change(before, looks[index]) + segment.text;
      before = looks[index];
    });
    if (this.isElsewhere) text += "\x1b[A";
    else if (this.column !== this.cells.length) text += `\x1b[${this.column + 1}G`;
    return text + change(before, looks[segments.length]);
  }
}

/** Return the looks of a line's segments: without links, or plain, where they take more than `most` characters. */
function chooseLooks(looks: Look[], most: number): Look[] {
  const unlinked = looks.map(({ style }) => ({ style, link: "" }));
  for (const chosen of [looks, unlinked]) {
    let size = 0;
    chosen.forEach((look, index) => {
      const before = index ? chosen[index - 1] : PLAIN;
      if (before.link !== look.link) size += look.link.length + 7;
      if (before.style !== look.style) size += look.style.length + 7;
    });
    if (size <= most) return chosen;
  }
  return looks.map(() => PLAIN);
}

interface Look {
  style: string;
  link: string;
}

const PLAIN: Look = { style: "", link: "" };

function isPlain(look: Look): boolean {
  return !look.style && !look.link;
}

function change(before: Look, after: Look): string {
  const link = before.link !== after.link ? `\x1b]8;;${after.link}\x1b\\` : "";
  if (before.style === after.style) return link;
  return `${link}${before.style ? "\x1b[0m" : ""}${after.style ? `\x1b[${after.style}m` : ""}`;
}

/** Change a style, which is one parameter for each thing that can be chosen, as a sequence says. */
function restyle(style: Map<string, string>, parameters: string): void {
  const codes = parameters.split(";");
  while (codes.length) {
    let code = codes.shift() as string;
    const number = Number.parseInt(code, 10) || 0;
    if (number === 0) style.clear();
    else if (number === 38 || number === 48 || number === 58) {
      if (!code.includes(":")) {
        const count = { "5": 2, "2": 4 }[codes[0]] ?? 0;
        code = [code, ...codes.splice(0, count)].join(";");
      }
      style.set({ 38: "fg", 48: "bg", 58: "line" }[number], code);
    } else if (number < 10) style.set(String(number), code);
    else if (number === 21 || number === 22) {
      style.delete("1");
      style.delete("2");
    } else if (number >= 23 && number <= 29) style.delete(String(number - 20));
    else if ((number >= 30 && number <= 37) || (number >= 90 && number <= 97)) style.set("fg", code);
    else if ((number >= 40 && number <= 47) || (number >= 100 && number <= 107)) style.set("bg", code);
    else if (number === 39) style.delete("fg");
    else if (number === 49) style.delete("bg");
    else if (number === 59) style.delete("line");
  }
}
