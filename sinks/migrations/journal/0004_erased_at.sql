-- Erasures cover events by their time, milliseconds. Of those before this, whatever was read before them went.
ALTER TABLE user_key ADD COLUMN erased_at INTEGER NOT NULL DEFAULT -62135596800000;
UPDATE user_key SET erased_at = 253402300799999 WHERE erased_to > 0;
