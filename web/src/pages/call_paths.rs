//! The call paths of an endpoint's page: of all requests or of the slow tail, or the difference of
//! two sets of requests. Everything that is chosen stands in the address.

use analyzer::profile::{Amounts, Compared, Difference, Measure, difference};
use collector::store::Store;
use collector::store::dictionaries::OTHER;
use collector::store::endpoints::EndpointName;
use collector::store::profiles::{Counted, Profiles, hours};
use std::ops::Range as Between;
use url::form_urlencoded;

use crate::category_bar;
use crate::flame::{self, Change, Flame};
use crate::format;
use crate::pages::PageError;
use crate::pages::context::Selectable;
use crate::range::{Filters, Range, minute_ns};

/// What the address asks to see.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// Which time.
    pub range: Range,
    /// Which requests.
    pub shown: Shown,
    /// Which of a path's times.
    pub measure: Measure,
    /// Only this version's requests, empty for senders that set none; by [`Shown::Versions`] the one
    /// that is looked at.
    pub version: Option<String>,
    /// By [`Shown::Versions`] the one it is compared with.
    pub base: Option<String>,
    /// The id of the path the graph is zoomed to.
    pub path: Option<String>,
}

/// Which requests are shown, or which are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    /// All of them.
    All,
    /// The slow tail.
    Tail,
    /// The slow tail compared with all.
    TailVersusAll,
    /// One version compared with another.
    Versions,
    /// This time compared with an earlier one.
    Windows(Earlier),
}

/// Which earlier time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Earlier {
    /// As long, right before.
    Before,
    /// The same hours a day before.
    Day,
    /// The same hours a week before.
    Week,
}

impl Earlier {
    const ALL: [Earlier; 3] = [Earlier::Before, Earlier::Day, Earlier::Week];

    fn id(self) -> &'static str {
        ["before", "day", "week"][self as usize]
    }

    fn title(self) -> &'static str {
        ["the time right before", "a day earlier", "a week earlier"][self as usize]
    }

    /// By how many hours the earlier time lies before one of `hours`. Never less than that: the two
    /// would overlap.
    fn shift(self, hours: i32) -> i32 {
        let asked = [0, 24, 7 * 24][self as usize];
        asked.max(hours)
    }
}

impl Shown {
    /// As it stands in an address.
    pub fn id(self) -> &'static str {
        match self {
            Shown::All => "all",
            Shown::Tail => "tail",
            Shown::TailVersusAll => "tail-versus-all",
            Shown::Versions => "versions",
            Shown::Windows(_) => "windows",
        }
    }

    fn parse(id: &str) -> Option<Shown> {
        let all = [
            Shown::All,
            Shown::Tail,
            Shown::TailVersusAll,
            Shown::Versions,
            Shown::Windows(Earlier::Before),
        ];
        all.into_iter().find(|it| it.id() == id)
    }
}

/// A measure as it stands in an address.
pub fn measure_id(measure: Measure) -> &'static str {
    match measure {
        Measure::Critical => "critical",
        Measure::SelfTime => "self",
    }
}

/// What stands in an address for senders that set no version.
const NO_VERSION: &str = "(not set)";

impl View {
    /// Reads the part of an address behind the question mark.
    ///
    /// # Errors
    /// A parameter is none of those that there are.
    pub fn parse(query: Option<&str>) -> Result<View, PageError> {
        let mut view = View {
            range: Filters::parse(query)?.range,
            shown: Shown::All,
            measure: Measure::Critical,
            version: None,
            base: None,
            path: None,
        };
        let mut earlier = Earlier::Before;
        let refused = |text: &str| Err(PageError::BadRequest(text.to_owned()));
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match (&*name, &*value) {
                ("flame", id) => match Shown::parse(id) {
                    Some(shown) => view.shown = shown,
                    None => {
                        return refused(
                            "flame is one of all, tail, tail-versus-all, versions and windows.",
                        );
                    }
                },
                ("measure", "critical") => view.measure = Measure::Critical,
                ("measure", "self") => view.measure = Measure::SelfTime,
                ("measure", _) => {
                    return refused(
                        "measure is critical (time on the critical path) or self (all work).",
                    );
                }
                ("against", id) => match Earlier::ALL.into_iter().find(|it| it.id() == id) {
                    Some(found) => earlier = found,
                    None => return refused("against is one of before, day and week."),
                },
                ("version", version) => view.version = version_of(version),
                ("base", version) => view.base = version_of(version),
                ("path", path) if !path.is_empty() => view.path = Some(path.to_owned()),
                _ => {}
            }
        }
        if let Shown::Windows(chosen) = &mut view.shown {
            *chosen = earlier;
        }
        Ok(view)
    }

    /// An address of this view at `path`, unzoomed.
    pub fn link(&self, path: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in self.parameters() {
            query.append_pair(name, &value);
        }
        let query = query.finish();
        if query.is_empty() {
            path.to_owned()
        } else {
            format!("{path}?{query}")
        }
    }

    /// The page's address, zoomed to a path, at the flame graph.
    pub fn zoom(&self, page: &str, path: &str) -> String {
        zoomed(&self.link(page), path)
    }

    /// Everything but the time, for a form that asks for another.
    pub fn beside_the_time(&self) -> Vec<(String, String)> {
        let mut kept = self.parameters();
        kept.retain(|it| !["range", "from", "to"].contains(&it.0));
        kept.into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = self.range.parameters().to_vec();
        parameters.retain(|it| !it.1.is_empty());
        if self.shown != Shown::All {
            parameters.push(("flame", self.shown.id().to_owned()));
        }
        if let Shown::Windows(earlier) = self.shown {
            parameters.push(("against", earlier.id().to_owned()));
        }
        if self.measure != Measure::Critical {
            parameters.push(("measure", measure_id(self.measure).to_owned()));
        }
        if let Some(version) = &self.version {
            parameters.push(("version", version_text(version).to_owned()));
        }
        if let (Shown::Versions, Some(base)) = (self.shown, &self.base) {
            parameters.push(("base", version_text(base).to_owned()));
        }
        parameters
    }
}

/// A page's address, zoomed to a path, at the flame graph.
fn zoomed(link: &str, path: &str) -> String {
    let sign = if link.contains('?') { '&' } else { '?' };
    if path.is_empty() {
        format!("{link}#paths")
    } else {
        format!("{link}{sign}path={path}#paths")
    }
}

/// The version that stands in an address; empty for senders that set none.
pub fn version_of(text: &str) -> Option<String> {
    match text {
        "" => None,
        NO_VERSION => Some(String::new()),
        other => Some(other.to_owned()),
    }
}

/// A version as it stands in an address.
pub fn version_text(version: &str) -> &str {
    if version.is_empty() {
        NO_VERSION
    } else {
        version
    }
}

/// Requests that belong together, and their call paths.
#[derive(Clone, PartialEq, Debug)]
pub struct Requests {
    /// Which, in words: `the slow tail`.
    pub name: String,
    /// Their hours, since the epoch.
    pub hours: Between<i32>,
    /// Their call paths.
    pub counted: Counted,
}

/// What was read.
#[derive(Clone, PartialEq, Debug)]
pub struct CallPaths {
    /// The versions to choose from, the newest first.
    pub versions: Vec<String>,
    /// What is looked at.
    pub of: Requests,
    /// What it is compared with.
    pub base: Option<Requests>,
    /// All requests of the range's hours, if they were read.
    pub hours_requests: Option<i64>,
}

impl CallPaths {
    /// The two beside each other, if there are two.
    pub fn difference(&self) -> Option<Difference> {
        let base = self.base.as_ref()?;
        Some(difference(compared(&self.of), compared(base)))
    }
}

fn compared(requests: &Requests) -> Compared<'_> {
    Compared {
        profile: &requests.counted.profile,
        requests: requests.counted.requests,
    }
}

/// Reads what `view` asks for, at `now_ns` since the epoch.
///
/// # Errors
/// The database is away.
pub async fn read(
    store: &Store,
    endpoint: &EndpointName,
    view: &View,
    now_ns: u64,
) -> Result<CallPaths, PageError> {
    let id = endpoint.id;
    let window = view.range.window(now_ns);
    let hours = match view.shown {
        Shown::Windows(_) => whole_hours(view.range, now_ns),
        _ => hours(window),
    };
    let versions = store.endpoint_versions(id, hours.clone()).await?;
    let version = view.version.as_deref();
    let load = async |hours: &Between<i32>, version: Option<&str>| {
        store.endpoint_profiles(id, hours.clone(), version).await
    };
    let of_version = version.map_or_else(String::new, |it| format!(" of {}", version_name(it)));
    let mut hours_requests = None;
    let (of, base) = match view.shown {
        Shown::All | Shown::Tail | Shown::TailVersusAll => {
            let Profiles { all, tail } = load(&hours, version).await?;
            hours_requests = version.is_none().then_some(all.requests);
            let all = requests(format!("all requests{of_version}"), &hours, all);
            let tail = requests(format!("the slow tail{of_version}"), &hours, tail);
            match view.shown {
                Shown::All => (all, None),
                Shown::Tail => (tail, None),
                _ => (tail, Some(all)),
            }
        }
        Shown::Versions => {
            let (version, base) = chosen_versions(view, &versions);
            let counted = load(&hours, Some(&version)).await?.all;
            let versus = load(&hours, Some(&base)).await?.all;
            (
                requests(version_name(&version), &hours, counted),
                Some(requests(version_name(&base), &hours, versus)),
            )
        }
        Shown::Windows(earlier) => {
            let end = hours.end.min(now_hour(now_ns) + 1).max(hours.start + 1);
            let shift = earlier.shift(end - hours.start);
            let before = hours.start - shift..end - shift;
            let counted = load(&hours, version).await?.all;
            let versus = load(&before, version).await?.all;
            (
                requests(format!("{}{of_version}", time(&hours)), &hours, counted),
                Some(requests(
                    format!("{}{of_version}", time(&before)),
                    &before,
                    versus,
                )),
            )
        }
    };
    Ok(CallPaths {
        versions,
        of,
        base,
        hours_requests,
    })
}

fn requests(name: String, hours: &Between<i32>, counted: Counted) -> Requests {
    Requests {
        name,
        hours: hours.clone(),
        counted,
    }
}

fn now_hour(now_ns: u64) -> i32 {
    const NS_PER_HOUR: u64 = 3_600_000_000_000;
    i32::try_from(now_ns / NS_PER_HOUR).unwrap_or(i32::MAX - 1)
}

/// As many hours as a range has, at least two: the present one may have begun a minute ago. Those to
/// come, of clocks that are ahead, are in it too.
fn whole_hours(range: Range, now_ns: u64) -> Between<i32> {
    if let Range::Fixed(_) = range {
        return hours(range.window(now_ns));
    }
    let count = (range.minutes() / 60).max(2);
    now_hour(now_ns) + 1 - count..hours(range.window(now_ns)).end
}

/// The version that is looked at and the one it is compared with: where the address leaves it open,
/// the newest and the newest other one.
fn chosen_versions(view: &View, versions: &[String]) -> (String, String) {
    let newest_but = |other: Option<&String>| {
        let found = versions.iter().find(|it| Some(*it) != other);
        found.cloned().unwrap_or_default()
    };
    let version = match &view.version {
        Some(version) => version.clone(),
        None => newest_but(view.base.as_ref()),
    };
    let base = match &view.base {
        Some(base) => base.clone(),
        None => newest_but(Some(&version)),
    };
    (version, base)
}

/// A version in a sentence.
pub fn version_name(version: &str) -> String {
    match version {
        "" => "the version that is not named".to_owned(),
        version => format!("version {version}"),
    }
}

/// `20 Nov 14:00 to 20 Nov 16:00 UTC`
pub fn time(hours: &Between<i32>) -> String {
    let begin = |hour: i32| format::day_and_minute(minute_ns(hour.saturating_mul(60)));
    format!("{} to {} UTC", begin(hours.start), begin(hours.end))
}

/// Rows of the table of differences: what is beyond contributes next to nothing.
const RANKED_MAX: usize = 12;

/// The section, ready for the template.
pub struct Section {
    measure: Measure,
    /// The page's own address, unzoomed.
    address: String,
    /// `200 requests of whole hours`
    pub of: String,
    /// Which requests: what there is to choose from.
    pub shown: Vec<Link>,
    /// Which time: the same.
    pub measures: Vec<Link>,
    /// What the chosen view needs to be told.
    pub form: Option<Form>,
    /// Why there is nothing to draw.
    pub nothing: Option<String>,
    /// The difference in a sentence; empty if there is none.
    pub verdict: String,
    /// The graph.
    pub flame: Flame,
    /// Its legend: class, name.
    pub legend: Vec<(&'static str, &'static str)>,
    /// What contributes most to the difference.
    pub ranked: Vec<Ranked>,
    /// Paths that differ, beyond those.
    pub more: usize,
    /// The names of the two that are compared.
    pub names: [String; 2],
    /// A cap on call paths was reached.
    pub has_folded_paths: bool,
    /// Links to the same for other tools.
    pub files: Vec<(&'static str, String)>,
}

/// A link of a switch.
pub struct Link {
    /// Where to.
    pub href: String,
    /// What it says.
    pub title: &'static str,
    /// It is what is shown.
    pub current: bool,
}

/// A plain form below the switch.
pub struct Form {
    /// What it carries along.
    pub hidden: Vec<(&'static str, String)>,
    /// Label, parameter, what to choose from.
    pub fields: Vec<(&'static str, &'static str, Vec<Selectable>)>,
    /// On its button.
    pub button: &'static str,
}

/// A path in the table of differences.
pub struct Ranked {
    /// The operation.
    pub name: String,
    /// The whole path, for the title.
    pub path: String,
    /// The class and the name of its category.
    pub category: (&'static str, &'static str),
    /// `+180 ms`
    pub change: String,
    /// It takes longer than in the other.
    pub is_longer: bool,
    /// Per request in the one it is compared with.
    pub base: String,
    /// Per request in the one that is looked at.
    pub here: String,
    /// Calls per request in both: `1 → 4`, with the share of requests where that is known.
    pub calls: String,
    /// The address of the graph zoomed to it.
    pub href: String,
}

impl Section {
    /// The section of what was read.
    pub fn of(paths: &CallPaths, view: &View, page: &str) -> Section {
        let zoom = view.path.as_deref();
        let nothing = nothing(paths, view);
        Section {
            shown: shown_links(view, page, paths),
            measures: measure_links(view, page),
            form: form(view, paths),
            files: files(view, page),
            ..Section::at(view.link(page), paths, view.measure, zoom, nothing)
        }
    }

    /// The same on a page of another kind, whose address, unzoomed, is `address`: without anything to
    /// choose.
    pub fn at(
        address: String,
        paths: &CallPaths,
        measure: Measure,
        zoom: Option<&str>,
        nothing: Option<String>,
    ) -> Section {
        let difference = paths.difference();
        let flame = match &difference {
            Some(difference) => flame::draw_difference(difference, measure, zoom),
            None => flame::draw(
                &paths.of.counted.profile,
                measure,
                paths.of.counted.requests,
                zoom,
            ),
        };
        let names = [Some(&paths.of), paths.base.as_ref()]
            .map(|it| it.map_or_else(String::new, |it| it.name.clone()));
        let (ranked, more) = match (&difference, &nothing) {
            (Some(difference), None) => ranked(difference, measure, &address),
            _ => (Vec::new(), 0),
        };
        let requests = |it: &Requests| {
            let count = format::count(it.counted.requests);
            format!(
                "{count} request{}",
                if it.counted.requests == 1 { "" } else { "s" }
            )
        };
        Section {
            measure,
            address,
            of: match &paths.base {
                Some(base) => format!(
                    "{} versus {} of whole hours",
                    requests(&paths.of),
                    requests(base)
                ),
                None => format!("{} of whole hours", requests(&paths.of)),
            },
            shown: Vec::new(),
            measures: Vec::new(),
            form: None,
            verdict: match (&difference, &nothing) {
                (Some(difference), None) => verdict(difference, measure, &names, &ranked),
                _ => String::new(),
            },
            nothing,
            flame,
            legend: match difference {
                Some(_) => Change::ALL.map(|it| (it.class(), it.name())).to_vec(),
                None => legend(paths),
            },
            ranked,
            more,
            names,
            has_folded_paths: has_folded_paths(paths),
            files: Vec::new(),
        }
    }

    /// The address of a flame graph's frame.
    pub fn zoom(&self, path: &str) -> String {
        zoomed(&self.address, path)
    }

    /// What a frame's width is.
    pub fn width(&self) -> &'static str {
        match self.measure {
            Measure::Critical => "critical-path time",
            Measure::SelfTime => "work: self times added up",
        }
    }

    /// Two are compared.
    pub fn is_difference(&self) -> bool {
        !self.names[1].is_empty()
    }
}

fn shown_links(view: &View, page: &str, paths: &CallPaths) -> Vec<Link> {
    let mut all = vec![
        (Shown::All, "All requests"),
        (Shown::Tail, "Slow tail"),
        (Shown::TailVersusAll, "Tail versus all"),
        (Shown::Windows(Earlier::Before), "Now versus earlier"),
    ];
    if paths.versions.len() > 1 || view.shown == Shown::Versions {
        all.push((Shown::Versions, "Version versus version"));
    }
    let link = |(shown, title): (Shown, &'static str)| Link {
        href: View {
            shown,
            ..view.clone()
        }
        .zoom(page, ""),
        title,
        current: shown.id() == view.shown.id(),
    };
    all.into_iter().map(link).collect()
}

fn measure_links(view: &View, page: &str) -> Vec<Link> {
    let all = [
        (Measure::Critical, "Critical path only"),
        (Measure::SelfTime, "All work"),
    ];
    let link = |(measure, title)| Link {
        href: View {
            measure,
            ..view.clone()
        }
        .zoom(page, ""),
        title,
        current: measure == view.measure,
    };
    all.into_iter().map(link).collect()
}

fn form(view: &View, paths: &CallPaths) -> Option<Form> {
    let choices = |chosen: Option<&str>| -> Vec<Selectable> {
        let mut known: Vec<&str> = paths.versions.iter().map(String::as_str).collect();
        known.extend(chosen.filter(|it| !paths.versions.iter().any(|known| known == it)));
        let choice = |it: &str| Selectable {
            value: version_text(it).to_owned(),
            title: version_text(it).to_owned(),
            selected: chosen == Some(it),
        };
        known.into_iter().map(choice).collect()
    };
    let any = |chosen: Option<&str>| {
        let mut offered = choices(chosen);
        let all = Selectable {
            value: String::new(),
            title: "All".to_owned(),
            selected: chosen.is_none(),
        };
        offered.insert(0, all);
        offered
    };
    let version = view.version.as_deref();
    let has_versions = paths.versions.len() > 1 || version.is_some();
    let mut fields = Vec::new();
    match view.shown {
        Shown::Versions => {
            let (version, base) = chosen_versions(view, &paths.versions);
            fields.push(("Version", "version", choices(Some(&version))));
            fields.push(("versus", "base", choices(Some(&base))));
        }
        Shown::Windows(earlier) => {
            let choice = |it: Earlier| Selectable {
                value: it.id().to_owned(),
                title: it.title().to_owned(),
                selected: it == earlier,
            };
            fields.push(("Versus", "against", Earlier::ALL.map(choice).to_vec()));
            if has_versions {
                fields.push(("Version", "version", any(version)));
            }
        }
        _ if has_versions => fields.push(("Version", "version", any(version))),
        _ => return None,
    }
    let mut hidden = view.parameters();
    hidden.retain(|(name, _)| !fields.iter().any(|(_, field, _)| field == name));
    Some(Form {
        hidden,
        button: match view.shown {
            Shown::Versions | Shown::Windows(_) => "Compare",
            _ => "Show",
        },
        fields,
    })
}

/// Why there is nothing to draw, if so.
fn nothing(paths: &CallPaths, view: &View) -> Option<String> {
    let is_tail = matches!(view.shown, Shown::Tail | Shown::TailVersusAll);
    if paths.of.counted.profile.nodes.is_empty() && is_tail {
        return Some(
            "None in this time. The slow tail is the slowest 5 % of an endpoint, once it has had 40 \
             requests."
                .to_owned(),
        );
    }
    if view.shown == Shown::Versions && paths.versions.len() < 2 && view.base.is_none() {
        return Some(
            "Only one version answered in this time: there is nothing to compare it with."
                .to_owned(),
        );
    }
    let is_empty = |it: &&Requests| it.counted.profile.nodes.is_empty();
    let both = [Some(&paths.of), paths.base.as_ref()];
    match both.into_iter().flatten().find(is_empty) {
        Some(empty) if paths.base.is_some() => Some(format!(
            "There are no requests of {} to compare.",
            empty.name
        )),
        Some(_) => Some("No call paths in this time.".to_owned()),
        None => None,
    }
}

fn ranked(difference: &Difference, measure: Measure, address: &str) -> (Vec<Ranked>, usize) {
    let ids = flame::path_ids(difference);
    let all = difference.ranked(measure);
    let more = all.len().saturating_sub(RANKED_MAX);
    let row = |at: usize| {
        let node = &difference.nodes[at];
        let change = difference.change_ns(at, measure);
        Ranked {
            name: node.name.to_string(),
            path: difference.path(at).join(" › "),
            category: (category_bar::class(&node.category), node.category.name()),
            change: format::change(change),
            is_longer: change > 0,
            base: per_request(&node.base, difference.base_per_request_ns(at, measure)),
            here: per_request(&node.amounts, difference.per_request_ns(at, measure)),
            calls: calls(
                (node.base.count, difference.base_requests),
                (node.amounts.count, difference.requests),
            ),
            href: zoomed(address, &ids[at]),
        }
    };
    (all.into_iter().take(RANKED_MAX).map(row).collect(), more)
}

/// A dash where the path is not there at all.
fn per_request(amounts: &Amounts, ns: i64) -> String {
    match amounts.count {
        0 if ns == 0 => "–".to_owned(),
        _ => format::duration(ns.max(0) as u64),
    }
}

/// Calls per request, in the one it is compared with and in the one that is looked at, each a count
/// and its requests: `1 → 4`. Below one call per request the count bounds how many requests have it:
/// `0.02 → 0.9 (at most 2 % → 90 % of requests)`.
fn calls(base: (i64, i64), here: (i64, i64)) -> String {
    let each = |(count, requests): (i64, i64)| format::number(count as f64 / requests as f64);
    let bound = |(count, requests): (i64, i64)| {
        let share = format::percent(count as f64 / requests as f64);
        (0 < count && count < requests).then(|| format!("{share} %"))
    };
    let (from, to) = (each(base), each(here));
    if from == to {
        return to;
    }
    match (bound(base), bound(here)) {
        (None, None) => format!("{from} → {to}"),
        (Some(bound), None) => format!("{from}, in at most {bound} of requests → {to}"),
        (None, Some(bound)) => format!("{from} → {to}, in at most {bound} of requests"),
        (Some(least), Some(most)) => {
            format!("{from} → {to} (in at most {least} → {most} of requests)")
        }
    }
}

/// `The slow tail takes 212 ms longer per request than all requests. POST payments: +180 ms.`
fn verdict(
    difference: &Difference,
    measure: Measure,
    [of, base]: &[String; 2],
    ranked: &[Ranked],
) -> String {
    let total = difference.total_change_ns(measure);
    let by = format::duration(total.unsigned_abs());
    let longer = match (measure, total) {
        (_, 0) => "takes as long".to_owned(),
        (Measure::Critical, 1..) => format!("takes {by} longer"),
        (Measure::Critical, _) => format!("takes {by} less"),
        (Measure::SelfTime, 1..) => format!("does {by} more work"),
        (Measure::SelfTime, _) => format!("does {by} less work"),
    };
    let than = if total == 0 { "as" } else { "than" };
    let mean = format!("On average a request of {of} {longer} {than} one of {base}.");
    match ranked.first() {
        Some(first) => format!(
            "{mean} Most of the difference: {} {}.",
            first.change, first.name
        ),
        None => mean,
    }
}

/// Those categories that some frame has: class, name.
fn legend(paths: &CallPaths) -> Vec<(&'static str, &'static str)> {
    let categories = analyzer::category::Category::ALL.into_iter();
    let nodes = &paths.of.counted.profile.nodes;
    let has = |it: &_| nodes.iter().any(|node| node.category == *it);
    categories
        .filter(has)
        .map(|it| (category_bar::class(&it), it.name()))
        .collect()
}

fn has_folded_paths(paths: &CallPaths) -> bool {
    let both = [Some(&paths.of), paths.base.as_ref()];
    let mut nodes = both
        .into_iter()
        .flatten()
        .flat_map(|it| &it.counted.profile.nodes);
    nodes.any(|it| *it.name == *OTHER)
}

fn files(view: &View, page: &str) -> Vec<(&'static str, String)> {
    let api = |file: &str| view.link(&format!("/api/v1{page}/{file}"));
    let mut files = vec![
        ("SVG", view.link(&format!("{page}/flame.svg"))),
        ("folded text", api("profile.txt")),
    ];
    // These are of one profile each.
    if matches!(view.shown, Shown::All | Shown::Tail) {
        files.push(("pprof", api("profile.pb.gz")));
        files.push(("speedscope", api("profile.speedscope.json")));
    }
    files.push(("JSON", api("profile")));
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Site, drawn_at};
    use axum::http::StatusCode;
    use scraper::{Html, Selector};
    use serde_json::Value;
    use std::io::Read;

    const MS: i64 = 1_000_000;

    /// `GET /cart` of this version: 20 ms, and the payment `more` longer.
    fn cart(version: &str, more: usize) -> String {
        let more = "-".repeat(more);
        format!(
            "
            shop  GET /cart {{res.service.version={version}}}                |-------------------{more}|
            shop    SELECT item                                              |--|
            shop    POST payments [client] {{server.address=payments}}           |------{more}|
            "
        )
    }

    /// Two requests of v1 and two of v2, which waits 10 ms longer, just now; two of v1, quicker by
    /// 5 ms, two hours ago.
    async fn site() -> Site {
        let now_ns = format::now_ns();
        let ago = |s: u64| now_ns - s * 1_000_000_000;
        let traces = [
            drawn_at(&cart("v1", 0), ago(7_200), 1),
            drawn_at(&cart("v1", 0), ago(7_200), 2),
            drawn_at(&cart("v1", 5), ago(30), 3),
            drawn_at(&cart("v1", 5), ago(30), 4),
            drawn_at(&cart("v2", 15), ago(20), 5),
            drawn_at(&cart("v2", 15), ago(20), 6),
        ];
        Site::with(&traces.iter().collect::<Vec<_>>()).await
    }

    fn json(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    async fn page_of(site: &Site) -> String {
        let endpoints = json(&site.page("/api/v1/endpoints?range=24h").await);
        format!("/endpoints/{}", endpoints["endpoints"][0]["id"])
    }

    async fn texts(site: &Site, address: &str, css: &str) -> Vec<String> {
        let html = Html::parse_document(&site.page(address).await);
        let css = Selector::parse(css).unwrap();
        html.select(&css)
            .map(|it| it.text().collect::<String>().trim().to_owned())
            .collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn versions_and_times_are_compared() {
        let site = site().await;
        let page = page_of(&site).await;
        let change = async |query: &str| {
            let told = texts(&site, &format!("{page}?{query}"), "#paths .change").await;
            told.into_iter().next().unwrap_or_default()
        };
        assert_eq!(
            change("flame=versions").await,
            "On average a request of version v2 takes 10 ms longer than one of version v1. Most of the \
             difference: +10 ms POST payments."
        );
        let turned = change("flame=versions&version=v1&base=v2").await;
        assert!(
            turned.starts_with("On average a request of version v1 takes 10 ms less"),
            "{turned}"
        );
        let earlier = change("flame=windows").await;
        assert!(
            earlier.contains("takes 10 ms longer than one of"),
            "{earlier}"
        );
        let earlier = change("flame=windows&against=before&version=v1").await;
        assert!(
            earlier.contains("takes 5 ms longer than one of"),
            "{earlier}"
        );
        let none = texts(
            &site,
            &format!("{page}?flame=windows&against=week"),
            ".pane p",
        )
        .await;
        assert!(none[0].starts_with("There are no requests of"), "{none:?}");
        let none = texts(&site, &format!("{page}?flame=tail-versus-all"), ".pane p").await;
        assert!(none[0].starts_with("None in this time."), "{none:?}");
        let frames = texts(&site, &format!("{page}?version=v1"), ".flame title").await;
        assert!(
            frames[0].starts_with("GET /cart: 25 ms per request"),
            "{frames:?}"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn other_tools_read_the_same_totals() {
        let site = site().await;
        let page = page_of(&site).await;
        let api = |file: &str, query: &str| format!("/api/v1{page}/{file}?{query}");
        // 25 ms of v1 and 35 ms of v2, twice.
        let total = 2 * (25 + 35) * MS;
        let lines = site.page(&api("profile.txt", "")).await;
        let folded: i64 = lines
            .lines()
            .map(|it| it.rsplit_once(' ').unwrap().1.parse::<i64>().unwrap())
            .sum();
        assert_eq!(folded, total);
        assert_eq!(lines, site.page(&format!("{page}/flame.txt")).await);
        let speedscope = json(&site.page(&api("profile.speedscope.json", "")).await);
        assert_eq!(speedscope["profiles"][0]["endValue"], total);
        let (status, _, file) = site.get_bytes(&api("profile.pb.gz", "version=v2")).await;
        assert_eq!(status, StatusCode::OK);
        let mut bytes = Vec::new();
        let mut reader = flate2::read::GzDecoder::new(&*file);
        reader.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            text.contains("GET /cart of shop, all requests of version v2"),
            "{text}"
        );
        let paths = json(&site.page(&api("profile", "")).await);
        let sum = |of: &str| {
            let paths = paths["paths"].as_array().unwrap().iter();
            paths.map(|it| it[of].as_i64().unwrap()).sum::<i64>()
        };
        assert_eq!(sum("critical_path_ns"), total);
        assert_eq!((sum("calls"), &paths["of"]["requests"]), (12, &4.into()));
        let difference = json(&site.page(&api("profile", "flame=versions")).await);
        assert_eq!(difference["change_ns_per_request"], 10 * MS);
        assert_eq!(difference["paths"].as_array().unwrap().len(), 1);
        assert_eq!(difference["paths"][0]["versus_ns_per_request"], 12 * MS);
        let (status, _, text) = site.get(&api("profile.pb.gz", "flame=versions")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(text.contains("-diff_base"), "{text}");
        let (status, _, _) = site.get("/api/v1/endpoints/999/profile").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        let svg = site.page(&format!("{page}/flame.svg?flame=versions")).await;
        assert!(svg.contains("version v2 versus version v1"), "{svg}");
    }

    #[test]
    fn times_that_are_compared_never_overlap() {
        let now_ns = 1_763_740_000_000_000_000;
        for range in Range::ALL {
            let hours = whole_hours(range, now_ns);
            let count = now_hour(now_ns) + 1 - hours.start;
            assert!(count >= range.minutes() / 60);
            for earlier in Earlier::ALL {
                assert!(earlier.shift(count) >= count);
            }
        }
        assert_eq!(Earlier::Day.shift(2), 24);
        assert_eq!(Earlier::Day.shift(168), 168);
    }

    #[test]
    fn calls_bound_the_share_of_requests() {
        let shown = [
            calls((10, 10), (10, 10)),
            calls((0, 10), (10, 10)),
            calls((1, 10), (30, 10)),
            calls((10, 10), (5, 10)),
            calls((2, 100), (9, 10)),
        ];
        assert_eq!(
            shown,
            [
                "1",
                "0 → 1",
                "0.1, in at most 10 % of requests → 3",
                "1 → 0.5, in at most 50 % of requests",
                "0.02 → 0.9 (in at most 2 % → 90 % of requests)",
            ]
        );
    }

    #[test]
    fn an_address_comes_back_as_it_was() {
        for query in [
            "range=24h&flame=windows&against=week&measure=self&version=%28not+set%29",
            "flame=versions&version=1.0&base=a%26b",
            "flame=tail-versus-all",
        ] {
            let view = View::parse(Some(query)).unwrap();
            assert_eq!(view.link("/"), format!("/?{query}"));
        }
    }
}
