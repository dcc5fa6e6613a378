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
    use crate::budget::{OnLimit, Unit};

    /// Whose the request of an organization, role, workspace, session and task is.
    fn whose([organization, role, workspace, session, task]: [u128; 5]) -> Whose {
        Whose {
            organization_id: format!("org_{organization:032x}").parse().unwrap(),
            role_id: format!("agent_{role:032x}").parse().unwrap(),
            workspace_id: format!("ws_{workspace:032x}").parse().unwrap(),
            session_id: format!("session_{session:032x}").parse().unwrap(),
            task_id: (task > 0).then(|| format!("task_{task:032x}").parse().unwrap()),
        }
    }

    #[test]
    fn what_is_counted_together_is_what_the_counter_says_and_no_more() {
        let key = |per, whose: [u128; 5]| {
            let counter = Counter {
                name: "calls".to_owned(),
                unit: Unit::Requests,
                amount: None,
                per,
                window: None,
                limit: 1,
                warn_at: None,
                on_limit: OnLimit::Deny,
                applies_to: None,
            };
            counter.key(
                Origin::Role,
                "api".into(),
                "calls".into(),
                &self::whose(whose),
                Timestamp::UNIX_EPOCH,
            )
        };
        let ours = [1, 1, 1, 1, 1];
        // Of each: another task, session, workspace, role, organization, each with all that is below it.
        let others = [[1, 1, 1, 1, 2], [1, 1, 1, 2, 2], [1, 1, 2, 2, 2], [1, 2, 2, 2, 2], [2, 2, 2, 2, 2]];
        let pers = [Per::Task, Per::Session, Per::Workspace, Per::Role, Per::Organization];
        for (at, per) in pers.into_iter().enumerate() {
            let shared = others.map(|other| key(per, other) == key(per, ours));
            assert_eq!(shared, [0, 1, 2, 3, 4].map(|other| other < at), "{per:?}");
        }
        // Without a task it is the workspace's, and no task's.
        let none = key(Per::Task, [1, 1, 1, 1, 0]);
        assert!(none == key(Per::Workspace, ours) && none != key(Per::Task, ours));
    }

    #[test]
    fn a_window_is_written_as_it_can_be_read() {
        for (text, written) in
            [("1s", "1s"), ("90s", "90s"), ("60s", "1m"), ("24h", "1d"), ("25h", "25h"), ("30d", "30d")]
        {
            assert_eq!(Window::parse(text).unwrap().to_string(), written);
        }
    }
}
