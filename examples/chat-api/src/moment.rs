//! An instant as this API writes it: UTC, to the millisecond.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An instant in UTC, cut to the millisecond, so that reading what was written gives the same value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(DateTime<Utc>);

impl Moment {
    /// Reads the machine's clock.
    pub fn now() -> Moment {
        Moment(Utc::now().trunc_subsecs(3))
    }

    /// Returns the instant that lies `delta` later, or earlier when `delta` is negative.
    pub fn plus(self, delta: TimeDelta) -> Moment {
        Moment((self.0 + delta).trunc_subsecs(3))
    }

    /// Returns the instant as chrono's type.
    pub fn utc(self) -> DateTime<Utc> {
        self.0
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl FromStr for Moment {
    type Err = chrono::ParseError;

    fn from_str(text: &str) -> Result<Moment, chrono::ParseError> {
        let at = DateTime::parse_from_rfc3339(text)?;
        Ok(Moment(at.with_timezone(&Utc).trunc_subsecs(3)))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Moment, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
