//! From when to when a zone keeps an offset.
//!
//! The zone data answers for one instant at a time, and does not tell how long its answer holds. So the changes of a
//! zone are looked for once, when a rule first asks, and kept.

use std::sync::OnceLock;

use chrono::{Offset, TimeZone};
use chrono_tz::{TZ_VARIANTS, Tz};
use topics::time::Timestamp;

use super::calendar::DAY_MS;
use super::days::LAST_DAY;

/// Before 1830 no clock of the zone data changes.
const FIRST_CHANGE_MS: i64 = -51_135 * DAY_MS;
/// Beyond it nothing recurs in any zone.
const END_MS: i64 = (LAST_DAY + 3) * DAY_MS;
/// Changes are looked for at this distance. The shortest that was taken back lasted a week (Recife in 2000, and Gaza in
/// years to come, when Ramadan ends in October).
const PROBE_MS: i64 = 5 * DAY_MS;

/// The offset of `zone` at an instant, in milliseconds.
pub(super) fn offset_ms(zone: Tz, at: i64) -> i64 {
    let utc = Timestamp::from_millis(at).to_utc().naive_utc();
    i64::from(zone.offset_from_utc_datetime(&utc).fix().local_minus_utc()) * 1000
}

/// An offset, up to where it ends and since the span before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub until: i64,
    pub offset: i64,
}

/// The spans of a zone up to the end of what recurs, in order.
pub(super) fn spans(zone: Tz) -> &'static [Span] {
    static KNOWN: [OnceLock<Vec<Span>>; TZ_VARIANTS.len()] = [const { OnceLock::new() }; TZ_VARIANTS.len()];
    KNOWN[zone as usize].get_or_init(|| find_spans(zone))
}

fn find_spans(zone: Tz) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut at = FIRST_CHANGE_MS;
    let mut offset = offset_ms(zone, at);
    while at < END_MS {
        let probe = at + PROBE_MS;
        if offset_ms(zone, probe) == offset {
            at = probe;
            continue;
        }
        // Clocks change at whole seconds.
        let (mut same, mut other) = (at.div_euclid(1000), probe.div_euclid(1000));
        while other - same > 1 {
            let middle = same + (other - same) / 2;
            if offset_ms(zone, middle * 1000) == offset { same = middle } else { other = middle }
        }
        at = other * 1000;
        spans.push(Span { until: at, offset });
        offset = offset_ms(zone, at);
    }
    spans.push(Span { until: at, offset });
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset_of(spans: &[Span], at: i64) -> i64 {
        spans[spans.partition_point(|span| span.until <= at).min(spans.len() - 1)].offset
    }

    #[test]
    fn no_clock_changes_before_the_first_probe() {
        for zone in TZ_VARIANTS {
            let first = offset_ms(zone, FIRST_CHANGE_MS);
            for day in [-719_162, -354_285, -171_000, -100_000, -69_000, -62_091, -58_000, -54_000, -52_000, -51_500] {
                assert_eq!(offset_ms(zone, day * DAY_MS), first, "{zone} at day {day}");
            }
        }
    }

    #[test]
    fn spans_say_what_the_zone_data_says() {
        for zone in [
            Tz::UTC,
            Tz::Europe__Berlin,
            Tz::Europe__Dublin,
            Tz::America__Recife,
            Tz::America__Havana,
            Tz::Asia__Gaza,
            Tz::Asia__Manila,
            Tz::Africa__Casablanca,
            Tz::Australia__Lord_Howe,
            Tz::Pacific__Apia,
        ] {
            let spans = spans(zone);
            assert!(spans.is_sorted_by(|a, b| a.until < b.until && a.offset != b.offset), "{zone}");
            for span in &spans[..spans.len() - 1] {
                for at in [span.until - 1, span.until] {
                    assert_eq!(offset_of(spans, at), offset_ms(zone, at), "{zone} at {at}");
                }
            }
            let every = 37 * 3_600_000;
            for at in (FIRST_CHANGE_MS..END_MS).step_by(every as usize) {
                assert_eq!(offset_of(spans, at), offset_ms(zone, at), "{zone} at {at}");
            }
        }
    }
}
