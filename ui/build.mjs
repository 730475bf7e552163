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
  const names = readdirSync(join(here, "src")).sort();
  const paths = ["build.mjs", "package-lock.json", ...names.map((name) => `src/${name}`)];
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
  entryNames: "[name]-[hash]",
  outdir: target,
  metafile: true,
  legalComments: "inline",
});
const files = Object.fromEntries(
  Object.entries(metafile.outputs)
    .filter(([, output]) => output.entryPoint)
    .map(([path, output]) => [basename(output.entryPoint).replace(/\.ts$/, ".js"), basename(path)]),
);
writeFileSync(join(target, "manifest.json"), `${JSON.stringify({ sources: hashSources(), files }, null, 2)}\n`);
