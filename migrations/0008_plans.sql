-- What the observed databases answered when they were asked for the plan of a slow statement: one row per
-- finding, the latest answer. Processes of older versions know nothing of it and need not.
create table culprit.plans (
    finding_id integer primary key,  -- finding_keys.id
    asked_at timestamptz not null,   -- also claims the finding: nobody else asks for a while
    plan jsonb,                      -- Plan, as store/plans.rs has it; null: see failure, or it is being asked
    failure text                     -- why there is none, in words
);
