// What goes to the database and what comes back, without a loss.

import type { Client, InValue, Value } from "@libsql/client/web";
import { SQL } from "./contract.js";

/** A client of `@libsql/client`, or a transaction of one. */
export type Database = Pick<Client, "execute">;

/**
 * A `Date`, or seconds since 1970 as Stripe has them. Milliseconds are refused. Fractions of a
 * second are cut off.
 */
export type Instant = Date | number;

/** A `number` must be a whole one that is exact, so at most 2^53 - 1. */
export type Whole = bigint | number;

const LAST_INSTANT = 99_999_999_999;
const LAST_WHOLE = 2n ** 63n - 1n;

/**
 * A whole number. It goes out as a bigint: the database client sends a number as a floating-point
 * one.
 */
export function whole(name: string, value: Whole): bigint {
  if (typeof value !== "bigint" && !Number.isSafeInteger(value)) {
    throw new RangeError(`${name} is ${value}, and must be a whole number, above 2^53 as a bigint`);
  }
  const exact = BigInt(value);
  if (exact > LAST_WHOLE || exact < -LAST_WHOLE) {
    throw new RangeError(`${name} is ${value}, and must have at most 63 bits`);
  }
  return exact;
}

/** Seconds since 1970, or null for the clock of the database. */
export function instant(name: string, value: Instant | null | undefined): bigint | null {
  if (value === null || value === undefined) return null;
  const seconds = Math.floor(value instanceof Date ? value.getTime() / 1000 : value);
  if (!(Math.abs(seconds) <= LAST_INSTANT)) {
    throw new RangeError(`${name} is ${value}, and must be a Date, or seconds since 1970`);
  }
  return BigInt(seconds);
}

/** How each column of an answer is read. */
export type Columns<Row> = { readonly [Name in keyof Row]: (value: Value) => Row[Name] };

/** `intMode` of the database client says what an integer comes as. */
export function integer(value: Value): bigint {
  if (typeof value === "bigint") return value;
  if (typeof value === "number" || typeof value === "string") return BigInt(value);
  throw new TypeError(`${value} is no whole number`);
}

/** A figure for display. */
export function figure(value: Value): number {
  const found = value === null || typeof value === "object" ? NaN : Number(value);
  if (Number.isNaN(found)) throw new TypeError(`${value} is no figure`);
  return found;
}

export function text<T extends string>(value: Value): T {
  if (typeof value === "string") return value as T;
  throw new TypeError(`${value} is no text`);
}

export const flag = (value: Value): boolean => value !== null && integer(value) !== 0n;
export const date = (value: Value): Date => new Date(Number(integer(value)) * 1000);

export function nullable<T>(read: (value: Value) => T): (value: Value) => T | null {
  return (value) => (value === null ? null : read(value));
}

/** Runs a statement. Null: it answers no row. */
export async function first<Row extends object>(
  database: Database,
  statement: keyof typeof SQL,
  args: InValue[],
  columns: Columns<Row>,
): Promise<Row | null> {
  const { rows } = await database.execute({ sql: SQL[statement], args });
  const row = rows[0];
  if (row === undefined) return null;
  const found: Partial<Row> = {};
  for (const name of Object.keys(columns) as (keyof Row & string)[]) {
    try {
      found[name] = columns[name](row[name] as Value);
    } catch (error) {
      throw new TypeError(`${statement}: ${name}: ${error instanceof Error ? error.message : error}`);
    }
  }
  return found as Row;
}
