-- Booked usage: the sum of the ledger entries for each bill, customer, meter and day. A trigger
-- maintains it, so it equals the ledger in every transaction, whatever program writes the entry.
CREATE TABLE usage_days (
    payer    TEXT    NOT NULL,
    month    TEXT    NOT NULL,
    customer TEXT    NOT NULL,
    meter    TEXT    NOT NULL,
    day      TEXT    NOT NULL,
    quantity INTEGER NOT NULL CHECK (quantity BETWEEN -9000000000000000000 AND 9000000000000000000),
    PRIMARY KEY (payer, month, customer, meter, day)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_days_by_customer ON usage_days (customer, meter, day, quantity);

CREATE TRIGGER ledger_entries_make_usage_days AFTER INSERT ON ledger_entries
BEGIN
    INSERT INTO usage_days (payer, month, customer, meter, day, quantity)
    VALUES (NEW.payer, NEW.month, NEW.customer, NEW.meter, NEW.day, NEW.quantity)
    ON CONFLICT (payer, month, customer, meter, day) DO UPDATE SET quantity = quantity + excluded.quantity;
END;
