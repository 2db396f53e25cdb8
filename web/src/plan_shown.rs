//! A slow statement's plan, as pages show it.

use collector::store::plans::{AskedPlan, Plan, SequentialScan};

use crate::format;

/// What the observed database said.
pub struct PlanView {
    /// Beside the heading: how old it is.
    pub age: String,
    /// When it was asked, exactly.
    pub age_exact: String,
    /// Tables that are read from end to end, a sentence each.
    pub scans: Vec<String>,
    /// What there is to know beside them.
    pub note: String,
    /// The plan itself.
    pub text: Option<String>,
    /// How to let the database be asked: the flag to copy.
    pub enable: Option<String>,
}

const INDEX_COST: &str = "An index that serves the filter would spare this; it takes storage and makes every write to its columns \
                          a little slower, so make it where the filter leaves few rows.";

/// What is known of a statement's plan, and what to do if nothing is. `service` is whose database is meant.
pub fn view(asked: Option<&AskedPlan>, service: &str, now_ns: u64) -> PlanView {
    let mut view = PlanView {
        age: asked.map_or_else(String::new, |it| {
            format!("asked {}", format::ago(it.asked_ns, now_ns))
        }),
        age_exact: asked.map_or_else(String::new, |it| format::at(it.asked_ns)),
        scans: Vec::new(),
        note: String::new(),
        text: None,
        enable: None,
    };
    match asked.map(|it| (&it.plan, &it.failure)) {
        Some((Some(plan), _)) => tell_plan(&mut view, plan),
        Some((None, failure)) => {
            view.note = failure
                .clone()
                .unwrap_or_else(|| "There is no plan.".to_owned());
        }
        None => {
            view.note = "Nobody has asked the database yet. Give culprit a role that may only read, and it asks for \
                         the plan of this statement, without running it:"
                .to_owned();
            view.enable = Some(format!(
                "culprit serve --explain-dsn {service}=postgres://reader:password@host/database"
            ));
        }
    }
    view
}

fn tell_plan(view: &mut PlanView, plan: &Plan) {
    view.scans = plan.scans.iter().map(scan_sentence).collect();
    let rows = format::count(plan.rows as i64);
    let how = match plan.ran_ms {
        Some(ms) => format!(
            "It was run and took {}.",
            format::duration((ms * 1e6) as u64)
        ),
        None => "It was planned without values and not run.".to_owned(),
    };
    let scans = match view.scans.is_empty() {
        true => "No table is read from end to end.",
        false => INDEX_COST,
    };
    view.note = format!(
        "{scans} Postgres {} expects {rows} rows. {how}",
        plan.server
    );
    view.text = Some(plan.text.clone());
}

/// `Reads public.products from end to end: about 20,000 rows, 1.4 MB, to find 2 where (name ~~* ?)`
fn scan_sentence(scan: &SequentialScan) -> String {
    let rows = match scan.table_rows {
        Some(rows) => format!("about {} rows, ", format::count(rows as i64)),
        None => String::new(),
    };
    let found = match &scan.filter {
        Some(filter) => format!(
            ", to find {} where {filter}",
            format::count(scan.rows as i64)
        ),
        None => String::new(),
    };
    format!(
        "Reads {} from end to end: {rows}{}{found}",
        scan.table,
        crate::status::bytes(i64::try_from(scan.table_bytes).unwrap_or(i64::MAX))
    )
}
