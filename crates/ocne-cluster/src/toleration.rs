//! Taints that the pod puts up with, written as `kubectl taint` writes them.

use std::str::FromStr;

/// `key[=value][:effect]`: without a value any value, without an effect every effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TolerationSpec {
    /// Key of the taint.
    pub key: String,
    /// Its value, if it matters.
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: Option<String>,
}

/// The text is no toleration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TolerationError {
    /// No key.
    #[error("`{0}` is no toleration: it is written `KEY[=VALUE][:EFFECT]`")]
    Key(String),
    /// An effect that does not exist.
    #[error("`{0}` is no effect of a taint: it is `NoSchedule`, `PreferNoSchedule` or `NoExecute`")]
    Effect(String),
}

impl FromStr for TolerationSpec {
    type Err = TolerationError;

    fn from_str(text: &str) -> Result<Self, TolerationError> {
        let (taint, effect) = match text.split_once(':') {
            Some((taint, effect)) => (taint, Some(effect)),
            None => (text, None),
        };
        if let Some(effect) = effect
            && !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect)
        {
            return Err(TolerationError::Effect(effect.to_owned()));
        }
        let (key, value) = match taint.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (taint, None),
        };
        if key.is_empty() {
            return Err(TolerationError::Key(text.to_owned()));
        }
        Ok(Self {
            key: key.to_owned(),
            value: value.map(ToOwned::to_owned),
            effect: effect.map(ToOwned::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_read() {
        let read = |text: &str| text.parse::<TolerationSpec>().map(|t| (t.key, t.value, t.effect));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read("dedicated"), Ok(("dedicated".to_owned(), None, None)));
        assert_eq!(read("a=b:NoExecute"), Ok(("a".to_owned(), some("b"), some("NoExecute"))));
        assert_eq!(read("a:NoSchedule"), Ok(("a".to_owned(), None, some("NoSchedule"))));
        assert!(matches!(read("=b"), Err(TolerationError::Key(_))));
        assert!(matches!(read("a:Never"), Err(TolerationError::Effect(_))));
    }
}
