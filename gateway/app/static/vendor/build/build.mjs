// Builds ../codemirror.js and ../LICENSE from what package-lock.json names. See ../README.md.
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
process.chdir(here);

const built = await build({
  entryPoints: ["entry.js"],
  outfile: "../codemirror.js",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "none", // ../LICENSE has them
  banner: { js: "// CodeMirror 6 and Lezer, MIT licence: see LICENSE. Built by build/build.mjs: do not edit." },
  metafile: true,
});

const packages = new Set();
for (const path of Object.keys(built.metafile.inputs)) {
  const found = /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path);
  if (found) packages.add(found[1]);
}
const texts = new Map(); // the text of a licence, and whose it is
for (const name of [...packages].sort()) {
  const folder = join(here, "node_modules", name);
  const { version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
  if (!file) throw new Error(`${name} has no licence file`);
  const text = readFileSync(join(folder, file), "utf8").trim();
  texts.set(text, [...(texts.get(text) ?? []), `${name} ${version}`]);
}
const parts = [...texts].map(([text, names]) => `${names.join("\n")}\n\n${text}\n`);
writeFileSync("../LICENSE", `codemirror.js is made of these packages.\n\n${parts.join(`\n${"-".repeat(80)}\n\n`)}`);
