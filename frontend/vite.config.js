/** Builds the page into `--outDir`; fails when its first load would grow over the limit. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { defineConfig } from "vite";

const LIMIT_BYTES = 150_000;

function sizeLimit() {
  return {
    name: "size-limit",
    writeBundle({ dir }, bundle) {
      let total = 0;
      for (const name of Object.keys(bundle).sort()) {
        const packed = gzipSync(readFileSync(join(dir, name)), { level: 9 }).length;
        total += packed;
        console.log(`  ${(packed / 1000).toFixed(1).padStart(6)} kB gzipped  ${name}`);
      }
      console.log(`  ${(total / 1000).toFixed(1).padStart(6)} kB gzipped  in all, of at most ${LIMIT_BYTES / 1000} kB`);
      if (total > LIMIT_BYTES) throw new Error(`the page's first load is ${total} bytes gzipped: over ${LIMIT_BYTES}`);
    },
  };
}

export default defineConfig({
  base: "./",
  build: {
    target: "es2022",
    emptyOutDir: true,
    assetsInlineLimit: 0, // nothing inline: the content security policy forbids it
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  plugins: [sizeLimit()],
});
