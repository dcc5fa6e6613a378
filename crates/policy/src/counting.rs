//! In which count a counter counts a request.

use std::{fmt, sync::Arc};

use freehold_model::{
    Timestamp,
    budget::{CounterKey, Subject, Whose, window_start},
};

use crate::{
    budget::{Counter, Per, Window},
    decide::Origin,
};

impl Counter {
    /// The count of a request at this time: `name` is the counter's own, `origin` the document that it stands in.
    pub fn key(
        &self,
        origin: Origin,
        capability: Arc<str>,
        name: Arc<str>,
        whose: &Whose,
        now: Timestamp,
    ) -> CounterKey {
        let workspace = Subject::Workspace(whose.workspace_id);
        let subject = match self.per {
            // Traffic outside tasks is the workspace's.
            Per::Task => whose.task_id.map_or(workspace, Subject::Task),
            Per::Session => Subject::Session(whose.session_id),
            Per::Workspace => workspace,
            Per::Role => Subject::Role(whose.role_id),
            Per::Organization => Subject::Organization(whose.organization_id),
        };
        let is_own = !matches!(subject, Subject::Role(_) | Subject::Organization(_));
        let window_seconds = self.window.map_or(0, |window| window.seconds());
        CounterKey {
            organization_id: whose.organization_id,
            origin: origin.as_str(),
            capability,
            counter: name,
            unit: self.unit.as_str(),
            subject,
            workspace_id: is_own.then_some(whose.workspace_id),
            window_seconds,
            window_start: window_start(window_seconds, now),
        }
    }
}

impl fmt::Display for Window {
    /// In the greatest unit that it is a whole number of.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.seconds();
        let units = [("d", 86_400), ("h", 3_600), ("m", 60)];
        let (unit, length) =
            units.into_iter().find(|(_, length)| seconds.is_multiple_of(*length)).unwrap_or(("s", 1));
        write!(f, "{}{unit}", seconds / length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_written_as_it_can_be_read() {
        for (text, written) in
            [("1s", "1s"), ("90s", "90s"), ("60s", "1m"), ("24h", "1d"), ("25h", "25h"), ("30d", "30d")]
        {
            assert_eq!(Window::parse(text).unwrap().to_string(), written);
        }
    }
}
