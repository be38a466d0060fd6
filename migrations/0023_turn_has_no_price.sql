-- TURN credentials are never billed, so a price of theirs counts as none: no budget opens more than
-- the plan includes. `meter plan apply` refuses such a price; plans from before may have one. The
-- trigger is that of migration 0009 without the price.
DROP TRIGGER customers_have_periods;

CREATE TRIGGER customers_have_periods AFTER INSERT ON customers
BEGIN
    INSERT INTO billing_periods (customer, starts_at, ends_at, first_day, last_day, opened_at)
    SELECT NEW.id, unixepoch('now', 'start of month', n.value || ' months'), unixepoch('now', 'start of month', (n.value + 1) || ' months'),
           date('now', 'start of month', n.value || ' months'), date('now', 'start of month', (n.value + 1) || ' months', '-1 day'), unixepoch()
    FROM json_each('[0,1,2]') n
    WHERE NOT EXISTS (SELECT 1 FROM billing_periods WHERE customer = NEW.id AND closed_at IS NULL);
    INSERT INTO turn_periods (customer, starts_at, ends_at, used, allowed_until, reason)
    SELECT NEW.id, unixepoch('now', 'start of month', n.value || ' months'), unixepoch('now', 'start of month', (n.value + 1) || ' months'),
           iif(n.value = 0, NEW.turn_allocations_used, 0), 0, 'unknown_plan'
    FROM json_each('[0,1,2]') n
    WHERE NOT EXISTS (SELECT 1 FROM turn_periods WHERE customer = NEW.id AND closed_at IS NULL);
    UPDATE turn_periods
    SET reason = CASE
            WHEN NEW.status = 'canceled'
              OR (EXISTS (SELECT 1 FROM subscriptions WHERE customer = NEW.id AND status NOT IN ('incomplete', 'incomplete_expired'))
                  AND NOT EXISTS (SELECT 1 FROM subscriptions WHERE customer = NEW.id AND status IN ('active', 'trialing', 'past_due')
                                  AND (ended_at IS NULL OR ended_at > unixepoch()))) THEN 'canceled'
            WHEN NOT EXISTS (SELECT 1 FROM plans WHERE name = NEW.plan) THEN 'unknown_plan'
            ELSE coalesce((SELECT 'included_used' FROM plan_meters
                           WHERE plan = NEW.plan AND meter = 'turn_allocations' AND effective_from = coalesce(
                              (SELECT max(effective_from) FROM plans WHERE name = NEW.plan AND effective_from <= starts_at),
                              (SELECT min(effective_from) FROM plans WHERE name = NEW.plan))), 'not_in_plan') END
    WHERE customer = NEW.id AND closed_at IS NULL;
    UPDATE turn_periods
    SET allowed_until = (SELECT included / 10000000000 FROM plan_meters
                         WHERE plan = NEW.plan AND meter = 'turn_allocations' AND effective_from = coalesce(
                            (SELECT max(effective_from) FROM plans WHERE name = NEW.plan AND effective_from <= starts_at),
                            (SELECT min(effective_from) FROM plans WHERE name = NEW.plan)))
    WHERE customer = NEW.id AND closed_at IS NULL AND reason = 'included_used';
    UPDATE customers SET turn_allocations_used = coalesce((SELECT used FROM turn_periods WHERE customer = NEW.id AND closed_at IS NULL
                                                          ORDER BY starts_at LIMIT 1), 0)
    WHERE id = NEW.id;
END;
