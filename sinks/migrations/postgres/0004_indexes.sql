-- From here on a partition has indexes of its own, and those of one that is filled from a backlog are made when it is
-- full: in bulk, for a third of what they cost entry by entry. What partitions lack is made anew beside the commits.

DROP INDEX audit_entry_id;
DROP INDEX audit_entry_task;
DROP INDEX audit_entry_user;
DROP INDEX audit_entry_time;
DROP INDEX audit_entry_user_chain;
