//! Text for terminals: colour where it is seen, lines as wide as the window, nothing in them that could
//! move a cursor.

use std::io::{self, IsTerminal};

use analyzer::category::Category;

/// A line where the width is not known: what fits into most windows and mails.
const WIDTH_USUAL: usize = 100;

/// Lines are no longer even in a wide window: prose becomes hard to read.
const WIDTH_MAX: usize = 120;

/// … nor shorter in a narrow one: columns need some room.
const WIDTH_MIN: usize = 60;

/// How to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paint {
    /// With colours.
    pub colour: bool,
    /// Columns of a line.
    pub width: usize,
}

/// A style of a piece of text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// What a section is.
    Heading,
    /// What matters less.
    Quiet,
    /// A critical finding.
    Critical,
    /// A warning.
    Warning,
    /// Good news, and what to do.
    Good,
    /// Code and statements.
    Code,
}

impl Paint {
    /// Plain text of the usual width, for files and pipes.
    pub fn plain() -> Paint {
        Paint {
            colour: false,
            width: WIDTH_USUAL,
        }
    }

    /// For standard output: colours on a terminal unless `NO_COLOR` is set, and its width.
    pub fn stdout() -> Paint {
        if !io::stdout().is_terminal() {
            return Paint::plain();
        }
        let set = |name| std::env::var_os(name).is_some_and(|it| !it.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|it| it == "dumb");
        let width = terminal_size::terminal_size().map(|it| usize::from(it.0.0));
        Paint {
            colour: !set("NO_COLOR") && !dumb,
            width: width.unwrap_or(WIDTH_USUAL).clamp(WIDTH_MIN, WIDTH_MAX),
        }
    }

    /// `text` in that style.
    pub fn styled(self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Heading => "1",
            Style::Quiet => "2",
            Style::Critical => "1;31",
            Style::Warning => "33",
            Style::Good => "32",
            Style::Code => "36",
        };
        self.escaped(code, text)
    }

    fn escaped(self, code: &str, text: &str) -> String {
        match self.colour && !text.is_empty() {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    /// The shares of a whole as a bar of `columns`: blocks in the categories' colours, or their letters.
    pub fn bar(self, categories: &[u64; Category::COUNT], columns: usize) -> String {
        let mut bar = String::new();
        for (category, columns) in Category::ALL.into_iter().zip(shares(categories, columns)) {
            bar.push_str(&match self.colour {
                true => self.escaped(colour(category), &"█".repeat(columns)),
                false => letter(category).to_string().repeat(columns),
            });
        }
        bar
    }

    /// A category's name as the bars' legend has it.
    pub fn category(self, category: Category) -> String {
        match self.colour {
            true => format!(
                "{} {}",
                self.escaped(colour(category), "█"),
                category.name()
            ),
            false => format!("{} {}", letter(category), category.name()),
        }
    }
}

/// The 16 colours of every terminal, so that they follow its theme; waiting is bright.
fn colour(category: Category) -> &'static str {
    match category {
        // As text is: readable on every ground.
        Category::Handler => "39",
        Category::Database => "34",
        Category::Cache => "36",
        Category::External => "35",
        Category::Messaging => "95",
        Category::Serialization => "32",
        Category::Logging => "33",
        Category::PoolWait => "31",
        Category::Connect => "91",
        Category::Network => "96",
        Category::Unattributed => "90",
    }
}

/// Where there are no colours. Each is in the name.
fn letter(category: Category) -> char {
    match category {
        Category::Handler => 'h',
        Category::Database => 'd',
        Category::Cache => 'c',
        Category::External => 'e',
        Category::Messaging => 'm',
        Category::Serialization => 's',
        Category::Logging => 'l',
        Category::PoolWait => 'p',
        Category::Connect => 'o',
        Category::Network => 'n',
        Category::Unattributed => 'u',
    }
}

/// How many of `columns` each has; they are used up, and what is rounded off goes to the largest remainders.
fn shares(parts: &[u64; Category::COUNT], columns: usize) -> [usize; Category::COUNT] {
    let whole: u128 = parts.iter().map(|it| u128::from(*it)).sum();
    let mut shares = [0; Category::COUNT];
    if whole == 0 {
        return shares;
    }
    let mut remainders = [(0u128, 0); Category::COUNT];
    for (at, part) in parts.iter().enumerate() {
        let scaled = u128::from(*part) * columns as u128;
        shares[at] = (scaled / whole) as usize;
        remainders[at] = (scaled % whole, at);
    }
    let left = columns - shares.iter().sum::<usize>();
    remainders.sort_by_key(|it| (std::cmp::Reverse(it.0), it.1));
    for (_, at) in remainders.into_iter().take(left) {
        shares[at] += 1;
    }
    shares
}

/// Names come from strangers: what would end a line or move a cursor is a blank.
pub fn printable(text: &str) -> String {
    let blank = |it: char| match it {
        it if it.is_control() => ' ',
        // What turns the direction of the text around it.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => ' ',
        it => it,
    };
    text.chars().map(blank).collect()
}

/// [`printable`] for texts of several lines.
pub fn printable_lines(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(printable).collect();
    lines.join("\n")
}

/// Breaks a paragraph into lines of `width` columns, where words end. Words that are longer stand alone.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut columns = 0;
    for word in printable(text).split_whitespace() {
        let length = word.chars().count();
        if columns > 0 && columns + 1 + length > width {
            lines.push(std::mem::take(&mut line));
            columns = 0;
        }
        if columns > 0 {
            line.push(' ');
            columns += 1;
        }
        line.push_str(word);
        columns += length;
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// At most `columns` of `text`; what is left out is told by `…`.
pub fn cut(text: &str, columns: usize) -> String {
    let text = printable(text);
    match text.char_indices().nth(columns) {
        None => text,
        Some(_) => text
            .chars()
            .take(columns.saturating_sub(1))
            .chain(['…'])
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_wide_as_asked_for() {
        let mut categories = [0; Category::COUNT];
        categories[0] = 1;
        categories[1] = 1;
        categories[10] = 1;
        assert_eq!(Paint::plain().bar(&categories, 10), "hhhhddduuu");
        categories[1] = u64::MAX;
        assert_eq!(Paint::plain().bar(&categories, 4), "dddd");
        assert_eq!(Paint::plain().bar(&[0; Category::COUNT], 10), "");
    }

    #[test]
    fn nothing_of_a_stranger_moves_the_cursor() {
        assert_eq!(printable("a\x1b[31mb\r\n\u{202e}c"), "a [31mb   c");
        assert_eq!(printable_lines("a\x07b\n\x1bc"), "a b\n c");
        assert_eq!(wrap("one two\nthree", 7), ["one two", "three"]);
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("abcd", 4), "abcd");
    }

    #[test]
    fn every_category_has_a_letter_of_its_own() {
        let letters: std::collections::BTreeSet<char> = Category::ALL.map(letter).into();
        assert_eq!(letters.len(), Category::COUNT);
    }
}
