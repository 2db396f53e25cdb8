//! Plans of slow statements, asked of the observed databases, if the user gives us read-only ways to them.
//!
//! A task beside the review. It looks now and then for slow statements without a recent plan, one at a
//! time and with pauses, and keeps what was answered. It may fail, be late or be restarted at any moment:
//! only the plan is missing then.

use sqlx::postgres::PgConnectOptions;
use std::str::FromStr;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::clock::pause;
use crate::store::plans::Plan;
use crate::store::{Store, StoreError, observed};

/// How often slow statements without a plan are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Between two questions to observed databases. Planning takes milliseconds: nobody notices.
const PAUSE: Duration = Duration::from_secs(1);

/// So many questions per look and database at most; what is left is asked at the next look.
const QUESTIONS_MAX: usize = 5;

/// A plan is asked for again after this long: tables grow, and indexes come.
const AGAIN_AFTER: Duration = Duration::from_secs(6 * 3600);

/// A database that a service uses, and how we may ask it. It is never shown: the address may hold a password.
#[derive(Clone)]
pub struct ObservedDatabase {
    /// The service's name.
    pub service: String,
    /// Its environment; empty: all of them.
    pub environment: String,
    options: PgConnectOptions,
}

impl std::fmt::Debug for ObservedDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ObservedDatabase of {}", self.service)
    }
}

impl FromStr for ObservedDatabase {
    type Err = String;

    /// `SERVICE=postgres://…`, `SERVICE@ENVIRONMENT=postgres://…`. Errors do not repeat the address.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "expected SERVICE=postgres://… or SERVICE@ENVIRONMENT=postgres://…";
        let (of, url) = text.split_once('=').ok_or(wrong)?;
        let (service, environment) = of.split_once('@').unwrap_or((of, ""));
        // A URL whose service was forgotten has both signs too.
        if service.trim().is_empty() || service.contains("://") {
            return Err(wrong.to_owned());
        }
        let is_url = ["postgres://", "postgresql://"]
            .iter()
            .any(|it| url.starts_with(it));
        let options = PgConnectOptions::from_str(url).ok().filter(|_| is_url);
        Ok(ObservedDatabase {
            service: service.trim().to_owned(),
            environment: environment.trim().to_owned(),
            options: options.ok_or_else(|| {
                format!(
                    "the database of service '{}' is no postgres://user:password@host/database",
                    service.trim()
                )
            })?,
        })
    }
}

/// Asks until `shutdown`; ends at once if there is nobody to ask. With `run`, statements without
/// placeholders are run (EXPLAIN ANALYZE).
pub async fn run(
    store: Store,
    databases: Vec<ObservedDatabase>,
    run: bool,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        for database in &databases {
            if let Err(error) = look(&store, database, run, &shutdown).await {
                tracing::debug!(%error, "plans are asked for later");
            }
        }
        pause(LOOK_EVERY, &shutdown).await;
    }
}

/// One look: some of what is due is asked.
///
/// # Errors
/// Our own Postgres failed.
pub async fn look(
    store: &Store,
    database: &ObservedDatabase,
    run: bool,
    shutdown: &CancellationToken,
) -> Result<(), StoreError> {
    for at in 0..QUESTIONS_MAX {
        if at > 0 {
            pause(PAUSE, shutdown).await;
        }
        let (service, environment) = (&database.service, &database.environment);
        let wanted = store
            .claim_plan(service, environment, AGAIN_AFTER.as_secs_f64())
            .await?;
        let Some(wanted) = wanted.filter(|_| !shutdown.is_cancelled()) else {
            return Ok(());
        };
        let answer = ask(database, &wanted.statement, run).await;
        if let Err(failure) = &answer {
            tracing::info!(service, finding = wanted.finding_id, failure, "no plan");
        }
        store.write_plan(wanted.finding_id, &answer).await?;
    }
    Ok(())
}

async fn ask(database: &ObservedDatabase, statement: &str, run: bool) -> Result<Plan, String> {
    let statement = analyzer::sql::explainable(statement)?;
    observed::explain(&database.options, &statement, run).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::{Connection, Executor, PgConnection};

    #[test]
    fn databases_are_read_and_never_shown() {
        let it: ObservedDatabase = "shop@prod=postgres://a:hunter2@h/d?sslmode=disable"
            .parse()
            .unwrap();
        assert_eq!(
            (it.service.as_str(), it.environment.as_str()),
            ("shop", "prod")
        );
        assert_eq!(format!("{it:?}"), "ObservedDatabase of shop");
        for wrong in [
            "postgres://a:hunter2@h/d",
            "postgres://a:hunter2@h/d?sslmode=disable",
            "=postgres://a:hunter2@h/d",
            "shop=a:hunter2@h",
            "shop=mysql://a:hunter2@h/d",
            "",
        ] {
            let error = wrong.parse::<ObservedDatabase>().unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    /// A slow statement of the service `shop` that was just seen.
    const FINDING: &str = "
        insert into culprit.services (namespace, name, environment) values ('', 'shop', 'prod');
        insert into culprit.findings (id, state, detector, service_id, endpoint_id, severity, confidence, title,
            first_seen, last_seen, traces, evidence)
        values (1, 'new', 'slow-query', 1, 1, 2, 1, 't', now(), now(), 3,
            '{\"statement\": \"select id from products where name ilike ? limit ?\"}'),
          (2, 'new', 'n-plus-one-query', 1, 1, 2, 1, 't', now(), now(), 3, '{\"statement\": \"select ? from products\"}'),
          (3, 'new', 'slow-query', 1, 1, 2, 1, 't', now(), now(), 3, '{\"statement\": \"delete from products\"}'),
          (4, 'new', 'slow-query', 1, 1, 2, 1, 't', now(), now() - interval '3 days', 3, '{\"statement\": \"select ?\"}')";

    #[tokio::test]
    async fn slow_statements_get_a_plan_and_it_is_kept() {
        let store = crate::testing::store().await;
        store.pool().execute(sqlx::raw_sql(FINDING)).await.unwrap();
        let options = crate::testing::database().await;
        let mut connection = PgConnection::connect_with(&options).await.unwrap();
        let setup = "create table public.products (id int primary key, name text);
            do $$ begin create role plans_reader login; exception when duplicate_object then null; end $$;
            grant select on public.products to plans_reader";
        connection.execute(sqlx::raw_sql(setup)).await.unwrap();
        let database = ObservedDatabase {
            service: "shop".into(),
            environment: String::new(),
            // The tests' cluster lets nobody else in: it is the role that counts.
            options: options.options([("role", "plans_reader")]),
        };
        let shutdown = CancellationToken::new();
        look(&store, &database, false, &shutdown).await.unwrap();
        let plan = store.plan(1).await.unwrap().unwrap();
        assert_eq!(plan.plan.unwrap().scans[0].table, "public.products");
        assert!(plan.asked_ns > 0 && plan.failure.is_none());
        let refused = store.plan(3).await.unwrap().unwrap();
        assert_eq!(
            refused.failure.as_deref(),
            Some("Only selects are explained.")
        );
        assert_eq!(store.plan(2).await.unwrap(), None);
        assert_eq!(store.plan(4).await.unwrap(), None);
        // Nothing is due any more, nor for another service or environment.
        for (service, environment) in [("shop", ""), ("cart", ""), ("shop", "staging")] {
            assert_eq!(
                store
                    .claim_plan(service, environment, 3_600.0)
                    .await
                    .unwrap(),
                None
            );
        }
        let again = store.claim_plan("shop", "prod", 0.0).await.unwrap();
        assert!(again.is_some(), "after its time it is due again");
        store.write_plan(1, &Err("gone".into())).await.unwrap();
        assert_eq!(store.plan(1).await.unwrap().unwrap().plan, None);
    }
}
