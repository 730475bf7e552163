// Build the pages into kbatch_server/static: scripts and style, each named by its content, and manifest.json.
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "../kbatch_server/static");

// setup.py makes the same of the sources, and does not build again where it is equal
function hashSources() {
  const names = readdirSync(join(here, "src"), { recursive: true }).filter((name) => /\.(ts|css)$/.test(name));
  const paths = ["build.mjs", "package-lock.json", ...names.sort().map((name) => `src/${name}`)];
  const hash = createHash("sha256");
  for (const path of paths) hash.update(`${path}\n`).update(readFileSync(join(here, path)));
  return hash.digest("hex");
}

rmSync(target, { recursive: true, force: true });
mkdirSync(target, { recursive: true });
const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: ["src/app.ts", "src/theme.ts", "src/page.css"],
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  splitting: true, // what reads Python is loaded when there is a notebook
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  outdir: target,
  metafile: true,
  legalComments: "inline",
});
const entries = { "src/app.ts": "app.js", "src/theme.ts": "theme.js", "src/page.css": "page.css" };
const files = Object.fromEntries(
  // what is loaded later has no name but its own
  Object.entries(metafile.outputs).map(([path, output]) => [
    entries[output.entryPoint] ?? basename(path),
    basename(path),
  ]),
);
writeFileSync(join(target, "manifest.json"), `${JSON.stringify({ sources: hashSources(), files }, null, 2)}\n`);
