-- SPDX-License-Identifier: Apache-2.0
-- A city asks its province how far it is stored before it goes on, by saying once more what it said
-- first: so a database that went back, here or there, is noticed, and everything is told again.

ALTER TABLE province
    ADD COLUMN first_message bytea;     -- of the stream; null: nothing was said yet
COMMENT ON COLUMN province.epoch IS
    'the course of our own database when the stream began: what it is, and its timeline';
