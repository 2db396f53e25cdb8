//! Whom rules would tell: a rule that names only channels that there are not tells nobody, and nobody
//! would notice before it is too late.

use collector::alert::rule::Rule;
use collector::store::channels::StoredChannel;
use collector::store::{Store, StoreError};

/// Channels' names at most in one text.
const NAMES_SHOWN: usize = 20;

/// What speaks against a rule's channels: the first that there is not, and those that there are.
pub fn unknown(rule: &Rule, channels: &[StoredChannel]) -> Option<String> {
    let known = |name: &String| channels.iter().any(|it| it.name == *name);
    let name = rule.channels.iter().find(|it| !known(it))?;
    let names: Vec<&str> = channels.iter().map(|it| it.name.as_str()).collect();
    let shown = names.iter().take(NAMES_SHOWN).copied().collect::<Vec<_>>();
    Some(match names.len() {
        0 => format!("There is no channel '{name}', and no other: add it first."),
        1..=NAMES_SHOWN => format!(
            "There is no channel '{name}'. There is {}.",
            shown.join(", ")
        ),
        all => format!(
            "There is no channel '{name}'. There is {} and {} more.",
            shown.join(", "),
            all - NAMES_SHOWN
        ),
    })
}

/// Why a channel cannot be taken away: an enabled rule would tell nobody any more.
///
/// # Errors
/// Postgres cannot be reached.
pub async fn needed(store: &Store, channel: &str) -> Result<Option<String>, StoreError> {
    let channels = store.channels().await?;
    if !channels.iter().any(|it| it.name == channel) {
        return Ok(None);
    }
    let stays = |name: &String| name != channel && channels.iter().any(|it| it.name == *name);
    let rules = store.enabled_rules().await?.0;
    let rule = rules
        .iter()
        .find(|it| it.channels.iter().any(|it| it == channel) && !it.channels.iter().any(stays));
    Ok(rule.map(|it| {
        let name = &it.name;
        format!(
            "The rule '{name}' tells this channel alone: without it nobody would be told. Choose another \
             channel for the rule, or disable the rule, first."
        )
    }))
}

/// A sentence for each rule that names channels that there are not.
pub fn gaps(rules: &[Rule], channels: &[StoredChannel]) -> Vec<String> {
    let known = |name: &&String| channels.iter().any(|it| it.name == **name);
    let sentence = |rule: &Rule| {
        let (_, gone): (Vec<&String>, Vec<&String>) = rule.channels.iter().partition(known);
        let whom = match rule.channels.len() {
            all if all == gone.len() => "nobody",
            _ => "not everybody",
        };
        let names: Vec<String> = gone.iter().map(|it| it.to_string()).collect();
        let names = names.join(", ");
        let rule = &rule.name;
        match gone.len() {
            0 => None,
            1 => Some(format!(
                "Rule {rule} tells {whom}: its channel {names} does not exist."
            )),
            _ => Some(format!(
                "Rule {rule} tells {whom}: its channels {names} do not exist."
            )),
        }
    };
    rules.iter().filter_map(sentence).collect()
}

/// Says in the log which rules tell nobody. That this cannot be read stops nothing.
pub async fn warn(store: &Store) {
    let read =
        async { Ok::<_, StoreError>((store.enabled_rules().await?.0, store.channels().await?)) };
    match read.await {
        Ok((rules, channels)) => {
            for gap in gaps(&rules, &channels) {
                tracing::warn!("{gap}");
            }
        }
        Err(error) => tracing::debug!(%error, "whom rules tell cannot be read"),
    }
}
