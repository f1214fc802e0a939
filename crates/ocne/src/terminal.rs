//! What standard error can show: colour and characters beyond ASCII. And what a person at the terminal is asked.

use std::env;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read as _, Write as _, stderr};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

/// Nobody types more.
const MAX_ANSWER_BYTES: u64 = 4096;

/// What was found out about standard error.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    /// It is a terminal that can move its cursor.
    pub interactive: bool,
    /// Colours are wanted.
    pub colour: bool,
    /// The locale is UTF-8.
    pub unicode: bool,
}

impl Terminal {
    /// Looks at standard error and the environment.
    pub fn detect() -> Self {
        let set = |name: &str| env::var(name).ok().filter(|v| !v.is_empty());
        let smart = set("TERM").is_some_and(|t| t != "dumb");
        let interactive = stderr().is_terminal() && smart;
        Self { interactive, colour: colour(interactive, set), unicode: unicode(set) }
    }
}

/// <https://no-color.org> first, then <https://bixense.com/clicolors>.
fn colour(interactive: bool, set: impl Fn(&str) -> Option<String>) -> bool {
    if set("NO_COLOR").is_some() {
        return false;
    }
    if set("CLICOLOR_FORCE").is_some_and(|v| v != "0") {
        return true;
    }
    interactive && set("CLICOLOR").is_none_or(|v| v != "0")
}

/// The first of the three variables that is set decides, as in `setlocale`.
fn unicode(set: impl Fn(&str) -> Option<String>) -> bool {
    let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Text without anything that a terminal would act upon: names inside an image are whatever its maker chose.
pub fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}

/// Asks for something that must not be seen, on the terminal; none when there is no terminal, or nothing is said.
pub fn ask_secretly(question: &str) -> Option<String> {
    let terminal = fs_err::OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
    let usual = tcgetattr(&terminal).ok()?;
    let mut hidden = usual.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    hidden.local_modes.insert(LocalModes::ECHONL);
    tcsetattr(&terminal, OptionalActions::Flush, &hidden).ok()?;
    let said = answer(&terminal, question);
    tcsetattr(&terminal, OptionalActions::Flush, &usual).ok()?;
    said
}

/// Asks on the terminal; none when there is no terminal, or nothing is said.
pub fn ask(question: &str) -> Option<String> {
    let terminal = fs_err::OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
    answer(&terminal, question)
}

fn answer(mut terminal: &fs_err::File, question: &str) -> Option<String> {
    terminal.write_all(question.as_bytes()).ok()?;
    let mut said = String::new();
    BufReader::new(terminal).take(MAX_ANSWER_BYTES).read_line(&mut said).ok()?;
    let said = said.trim_end_matches(['\n', '\r']);
    (!said.is_empty()).then(|| said.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{colour, printable, unicode};

    fn environment<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
    }

    #[test]
    fn colours() {
        assert!(colour(true, environment(&[])));
        assert!(!colour(false, environment(&[])));
        assert!(!colour(true, environment(&[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")])));
        assert!(!colour(true, environment(&[("CLICOLOR", "0")])));
        assert!(colour(false, environment(&[("CLICOLOR_FORCE", "1")])));
        assert!(!colour(false, environment(&[("CLICOLOR_FORCE", "0")])));
    }

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        assert_eq!(printable("größe 1\u{1b}[2J\n\u{9b}"), "größe 1\\u{1b}[2J\\n\\u{9b}");
    }

    #[test]
    fn locales() {
        assert!(unicode(environment(&[("LANG", "en_US.UTF-8")])));
        assert!(!unicode(environment(&[("LANG", "en_US.UTF-8"), ("LC_ALL", "C")])));
        assert!(!unicode(environment(&[])));
    }
}
