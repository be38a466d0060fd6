// One function for each statement of docs/backend-contract.md. The page says what each one does and
// what it costs; the names of parameters and columns are those of the page.
//
// Whole numbers (money, counts, quantities) come as bigint, because quantities go up to 10^18.
// Instants come as Date, so that nobody takes seconds for milliseconds. A statement that answers no
// row gives null, and each function says what that means. What the database refuses is an error of
// the database client (`LibsqlError`); a number or an instant that cannot be meant is a
// `RangeError`, and nothing is sent.

import type { Freshness, Reason, SubscriptionStatus, Undecided } from "./contract.js";
import { REASONS, UNDECIDED } from "./contract.js";
import type { Columns, Database, Instant, Whole } from "./values.js";
import { date, figure, first, flag, instant, integer, nullable, text, whole } from "./values.js";

export * from "./contract.js";
export { statementLink } from "./statement.js";
export type { Database, Instant, Whole };

/** A text that a newer `meter` may answer, which this package does not know. */
export type Newer = string & Record<never, never>;

/** Whether this package knows a reason. */
export function isKnown(reason: string): reason is Reason | Undecided {
  return ([...REASONS, ...UNDECIDED] as string[]).includes(reason);
}

export interface Customer {
  id: string;
  plan_name: string;
  status: CustomerStatus | Newer;
}
export type CustomerStatus = "active" | "past_due" | "canceled";

const CUSTOMER: Columns<Customer> = { id: text, plan_name: text, status: text };

/** Safe to repeat. Null: the plan does not exist. */
export async function signUp(
  db: Database,
  { id, stripe_customer_id = null, plan = null }: {
    id: string;
    stripe_customer_id?: string | null;
    plan?: string | null;
  },
): Promise<Customer | null> {
  return first(db, "sign_up", [id, stripe_customer_id, plan], CUSTOMER);
}

export interface Turn {
  /** False: hand out no credential, and show `answer`. */
  granted: boolean;
  answer: "granted" | Reason | Newer;
  used: bigint;
  /** Null: there is no limit. */
  allowed_until: bigint | null;
  starts_at: Date;
  /** The end of the period. */
  ends_at: Date;
}

const TURN: Columns<Turn> = {
  granted: flag,
  answer: text,
  used: integer,
  allowed_until: nullable(integer),
  starts_at: date,
  ends_at: date,
};

/**
 * Checks and counts; a repeat counts again. Null: the customer does not exist; hand out no
 * credential.
 */
export async function takeTurn(
  db: Database,
  { customer, now = null }: { customer: string; now?: Instant | null },
): Promise<Turn | null> {
  return first(db, "take_turn", [customer, instant("now", now)], TURN);
}

/**
 * `starts_at` is that of the answer of `takeTurn`. Once for each granted allocation: a repeat gives
 * back another one. Null: the period is closed or gone, and the allocation stays counted.
 */
export async function giveBackTurn(
  db: Database,
  { customer, starts_at }: { customer: string; starts_at: Instant },
): Promise<{ used: bigint } | null> {
  return first(db, "give_back_turn", [customer, instant("starts_at", starts_at)], { used: integer });
}

export interface Decision {
  /** False: refuse, and show `reason`. */
  allowed: boolean;
  reason: Reason | Undecided | Newer;
  /** Figures for display. They are null while nobody has decided about the period. */
  used: number | null;
  /** The part of `used` on AWS's bill; of TURN the live count. */
  used_billed: number | null;
  /** The rest: measured, and on no bill yet. */
  used_measured: number | null;
  included: number | null;
  /** Null also if there is no limit. */
  effective_limit: number | null;
  overage_cost_minor: bigint | null;
  budget_minor: bigint | null;
  currency: string | null;
  /** The end of the usage that AWS's bill can contain. */
  as_of: Date | null;
  freshness: Freshness | Newer;
  /** Up to when the answer holds at the present level; null where only a new decision changes it. */
  until: Date | null;
  decided_at: Date | null;
  /** Null: nobody has ever decided. */
  enforced_at: Date | null;
}

const DECISION: Columns<Decision> = {
  allowed: flag,
  reason: text,
  used: nullable(figure),
  used_billed: nullable(figure),
  used_measured: nullable(figure),
  included: nullable(figure),
  effective_limit: nullable(figure),
  overage_cost_minor: nullable(integer),
  budget_minor: nullable(integer),
  currency: nullable(text),
  as_of: nullable(date),
  freshness: text,
  until: nullable(date),
  decided_at: nullable(date),
  enforced_at: nullable(date),
};

/** Reads alone. Null: the customer does not exist; refuse. */
export async function mayUse(
  db: Database,
  { customer, meter, now = null }: { customer: string; meter: string; now?: Instant | null },
): Promise<Decision | null> {
  return first(db, "may_use", [customer, meter, instant("now", now)], DECISION);
}

/** What a measurement is about. `id` is an id of your own. */
export interface Measured {
  customer: string;
  meter: string;
  id: string;
  /** Not given: the clock of the database. */
  at?: Instant | null;
}

export interface Use {
  id: string;
  /** Null: the start is not known yet. */
  level: bigint | null;
  started_at: Date | null;
  /** Null: it goes on. */
  ended_at: Date | null;
  /** When it ends at the latest. Null: the start is not known yet. */
  expires_at: Date | null;
}

const USE: Columns<Use> = {
  id: text,
  level: nullable(integer),
  started_at: nullable(date),
  ended_at: nullable(date),
  expires_at: nullable(date),
};

/**
 * An attendee joins. Safe to repeat: the first level and start count. Null: nothing was stored,
 * because nothing of this meter runs, or because the instant is too old or too new.
 */
export async function startUse(
  db: Database,
  { customer, meter, id, level = 1, at }: Measured & { level?: Whole },
): Promise<Use | null> {
  return first(db, "start_use", [customer, meter, id, whole("level", level), instant("at", at)], USE);
}

/** The attendee leaves. Safe to repeat: the earliest end counts. Null: as for `startUse`. */
export async function stopUse(db: Database, { customer, meter, id, at }: Measured): Promise<Use | null> {
  return first(db, "stop_use", [customer, meter, id, instant("at", at)], USE);
}

export interface Report {
  id: string;
  quantity: bigint;
  at: Date;
}

const REPORT: Columns<Report> = { id: text, quantity: integer, at: date };

/**
 * What is counted when it is over, such as the bytes of a download. Safe to repeat: the first
 * quantity counts. Null: nothing was stored, because the meter is not measured, or because the
 * instant is too old or too new.
 */
export async function reportUse(
  db: Database,
  { customer, meter, id, quantity, at }: Measured & { quantity: Whole },
): Promise<Report | null> {
  return first(db, "report_use", [customer, meter, id, whole("quantity", quantity), instant("at", at)], REPORT);
}

export interface StoredObject {
  id: string;
  /** Its bytes. Null: the upload is not known yet. */
  level: bigint | null;
  started_at: Date | null;
  /** Null: the id is that of a use that still runs. */
  ended_at: Date | null;
}

const STORED_OBJECT: Columns<StoredObject> = {
  id: text,
  level: nullable(integer),
  started_at: nullable(date),
  ended_at: nullable(date),
};

/**
 * A file is stored. Safe to repeat: the first size and start count. Null: nothing was stored,
 * because the meter stores nothing, or because the instant is too old or too new.
 */
export async function recordUpload(
  db: Database,
  { customer, meter = "storage_gb", id, bytes, at }: Omit<Measured, "meter"> & { meter?: string; bytes: Whole },
): Promise<StoredObject | null> {
  return first(db, "record_upload", [customer, meter, id, whole("bytes", bytes), instant("at", at)], STORED_OBJECT);
}

/** The file is deleted or replaced. Safe to repeat. Null: as for `recordUpload`. */
export async function recordDelete(
  db: Database,
  { customer, meter = "storage_gb", id, at }: Omit<Measured, "meter"> & { meter?: string },
): Promise<StoredObject | null> {
  return first(db, "record_delete", [customer, meter, id, instant("at", at)], STORED_OBJECT);
}

export interface Budget {
  customer: string;
  /** `""` for all meters together. */
  meter: string;
  amount_minor: bigint;
  currency: string;
}

const BUDGET: Columns<Budget> = { customer: text, meter: text, amount_minor: integer, currency: text };

/**
 * `amount_minor` counts the currency's minor unit as Stripe does. Safe to repeat. Null: the
 * customer does not exist, the plan has another currency, or the plan lacks the meter.
 */
export async function setBudget(
  db: Database,
  { customer, meter = "", amount_minor, currency, set_by }: Omit<Budget, "meter" | "amount_minor"> & {
    meter?: string;
    amount_minor: Whole;
    set_by: string;
  },
): Promise<Budget | null> {
  return first(db, "set_budget", [customer, meter, whole("amount_minor", amount_minor), currency, set_by], BUDGET);
}

/** What Stripe's subscription says, by Stripe's names. */
export interface Subscription {
  id: string;
  /** The customer's id here, not Stripe's. */
  customer: string;
  status: SubscriptionStatus;
  billing_cycle_anchor: Instant;
  start_date: Instant;
  ended_at: Instant | null;
}

export interface RecordedSubscription {
  id: string;
  customer: string;
  status: SubscriptionStatus | Newer;
}

const RECORDED: Columns<RecordedSubscription> = { id: text, customer: text, status: text };

/** Safe to repeat. A row is always answered: what the books refuse is an error. */
export async function recordSubscription(
  db: Database,
  { id, customer, status, billing_cycle_anchor, start_date, ended_at }: Subscription,
): Promise<RecordedSubscription> {
  const anchor = instant("billing_cycle_anchor", billing_cycle_anchor);
  const args = [id, customer, status, anchor, instant("start_date", start_date), instant("ended_at", ended_at)];
  const row = await first(db, "record_subscription", args, RECORDED);
  if (row === null) throw new Error(`record_subscription of ${id}: the database answered no row`);
  return row;
}

/** Safe to repeat. Null: the customer does not exist. */
export async function setStatus(
  db: Database,
  { customer, status }: { customer: string; status: CustomerStatus },
): Promise<Omit<Customer, "plan_name"> | null> {
  return first(db, "set_status", [customer, status], { id: text, status: text<CustomerStatus | Newer> });
}

/** `body` is the whole fetched event, as text. Null: it was stored already; a webhook may come twice. */
export async function reportStripeError(
  db: Database,
  { id, body }: { id: string; body: string },
): Promise<{ id: string } | null> {
  return first(db, "report_stripe_error", [id, body], { id: text });
}
