//! When the shop's next version is deployed, and when the last one comes back.

use std::str::FromStr;
use std::time::Duration;

use super::shop::Version;

/// After what time something happens, if ever: `90s`, `6m`, `1h`, `never`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum After {
    /// Not at all.
    #[default]
    Never,
    /// So long after what was before.
    Time(Duration),
}

impl FromStr for After {
    type Err = String;

    fn from_str(text: &str) -> Result<After, String> {
        if text == "never" {
            return Ok(After::Never);
        }
        let digits = text.trim_end_matches(|it: char| it.is_ascii_alphabetic());
        let seconds: Option<u64> = match &text[digits.len()..] {
            "s" => Some(1),
            "m" | "min" => Some(60),
            "h" => Some(3_600),
            _ => None,
        };
        let number: Option<u32> = digits.parse().ok();
        match (number, seconds) {
            (Some(number), Some(seconds)) => Ok(After::Time(Duration::from_secs(
                u64::from(number) * seconds,
            ))),
            _ => Err("write it like 90s, 6m or 1h, or never".to_owned()),
        }
    }
}

/// What is deployed when.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// 1.1.0, after the start.
    pub deploy: After,
    /// 1.0.0 again, after that.
    pub roll_back: After,
}

impl Schedule {
    /// Each version with the time from the one before to it; the first is counted from the start.
    pub fn steps(self) -> Vec<(Duration, Version)> {
        let planned = [
            (self.deploy, Version::V1_1_0),
            (self.roll_back, Version::V1_0_0),
        ];
        let timed = planned
            .into_iter()
            .map_while(|(after, version)| match after {
                After::Time(time) => Some((time, version)),
                After::Never => None,
            });
        timed.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_a_unit() {
        let after = |text: &str| text.parse::<After>();
        let seconds = |seconds| Ok(After::Time(Duration::from_secs(seconds)));
        assert_eq!(after("90s"), seconds(90));
        assert_eq!(after("6m"), seconds(360));
        assert_eq!(after("6min"), seconds(360));
        assert_eq!(after("1h"), seconds(3_600));
        assert_eq!(after("never"), Ok(After::Never));
        for wrong in ["", "6", "m", "-1s", "6 m", "1d", "99999999999s", "6µs"] {
            assert!(after(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_a_deployment_there_is_nothing_to_take_back() {
        let second = After::Time(Duration::from_secs(1));
        let steps = |deploy, roll_back| Schedule { deploy, roll_back }.steps();
        assert!(steps(After::Never, second).is_empty());
        assert_eq!(
            steps(second, After::Never),
            [(Duration::from_secs(1), Version::V1_1_0)]
        );
        assert_eq!(steps(second, second)[1].1, Version::V1_0_0);
    }
}
