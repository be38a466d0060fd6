-- Decisions count what was measured beside what was billed, and keep the two parts apart.
--
-- `used_measured` is what measurements add beyond the bill on days that no bill has settled;
-- `used_billed` is the rest of `used`, so what `used` would be by the bill alone (for TURN the live
-- count). Decisions of before rest on the bill.
ALTER TABLE entitlements ADD COLUMN used_measured INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entitlements ADD COLUMN used_billed INTEGER NOT NULL AS (used - used_measured);

ALTER TABLE entitlement_changes ADD COLUMN used_measured INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entitlement_changes ADD COLUMN used_billed INTEGER NOT NULL AS (used - used_measured);
