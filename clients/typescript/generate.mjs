// Makes src/contract.ts from docs/backend-contract.md: `node generate.mjs`. With `--check` it only
// compares them, and ends with 1 when they differ.

import { readFileSync, writeFileSync } from "node:fs";

const PAGE = new URL("../../docs/backend-contract.md", import.meta.url);
const MADE = new URL("src/contract.ts", import.meta.url);

/** The table or list whose first line begins so, or which follows a paragraph with these words. */
function block(page, { start, after }) {
  const blocks = page.split(/\n\n/);
  const at = blocks.findIndex((text) => (start ? text.startsWith(start) : text.includes(after)));
  const found = blocks[start ? at : at + 1];
  if (at < 0 || !/^[|-] /.test(found)) throw new Error(`no table or list in docs/backend-contract.md: ${start ?? after}`);
  return found;
}

/** The names in backticks with which the rows of a table begin, or before the colons of a list. */
function names(text) {
  const rows = text.startsWith("|") ? text.split("\n").slice(2).join("\n") : text;
  const starts = rows.match(/^[|-] `.*?( \||:)/gm);
  return starts.flatMap((start) => [...start.matchAll(/`([a-z_]+)`/g)].map((match) => match[1]));
}

function made(page) {
  const parts = page.split("<!-- statement: ").slice(1);
  const statements = parts.map((part) => {
    const found = /^(\w+) -->\n```sql\n([^`]*)\n```/.exec(part);
    if (!found) throw new Error(`no block of SQL after "<!-- statement: ${part.slice(0, 30)}"`);
    return `  ${found[1]}: \`${found[2].replace(/[\\$]/g, "\\$&")}\`,\n`;
  });
  const list = (doc, name, type, where) =>
    `\n/** ${doc} */\nexport const ${name} = ${JSON.stringify(names(block(page, where)), null, 2)} as const;\n` +
    `export type ${type} = (typeof ${name})[number];\n`;
  return (
    "// Made from docs/backend-contract.md by `node generate.mjs`. Change the page, not this file.\n\n" +
    "/** The statements, exactly as the page prints them. */\n" +
    `export const SQL = {\n${statements.join("\n")}} as const;\n` +
    list("Why something is allowed or refused.", "REASONS", "Reason", { start: "| reason |" }) +
    list("Reasons of `mayUse` alone.", "UNDECIDED", "Undecided", { after: "reasons occur only here" }) +
    list("How old the data of a decision is.", "FRESHNESS", "Freshness", { start: "| `freshness` |" }) +
    list("States of a subscription.", "STATUSES", "SubscriptionStatus", { start: "| status |" })
  );
}

const text = made(readFileSync(PAGE, "utf8"));
if (!process.argv.includes("--check")) {
  writeFileSync(MADE, text);
} else if (readFileSync(MADE, "utf8") !== text) {
  console.error("src/contract.ts differs from docs/backend-contract.md: run `node generate.mjs` in clients/typescript");
  process.exit(1);
}
