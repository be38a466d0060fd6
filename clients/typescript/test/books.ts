// The books of a test run, and the program `meter` on them.
//
// METER is the program. METER_DATABASE__URL is a file or a server; without it, a file is made.

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createClient as createFileClient } from "@libsql/client";
import type { Client, IntMode, ResultSet } from "@libsql/client/web";
import { createClient } from "@libsql/client/web";

const program = process.env["METER"];
if (!program) throw new Error("METER names no program `meter`");
const folder = mkdtempSync(join(tmpdir(), "meter-client-"));
process.on("exit", () => rmSync(folder, { recursive: true }));
const url = process.env["METER_DATABASE__URL"] ?? join(folder, "meter.db");

export function meter(...args: string[]): string {
  const env = { PATH: process.env["PATH"], METER_DATABASE__URL: url, METER_HTTP__LISTEN: "" };
  return execFileSync(resolve(program!), args, { cwd: folder, env, encoding: "utf8" });
}

const PLANS = `
[[plans]]
name = "small"
currency = "USD"
effective_from = "1970-01-01T00:00:00Z"
meters.turn_allocations = { included = "2", report = "none" }
meters.chime_minutes = { included = "1000", price = "0.0045", report = "overage" }
meters.storage_gb = { included = "0.5", price = "0.05", report = "overage" }
meters.transfer_gb = { included = "1", report = "none" }
`;

/** Books with the plans `core` and `small`, and no customer. */
export function create(): void {
  writeFileSync(join(folder, "plans.toml"), PLANS);
  meter("migrate");
  meter("plan", "apply", "plans.toml");
  // from now on, what is too old is refused
  meter("run", "fold_measurements");
}

export const isRemote = /^https?:/.test(url);

export function open(intMode: IntMode = "bigint", fetch = globalThis.fetch): Client {
  if (isRemote) return createClient({ url, intMode, fetch });
  return createFileClient({ url: `file:${resolve(folder, url)}`, intMode, timeout: 10_000 });
}

/** A client that keeps what was asked and answered last, and counts requests to the server. */
export class Witness {
  args = 0;
  sql = "";
  columns: string[] = [];
  requests = 0;
  readonly client = open("bigint", (...sent) => {
    this.requests += 1;
    return fetch(...sent);
  });

  async execute(stmt: unknown): Promise<ResultSet> {
    const { sql, args } = stmt as { sql: string; args: [] };
    const result = await this.client.execute({ sql, args });
    Object.assign(this, { sql, args: args.length, columns: result.columns });
    return result;
  }
}
