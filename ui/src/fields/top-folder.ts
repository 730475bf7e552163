// Finds out whether all of a ZIP is in one folder, as GitHub and the Finder make them: from its directory alone.
const END = 0x06054b50;
const ENTRY = 0x02014b50;
const END_BYTES = 22;
const ENTRY_BYTES = 46;
/** How far from its end the directory is looked for, and how much of one is read: enough for ten thousand files. */
const MAX_COMMENT_BYTES = 0xffff;
const MAX_DIRECTORY_BYTES = 2 ** 20;

/** Return the folder that all of a ZIP is in, or "" where there is none, or it cannot be told here. */
export async function findTopFolder(file: Blob): Promise<string> {
  const tail = await read(file, Math.max(0, file.size - END_BYTES - MAX_COMMENT_BYTES), file.size);
  for (let at = tail.byteLength - END_BYTES; at >= 0; at--) {
    if (tail.getUint32(at, true) === END) {
      const size = tail.getUint32(at + 12, true);
      const start = tail.getUint32(at + 16, true);
      return size > MAX_DIRECTORY_BYTES ? "" : findTop(await read(file, start, start + size));
    }
  }
  return "";
}

async function read(file: Blob, start: number, end: number): Promise<DataView> {
  return new DataView(await file.slice(start, end).arrayBuffer());
}

function findTop(directory: DataView): string {
  const tops = new Set<string>();
  for (let at = 0; at + ENTRY_BYTES <= directory.byteLength && directory.getUint32(at, true) === ENTRY; ) {
    const length = directory.getUint16(at + 28, true);
    const end = at + ENTRY_BYTES + length;
    if (end > directory.byteLength) return "";
    const path = readName(new Uint8Array(directory.buffer, directory.byteOffset + at + ENTRY_BYTES, length));
    at = end + directory.getUint16(at + 30, true) + directory.getUint16(at + 32, true);
    if (path === null) return "";
    const parts = path.split("/").filter((part) => part !== "" && part !== ".");
    if (!parts.length || parts[0] === "__MACOSX" || parts[parts.length - 1] === ".DS_Store") continue;
    if (parts.length === 1 && !path.endsWith("/")) return "";
    tops.add(parts[0]);
    if (tops.size > 1) return "";
  }
  return [...tops][0] ?? "";
}

/** Return a name with "/" between folders, or null where it is in a code page that the service knows better. */
function readName(bytes: Uint8Array): string | null {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes).replaceAll("\\", "/");
  } catch {
    return null;
  }
}
