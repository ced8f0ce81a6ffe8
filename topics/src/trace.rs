//! W3C Trace Context: the `traceparent` that comes with an event, and those that are made of it.
//!
//! Span ids are derived, not drawn: what is sent on after a restart names the same spans, and two processes agree on
//! them without asking each other.

use std::fmt;

use uuid::Uuid;

use crate::action::Action;
use crate::ids::NAMESPACE;

/// A place in a trace: a span and the trace that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// Trace id, not 0.
    pub trace: u128,
    /// Span id, not 0.
    pub span: u64,
    /// Whether the one who began it records the trace.
    pub sampled: bool,
}

impl TraceParent {
    /// Reads version 00, or a later version of its form; `None` for anything else (W3C Trace Context, 3.2.2).
    ///
    /// ```
    /// use topics::trace::TraceParent;
    /// let read = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
    /// assert_eq!((read.span, read.sampled), (0x00f0_67aa_0ba9_02b7, true));
    /// assert_eq!(TraceParent::parse("00-00000000000000000000000000000000-00f067aa0ba902b7-01"), None);
    /// ```
    pub fn parse(text: &str) -> Option<TraceParent> {
        let mut parts = text.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next()?;
            let lower = part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
            (part.len() == digits && lower).then_some(part)
        };
        let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        Some(TraceParent { trace, span, sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1 })
    }

    /// The span of this trace in which `what` is done, below this one.
    pub fn child(self, what: &[u8]) -> TraceParent {
        let name = [&self.trace.to_be_bytes()[..], &self.span.to_be_bytes()[..], what].concat();
        TraceParent { span: span_of(&name), ..self }
    }

    /// The trace id as it is written.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }

    /// The span in which the event that came with this is processed.
    pub fn processing(self) -> TraceParent {
        self.child(b"process")
    }
}

fn span_of(name: &[u8]) -> u64 {
    Uuid::new_v5(&NAMESPACE, name).as_u64_pair().0 | 1
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// The span of an action's delivery, and the one above it: `None` where the clock decided it, which begins a trace.
pub fn of_delivery(action: &Action) -> (TraceParent, Option<TraceParent>) {
    match action.traceparent.as_deref().and_then(TraceParent::parse) {
        Some(cause) => {
            let above = cause.processing();
            (above.child(action.id.as_bytes()), Some(above))
        }
        None => {
            let root = TraceParent { trace: action.id.as_u128(), span: span_of(action.id.as_bytes()), sampled: true };
            (root, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, read: Option<&str>) {
        assert_eq!(TraceParent::parse(text).map(|parent| parent.to_string()).as_deref(), read, "{text}");
    }

    #[test]
    fn reads_what_the_recommendation_allows() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        check(good, Some(good));
        check(&good.replace("-01", "-00"), Some(&good.replace("-01", "-00")));
        check(&format!("cc{}-later", &good[2..]), Some(good));
        for bad in [
            "",
            "00",
            &format!("{good}-more"),
            &good.replace("00-", "ff-"),
            &good.replace("b7ad6b7169203331", "0000000000000000"),
            &good.replace("0af7", "0AF7"),
            &good[..54],
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn children_stay_in_the_trace_and_are_always_the_same() {
        let parent = TraceParent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
        let child = parent.child(b"a");
        assert_eq!((child.trace, child.sampled), (parent.trace, true));
        assert_eq!(child, parent.child(b"a"));
        assert!(child.span != parent.span && child != parent.child(b"b") && child != child.child(b"a"));
    }
}
