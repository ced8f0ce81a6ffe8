//! Places where the contract can be read in two ways, and the reading taken here. A change of mind is made here, so
//! that the rest of the model need not be understood to make it.

/// §13 says `occurrenceIndex` 1 for a changed rule, and later that it counts the occurrences up to the scheduled
/// instant, 0 when a start lies before the first match. True: a new series version begins with 1 whatever its rule.
pub const VERSION_BEGINS_WITH_ONE: bool = true;

/// §6: base is `recurrenceId` «on successors, else its due»; a changed rule sets `recurrenceId` on a first task too.
/// True: wherever there is a `recurrenceId` it is the base.
pub const SCHEDULED_IS_ALWAYS_BASE: bool = true;

/// §13: «due cleared under an anchored rule: a completion then takes `completedAt` as base». True: not where there is a
/// `recurrenceId`.
pub const SCHEDULED_OUTLIVES_DUE: bool = true;

/// §13: a rule that does not fit its due (a DATE DTSTART with a time) is invalid, and invalid texts leave the series
/// fields alone. True: the task is anchored at its due all the same.
pub const MISFIT_IS_ANCHORED: bool = true;

/// §6: «one successor a task, ever». False: it is shown for ever. True: a task that was deleted and created again shows no successor that it had.
pub const DELETION_FORGETS_SUCCESSOR: bool = false;

/// §13: «`CREATED` again: `createdAt` of that event». True: also for a task that was not deleted in between.
pub const CREATED_AGAIN_WHILE_OPEN: bool = true;

/// §1.2: absent series fields are kept; §6: «rule removed: `seriesId` kept». True: the others go with the rule.
pub const REMOVED_RULE_TAKES_VERSION: bool = true;
