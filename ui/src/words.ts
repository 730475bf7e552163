// A command as one line, and as the list of words that the API takes: quotes and backslashes as in a shell.

/** Return the words of a line; throws an Error that says which quote is not closed. */
export function splitWords(line: string): string[] {
  const words: string[] = [];
  let word: string | null = null;
  let quote = "";
  for (let i = 0; i < line.length; i++) {
    const letter = line[i];
    if (quote) {
      if (letter === quote) quote = "";
      else if (quote === '"' && letter === "\\" && '"\\$`'.includes(line[i + 1] ?? "x")) word += line[++i];
      else word += letter;
    } else if (letter === "'" || letter === '"') {
      quote = letter;
      word ??= "";
    } else if (letter === "\\" && i + 1 < line.length) {
      word = (word ?? "") + line[++i];
    } else if (/\s/.test(letter)) {
      if (word !== null) words.push(word);
      word = null;
    } else {
      word = (word ?? "") + letter;
    }
  }
  if (quote) throw new Error(`Close the ${quote} in the command.`);
  if (word !== null) words.push(word);
  return words;
}

export function joinWords(words: string[]): string {
  return words.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replace(/'/g, `'\\''`)}'`)).join(" ");
}
