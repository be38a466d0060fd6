-- Amounts of money are counted in Stripe's minor units, which differ from ISO 4217's in three
-- currencies (`books/units/money.rs`): hundredths for ISK and UGX, whole units for MGA. Budgets
-- were counted in ISO's; what a customer is willing to pay stays the same.
UPDATE overage_budgets SET amount_minor = min(amount_minor * 100, 100000000000), set_by = 'meter', set_at = unixepoch()
WHERE currency IN ('ISK', 'UGX');

UPDATE overage_budgets SET amount_minor = amount_minor / 100, set_by = 'meter', set_at = unixepoch() WHERE currency = 'MGA';

-- Nobody can be charged a fraction of these two. An amount that was written in whole units by
-- mistake is likely to be refused here, and not to become a hundredth of what was meant.
CREATE TRIGGER overage_budgets_are_whole BEFORE INSERT ON overage_budgets
WHEN NEW.currency IN ('ISK', 'UGX') AND NEW.amount_minor % 100 <> 0
BEGIN
    SELECT RAISE(ABORT, 'overage_budgets.amount_minor: of ISK and UGX only whole amounts can be charged; write the amount times 100');
END;

CREATE TRIGGER changed_overage_budgets_are_whole BEFORE UPDATE OF amount_minor, currency ON overage_budgets
WHEN NEW.currency IN ('ISK', 'UGX') AND NEW.amount_minor % 100 <> 0
BEGIN
    SELECT RAISE(ABORT, 'overage_budgets.amount_minor: of ISK and UGX only whole amounts can be charged; write the amount times 100');
END;
