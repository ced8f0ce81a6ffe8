//! What a user has chosen for all tasks: the zone, the usual reminders, where to be told.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::field::{self, FieldProblem};

/// The settings of one user; `None` leaves the choice to the reader of the events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Settings {
    pub timezone: Option<String>,
    pub reminder_offsets: Option<Vec<Value>>,
    pub channels: Option<Vec<String>>,
    pub email: Option<String>,
}

impl Settings {
    /// Reads the body of `PUT /api/users/{id}`, or says everything that is wrong with it.
    pub fn read(body: &Map<String, Value>) -> Result<Settings, Vec<FieldProblem>> {
        let mut settings = Settings::default();
        let problems = field::each_field(body, |name, value| {
            match name {
                "timezone" => settings.timezone = field::optional(value, field::zone)?,
                "reminderOffsets" => {
                    settings.reminder_offsets = field::optional(value, field::reminder_offsets)?;
                }
                "channels" => settings.channels = field::optional(value, field::channels)?,
                "email" => settings.email = field::optional(value, field::email)?,
                _ => return Err("is not a setting".to_owned()),
            }
            Ok(())
        });
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }
}
