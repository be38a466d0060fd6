// Signed links to statements, as docs/statements.md has them.

const hex = (bytes: ArrayBuffer) => Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");

/**
 * Path and query of a link by which whoever has it may read one customer's statement of one billing
 * period, until it expires: at most 30 days from now. `period` is the day (UTC) on which the period
 * begins, as `2026-11-03`; `key` is the worker's `METER_HTTP__STATEMENT_KEY`.
 */
export async function statementLink(
  { customer, period, expires, key }: { customer: string; period: string; expires: Date; key: string },
): Promise<string> {
  if (!/^\d{4}-\d\d-\d\d$/.test(period)) throw new RangeError(`period: ${period} is no day like 2026-11-03`);
  if (key === "") throw new RangeError("key: it is empty");
  const second = Math.floor(expires.getTime() / 1000);
  if (!Number.isSafeInteger(second)) throw new RangeError("expires: it is no date");
  const utf8 = new TextEncoder();
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const imported = await crypto.subtle.importKey("raw", utf8.encode(key), algorithm, false, ["sign"]);
  const signed = utf8.encode(`statement\n${customer}\n${period}\n${second}`);
  const signature = hex(await crypto.subtle.sign("HMAC", imported, signed));
  const name = encodeURIComponent(customer);
  return `/statement?customer=${name}&period=${period}&expires=${second}&signature=${signature}`;
}
