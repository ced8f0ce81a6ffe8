ALTER TABLE state ADD COLUMN rebuilt bool NOT NULL DEFAULT false;
UPDATE state SET rebuilt = n > 0;
COMMENT ON COLUMN state.rebuilt IS 'Whether the rebuild that an empty database begins with has ended: the log was read to where it ended at a start';
