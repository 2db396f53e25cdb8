-- Deployments, regressions, findings that people act on, and alerts with rules and channels.
--
-- Processes of older versions run on: they read findings and write the ones they find, and their
-- messages (outbox rows without an incident) are still delivered.

-- When another version of a service was put to work: seen in its spans, or told over the API.
create table culprit.deployments (
    id integer generated always as identity primary key,
    service_id integer not null,
    version text not null,
    previous text not null default '',   -- what most requests were of before; '' if unknown
    at timestamptz not null,             -- the first request of it, or what was told
    source text not null,                -- seen, told
    description text not null default '',
    url text not null default '',        -- of the change or the pipeline
    noted_at timestamptz not null default now(),
    unique (service_id, version, at)
);
create index deployments_service on culprit.deployments (service_id, at);

-- Endpoints (or one statement of an endpoint) that became slower and stayed so. What they are compared with is
-- fixed when the regression opens, so that a lasting one does not become its own baseline.
create table culprit.regressions (
    id uuid primary key,
    endpoint_id integer not null,
    statement_id integer not null default 0,   -- 0: the whole endpoint
    kind text not null,                  -- deployment, sudden, drift
    deployment_id integer,
    state text not null,                 -- open, resolved, accepted
    severity smallint not null,          -- 0 info, 1 warning, 2 critical
    title text not null,
    began_at timestamptz not null,       -- slower since, as far as minutes tell
    detected_at timestamptz not null,
    calm_since timestamptz,              -- it looks as before since then; resolved once that lasts
    resolved_at timestamptz,
    -- What is compared: requests of these versions (null: any) in these times.
    base_version_id integer,
    base_from timestamptz not null,
    base_to timestamptz not null,
    version_id integer,
    numbers jsonb not null,              -- the comparison: percentiles, tests, counts
    explanation jsonb                    -- what grew, with examples; null until it is known
);
create unique index regressions_open on culprit.regressions (endpoint_id, statement_id) where state = 'open';
create index regressions_detected on culprit.regressions (detected_at);

-- How often a deployment's endpoint was compared already: each look has its share of the false alarms allowed.
create table culprit.deployment_looks (
    deployment_id integer not null,
    endpoint_id integer not null,
    looks smallint not null,
    primary key (deployment_id, endpoint_id)
);

-- A finding's life, from here on: new, open, acknowledged, ignored, resolved, regressed.
alter table culprit.findings
    add column state_since timestamptz not null default now(),
    add column reason text not null default '',        -- why it is acknowledged or ignored
    add column ignored_until timestamptz,              -- null: until somebody says otherwise
    add column resolved_in text,                       -- the version that fixed it; hits of later versions are a relapse
    add column regressed integer not null default 0;   -- how often it came back

-- Who did what to a finding, a regression or an alert; culprit itself has no author.
create table culprit.audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    subject text not null,               -- finding, regression, incident, rule, channel, silence, deployment
    subject_id text not null,
    author text not null default '',
    action text not null,                -- acknowledged, ignored, resolved, reopened, regressed, …
    detail text not null default ''
);
create index audit_subject on culprit.audit (subject, subject_id, id);

-- What is worth an alert. Built-in and configured rules stand here too, so that every process can show them.
create table culprit.alert_rules (
    name text primary key,
    source text not null,                -- built-in, file, ui
    enabled boolean not null default true,
    rule jsonb not null,                 -- alert::rule::Rule
    changed_at timestamptz not null default now(),
    changed_by text not null default ''
);

-- Where alerts go. Those of flags and the configuration file stand here without their settings.
create table culprit.alert_channels (
    name text primary key,
    kind text not null,                  -- webhook, slack, alertmanager, pagerduty, email
    source text not null,                -- flag, file, ui
    enabled boolean not null default true,
    settings jsonb not null,             -- for source ui; secrets as env:NAME or file:/path
    shown text not null,                 -- where it leads, without secrets
    failures integer not null default 0,       -- in a row
    paused_until timestamptz,                  -- after several failures in a row
    last_success_at timestamptz,
    last_error text,
    changed_at timestamptz not null default now(),
    changed_by text not null default ''
);

-- Times in which nobody wants to hear: silences and maintenance windows.
create table culprit.silences (
    id uuid primary key,
    kind text not null,                  -- silence, maintenance
    matchers jsonb not null,             -- [{"label","value"}]; * matches anything
    starts_at timestamptz not null,
    ends_at timestamptz not null,
    author text not null,
    comment text not null,
    created_at timestamptz not null default now(),
    ended_by text                        -- ended before its time
);

-- An alert's life: pending → firing → resolved, as one state machine per rule and thing.
create table culprit.incidents (
    id uuid primary key,
    rule text not null,
    fingerprint text not null,           -- of its labels: the same thing has the same one for ever
    state text not null,                 -- pending, firing, resolved
    severity smallint not null,
    labels jsonb not null,               -- identify
    alert jsonb not null,                -- alert::notification::Alert, as last said
    started_at timestamptz not null,     -- true since
    fired_at timestamptz,
    last_true_at timestamptz not null,
    resolved_at timestamptz,
    notified text not null default '',   -- what was last said: '', opened, resolved, flapping
    notified_at timestamptz,
    acknowledged_by text,
    silenced_by uuid,
    changes timestamptz[] not null default '{}',   -- of the last hour: a flapping one is told once
    flapping boolean not null default false
);
create unique index incidents_live on culprit.incidents (rule, fingerprint) where state <> 'resolved';
create index incidents_resolved on culprit.incidents (rule, fingerprint, resolved_at);

-- The outbox's messages from here on: what is said is the same for all channels, and rendered when it is sent.
alter table culprit.outbox alter column alert_id drop not null;
alter table culprit.outbox
    add column incidents uuid[] not null default '{}',
    add column sequence bigint generated always as identity,
    add column group_key text not null default '',     -- messages of a group keep their order
    add column event text not null default 'opened',   -- opened, resolved, reminder, flapping, test
    add column replayed_from uuid;
create index outbox_order on culprit.outbox (channel, group_key, sequence) where delivered_at is null and dead_at is null;

-- Every attempt, for people: what was sent where, and what came back.
create table culprit.deliveries (
    message_id uuid not null,
    attempt integer not null,
    channel text not null,
    at timestamptz not null default now(),
    took_ms integer not null,
    outcome text not null,               -- delivered, failed, rejected, gone
    detail text not null default '',
    primary key (message_id, attempt)
);
create index deliveries_at on culprit.deliveries (at);

-- For the pages: an incident's messages, those that were given up, incidents that are over.
create index outbox_incidents on culprit.outbox using gin (incidents);
create index outbox_dead on culprit.outbox (dead_at) where dead_at is not null;
create index outbox_replayed on culprit.outbox (replayed_from) where replayed_from is not null;
create index incidents_over on culprit.incidents (resolved_at, id) where state = 'resolved';

-- What each channel was told last of an incident: {"ops": {"event": "opened", "at_ms": …}}. Fixed when it
-- fires: a channel that is set up later does not get everything that happens to fire then.
alter table culprit.incidents add column told jsonb not null default '{}';
-- When an Alertmanager was last told what fires; it forgets what is not said again.
alter table culprit.alert_channels add column resent_at timestamptz;
-- How many messages a channel got in the last minute, and which are old.
create index outbox_created on culprit.outbox (created_at);
-- The states that findings have had so far they have had from the first.
update culprit.findings set state_since = first_seen;
-- A message that was given up is sent again once at a time, however many people press the button.
create unique index outbox_replayed_once on culprit.outbox (replayed_from) where delivered_at is null and dead_at is null;
-- What the alert engine asks in every look: incidents whose end somebody has yet to be told, findings that are
-- new or back, regressions that ended lately. And an endpoint's regressions.
create index incidents_owed on culprit.incidents (id) where notified in ('opened', 'flapping');
create index findings_changed on culprit.findings (state_since, id) where state in ('new', 'regressed');
create index regressions_resolved on culprit.regressions (resolved_at);
create index regressions_endpoint on culprit.regressions (endpoint_id);
-- Somebody has seen that a message was given up, and it is not to be sent again.
alter table culprit.outbox add column dismissed_at timestamptz;
