//! The call paths of an endpoint's page: of all requests or of the slow tail, or the difference of
//! two sets of requests. Everything that is chosen stands in the address.

use analyzer::profile::{Compared, Difference, Measure, difference};
use collector::store::Store;
use collector::store::dictionaries::OTHER;
use collector::store::endpoints::EndpointName;
use collector::store::profiles::{Counted, Share, hours};
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
    /// How far back.
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
        let link = self.link(page);
        let sign = if link.contains('?') { '&' } else { '?' };
        if path.is_empty() {
            format!("{link}#paths")
        } else {
            format!("{link}{sign}path={path}#paths")
        }
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = Vec::new();
        if self.range != Range::default() {
            parameters.push(("range", self.range.id().to_owned()));
        }
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

fn version_of(text: &str) -> Option<String> {
    match text {
        "" => None,
        NO_VERSION => Some(String::new()),
        other => Some(other.to_owned()),
    }
}

fn version_text(version: &str) -> &str {
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
    let read = async |share: Share, hours: Between<i32>, version: Option<&str>, name: String| {
        let mut profiles = store.endpoint_profiles(id, hours.clone(), version).await?;
        let counted = match share {
            Share::All => std::mem::take(&mut profiles.all),
            Share::Tail => std::mem::take(&mut profiles.tail),
        };
        Ok::<_, PageError>(Requests {
            name,
            hours,
            counted,
        })
    };
    let version = view.version.as_deref();
    let of_version = version.map_or_else(String::new, |it| format!(" of {}", version_name(it)));
    let all = format!("all requests{of_version}");
    let tail = format!("the slow tail{of_version}");
    let (of, base) = match view.shown {
        Shown::All => (read(Share::All, hours, version, all).await?, None),
        Shown::Tail => (read(Share::Tail, hours, version, tail).await?, None),
        Shown::TailVersusAll => (
            read(Share::Tail, hours.clone(), version, tail).await?,
            Some(read(Share::All, hours, version, all).await?),
        ),
        Shown::Versions => {
            let (version, base) = chosen_versions(view, &versions);
            (
                read(
                    Share::All,
                    hours.clone(),
                    Some(&version),
                    version_name(&version),
                )
                .await?,
                Some(read(Share::All, hours, Some(&base), version_name(&base)).await?),
            )
        }
        Shown::Windows(earlier) => {
            let shift = earlier.shift((now_hour(now_ns) + 1) - hours.start);
            let before = hours.start - shift..(now_hour(now_ns) + 1) - shift;
            let name = |hours: &Between<i32>| format!("{}{of_version}", time(hours));
            (
                read(Share::All, hours.clone(), version, name(&hours)).await?,
                Some(read(Share::All, before.clone(), version, name(&before)).await?),
            )
        }
    };
    Ok(CallPaths { versions, of, base })
}

fn now_hour(now_ns: u64) -> i32 {
    const NS_PER_HOUR: u64 = 3_600_000_000_000;
    i32::try_from(now_ns / NS_PER_HOUR).unwrap_or(i32::MAX - 1)
}

/// As many hours as a range has, at least two: the present one may have begun a minute ago. Those to
/// come, of clocks that are ahead, are in it too.
fn whole_hours(range: Range, now_ns: u64) -> Between<i32> {
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

fn version_name(version: &str) -> String {
    match version {
        "" => "the version that is not named".to_owned(),
        version => format!("version {version}"),
    }
}

/// `20 Nov 14:00 to 20 Nov 16:00 UTC`
fn time(hours: &Between<i32>) -> String {
    let begin = |hour: i32| format::day_and_minute(minute_ns(hour.saturating_mul(60)));
    format!("{} to {} UTC", begin(hours.start), begin(hours.end))
}

/// Rows of the table of differences: what is beyond contributes next to nothing.
const RANKED_MAX: usize = 12;

/// The section, ready for the template.
pub struct Section<'a> {
    view: &'a View,
    /// The page's own path.
    page: String,
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
    /// Calls per request in both: `1 → 4`; with a share of requests if it is below 1.
    pub calls: String,
    /// The address of the graph zoomed to it.
    pub href: String,
}

impl Section<'_> {
    /// The section of what was read.
    pub fn of<'a>(paths: &CallPaths, view: &'a View, page: &str) -> Section<'a> {
        let difference = paths.difference();
        let flame = match &difference {
            Some(difference) => {
                flame::draw_difference(difference, view.measure, view.path.as_deref())
            }
            None => flame::draw(
                &paths.of.counted.profile,
                view.measure,
                paths.of.counted.requests,
                view.path.as_deref(),
            ),
        };
        let names = [Some(&paths.of), paths.base.as_ref()]
            .map(|it| it.map_or_else(String::new, |it| it.name.clone()));
        let nothing = nothing(paths, view);
        let (ranked, more) = match (&difference, &nothing) {
            (Some(difference), None) => ranked(difference, view, page),
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
            view,
            page: page.to_owned(),
            of: match &paths.base {
                Some(base) => format!(
                    "{} versus {} of whole hours",
                    requests(&paths.of),
                    requests(base)
                ),
                None => format!("{} of whole hours", requests(&paths.of)),
            },
            shown: shown_links(view, page, paths),
            measures: measure_links(view, page),
            form: form(view, paths),
            verdict: match (&difference, &nothing) {
                (Some(difference), None) => verdict(difference, view.measure, &names, &ranked),
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
            files: files(view, page),
        }
    }

    /// The address of a flame graph's frame.
    pub fn zoom(&self, path: &str) -> String {
        self.view.zoom(&self.page, path)
    }

    /// What a frame's width is.
    pub fn width(&self) -> &'static str {
        match self.view.measure {
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

fn ranked(difference: &Difference, view: &View, page: &str) -> (Vec<Ranked>, usize) {
    let measure = view.measure;
    let ids = flame::path_ids(difference);
    let all = difference.ranked(measure);
    let more = all.len().saturating_sub(RANKED_MAX);
    let row = |at: usize| {
        let node = &difference.nodes[at];
        let change = difference.change_ns(at, measure);
        let base = calls(node.base.count, difference.base_requests);
        let here = calls(node.amounts.count, difference.requests);
        Ranked {
            name: node.name.to_string(),
            path: difference.path(at).join(" › "),
            category: (category_bar::class(&node.category), node.category.name()),
            change: format::change(change),
            is_longer: change > 0,
            base: per_request(difference.base_per_request_ns(at, measure)),
            here: per_request(difference.per_request_ns(at, measure)),
            calls: if base == here {
                here
            } else {
                format!("{base} → {here}")
            },
            href: view.zoom(page, &ids[at]),
        }
    };
    (all.into_iter().take(RANKED_MAX).map(row).collect(), more)
}

fn per_request(ns: i64) -> String {
    format::duration(ns.max(0) as u64)
}

/// `3.2`; below one call per request the count bounds how many requests have it: `0.12, in at most
/// 12 % of requests`.
fn calls(count: i64, requests: i64) -> String {
    let each = format::number(count as f64 / requests as f64);
    if count <= 0 || count >= requests {
        return each;
    }
    let share = format::percent(count as f64 / requests as f64);
    format!("{each}, in at most {share} % of requests")
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
