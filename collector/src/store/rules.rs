//! What is worth an alert, as stored: built-in rules, those of the configuration file, and those that
//! people wrote. The engine reads the enabled ones; pages and the API change them.
//!
//! A name is a rule: what the file says goes over a built-in rule of that name, and so does what
//! people say. Built-in rules come back when neither says anything any more.

use sqlx::types::Json;

use super::audit::{self, Entry};
use super::configured;
use super::{Store, StoreError};
use crate::alert::rule::Rule;

/// Rules at most: each is looked at in every round of the engine. Beyond it none is added, and who
/// tries is told.
pub const RULES_MAX: i64 = 200;

/// Who says what a rule or a channel is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// culprit itself.
    BuiltIn,
    /// A command line's flag or the environment.
    Flag,
    /// The configuration file.
    File,
    /// People, in the UI or over the API.
    Ui,
}

impl Source {
    /// As it is stored and shown.
    pub fn name(self) -> &'static str {
        ["built-in", "flag", "file", "ui"][self as usize]
    }

    pub(super) fn of(name: &str) -> Source {
        match name {
            "built-in" => Source::BuiltIn,
            "flag" => Source::Flag,
            "file" => Source::File,
            _ => Source::Ui,
        }
    }
}

/// A rule and who said so.
#[derive(Clone, PartialEq, Debug)]
pub struct StoredRule {
    /// Who says what it is.
    pub source: Source,
    /// It is looked at.
    pub enabled: bool,
    /// What it says.
    pub rule: Rule,
    /// Changed when, ms since the epoch.
    pub changed_ms: i64,
    /// By whom; for a rule of the file the file's path. Empty for a built-in one.
    pub changed_by: String,
}

/// What became of a change that somebody wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Changed {
    /// It is so now.
    Done,
    /// There is no such thing (any more).
    Missing,
    /// It is not people's to change: it comes from a flag, the file, or is built in.
    Fixed(Source),
    /// There are this many already, which is the most.
    TooMany(i64),
}

#[derive(sqlx::FromRow)]
struct Row {
    name: String,
    source: String,
    enabled: bool,
    rule: serde_json::Value,
    changed_ms: i64,
    changed_by: String,
}

impl Store {
    /// Makes the rules of `source` (built-in or file) what `rules` says: new ones come, changed ones
    /// change, others go. A built-in rule that somebody disabled stays so, and one that the file or
    /// people say differently stays theirs; the file goes over both others. `told_by` is the
    /// file's path. May be repeated.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn sync_rules(
        &self,
        source: Source,
        rules: &[Rule],
        told_by: &str,
    ) -> Result<(), StoreError> {
        let names: Vec<&str> = rules.iter().map(|it| it.name.as_str()).collect();
        let bodies: Vec<Json<&Rule>> = rules.iter().map(Json).collect();
        let mut transaction = self.pool().begin().await?;
        // Two processes may start at once.
        sqlx::query("select pg_advisory_xact_lock(hashtext('culprit.alert_rules'))")
            .execute(&mut *transaction)
            .await?;
        sqlx::query("delete from culprit.alert_rules where source = $1 and name <> all($2)")
            .bind(source.name())
            .bind(&names)
            .execute(&mut *transaction)
            .await?;
        if source == Source::File {
            sqlx::query(
                "insert into culprit.audit (subject, subject_id, action, detail)
                 select 'rule', name, 'replaced', $2 from culprit.alert_rules
                 where name = any($1) and source = 'ui'",
            )
            .bind(&names)
            .bind(format!(
                "The configuration file {told_by} has a rule of this name."
            ))
            .execute(&mut *transaction)
            .await?;
        }
        sqlx::query(
            "insert into culprit.alert_rules as old (name, source, rule, changed_by)
             select name, $1, rule, $4 from unnest($2::text[], $3::jsonb[]) as new(name, rule)
             on conflict (name) do update set
                 source = excluded.source, rule = excluded.rule, changed_by = excluded.changed_by,
                 enabled = old.enabled or old.source <> excluded.source,
                 changed_at = case when old.rule = excluded.rule and old.source = excluded.source
                              then old.changed_at else now() end
             where old.source = excluded.source or excluded.source = 'file'",
        )
        .bind(source.name())
        .bind(&names)
        .bind(&bodies)
        .bind(told_by)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// All rules by name. One that this program cannot read (of a newer one) is left out, and the log
    /// says so.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn rules(&self) -> Result<Vec<StoredRule>, StoreError> {
        Ok(self.rules_where(false).await?.0)
    }

    /// The rules that are looked at, by name, and the names of those that this program cannot read.
    ///
    /// # Errors
    /// Postgres cannot be reached.
    pub async fn enabled_rules(&self) -> Result<(Vec<Rule>, Vec<String>), StoreError> {
        let (rules, unreadable) = self.rules_where(true).await?;
        Ok((rules.into_iter().map(|it| it.rule).collect(), unreadable))
    }

    async fn rules_where(
        &self,
        enabled_only: bool,
    ) -> Result<(Vec<StoredRule>, Vec<String>), StoreError> {
        let rows: Vec<Row> = sqlx::query_as(
            "select name, source, enabled, rule, changed_by,
                    (extract(epoch from changed_at) * 1000)::bigint as changed_ms
             from culprit.alert_rules where enabled or not $1 order by name",
        )
        .bind(enabled_only)
        .fetch_all(self.for_changes().pool())
        .await?;
        let (mut rules, mut unreadable) = (Vec::new(), Vec::new());
        for row in rows {
            match serde_json::from_value(row.rule) {
                Ok(rule) => rules.push(StoredRule {
                    source: Source::of(&row.source),
                    enabled: row.enabled,
                    rule,
                    changed_ms: row.changed_ms,
                    changed_by: row.changed_by,
                }),
                Err(error) => {
                    tracing::warn!(rule = row.name, %error, "an alert rule cannot be read");
                    unreadable.push(row.name);
                }
            }
        }
        Ok((rules, unreadable))
    }

    /// Adds a rule of people's, or changes one; a built-in one becomes theirs. Those of the file stay.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn put_rule(
        &self,
        rule: &Rule,
        enabled: bool,
        author: &str,
    ) -> Result<Changed, StoreError> {
        let mut transaction = self.for_changes().pool().begin().await?;
        sqlx::query("select pg_advisory_xact_lock(hashtext('culprit.alert_rules'))")
            .execute(&mut *transaction)
            .await?;
        let source: Option<String> =
            sqlx::query_scalar("select source from culprit.alert_rules where name = $1")
                .bind(&rule.name)
                .fetch_optional(&mut *transaction)
                .await?;
        let source = source.as_deref().map(Source::of);
        if source == Some(Source::File) {
            return Ok(Changed::Fixed(Source::File));
        }
        let rules: i64 = sqlx::query_scalar("select count(*) from culprit.alert_rules")
            .fetch_one(&mut *transaction)
            .await?;
        if source.is_none() && rules >= RULES_MAX {
            return Ok(Changed::TooMany(RULES_MAX));
        }
        sqlx::query(
            "insert into culprit.alert_rules (name, source, enabled, rule, changed_by)
             values ($1, 'ui', $2, $3, $4)
             on conflict (name) do update set source = 'ui', enabled = excluded.enabled,
                 rule = excluded.rule, changed_by = excluded.changed_by, changed_at = now()",
        )
        .bind(&rule.name)
        .bind(enabled)
        .bind(Json(rule))
        .bind(author)
        .execute(&mut *transaction)
        .await?;
        let entry = Entry {
            subject: "rule",
            subject_id: &rule.name,
            author,
            action: if source.is_some() { "changed" } else { "added" },
            detail: &serde_json::to_string(rule).unwrap_or_default(),
        };
        audit::note(&mut transaction, entry).await?;
        transaction.commit().await?;
        Ok(Changed::Done)
    }

    /// Has a rule looked at, or not. Built-in ones too; those of the file stay.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn enable_rule(
        &self,
        name: &str,
        enabled: bool,
        author: &str,
    ) -> Result<Changed, StoreError> {
        self.change_configured(
            configured::RULES,
            name,
            author,
            if enabled { "enabled" } else { "disabled" },
            |source| source != Source::File,
            sqlx::query("update culprit.alert_rules set enabled = $2 where name = $1")
                .bind(name)
                .bind(enabled),
        )
        .await
    }

    /// Takes a rule of people's away. If there is a built-in one of that name, `built_in`, that one is
    /// back at once.
    ///
    /// # Errors
    /// Postgres cannot be written to.
    pub async fn delete_rule(
        &self,
        name: &str,
        built_in: Option<&Rule>,
        author: &str,
    ) -> Result<Changed, StoreError> {
        let statement = match built_in {
            Some(rule) => sqlx::query(
                "update culprit.alert_rules set source = 'built-in', enabled = true, rule = $2,
                     changed_by = '', changed_at = now() where name = $1",
            )
            .bind(name)
            .bind(Json(rule)),
            None => sqlx::query("delete from culprit.alert_rules where name = $1").bind(name),
        };
        let action = if built_in.is_some() {
            "reset"
        } else {
            "deleted"
        };
        self.change_configured(
            configured::RULES,
            name,
            author,
            action,
            |it| it == Source::Ui,
            statement,
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::rule::Condition;
    use crate::testing::store;

    fn rule(name: &str, above: f64) -> Rule {
        let rule = serde_json::json!({
            "name": name, "when": "threshold", "measure": "p99", "above": above,
        });
        serde_json::from_value(rule).unwrap()
    }

    fn above(rule: &Rule) -> f64 {
        match rule.condition {
            Condition::Threshold { above, .. } => above,
            _ => panic!("{rule:?}"),
        }
    }

    async fn listed(store: &Store) -> Vec<(String, &'static str, bool, f64)> {
        let rules = store.rules().await.unwrap();
        let line = |it: StoredRule| {
            let above = above(&it.rule);
            (it.rule.name, it.source.name(), it.enabled, above)
        };
        rules.into_iter().map(line).collect()
    }

    #[tokio::test]
    async fn built_in_rules_follow_the_program_and_keep_what_people_said() {
        let store = store().await;
        let built_in = |above| [rule("a", above), rule("b", above), rule("c", above)];
        store
            .sync_rules(Source::BuiltIn, &built_in(1.0), "")
            .await
            .unwrap();
        assert_eq!(
            store.enable_rule("a", false, "Ann").await.unwrap(),
            Changed::Done
        );
        assert_eq!(
            store.put_rule(&rule("b", 7.0), true, "Bob").await.unwrap(),
            Changed::Done
        );
        // A newer program.
        store
            .sync_rules(Source::BuiltIn, &built_in(2.0), "")
            .await
            .unwrap();
        assert_eq!(
            listed(&store).await,
            [
                ("a".into(), "built-in", false, 2.0),
                ("b".into(), "ui", true, 7.0),
                ("c".into(), "built-in", true, 2.0),
            ]
        );
        let (enabled, _) = store.enabled_rules().await.unwrap();
        assert_eq!(enabled.iter().map(above).collect::<Vec<_>>(), [7.0, 2.0]);
        let reset = store.delete_rule("b", Some(&rule("b", 2.0)), "Bob").await;
        assert_eq!(reset.unwrap(), Changed::Done);
        assert_eq!(
            store.delete_rule("c", None, "Bob").await.unwrap(),
            Changed::Fixed(Source::BuiltIn)
        );
        store
            .sync_rules(Source::BuiltIn, &built_in(3.0)[..2], "")
            .await
            .unwrap();
        assert_eq!(
            listed(&store).await,
            [
                ("a".into(), "built-in", false, 3.0),
                ("b".into(), "built-in", true, 3.0),
            ]
        );
        let audit = store.history("rule", "b").await.unwrap();
        let audit: Vec<_> = audit.iter().map(|it| (&*it.author, &*it.action)).collect();
        assert_eq!(audit, [("Bob", "reset"), ("Bob", "changed")]);
    }

    #[tokio::test]
    async fn the_files_rules_go_over_others_and_go_with_the_file() {
        let store = store().await;
        store
            .sync_rules(Source::BuiltIn, &[rule("a", 1.0)], "")
            .await
            .unwrap();
        store
            .put_rule(&rule("mine", 5.0), false, "Ann")
            .await
            .unwrap();
        let file = [rule("a", 9.0), rule("mine", 9.0)];
        store
            .sync_rules(Source::File, &file, "/etc/culprit.toml")
            .await
            .unwrap();
        store
            .sync_rules(Source::BuiltIn, &[rule("a", 1.0)], "")
            .await
            .unwrap();
        let rules = store.rules().await.unwrap();
        assert!(
            rules
                .iter()
                .all(|it| it.source == Source::File && it.enabled)
        );
        assert_eq!(rules[0].changed_by, "/etc/culprit.toml");
        for name in ["a", "mine"] {
            let fixed = Changed::Fixed(Source::File);
            assert_eq!(store.enable_rule(name, false, "").await.unwrap(), fixed);
            assert_eq!(store.delete_rule(name, None, "").await.unwrap(), fixed);
            assert_eq!(
                store.put_rule(&rule(name, 1.0), true, "").await.unwrap(),
                fixed
            );
        }
        let replaced = store.history("rule", "mine").await.unwrap();
        assert_eq!(replaced[0].action, "replaced");
        store.sync_rules(Source::File, &[], "").await.unwrap();
        store
            .sync_rules(Source::BuiltIn, &[rule("a", 1.0)], "")
            .await
            .unwrap();
        assert_eq!(listed(&store).await, [("a".into(), "built-in", true, 1.0)]);
    }

    #[tokio::test]
    async fn there_are_only_so_many() {
        let store = store().await;
        let many: Vec<Rule> = (0..RULES_MAX)
            .map(|it| rule(&it.to_string(), 1.0))
            .collect();
        store.sync_rules(Source::BuiltIn, &many, "").await.unwrap();
        let refused = store
            .put_rule(&rule("one more", 1.0), true, "")
            .await
            .unwrap();
        assert_eq!(refused, Changed::TooMany(RULES_MAX));
        assert_eq!(
            store.put_rule(&rule("7", 8.0), true, "").await.unwrap(),
            Changed::Done
        );
        assert_eq!(
            store.enable_rule("nobody", true, "").await.unwrap(),
            Changed::Missing
        );
    }

    #[tokio::test]
    async fn a_rule_of_a_newer_program_hides_no_other() {
        let store = store().await;
        store
            .sync_rules(Source::BuiltIn, &[rule("a", 1.0)], "")
            .await
            .unwrap();
        sqlx::query("insert into culprit.alert_rules (name, source, rule) values ('z', 'ui', '{\"when\": \"moon\"}')")
            .execute(store.pool())
            .await
            .unwrap();
        assert_eq!(store.rules().await.unwrap().len(), 1);
    }
}
