//! Checks by axe-core, which is installed beside the tests and no part of this project.

use std::path::PathBuf;

use super::page::Page;

/// What of axe's rules is asked for: WCAG 2.2 up to AA, and its best practices.
const RULES: &str = "['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']";

impl Page {
    /// axe finds nothing. Where it is not installed (`CULPRIT_TEST_AXE` names its file; `make test` sets
    /// it), nothing is checked, and the test says so.
    pub fn assert_accessible(&self) {
        match self.violations() {
            Some(violations) => {
                assert!(violations.is_empty(), "{}: {violations:#?}", self.url());
            }
            None => println!("without axe or scripts: accessibility was not checked"),
        }
    }

    /// The rules that the page breaks, each with some of the elements; `None` without axe, and where scripts
    /// are off: axe waits by timers.
    pub fn violations(&self) -> Option<Vec<String>> {
        if !self.look().javascript {
            return None;
        }
        let path = PathBuf::from(std::env::var_os("CULPRIT_TEST_AXE")?);
        let axe = std::fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!("{path:?}: {error} (CULPRIT_TEST_AXE names axe.min.js)")
        });
        if !self.evaluate::<bool>("Boolean(window.axe)") {
            let _: serde_json::Value = self.evaluate(&format!("{axe}; null"));
        }
        Some(self.evaluate(&format!(
            "axe.run(document, {{ runOnly: {RULES}, resultTypes: ['violations'] }}).then(it =>
                it.violations.map(({{ id, help, nodes }}) => id + ': ' + help + nodes.slice(0, 5).map(
                    it => '\\n' + it.html.slice(0, 300) + ' ' + it.failureSummary).join('')))"
        )))
    }
}
