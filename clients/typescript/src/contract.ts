// Made from docs/backend-contract.md by `node generate.mjs`. Change the page, not this file.

/** The statements, exactly as the page prints them. */
export const SQL = {
  sign_up: `INSERT INTO customers (id, stripe_customer_id, plan)
SELECT ?1, ?2, p.name FROM plans p WHERE p.name = coalesce(?3, 'core') GROUP BY p.name
ON CONFLICT (id) DO UPDATE SET stripe_customer_id = coalesce(stripe_customer_id, excluded.stripe_customer_id)
RETURNING id, plan AS plan_name, status`,

  take_turn: `UPDATE turn_periods
SET granted = (allowed_until IS NULL OR used < allowed_until),
    used = used + (allowed_until IS NULL OR used < allowed_until),
    refused = refused + (allowed_until IS NOT NULL AND used >= allowed_until)
WHERE customer = ?1 AND closed_at IS NULL AND ends_at = coalesce(
    (SELECT min(ends_at) FROM turn_periods
     WHERE customer = ?1 AND closed_at IS NULL AND ends_at > coalesce(?2, unixepoch())),
    (SELECT max(ends_at) FROM turn_periods WHERE customer = ?1 AND closed_at IS NULL))
RETURNING granted, CASE granted WHEN 1 THEN 'granted' ELSE reason END AS answer,
          used, allowed_until, starts_at, ends_at`,

  give_back_turn: `UPDATE turn_periods SET used = used - 1
WHERE customer = ?1 AND starts_at = ?2 AND closed_at IS NULL AND used > 0
RETURNING used`,

  may_use: `SELECT CASE
         WHEN d.status = 'canceled' OR d.subscription IN ('canceled', 'unpaid', 'paused') THEN 0
         WHEN d.reason IS NULL THEN coalesce(d.in_plan, 0)
         WHEN d.is_over THEN coalesce(d.in_plan, 0) OR d.beyond AND NOT d.policy_blocks
         WHEN d.reason = 'within_budget' THEN d.allowed AND NOT d.policy_blocks
         ELSE d.allowed
       END AS allowed,
       CASE
         WHEN d.status = 'canceled' THEN 'canceled'
         WHEN d.subscription IN ('canceled', 'unpaid', 'paused') THEN d.subscription
         WHEN d.reason IS NULL THEN 'not_decided'
         WHEN d.is_over AND (coalesce(d.in_plan, 0) OR d.beyond AND NOT d.policy_blocks) THEN 'new_period'
         WHEN d.is_over AND d.reason IN ('within_included', 'within_budget') AND NOT d.beyond
           THEN iif(d.in_plan IS NULL, 'not_in_plan', 'included_used')
         WHEN d.policy_blocks AND (d.reason = 'within_budget' OR d.is_over AND d.beyond) THEN 'data_too_old'
         ELSE d.reason
       END AS reason,
       iif(d.is_over, NULL, d.used / 1e10) AS used,
       iif(d.is_over, NULL, d.used_billed / 1e10) AS used_billed,
       iif(d.is_over, NULL, d.used_measured / 1e10) AS used_measured,
       iif(d.is_over, NULL, d.included / 1e10) AS included,
       CASE WHEN d.is_over THEN NULL
            WHEN d.policy_blocks THEN min(d.included, coalesce(d.effective_limit, d.included)) / 1e10
            ELSE d.effective_limit / 1e10
       END AS effective_limit,
       iif(d.is_over, NULL, d.overage_cost_minor) AS overage_cost_minor,
       d.budget_minor, d.currency, d.bill_until AS as_of,
       CASE WHEN d.is_old OR d.enforced_at < d.now - 1800 THEN 'stale'
            WHEN d.reason IS NULL OR d.is_over THEN 'none'
            WHEN d.freshness = 'live' THEN 'live'
            ELSE iif(d.bill_until IS NULL, 'none', 'fresh')
       END AS freshness,
       CASE WHEN d.is_over OR d.status = 'canceled' OR d.reason IN ('unpaid', 'paused', 'canceled') THEN NULL
            WHEN d.policy_blocks AND d.has_room THEN NULL
            ELSE min(d.period_end, coalesce(d.blocked_at, d.period_end), iif(d.has_room, d.policy_from, d.period_end))
       END AS until,
       d.decided_at, d.enforced_at
FROM (
  SELECT f.*, f.has_room AND f.status <> 'past_due' AND f.subscription IS NOT 'past_due' AS beyond FROM (
  SELECT c.status, e.*, w.enforced_at, coalesce(?3, unixepoch()) AS now,
         CASE WHEN e.reason IS NULL OR e.period_end <= coalesce(?3, unixepoch()) THEN
           (SELECT CASE WHEN s.ended_at <= coalesce(?3, unixepoch()) THEN 'canceled'
                        ELSE s.status END
            FROM subscriptions s
            WHERE s.customer = c.id AND s.started_at <= coalesce(?3, unixepoch())
              AND s.status NOT IN ('incomplete', 'incomplete_expired')
            ORDER BY s.status = 'canceled' OR coalesce(s.ended_at <= coalesce(?3, unixepoch()), 0),
                     s.started_at DESC, s.id DESC LIMIT 1)
         END AS subscription,
         CASE WHEN e.freshness <> 'live' THEN w.as_of END AS bill_until,
         e.freshness <> 'live' AND w.as_of < coalesce(?3, unixepoch()) - w.stale_after AS is_old,
         coalesce(w.on_stale = 'block-overage'
           AND min(coalesce(CASE WHEN e.freshness <> 'live' THEN w.as_of END, w.enforced_at), w.enforced_at)
             < coalesce(?3, unixepoch()) - w.stale_after, 0) AS policy_blocks,
         iif(w.on_stale = 'block-overage',
             min(coalesce(CASE WHEN e.freshness <> 'live' THEN w.as_of END, w.enforced_at), w.enforced_at) + w.stale_after + 1,
             e.period_end) AS policy_from,
         e.period_end <= coalesce(?3, unixepoch()) AND e.reason NOT IN ('unpaid', 'paused', 'canceled') AS is_over,
         m.price IS NOT NULL AND (e.reason = 'within_budget'
           OR (e.reason = 'within_included' AND coalesce(e.meter_budget_minor, e.budget_minor) > 0)
           OR (e.reason = 'budget_spent' AND e.budget_minor > 0 AND coalesce(e.meter_budget_minor, 1) > 0)
           OR (e.reason = 'meter_budget_spent' AND coalesce(e.meter_budget_minor, 0) > 0)) AS has_room,
         m.included > 0 AS in_plan
  FROM customers c
  LEFT JOIN plan_meters m ON m.plan = c.plan AND m.meter = ?2 AND m.effective_from = coalesce(
    (SELECT max(p.effective_from) FROM plans p
     WHERE p.name = c.plan AND p.effective_from <= coalesce(?3, unixepoch())),
    (SELECT min(p.effective_from) FROM plans p WHERE p.name = c.plan))
  LEFT JOIN entitlements e ON e.customer = c.id AND e.meter = ?2
  LEFT JOIN enforcement w ON w.id = 1
  WHERE c.id = ?1
) f) d`,

  start_use: `INSERT INTO measurements (customer, meter, id, level, started_at, expires_at)
SELECT ?1, m.meter, ?3, ?4, coalesce(?5, unixepoch()), coalesce(?5, unixepoch()) + m.longest_use
FROM measured_meters m
WHERE m.meter = ?2 AND m.longest_use IS NOT NULL
  AND coalesce(?5, unixepoch()) BETWEEN m.folded_until AND unixepoch() + 300
ON CONFLICT (customer, meter, id) DO UPDATE
SET expires_at = iif(level IS NULL, excluded.expires_at, expires_at),
    level = coalesce(level, excluded.level), started_at = coalesce(started_at, excluded.started_at)
RETURNING id, level, started_at, ended_at, expires_at`,

  stop_use: `INSERT INTO measurements (customer, meter, id, ended_at)
SELECT ?1, m.meter, ?3, coalesce(?4, unixepoch())
FROM measured_meters m
WHERE m.meter = ?2 AND m.longest_use IS NOT NULL
  AND coalesce(?4, unixepoch()) BETWEEN m.folded_until AND unixepoch() + 300
ON CONFLICT (customer, meter, id) DO UPDATE
SET ended_at = min(coalesce(ended_at, excluded.ended_at), excluded.ended_at)
RETURNING id, level, started_at, ended_at, expires_at`,

  report_use: `INSERT INTO measurements (customer, meter, id, quantity, started_at)
SELECT ?1, m.meter, ?3, ?4, coalesce(?5, unixepoch())
FROM measured_meters m
WHERE m.meter = ?2 AND m.accrues IS NOT NULL
  AND coalesce(?5, unixepoch()) BETWEEN m.folded_until AND unixepoch() + 300
ON CONFLICT (customer, meter, id) DO UPDATE SET quantity = coalesce(quantity, excluded.quantity)
RETURNING id, quantity, started_at AS at`,

  record_upload: `INSERT INTO measurements (customer, meter, id, level, started_at, ended_at)
SELECT ?1, m.meter, ?3, ?4, coalesce(?5, unixepoch()),
       (CAST(coalesce(?5, unixepoch()) AS INTEGER) + m.upload_days * 86400 + 86399) / 86400 * 86400
FROM measured_meters m
WHERE m.meter = ?2 AND m.upload_days IS NOT NULL
  AND coalesce(?5, unixepoch()) BETWEEN m.folded_until AND unixepoch() + 300
ON CONFLICT (customer, meter, id) DO UPDATE
SET ended_at = iif(level IS NULL, min(ended_at, excluded.ended_at), ended_at),
    level = coalesce(level, excluded.level), started_at = coalesce(started_at, excluded.started_at)
RETURNING id, level, started_at, ended_at`,

  record_delete: `INSERT INTO measurements (customer, meter, id, ended_at)
SELECT ?1, m.meter, ?3, coalesce(?4, unixepoch())
FROM measured_meters m
WHERE m.meter = ?2 AND m.upload_days IS NOT NULL
  AND coalesce(?4, unixepoch()) BETWEEN m.folded_until AND unixepoch() + 300
ON CONFLICT (customer, meter, id) DO UPDATE
SET ended_at = min(coalesce(ended_at, excluded.ended_at), excluded.ended_at)
RETURNING id, level, started_at, ended_at`,

  set_budget: `INSERT INTO overage_budgets (customer, meter, amount_minor, currency, set_by)
SELECT c.id, ?2, ?3, ?4, ?5 FROM customers c
WHERE c.id = ?1 AND ?4 = (SELECT p.currency FROM plans p WHERE p.name = c.plan ORDER BY p.effective_from DESC LIMIT 1)
  AND (?2 = '' OR EXISTS (SELECT 1 FROM plan_meters m WHERE m.plan = c.plan AND m.meter = ?2))
ON CONFLICT (customer, meter) DO UPDATE
SET amount_minor = excluded.amount_minor, currency = excluded.currency, set_by = excluded.set_by, set_at = unixepoch()
RETURNING customer, meter, amount_minor, currency`,

  record_subscription: `INSERT INTO subscriptions (id, customer, status, anchor_at, started_at, ended_at)
VALUES (?1, ?2, ?3, ?4, ?5, CASE ?3 WHEN 'canceled' THEN coalesce(?6, unixepoch()) ELSE ?6 END)
ON CONFLICT (id) DO UPDATE
SET customer = excluded.customer, status = excluded.status, anchor_at = excluded.anchor_at,
    started_at = excluded.started_at, updated_at = unixepoch(),
    ended_at = CASE ?3 WHEN 'canceled' THEN coalesce(?6, ended_at, unixepoch()) ELSE ?6 END
RETURNING id, customer, status`,

  set_status: `UPDATE customers SET status = ?2 WHERE id = ?1 RETURNING id, status`,

  report_stripe_error: `INSERT INTO stripe_error_reports (id, body) VALUES (?1, ?2)
ON CONFLICT (id) DO NOTHING
RETURNING id`,
} as const;

/** Why something is allowed or refused. */
export const REASONS = [
  "within_included",
  "within_budget",
  "included_used",
  "no_budget",
  "budget_spent",
  "meter_budget_spent",
  "past_due",
  "unpaid",
  "paused",
  "canceled",
  "not_in_plan",
  "unknown_plan",
  "data_too_old",
  "budget_in_other_currency"
] as const;
export type Reason = (typeof REASONS)[number];

/** Reasons of `mayUse` alone. */
export const UNDECIDED = [
  "not_decided",
  "new_period"
] as const;
export type Undecided = (typeof UNDECIDED)[number];

/** How old the data of a decision is. */
export const FRESHNESS = [
  "fresh",
  "live",
  "none",
  "stale"
] as const;
export type Freshness = (typeof FRESHNESS)[number];

/** States of a subscription. */
export const STATUSES = [
  "active",
  "trialing",
  "past_due",
  "unpaid",
  "paused",
  "canceled",
  "incomplete",
  "incomplete_expired"
] as const;
export type SubscriptionStatus = (typeof STATUSES)[number];
