//! Fields of forms: what they ask, what was filled in, and what is wrong with it, beside the field.

/// What is wrong with which field, in words. The field's key is empty if it is the whole.
pub type Problems = Vec<(String, String)>;

/// A field.
pub struct Input {
    /// Its name in the form.
    pub key: &'static str,
    /// What is asked.
    pub label: &'static str,
    /// What may be answered.
    pub hint: String,
    /// What was answered, or is so now.
    pub value: String,
    /// Shown while it is empty.
    pub placeholder: &'static str,
    /// What is wrong with it.
    pub problem: Option<String>,
    /// How it is answered.
    pub control: Control,
    /// Nothing is no answer.
    pub required: bool,
}

/// How a field is answered.
pub enum Control {
    /// A line.
    Text,
    /// A line that is not shown.
    Secret,
    /// Lines.
    Area,
    /// A time in UTC.
    Moment,
    /// One of these: value, words, chosen.
    Select(Vec<(String, String, bool)>),
    /// Any of these: value, words, chosen.
    Checks(Vec<(String, String, bool)>),
}

impl Input {
    /// A line.
    pub fn text(key: &'static str, label: &'static str, value: impl Into<String>) -> Input {
        Input {
            key,
            label,
            hint: String::new(),
            value: value.into(),
            placeholder: "",
            problem: None,
            control: Control::Text,
            required: false,
        }
    }

    /// One of some.
    pub fn select(
        key: &'static str,
        label: &'static str,
        value: &str,
        options: &[(&str, &str)],
    ) -> Input {
        let option =
            |(id, words): &(&str, &str)| ((*id).to_owned(), (*words).to_owned(), *id == value);
        let options = options.iter().map(option).collect();
        Input {
            control: Control::Select(options),
            ..Input::text(key, label, value)
        }
    }

    /// With what may be answered.
    pub fn hint(mut self, hint: impl Into<String>) -> Input {
        self.hint = hint.into();
        self
    }

    /// With what is shown while it is empty.
    pub fn placeholder(mut self, placeholder: &'static str) -> Input {
        self.placeholder = placeholder;
        self
    }

    /// With another way to answer.
    pub fn control(mut self, control: Control) -> Input {
        self.control = control;
        self
    }

    /// Nothing is no answer.
    pub fn required(mut self) -> Input {
        self.required = true;
        self
    }
}

/// Puts what is wrong beside its field; gives what belongs to none.
pub fn place(inputs: &mut [Input], problems: &Problems) -> Vec<String> {
    let mut elsewhere = Vec::new();
    for (key, problem) in problems {
        match inputs.iter_mut().find(|it| it.key == key) {
            Some(input) => input.problem = Some(problem.clone()),
            None => elsewhere.push(problem.clone()),
        }
    }
    elsewhere
}

/// The key that an error names in backticks, if it is one of `keys`.
pub fn named_key<'a>(error: &str, keys: &[&'a str]) -> Option<&'a str> {
    let mut quoted = error.split('`').skip(1).step_by(2);
    quoted.find_map(|it| keys.iter().find(|key| **key == it).copied())
}

/// A sentence of an error: with a capital letter and a full stop.
pub fn sentence(error: &str) -> String {
    let mut letters = error.chars();
    let first = letters.next().map(|it| it.to_uppercase().to_string());
    let mut text = format!("{}{}", first.unwrap_or_default(), letters.as_str());
    if !text.ends_with(['.', '!', '?']) {
        text.push('.');
    }
    text
}
