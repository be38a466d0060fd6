import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { before, test } from "node:test";
import type { Client, ResultSet, Value } from "@libsql/client/web";
import { handle } from "../examples/edge.js";
import type { Services } from "../examples/edge.js";
import * as contract from "../src/index.js";
import {
  giveBackTurn,
  isKnown,
  mayUse,
  recordDelete,
  recordSubscription,
  recordUpload,
  reportStripeError,
  reportUse,
  setBudget,
  setStatus,
  signUp,
  startUse,
  statementLink,
  stopUse,
  takeTurn,
} from "../src/index.js";
import { Witness, create, isRemote, meter, open } from "./books.js";

const chime = "chime_minutes";
/** Midnight, two days ago: in seconds, and as a Date. */
const seconds = (Math.floor(Date.now() / 86_400_000) - 2) * 86_400;
const after = (n: number) => new Date((seconds + n) * 1000);
let books: Client;

before(() => {
  create();
  books = open();
});

/** A new customer of the plan `small`. */
async function customer(id: string): Promise<string> {
  assert.deepEqual(await signUp(books, { id, plan: "small" }), { id, plan_name: "small", status: "active" });
  return id;
}

test("every statement has its function, which reads every column and gives every parameter", async () => {
  const witness = new Witness();
  const anchor = { billing_cycle_anchor: after(0), start_date: seconds, ended_at: null };
  const use = { customer: "eve", meter: chime, id: "all" };
  const object = { customer: "eve", id: "all" };
  const asks: Record<keyof typeof contract.SQL, () => Promise<object | null>> = {
    sign_up: () => signUp(witness, { id: "eve", stripe_customer_id: "cus_eve", plan: "small" }),
    take_turn: () => takeTurn(witness, { customer: "eve" }),
    give_back_turn: async () =>
      giveBackTurn(witness, { customer: "eve", starts_at: (await takeTurn(books, { customer: "eve" }))!.starts_at }),
    may_use: () => mayUse(witness, { customer: "eve", meter: chime }),
    start_use: () => startUse(witness, use),
    stop_use: () => stopUse(witness, use),
    report_use: () => reportUse(witness, { ...use, id: "some", quantity: 1 }),
    record_upload: () => recordUpload(witness, { ...object, bytes: 1 }),
    record_delete: () => recordDelete(witness, object),
    set_budget: () => setBudget(witness, { customer: "eve", amount_minor: 1, currency: "USD", set_by: "test" }),
    record_subscription: () =>
      recordSubscription(witness, { id: "sub_eve", customer: "eve", status: "active", ...anchor }),
    set_status: () => setStatus(witness, { customer: "eve", status: "past_due" }),
    report_stripe_error: () => reportStripeError(witness, { id: "evt_eve", body: "{}" }),
  };
  for (const [name, ask] of Object.entries(asks)) {
    witness.requests = 0;
    const row = await ask();
    const sql = contract.SQL[name as keyof typeof contract.SQL];
    assert.equal(witness.sql, sql, name);
    assert.ok(row, `${name} answers a row`);
    assert.deepEqual(Object.keys(row).sort(), [...witness.columns].sort(), `columns of ${name}`);
    const last = Math.max(...[...sql.matchAll(/\?(\d+)/g)].map((match) => Number(match[1])));
    assert.equal(witness.args, last, `parameters of ${name}`);
    assert.equal(witness.requests, isRemote ? 1 : 0, `round trips of ${name}`);
  }
});

test("a sign-up is safe to repeat, and needs a plan that exists", async () => {
  await customer("ann");
  assert.deepEqual(await signUp(books, { id: "ann" }), { id: "ann", plan_name: "small", status: "active" });
  assert.deepEqual(await signUp(books, { id: "joe" }), { id: "joe", plan_name: "core", status: "active" });
  assert.equal(await signUp(books, { id: "bob", plan: "gold" }), null);
  await signUp(books, { id: "ann", stripe_customer_id: "cus_ann" });
  await assert.rejects(signUp(books, { id: "bob", stripe_customer_id: "cus_ann" }), /UNIQUE/);
  await assert.rejects(signUp(books, { id: " bob" }), /blank/);
  const transaction = await books.transaction("write");
  assert.equal((await signUp(transaction, { id: "bob" }))!.id, "bob");
  await transaction.rollback();
  assert.equal(await mayUse(books, { customer: "bob", meter: chime }), null);
});

test("TURN is granted up to the limit, given back, and nothing for who does not exist", async () => {
  const id = await customer("tom");
  assert.equal(await takeTurn(books, { customer: "nobody" }), null);
  meter("run", "enforce_budgets");
  const taken = await takeTurn(books, { customer: id });
  assert.ok(taken);
  assert.deepEqual([taken.granted, taken.answer, taken.used, taken.allowed_until], [true, "granted", 1n, 2n]);
  assert.ok(taken.starts_at.getTime() <= Date.now() && Date.now() < taken.ends_at.getTime());
  assert.equal(taken.starts_at.getUTCDate(), 1);
  assert.equal((await takeTurn(books, { customer: id }))!.used, 2n);
  const refused = (await takeTurn(books, { customer: id, now: new Date() }))!;
  assert.deepEqual([refused.granted, refused.answer, refused.used], [false, "included_used", 2n]);
  assert.deepEqual(await giveBackTurn(books, { customer: id, starts_at: taken.starts_at }), { used: 1n });
  assert.equal(await giveBackTurn(books, { customer: id, starts_at: after(1) }), null);
  assert.equal((await takeTurn(books, { customer: id, now: Date.now() / 1000 }))!.granted, true);
});

test("a decision has figures once it is made", async () => {
  const id = await customer("meg");
  assert.equal(await mayUse(books, { customer: "nobody", meter: chime }), null);
  const undecided = (await mayUse(books, { customer: id, meter: chime }))!;
  assert.deepEqual([undecided.allowed, undecided.reason, undecided.used], [true, "not_decided", null]);
  await setBudget(books, { customer: id, amount_minor: 450, currency: "USD", set_by: "meg" });
  meter("run", "enforce_budgets");
  const { decided_at, enforced_at, ...decided } = (await mayUse(books, { customer: id, meter: chime }))!;
  assert.ok(decided_at instanceof Date && Math.abs(Date.now() - enforced_at!.getTime()) < 60_000);
  assert.deepEqual([decided.allowed, decided.reason, decided.currency], [true, "within_included", "USD"]);
  assert.deepEqual([decided.used, decided.included, decided.effective_limit], [0, 1000, 2000]);
  assert.deepEqual([decided.overage_cost_minor, decided.budget_minor], [0n, 450n]);
  assert.deepEqual([decided.as_of, decided.freshness], [null, "none"]);
  assert.equal((await mayUse(books, { customer: id, meter: "storage_gb" }))!.included, 0.5);
  const absent = (await mayUse(books, { customer: "joe", meter: chime }))!;
  assert.deepEqual([absent.allowed, absent.reason], [false, "not_in_plan"]);
  const later = (await mayUse(books, { customer: id, meter: chime, now: new Date(Date.now() + 60 * 86_400_000) }))!;
  assert.deepEqual([later.reason, later.freshness, later.budget_minor], ["new_period", "stale", 450n]);
  assert.deepEqual(await setStatus(books, { customer: id, status: "canceled" }), { id, status: "canceled" });
  assert.equal((await mayUse(books, { customer: id, meter: chime }))!.reason, "canceled");
  assert.equal(await setStatus(books, { customer: "nobody", status: "active" }), null);
});

test("an attendee comes and goes", async () => {
  const use = { customer: "lee", meter: chime, id: "attendee" };
  const started = { id: "attendee", level: 1n, started_at: after(0), ended_at: null, expires_at: after(86_400) };
  assert.deepEqual(await startUse(books, { ...use, at: after(0.9) }), started);
  assert.deepEqual(await startUse(books, { ...use, at: seconds + 60, level: 7 }), started, "the first one counts");
  const stopped = { ...started, ended_at: after(90) };
  assert.deepEqual(await stopUse(books, { ...use, at: after(90) }), stopped);
  assert.deepEqual(await stopUse(books, { ...use, at: after(95) }), stopped, "the earliest end counts");
  const early = await stopUse(books, { ...use, id: "early", at: after(5) });
  assert.deepEqual(early, { id: "early", level: null, started_at: null, ended_at: after(5), expires_at: null });
  const now = (await startUse(books, { ...use, id: "now" }))!.started_at!.getTime();
  assert.ok(Math.abs(now - Date.now()) < 60_000);
  assert.equal(await startUse(books, { ...use, meter: "transfer_gb" }), null, "nothing runs");
  assert.equal(await startUse(books, { ...use, id: "old", at: after(-400 * 86_400) }), null);
  assert.equal(await stopUse(books, { ...use, id: "new", at: new Date(Date.now() + 600_000) }), null);
  await assert.rejects(startUse(books, { ...use, id: "huge", level: 10n ** 15n + 1n }), /measurements\.level/);
});

test("quantities above 2^53 stay exact", async () => {
  const report = { customer: "max", meter: chime, id: "most", quantity: 10n ** 18n - 1n, at: after(0) };
  assert.deepEqual(await reportUse(books, report), { id: "most", quantity: 999_999_999_999_999_999n, at: after(0) });
  assert.equal((await reportUse(books, { ...report, quantity: 5 }))!.quantity, 10n ** 18n - 1n);
  assert.equal((await reportUse(open("string"), report))!.quantity, 10n ** 18n - 1n);
  // the database client's default: it stores, and cannot say what
  await assert.rejects(reportUse(open("number"), { ...report, id: "default" }), RangeError);
  assert.equal((await reportUse(books, { ...report, id: "default" }))!.quantity, 10n ** 18n - 1n);
  await assert.rejects(reportUse(books, { ...report, id: "more", quantity: 10n ** 18n + 1n }), /measurements\.quantity/);
  assert.equal(await reportUse(books, { ...report, meter: "turn_allocations" }), null);
});

test("an object ends at the midnight after the lifecycle rule's days", async () => {
  const object = { customer: "zoe", id: "key" };
  const stored = { id: "key", level: 5_000_000_000n, started_at: after(10), ended_at: after(2 * 86_400) };
  assert.deepEqual(await recordUpload(books, { ...object, bytes: 5e9, at: after(10) }), stored);
  assert.deepEqual(await recordUpload(books, { ...object, bytes: 7, at: seconds + 20 }), stored);
  assert.deepEqual(await recordDelete(books, { ...object, at: after(3600) }), { ...stored, ended_at: after(3600) });
  const unknown = await recordDelete(books, { ...object, id: "other", at: after(1) });
  assert.deepEqual(unknown, { id: "other", level: null, started_at: null, ended_at: after(1) });
  assert.equal(await recordUpload(books, { ...object, meter: chime, bytes: 1 }), null);
  // as a caller of the plain statement has it: the database client sends a number as a REAL
  const args = ["zoe", "storage_gb", "plain", 1, seconds + 10];
  const plain = await books.execute({ sql: contract.SQL.record_upload, args });
  assert.equal(plain.rows[0]!["ended_at"], BigInt(seconds + 2 * 86_400));
});

test("budgets and subscriptions are kept, and a fault is an error", async () => {
  const id = await customer("sue");
  const budget = { customer: id, amount_minor: 1000, currency: "USD", set_by: "sue" };
  assert.deepEqual(await setBudget(books, budget), { customer: id, meter: "", amount_minor: 1000n, currency: "USD" });
  assert.equal((await setBudget(books, { ...budget, meter: chime, amount_minor: 10n ** 11n }))!.amount_minor, 10n ** 11n);
  assert.equal(await setBudget(books, { ...budget, currency: "EUR" }), null);
  await assert.rejects(setBudget(books, { ...budget, amount_minor: 2n ** 53n + 1n }), /CHECK|minor/);
  const instants = { billing_cycle_anchor: seconds, start_date: seconds };
  const subscription = { id: "sub_sue", customer: id, status: "active", ...instants } as const;
  const kept = { id: "sub_sue", customer: id, status: "active" };
  assert.deepEqual(await recordSubscription(books, { ...subscription, ended_at: null }), kept);
  const ended = await recordSubscription(books, { ...subscription, status: "canceled", ended_at: after(9) });
  assert.deepEqual(ended, { ...kept, status: "canceled" });
  await assert.rejects(recordSubscription(books, { ...subscription, ended_at: after(-9) }), /ended_at|CHECK/);
  const event = { id: "evt_1", body: JSON.stringify({ id: "evt_1", data: "ö" }) };
  assert.deepEqual(await reportStripeError(books, event), { id: "evt_1" });
  assert.equal(await reportStripeError(books, event), null, "stored already");
  await assert.rejects(reportStripeError(books, { id: "evt_2", body: "no JSON" }));
});

test("what cannot be meant is refused before anything is sent", async () => {
  const silent = { execute: () => assert.fail("something was sent") };
  const use = { customer: "ann", meter: chime, id: "x" };
  const no = (asked: Promise<unknown>) => assert.rejects(asked, RangeError);
  await no(startUse(silent, { ...use, at: Date.now() }));
  await no(startUse(silent, { ...use, at: new Date(NaN) }));
  await no(startUse(silent, { ...use, level: 1.5 }));
  await no(reportUse(silent, { ...use, quantity: 2 ** 53 }));
  await no(reportUse(silent, { ...use, quantity: 2n ** 63n }));
  await no(setBudget(silent, { customer: "ann", amount_minor: NaN, currency: "USD", set_by: "x" }));
});

/** A database that answers one row, of any build of `meter`. */
function answering(row: Record<string, Value>) {
  return { execute: async () => ({ rows: [row] }) as unknown as ResultSet };
}

test("reasons and columns of a newer build are no fault", async () => {
  const { columns } = await books.execute(contract.SQL.may_use, ["ann", chime, null]);
  const row: Record<string, Value> = Object.fromEntries(columns.map((name) => [name, null]));
  Object.assign(row, { allowed: 0, reason: "moon_phase", freshness: "lunar", overage_cost_minor: 7, as_of: 60 });
  const newer = answering({ ...row, tides: "high" });
  const decision = (await mayUse(newer, { customer: "ann", meter: chime }))!;
  assert.deepEqual([decision.allowed, decision.reason, isKnown(decision.reason)], [false, "moon_phase", false]);
  assert.deepEqual([decision.overage_cost_minor, decision.as_of, "tides" in decision], [7n, new Date(60_000), false]);
  assert.ok(isKnown("budget_spent") && isKnown("not_decided"));
  const wrong = answering({ ...row, as_of: "soon" });
  await assert.rejects(mayUse(wrong, { customer: "ann", meter: chime }), /may_use: as_of: /);
});

test("nothing of Node is used, nor any package at run time", () => {
  for (const file of ["../src/contract.js", "../src/values.js", "../src/index.js", "../examples/edge.js"]) {
    const code = readFileSync(new URL(file, import.meta.url), "utf8").replace(/\/\*[^]*?\*\/|\/\/ .*/g, "");
    const imported = [...code.matchAll(/\bfrom "(.*)"/g)].map((found) => found[1]!);
    assert.deepEqual(imported.filter((name) => !name.startsWith("./") && name !== "../src/index.js"), []);
    assert.doesNotMatch(code, /\b(process|Buffer|require|global|__dirname|setImmediate)\b|\bimport\b[ (]*"/, file);
  }
});

test("the example hands out, refuses, and measures", async () => {
  const id = await customer("ida");
  let relay = true;
  const services: Services = {
    books,
    customer: async (request) => request.headers.get("x-customer"),
    createIceServers: async () => (relay ? { iceServers: [] } : Promise.reject(new Error("no relay"))),
    createAttendee: async () => ({ id: "attendee-1", token: "secret" }),
    deleteAttendee: async () => {},
    signUpload: async (bytes) => ({ key: "a key", url: `https://bucket.example/?${bytes}` }),
    storedBytes: async () => 2_000_000,
    deleteObject: async () => {},
  };
  const ask = async (line: string, customer = id, body: string | null = null) => {
    const [method = "", path = ""] = line.split(" ");
    const request = new Request(`https://edge.example${path}`, { method, body, headers: { "x-customer": customer } });
    const response = await handle(request, services);
    return [response.status, response.status === 204 ? null : await response.json()];
  };
  meter("run", "enforce_budgets");
  relay = false;
  assert.deepEqual(await ask("POST /turn"), [503, { reason: "no_relay" }]);
  relay = true;
  for (const _ of [1, 2]) assert.deepEqual(await ask("POST /turn"), [200, { iceServers: [] }]);
  assert.deepEqual(await ask("POST /turn"), [402, { reason: "included_used" }]);
  assert.deepEqual(await ask("POST /turn", "nobody"), [402, { reason: "unknown_customer" }]);
  assert.equal((await ask("POST /meetings/m/attendees"))[0], 200);
  assert.deepEqual(await ask("PUT /meetings/m/attendees/attendee-1"), [204, null]);
  assert.deepEqual(await ask("DELETE /meetings/m/attendees/attendee-1"), [204, null]);
  const use = (await startUse(books, { customer: id, meter: chime, id: "attendee-1" }))!;
  assert.ok(use.ended_at && use.started_at && use.ended_at >= use.started_at);
  assert.deepEqual(await ask("POST /uploads", "joe", "5"), [402, { reason: "not_in_plan" }]);
  assert.deepEqual(await ask("POST /uploads", id, "5"), [200, { key: "a key", url: "https://bucket.example/?5" }]);
  assert.deepEqual(await ask("PUT /uploads/a%20key"), [204, null]);
  assert.deepEqual(await ask("DELETE /uploads/a%20key"), [204, null]);
  assert.equal((await recordUpload(books, { customer: id, id: "a key", bytes: 1 }))!.level, 2_000_000n);
});

// the same as in src/statement_link.rs, which a third party has signed
test("a link to a statement is signed as the worker checks it", async () => {
  const link = { customer: "a&b ü", period: "2026-11-03", expires: new Date(1_800_000_060_999), key: "a key of sixteen or more" };
  const signature = "c1c78930fa66cf56c3e460bed69b98587101725325b69ae0d895c4418edab118";
  const query = "customer=a%26b%20%C3%BC&period=2026-11-03&expires=1800000060";
  assert.equal(await statementLink(link), `/statement?${query}&signature=${signature}`);
  for (const wrong of [{ period: "2026-11" }, { key: "" }, { expires: new Date(NaN) }]) {
    await assert.rejects(statementLink({ ...link, ...wrong }), RangeError);
  }
});
