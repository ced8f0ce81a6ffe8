-- Erasures cover events by their time. Of those before this, whatever was read before them went.

ALTER TABLE user_key ADD COLUMN erased_at int8 NOT NULL DEFAULT -62135596800000;
UPDATE user_key SET erased_at = 253402300799999 WHERE erased_to > 0;
COMMENT ON COLUMN user_key.erased_at IS 'Entries up to erased_to lost what events up to this time said; milliseconds';

-- Until the entries are rewritten everything in them is hidden; after that they say what is left.
CREATE OR REPLACE VIEW audit_entries AS
SELECT e.id,
    e.task_id,
    u.user_id,
    (ARRAY['CREATED', 'UPDATED', 'COMPLETED', 'DELETED', 'REMINDER_SNOOZED', 'REMINDER_DISMISSED', 'USER_UPDATED',
        'REMINDER_SENT', 'REMINDER_CANCELLED', 'REMINDER_EXPIRED', 'REMINDER_FAILED', 'NEXT_TASK_CREATED',
        'ACTION_FAILED', 'ERASED', 'TRUNCATED'])[e.action + 1] AS action,
    e.timestamp,
    audit_state(CASE
        WHEN e.applied OR e.same_state THEN (
            SELECT p.after_state FROM audit_entry p WHERE p.n = e.prev_applied
            UNION ALL
            SELECT c.state FROM audit_cut c
            WHERE c.of_user = (e.task_id IS NULL) AND c.no = e.chain_no AND c.state_n = e.prev_applied)
        ELSE e.after_state END, e.n <= u.erased_to AND u.old_key IS NOT NULL) AS before_state,
    audit_state(CASE
        WHEN e.same_state THEN (
            SELECT p.after_state FROM audit_entry p WHERE p.n = e.prev_applied
            UNION ALL
            SELECT c.state FROM audit_cut c
            WHERE c.of_user = (e.task_id IS NULL) AND c.no = e.chain_no AND c.state_n = e.prev_applied)
        ELSE e.after_state END, e.n <= u.erased_to AND u.old_key IS NOT NULL) AS after_state,
    audit_json(e.metadata) - '$kept' AS metadata,
    e.seq,
    e.recorded_at,
    e.stale,
    e.gap,
    audit_json(coalesce(e.warnings, '[]')) AS warnings
FROM audit_entry e
JOIN user_key u ON u.no = e.user_no
UNION ALL
SELECT c.id,
    c.task_id,
    u.user_id,
    'TRUNCATED',
    c.timestamp,
    audit_state(c.state, c.state_n <= s.erased_to),
    audit_state(c.state, c.state_n <= s.erased_to),
    audit_json(c.metadata),
    c.seq,
    c.removed_at,
    false,
    false,
    '[]'::jsonb
FROM audit_cut c
JOIN user_key u ON u.no = c.user_no
JOIN user_key s ON s.no = c.state_user;
