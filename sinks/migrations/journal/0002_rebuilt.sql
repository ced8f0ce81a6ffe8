-- Whether the rebuild that an empty journal begins with has ended: the log was read to where it ended at a start.
ALTER TABLE state ADD COLUMN rebuilt INTEGER NOT NULL DEFAULT 0;
UPDATE state SET rebuilt = n > 0;
