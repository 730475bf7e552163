// Makes the ZIP of code in the browser, file by file, of what was dropped or chosen.
import { Zip, ZipDeflate, ZipPassThrough } from "fflate";

export interface CodeFile {
  path: string;
  file: File;
}

/** Folders that are left out: nobody means them. */
const LEFT_OUT = new Set([".git", "__pycache__", ".ipynb_checkpoints", "node_modules", ".venv", ".mypy_cache"]);

const PACKED = /\.(zip|gz|bz2|xz|zst|png|jpe?g|gif|webp|mp4|parquet|npz)$/i;

export class TooLarge extends Error {}

/** Return the files of what was dropped, folders and all. */
export async function readDropped(data: DataTransfer): Promise<CodeFile[]> {
  // the entries are to be asked for at once: later the list is empty
  const entries = [...data.items].map((item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
  if (!entries.length) return [...data.files].map((file) => ({ path: file.name, file }));
  const found: CodeFile[] = [];
  for (const entry of entries) await walk(entry, "", found);
  return dropRoot(found);
}

async function walk(entry: FileSystemEntry, folder: string, found: CodeFile[]): Promise<void> {
  if (LEFT_OUT.has(entry.name)) return;
  const path = folder + entry.name;
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    found.push({ path, file });
    return;
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  while (true) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return; // it gives a hundred at a time
    for (const each of some) await walk(each, `${path}/`, found);
  }
}

/** Return the files that were chosen, of a folder or one by one. */
export function readChosen(list: FileList): CodeFile[] {
  const found = [...list].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
  return dropRoot(found.filter(({ path }) => !path.split("/").some((name) => LEFT_OUT.has(name))));
}

/** A folder that holds all of it is not a part of the code: main.py is to be main.py. */
function dropRoot(files: CodeFile[]): CodeFile[] {
  const root = files[0]?.path.split("/")[0];
  if (!files.length || !files.every(({ path }) => path.startsWith(`${root}/`))) return files;
  return files.map(({ path, file }) => ({ path: path.slice(root.length + 1), file }));
}

/** Return a ZIP of files; `onProgress` is told the part that is done, from 0 to 1. Throws TooLarge. */
export async function makeZip(
  files: CodeFile[],
  limit: number,
  onProgress: (part: number) => void,
  stop: AbortSignal,
): Promise<Blob> {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  let size = 0;
  const zip = new Zip((error, piece) => {
    if (error) throw error;
    parts.push(piece as Uint8Array<ArrayBuffer>);
    size += piece.length;
  });
  const total = files.reduce((sum, { file }) => sum + file.size, 0);
  let done = 0;
  for (const { path, file } of files) {
    const entry = PACKED.test(path) ? new ZipPassThrough(path) : new ZipDeflate(path, { level: 6 });
    entry.mtime = Math.max(file.lastModified, Date.UTC(1980, 1, 1));
    zip.add(entry);
    const reader = file.stream().getReader();
    while (true) {
      const { done: isDone, value } = await reader.read();
      stop.throwIfAborted();
      if (isDone) break;
      entry.push(value);
      done += value.length;
      onProgress(total ? done / total : 1);
      if (size > limit) throw new TooLarge();
    }
    entry.push(new Uint8Array(0), true);
  }
  zip.end();
  return new Blob(parts, { type: "application/zip" });
}
