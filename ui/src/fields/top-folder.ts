// Finds out whether all of a ZIP is in one folder, as GitHub and the Finder make them: from its directory alone.
const END = 0x06054b50;
const LOCATOR = 0x07064b50;
const ENTRY = 0x02014b50;
const END_BYTES = 22;
const LOCATOR_BYTES = 20;
const ZIP64_END_BYTES = 56;
const ENTRY_BYTES = 46;
/** How far from its end the directory is looked for. */
const MAX_COMMENT_BYTES = 0xffff;
/** The largest directory that is read: the service accepts none that is larger. */
const MAX_DIRECTORY_BYTES = 16 * 2 ** 20;
/** How much of it is in memory at a time: more than the largest entry, which has three parts of up to 64 KiB. */
const PIECE_BYTES = 2 ** 20;

/** Return the folder that all of a ZIP is in, or "" where there is none, or it cannot be told here. */
export async function findTopFolder(file: Blob): Promise<string> {
  const [start, end] = await findDirectory(file);
  if (end - start > MAX_DIRECTORY_BYTES) return "";
  const tops = new Set<string>();
  for (let at = start; at < end; ) {
    const piece = await read(file, at, Math.min(end, at + PIECE_BYTES));
    let used = 0;
    for (let entry = readEntry(piece, used); entry; entry = readEntry(piece, used)) {
      used = entry.end;
      const parts = entry.name.split("/").filter((part) => part !== "" && part !== ".");
      if (!parts.length || parts[0] === "__MACOSX" || parts[parts.length - 1] === ".DS_Store") continue;
      if (parts.length === 1 && !entry.name.endsWith("/")) return "";
      if (tops.add(parts[0]).size > 1) return "";
    }
    if (!used) return "";
    at += used;
  }
  return [...tops][0] ?? "";
}

/** Return where the directory begins and ends, which is the same place where it is not found. */
async function findDirectory(file: Blob): Promise<[number, number]> {
  const before = Math.max(0, file.size - LOCATOR_BYTES - ZIP64_END_BYTES - END_BYTES - MAX_COMMENT_BYTES);
  const tail = await read(file, before, file.size);
  for (let at = tail.byteLength - END_BYTES; at >= 0; at--) {
    if (tail.getUint32(at, true) !== END) continue;
    const zip64 = at - LOCATOR_BYTES - ZIP64_END_BYTES;
    const isZip64 = zip64 >= 0 && tail.getUint32(at - LOCATOR_BYTES, true) === LOCATOR;
    const size = isZip64 ? Number(tail.getBigUint64(zip64 + 40, true)) : tail.getUint32(at + 12, true);
    const end = before + (isZip64 ? zip64 : at);
    return [Math.max(0, end - size), end];
  }
  return [0, 0];
}

async function read(file: Blob, start: number, end: number): Promise<DataView> {
  return new DataView(await file.slice(start, end).arrayBuffer());
}

/** Return an entry's name, and where the next one begins; null where there is none, or not all of it. */
function readEntry(piece: DataView, at: number): { name: string; end: number } | null {
  if (at + ENTRY_BYTES > piece.byteLength || piece.getUint32(at, true) !== ENTRY) return null;
  const [nameBytes, extraBytes, commentBytes] = [28, 30, 32].map((each) => piece.getUint16(at + each, true));
  const start = at + ENTRY_BYTES;
  const end = start + nameBytes + extraBytes + commentBytes;
  if (end > piece.byteLength) return null;
  const raw = new Uint8Array(piece.buffer, start, nameBytes);
  const isUtf8 = (piece.getUint16(at + 8, true) & 0x800) !== 0;
  const path = isUtf8 ? null : findUnicodePath(raw, new DataView(piece.buffer, start + nameBytes, extraBytes));
  return { name: (path ?? decode(raw)).replaceAll("\\", "/"), end };
}

/** Return the name in Info-ZIP's Unicode path field, if there is one and it is of the name beside it. */
function findUnicodePath(raw: Uint8Array, extra: DataView): string | null {
  for (let at = 0; at + 4 <= extra.byteLength; ) {
    const start = at + 4;
    const size = extra.getUint16(at + 2, true);
    if (start + size > extra.byteLength) return null;
    if (extra.getUint16(at, true) === 0x7075 && size > 5 && extra.getUint8(start) === 1) {
      const content = new Uint8Array(extra.buffer, extra.byteOffset + start + 5, size - 5);
      if (extra.getUint32(start + 1, true) === crc32(raw)) return decodeUtf8(content);
    }
    at = start + size;
  }
  return null;
}

function crc32(bytes: Uint8Array): number {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 && 0xedb88320);
  }
  return ~crc >>> 0;
}

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The upper half of cp437, the code page of MS-DOS, which TextDecoder does not know. */
const OEM =
  "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐" +
  "└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0";

/** Return a name as the service reads it: many tools write UTF-8 without saying so, older ones the code page of MS-DOS. */
function decode(bytes: Uint8Array): string {
  return (
    decodeUtf8(bytes) ??
    Array.from(bytes, (byte) => (byte < 128 ? String.fromCharCode(byte) : OEM[byte - 128])).join("")
  );
}

function decodeUtf8(bytes: Uint8Array): string | null {
  try {
    return UTF8.decode(bytes);
  } catch {
    return null;
  }
}
