//! From what is due to messages: one bad deployment is one message, and a storm is bounded.

use std::collections::BTreeMap;

use super::engine::Pace;
use super::notification::{Event, Severity};

/// Alerts written out in one message. The others are counted: "and 37 more".
const ALERTS_MAX: usize = 20;

/// Something that a channel has yet to be told.
#[derive(Clone, PartialEq, Debug)]
pub struct Due {
    /// The place of its incident in the look's list.
    pub incident: usize,
    /// The channel's name.
    pub channel: String,
    /// What it is to be told.
    pub event: Event,
    /// Since when, ms since the epoch.
    pub since_ms: i64,
    /// How bad it is.
    pub severity: Severity,
    /// The incident's.
    pub fingerprint: String,
    /// The incident's service.
    pub service: String,
    /// And its environment; may be empty.
    pub environment: String,
    /// It was there when culprit began to watch its service, and is told for the first time: the end of that
    /// service's first half hour, ms since the epoch.
    pub first_until_ms: Option<i64>,
}

impl Due {
    /// Its group in words: `shop (production)`.
    pub fn group(&self) -> String {
        match self.environment.as_str() {
            "" => self.service.clone(),
            environment => format!("{} ({environment})", self.service),
        }
    }
}

/// A channel, as far as messages are put together for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// It takes several alerts in one message; else each has one of its own.
    pub groups: bool,
    /// Messages it may still be sent in this minute.
    pub messages: i64,
}

/// A message to be.
#[derive(Clone, PartialEq, Debug)]
pub struct Bundle {
    /// The channel's name.
    pub channel: String,
    /// Why it is sent.
    pub event: Event,
    /// Messages of one key keep their order. Without the event, so that a resolve never
    /// overtakes its opening.
    pub group_key: String,
    /// The group in words: `shop (production)`.
    pub group: String,
    /// Places of incidents, the worst first. All of them count as told.
    pub incidents: Vec<usize>,
    /// How many of them are written out.
    pub shown: usize,
    worst: (std::cmp::Reverse<Severity>, i64),
}

/// Puts messages together. What has to wait, for others of its group or because the channel has had
/// enough for a minute, is left out and due again in the next look.
pub fn bundles(
    due: Vec<Due>,
    rooms: &BTreeMap<String, Room>,
    now_ms: i64,
    pace: &Pace,
) -> Vec<Bundle> {
    let mut groups: BTreeMap<(String, String, Event), Vec<Due>> = BTreeMap::new();
    for it in due {
        let Some(room) = rooms.get(&it.channel) else {
            continue;
        };
        let key = if room.groups {
            format!("{}\n{}", it.service, it.environment)
        } else {
            it.fingerprint.clone()
        };
        let group = (it.channel.clone(), key, it.event);
        groups.entry(group).or_default().push(it);
    }
    let mut bundles: Vec<Bundle> = groups
        .into_iter()
        .filter(|((channel, ..), due)| {
            let first_ms = due.iter().map(|it| it.since_ms).min().unwrap_or(now_ms);
            !rooms[channel].groups || now_ms - first_ms >= pace.group_wait_ms
        })
        .map(|((channel, group_key, event), due)| bundle(channel, group_key, event, due))
        .collect();
    // What does not fit into this minute is what is least bad, and then what came last.
    bundles.sort_by_key(|it| it.worst);
    let mut left: BTreeMap<&str, i64> = rooms
        .iter()
        .map(|(channel, it)| (channel.as_str(), it.messages))
        .collect();
    bundles.retain(|it| {
        let left = left.get_mut(it.channel.as_str());
        left.is_some_and(|left| {
            *left -= 1;
            *left >= 0
        })
    });
    bundles
}

fn bundle(channel: String, group_key: String, event: Event, mut due: Vec<Due>) -> Bundle {
    let order = |it: &Due| (std::cmp::Reverse(it.severity), it.since_ms);
    due.sort_by_key(order);
    let group = due[0].group();
    Bundle {
        channel,
        event,
        group_key,
        group,
        worst: order(&due[0]),
        shown: due.len().min(ALERTS_MAX),
        incidents: due.iter().map(|it| it.incident).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(incident: usize, channel: &str, service: &str, since_ms: i64) -> Due {
        Due {
            incident,
            channel: channel.into(),
            event: Event::Opened,
            since_ms,
            severity: Severity::Warning,
            fingerprint: format!("f{incident}"),
            service: service.into(),
            environment: "production".into(),
            first_until_ms: None,
        }
    }

    fn rooms(messages: i64) -> BTreeMap<String, Room> {
        [("slack", true), ("hook", false)]
            .map(|(name, groups)| (name.to_owned(), Room { groups, messages }))
            .into()
    }

    fn shown(bundles: &[Bundle]) -> Vec<String> {
        let line = |it: &Bundle| {
            let incidents = it.incidents.iter().map(ToString::to_string);
            let incidents = incidents.collect::<Vec<_>>().join(" ");
            format!(
                "{} {} {}: {incidents}",
                it.channel,
                it.event.name(),
                it.group
            )
        };
        bundles.iter().map(line).collect()
    }

    #[test]
    fn a_bad_deployment_is_one_message_where_messages_can_be_grouped() {
        let pace = Pace::default();
        let all = || {
            let slack = (0..3).map(|it| due(it, "slack", "shop", it as i64 * 4_000));
            let hook = (0..2).map(|it| due(it, "hook", "shop", it as i64));
            let mut all: Vec<Due> = slack.chain(hook).collect();
            all[2].severity = Severity::Critical;
            all.push(due(9, "slack", "billing", 9_000));
            all.push(Due {
                event: Event::Resolved,
                ..due(8, "slack", "shop", 0)
            });
            all
        };
        let hook = [
            "hook opened shop (production): 0",
            "hook opened shop (production): 1",
        ];
        assert_eq!(shown(&bundles(all(), &rooms(20), 9_999, &pace)), hook);
        assert_eq!(
            shown(&bundles(all(), &rooms(20), 10_000, &pace)),
            [
                "slack opened shop (production): 2 0 1",
                hook[0],
                "slack resolved shop (production): 8",
                hook[1],
            ]
        );
        let keys = bundles(all(), &rooms(20), 10_000, &pace);
        assert_eq!(
            keys[0].group_key, keys[2].group_key,
            "they keep their order"
        );
    }

    #[test]
    fn a_storm_waits_and_the_worst_goes_first() {
        let pace = Pace::default();
        let mut all: Vec<Due> = (0..30).map(|it| due(it, "hook", "shop", 0)).collect();
        all[29].severity = Severity::Critical;
        let bundles = bundles(all, &rooms(20), 10, &pace);
        assert_eq!(bundles.len(), 20);
        assert_eq!(bundles[0].incidents, [29]);
    }

    #[test]
    fn a_large_group_is_counted() {
        let all = (0..57).map(|it| due(it, "slack", "shop", 0)).collect();
        let bundles = bundles(all, &rooms(1), 10_000, &Pace::default());
        assert_eq!((bundles[0].incidents.len(), bundles[0].shown), (57, 20));
    }

    #[test]
    fn nothing_for_channels_that_are_switched_off() {
        let all = vec![due(0, "gone", "shop", 0)];
        assert!(bundles(all, &rooms(20), 10_000, &Pace::default()).is_empty());
    }
}
