//! A service's first half hour: what culprit finds then was there before, and nobody shipped it just now.
//! A few of it are told like everything else, so that who has just set culprit up sees that it works. The
//! rest wakes nobody: it stands on the pages.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::grouping::{Due, Room};

/// So many incidents of a service's first half hour are told one by one.
const TOLD_MAX: usize = 3;

/// A channel and a group in words.
pub type Group = (String, String);

/// Splits `due` into what may be told now, and what the channel is never to be told. Where messages can be grouped
/// nothing is lost: what comes after the first ones waits for the end of the half hour, and is one message then.
/// `told`: how many of them the channel was told in earlier looks.
pub fn sift(
    due: Vec<Due>,
    told: &BTreeMap<Group, usize>,
    rooms: &BTreeMap<String, Room>,
    now_ms: i64,
) -> (Vec<Due>, Vec<Due>) {
    let (mut first, mut now): (Vec<Due>, Vec<Due>) =
        due.into_iter().partition(|it| it.first_until_ms.is_some());
    first.sort_by_key(|it| (Reverse(it.severity), it.since_ms));
    let mut counts = told.clone();
    let mut never = Vec::new();
    for it in first {
        let group = (it.channel.clone(), it.group());
        let before = told.get(&group).copied().unwrap_or_default();
        let groups = rooms.get(&it.channel).is_some_and(|room| room.groups);
        let count = counts.entry(group).or_default();
        *count += 1;
        if groups && before >= TOLD_MAX && it.first_until_ms.is_some_and(|end| now_ms < end) {
            continue;
        }
        if groups || *count <= TOLD_MAX {
            now.push(it);
        } else {
            never.push(it);
        }
    }
    (now, never)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::notification::{Event, Severity};

    fn due(incident: usize, channel: &str) -> Due {
        Due {
            incident,
            channel: channel.into(),
            event: Event::Opened,
            since_ms: 0,
            severity: Severity::Warning,
            fingerprint: incident.to_string(),
            service: "shop".into(),
            environment: String::new(),
            first_until_ms: Some(1_000),
        }
    }

    fn sifted(all: Vec<Due>, told: usize, now_ms: i64) -> (Vec<usize>, Vec<usize>) {
        let rooms = [("slack", true), ("hook", false)].map(|(name, groups)| {
            (
                name.to_owned(),
                Room {
                    groups,
                    messages: 20,
                },
            )
        });
        let told = ["slack", "hook"].map(|it| ((it.to_owned(), "shop".to_owned()), told));
        let (now, never) = sift(all, &told.into(), &rooms.into(), now_ms);
        let places = |all: Vec<Due>| all.iter().map(|it| it.incident).collect();
        (places(now), places(never))
    }

    #[test]
    fn the_worst_three_are_told_one_by_one() {
        let mut all: Vec<Due> = (0..5).map(|it| due(it, "hook")).collect();
        all[4].severity = Severity::Critical;
        all.push(Due {
            first_until_ms: None,
            ..due(9, "hook")
        });
        assert_eq!(sifted(all, 0, 0), (vec![9, 4, 0, 1], vec![2, 3]));
        assert_eq!(sifted(vec![due(0, "hook")], 3, 0), (vec![], vec![0]));
    }

    #[test]
    fn where_messages_are_grouped_the_first_ones_are_one_and_the_rest_another() {
        let all = || (0..5).map(|it| due(it, "slack")).collect::<Vec<_>>();
        assert_eq!(sifted(all(), 2, 0), ((0..5).collect(), vec![]));
        assert_eq!(sifted(all(), 3, 999), (vec![], vec![]));
        assert_eq!(sifted(all(), 3, 1_000), ((0..5).collect(), vec![]));
    }
}
