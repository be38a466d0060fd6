-- What machines hand in is checked where it arrives, so that a wrong text is refused when it is
-- written, and does not become usage that is billed nowhere.
--
-- The web backend and `sync_stripe` write these columns. Ids of Stripe are visible ASCII characters
-- without blanks. Other ids and names have no control character and no blank at the ends. The rules
-- are those of `books/units/form.rs`. They are triggers because SQLite adds no CHECK to a column
-- that is there. A row from before is checked when the column changes.

-- Backends that had no id wrote an empty text.
UPDATE customers SET stripe_customer_id = NULL WHERE trim(stripe_customer_id) = '';

UPDATE customers SET stripe_subscription_id = NULL WHERE trim(stripe_subscription_id) = '';

CREATE TRIGGER customers_have_a_form BEFORE INSERT ON customers
BEGIN
    SELECT RAISE(ABORT, 'customers.id: 1 to 256 characters, none of them a control character, no blank at the ends; it is the value of the cost allocation tag')
    WHERE (length(NEW.id) NOT BETWEEN 1 AND 256 OR trim(NEW.id, ' ' || char(160)) <> NEW.id OR instr(CAST(NEW.id AS BLOB), x'00') > 0
           OR NEW.id GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*');
    SELECT RAISE(ABORT, 'customers.stripe_customer_id: 1 to 255 visible ASCII characters, as Stripe writes it (cus_...); write NULL as long as there is none')
    WHERE NEW.stripe_customer_id IS NOT NULL AND (length(NEW.stripe_customer_id) NOT BETWEEN 1 AND 255 OR length(NEW.stripe_customer_id) <> length(CAST(NEW.stripe_customer_id AS BLOB)) OR NEW.stripe_customer_id GLOB '*[^!-~]*');
    SELECT RAISE(ABORT, 'customers.stripe_subscription_id: 1 to 255 visible ASCII characters, as Stripe writes it (sub_...); write NULL as long as there is none')
    WHERE NEW.stripe_subscription_id IS NOT NULL AND (length(NEW.stripe_subscription_id) NOT BETWEEN 1 AND 255 OR length(NEW.stripe_subscription_id) <> length(CAST(NEW.stripe_subscription_id AS BLOB)) OR NEW.stripe_subscription_id GLOB '*[^!-~]*');
    SELECT RAISE(ABORT, 'customers.plan: 1 to 64 characters, none of them a control character, no blank at the ends; write the name of a row in plans')
    WHERE (length(NEW.plan) NOT BETWEEN 1 AND 64 OR trim(NEW.plan, ' ' || char(160)) <> NEW.plan OR instr(CAST(NEW.plan AS BLOB), x'00') > 0
           OR NEW.plan GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*');
    SELECT RAISE(ABORT, 'customers.status: write active, past_due or canceled')
    WHERE NEW.status NOT IN ('active', 'past_due', 'canceled');
END;

CREATE TRIGGER changed_customers_have_a_form BEFORE UPDATE OF id, stripe_customer_id, stripe_subscription_id, plan, status ON customers
BEGIN
    SELECT RAISE(ABORT, 'customers.id: 1 to 256 characters, none of them a control character, no blank at the ends; it is the value of the cost allocation tag')
    WHERE NEW.id IS NOT OLD.id AND (length(NEW.id) NOT BETWEEN 1 AND 256 OR trim(NEW.id, ' ' || char(160)) <> NEW.id OR instr(CAST(NEW.id AS BLOB), x'00') > 0
           OR NEW.id GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*');
    SELECT RAISE(ABORT, 'customers.stripe_customer_id: 1 to 255 visible ASCII characters, as Stripe writes it (cus_...); write NULL as long as there is none')
    WHERE NEW.stripe_customer_id IS NOT OLD.stripe_customer_id AND NEW.stripe_customer_id IS NOT NULL AND (length(NEW.stripe_customer_id) NOT BETWEEN 1 AND 255 OR length(NEW.stripe_customer_id) <> length(CAST(NEW.stripe_customer_id AS BLOB)) OR NEW.stripe_customer_id GLOB '*[^!-~]*');
    SELECT RAISE(ABORT, 'customers.stripe_subscription_id: 1 to 255 visible ASCII characters, as Stripe writes it (sub_...); write NULL as long as there is none')
    WHERE NEW.stripe_subscription_id IS NOT OLD.stripe_subscription_id AND NEW.stripe_subscription_id IS NOT NULL AND (length(NEW.stripe_subscription_id) NOT BETWEEN 1 AND 255 OR length(NEW.stripe_subscription_id) <> length(CAST(NEW.stripe_subscription_id AS BLOB)) OR NEW.stripe_subscription_id GLOB '*[^!-~]*');
    SELECT RAISE(ABORT, 'customers.plan: 1 to 64 characters, none of them a control character, no blank at the ends; write the name of a row in plans')
    WHERE NEW.plan IS NOT OLD.plan AND (length(NEW.plan) NOT BETWEEN 1 AND 64 OR trim(NEW.plan, ' ' || char(160)) <> NEW.plan OR instr(CAST(NEW.plan AS BLOB), x'00') > 0
           OR NEW.plan GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*');
    SELECT RAISE(ABORT, 'customers.status: write active, past_due or canceled')
    WHERE NEW.status IS NOT OLD.status AND NEW.status NOT IN ('active', 'past_due', 'canceled');
END;

CREATE TRIGGER subscriptions_have_a_form BEFORE INSERT ON subscriptions
BEGIN
    SELECT RAISE(ABORT, 'subscriptions.id: 1 to 255 visible ASCII characters, as Stripe writes it (sub_...)')
    WHERE (length(NEW.id) NOT BETWEEN 1 AND 255 OR length(NEW.id) <> length(CAST(NEW.id AS BLOB)) OR NEW.id GLOB '*[^!-~]*');
    SELECT RAISE(ABORT, 'subscriptions.customer: 1 to 256 characters, none of them a control character, no blank at the ends; write the id of a row in customers')
    WHERE (length(NEW.customer) NOT BETWEEN 1 AND 256 OR trim(NEW.customer, ' ' || char(160)) <> NEW.customer OR instr(CAST(NEW.customer AS BLOB), x'00') > 0
           OR NEW.customer GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*');
    SELECT RAISE(ABORT, 'subscriptions.status: write the status that Stripe has: trialing, active, past_due, unpaid, canceled, incomplete, incomplete_expired or paused')
    WHERE NEW.status NOT IN ('trialing', 'active', 'past_due', 'unpaid', 'canceled', 'incomplete', 'incomplete_expired', 'paused');
END;

CREATE TRIGGER changed_subscriptions_have_a_form BEFORE UPDATE OF id, customer, status ON subscriptions
BEGIN
    SELECT RAISE(ABORT, 'subscriptions.id: 1 to 255 visible ASCII characters, as Stripe writes it (sub_...)')
    WHERE NEW.id IS NOT OLD.id AND (length(NEW.id) NOT BETWEEN 1 AND 255 OR length(NEW.id) <> length(CAST(NEW.id AS BLOB)) OR NEW.id GLOB '*[^!-~]*');
    SELECT RAISE(ABORT, 'subscriptions.customer: 1 to 256 characters, none of them a control character, no blank at the ends; write the id of a row in customers')
    WHERE NEW.customer IS NOT OLD.customer AND (length(NEW.customer) NOT BETWEEN 1 AND 256 OR trim(NEW.customer, ' ' || char(160)) <> NEW.customer OR instr(CAST(NEW.customer AS BLOB), x'00') > 0
           OR NEW.customer GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*');
    SELECT RAISE(ABORT, 'subscriptions.status: write the status that Stripe has: trialing, active, past_due, unpaid, canceled, incomplete, incomplete_expired or paused')
    WHERE NEW.status IS NOT OLD.status AND NEW.status NOT IN ('trialing', 'active', 'past_due', 'unpaid', 'canceled', 'incomplete', 'incomplete_expired', 'paused');
END;

CREATE TRIGGER subscription_items_have_a_form BEFORE INSERT ON subscription_items
BEGIN
    SELECT RAISE(ABORT, 'subscription_items.id: 1 to 255 visible ASCII characters, as Stripe writes it (si_...)')
    WHERE (length(NEW.id) NOT BETWEEN 1 AND 255 OR length(NEW.id) <> length(CAST(NEW.id AS BLOB)) OR NEW.id GLOB '*[^!-~]*');
    SELECT RAISE(ABORT, 'subscription_items.subscription: 1 to 255 visible ASCII characters, as Stripe writes it (sub_...)')
    WHERE (length(NEW.subscription) NOT BETWEEN 1 AND 255 OR length(NEW.subscription) <> length(CAST(NEW.subscription AS BLOB)) OR NEW.subscription GLOB '*[^!-~]*');
    SELECT RAISE(ABORT, 'subscription_items.customer: 1 to 256 characters, none of them a control character, no blank at the ends; write the id of a row in customers')
    WHERE (length(NEW.customer) NOT BETWEEN 1 AND 256 OR trim(NEW.customer, ' ' || char(160)) <> NEW.customer OR instr(CAST(NEW.customer AS BLOB), x'00') > 0
           OR NEW.customer GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*');
    SELECT RAISE(ABORT, 'subscription_items.stripe_meter: 1 to 255 visible ASCII characters, as Stripe writes it (mtr_...)')
    WHERE (length(NEW.stripe_meter) NOT BETWEEN 1 AND 255 OR length(NEW.stripe_meter) <> length(CAST(NEW.stripe_meter AS BLOB)) OR NEW.stripe_meter GLOB '*[^!-~]*');
    SELECT RAISE(ABORT, 'subscription_items.price: 1 to 255 visible ASCII characters, as Stripe writes it (price_...)')
    WHERE (length(NEW.price) NOT BETWEEN 1 AND 255 OR length(NEW.price) <> length(CAST(NEW.price AS BLOB)) OR NEW.price GLOB '*[^!-~]*');
END;

CREATE TRIGGER changed_subscription_items_have_a_form BEFORE UPDATE OF id, subscription, customer, stripe_meter, price ON subscription_items
BEGIN
    SELECT RAISE(ABORT, 'subscription_items.id: 1 to 255 visible ASCII characters, as Stripe writes it (si_...)')
    WHERE NEW.id IS NOT OLD.id AND (length(NEW.id) NOT BETWEEN 1 AND 255 OR length(NEW.id) <> length(CAST(NEW.id AS BLOB)) OR NEW.id GLOB '*[^!-~]*');
    SELECT RAISE(ABORT, 'subscription_items.subscription: 1 to 255 visible ASCII characters, as Stripe writes it (sub_...)')
    WHERE NEW.subscription IS NOT OLD.subscription AND (length(NEW.subscription) NOT BETWEEN 1 AND 255 OR length(NEW.subscription) <> length(CAST(NEW.subscription AS BLOB)) OR NEW.subscription GLOB '*[^!-~]*');
    SELECT RAISE(ABORT, 'subscription_items.customer: 1 to 256 characters, none of them a control character, no blank at the ends; write the id of a row in customers')
    WHERE NEW.customer IS NOT OLD.customer AND (length(NEW.customer) NOT BETWEEN 1 AND 256 OR trim(NEW.customer, ' ' || char(160)) <> NEW.customer OR instr(CAST(NEW.customer AS BLOB), x'00') > 0
           OR NEW.customer GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*');
    SELECT RAISE(ABORT, 'subscription_items.stripe_meter: 1 to 255 visible ASCII characters, as Stripe writes it (mtr_...)')
    WHERE NEW.stripe_meter IS NOT OLD.stripe_meter AND (length(NEW.stripe_meter) NOT BETWEEN 1 AND 255 OR length(NEW.stripe_meter) <> length(CAST(NEW.stripe_meter AS BLOB)) OR NEW.stripe_meter GLOB '*[^!-~]*');
    SELECT RAISE(ABORT, 'subscription_items.price: 1 to 255 visible ASCII characters, as Stripe writes it (price_...)')
    WHERE NEW.price IS NOT OLD.price AND (length(NEW.price) NOT BETWEEN 1 AND 255 OR length(NEW.price) <> length(CAST(NEW.price AS BLOB)) OR NEW.price GLOB '*[^!-~]*');
END;

CREATE TRIGGER stripe_error_reports_have_a_form BEFORE INSERT ON stripe_error_reports
BEGIN
    SELECT RAISE(ABORT, 'stripe_error_reports.id: 1 to 255 visible ASCII characters, the id of the event at Stripe (evt_...)')
    WHERE (length(NEW.id) NOT BETWEEN 1 AND 255 OR length(NEW.id) <> length(CAST(NEW.id AS BLOB)) OR NEW.id GLOB '*[^!-~]*');
END;

CREATE TRIGGER changed_stripe_error_reports_have_a_form BEFORE UPDATE OF id ON stripe_error_reports
BEGIN
    SELECT RAISE(ABORT, 'stripe_error_reports.id: 1 to 255 visible ASCII characters, the id of the event at Stripe (evt_...)')
    WHERE NEW.id IS NOT OLD.id AND (length(NEW.id) NOT BETWEEN 1 AND 255 OR length(NEW.id) <> length(CAST(NEW.id AS BLOB)) OR NEW.id GLOB '*[^!-~]*');
END;

CREATE TRIGGER overage_budgets_have_a_form BEFORE INSERT ON overage_budgets
BEGIN
    SELECT RAISE(ABORT, 'overage_budgets.customer: 1 to 256 characters, none of them a control character, no blank at the ends; write the id of a row in customers')
    WHERE (length(NEW.customer) NOT BETWEEN 1 AND 256 OR trim(NEW.customer, ' ' || char(160)) <> NEW.customer OR instr(CAST(NEW.customer AS BLOB), x'00') > 0
           OR NEW.customer GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*');
    SELECT RAISE(ABORT, 'overage_budgets.meter: no control character, no blank at the ends; write the name of a meter, or an empty text for all together')
    WHERE (length(NEW.meter) NOT BETWEEN 0 AND 255 OR trim(NEW.meter, ' ' || char(160)) <> NEW.meter OR instr(CAST(NEW.meter AS BLOB), x'00') > 0
           OR NEW.meter GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*');
    SELECT RAISE(ABORT, 'overage_budgets.set_by: 1 to 255 characters, none of them a control character, no blank at the ends; write who sets the budget')
    WHERE (length(NEW.set_by) NOT BETWEEN 1 AND 255 OR trim(NEW.set_by, ' ' || char(160)) <> NEW.set_by OR instr(CAST(NEW.set_by AS BLOB), x'00') > 0
           OR NEW.set_by GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*');
END;

CREATE TRIGGER changed_overage_budgets_have_a_form BEFORE UPDATE OF customer, meter, set_by ON overage_budgets
BEGIN
    SELECT RAISE(ABORT, 'overage_budgets.customer: 1 to 256 characters, none of them a control character, no blank at the ends; write the id of a row in customers')
    WHERE NEW.customer IS NOT OLD.customer AND (length(NEW.customer) NOT BETWEEN 1 AND 256 OR trim(NEW.customer, ' ' || char(160)) <> NEW.customer OR instr(CAST(NEW.customer AS BLOB), x'00') > 0
           OR NEW.customer GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*');
    SELECT RAISE(ABORT, 'overage_budgets.meter: no control character, no blank at the ends; write the name of a meter, or an empty text for all together')
    WHERE NEW.meter IS NOT OLD.meter AND (length(NEW.meter) NOT BETWEEN 0 AND 255 OR trim(NEW.meter, ' ' || char(160)) <> NEW.meter OR instr(CAST(NEW.meter AS BLOB), x'00') > 0
           OR NEW.meter GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*');
    SELECT RAISE(ABORT, 'overage_budgets.set_by: 1 to 255 characters, none of them a control character, no blank at the ends; write who sets the budget')
    WHERE NEW.set_by IS NOT OLD.set_by AND (length(NEW.set_by) NOT BETWEEN 1 AND 255 OR trim(NEW.set_by, ' ' || char(160)) <> NEW.set_by OR instr(CAST(NEW.set_by AS BLOB), x'00') > 0
           OR NEW.set_by GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*');
END;
