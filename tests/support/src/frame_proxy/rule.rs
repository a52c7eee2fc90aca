//! Which messages are to be ill-treated, and how.

use std::time::Duration;

/// What a [`FrameProxy`](crate::FrameProxy) does to some of the messages that it carries.
///
/// ```
/// use test_support::Rule;
/// // The answers of the watches that are open now are held; new watches and all other calls are well.
/// let rule = Rule::hold().method("Watch").responses().open_now();
/// # drop(rule);
/// ```
#[derive(Debug, Clone)]
#[must_use = "a rule does nothing until `FrameProxy::rule` puts it in force"]
pub struct Rule {
    pub(super) action: Action,
    method: Option<String>,
    direction: Option<Direction>,
    containing: Option<Vec<u8>>,
    pub(super) open_now: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    Hold,
    Drop,
    Delay(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Requests,
    Responses,
}

impl Rule {
    /// Holds messages until [`FrameProxy::clear`](crate::FrameProxy::clear).
    pub fn hold() -> Self {
        Self::new(Action::Hold)
    }

    /// Swallows messages. Heads that it swallows go on with the first message of their stream and direction that
    /// passes: HTTP/2 has no message without a head.
    pub fn drop_all() -> Self {
        Self::new(Action::Drop)
    }

    /// Lets each message go on this long after it came. Those that follow each other closely stay close together.
    pub fn delay(by: Duration) -> Self {
        Self::new(Action::Delay(by))
    }

    fn new(action: Action) -> Self {
        Self { action, method: None, direction: None, containing: None, open_now: false }
    }

    /// Only streams of this method: the last segment of the path, as `Watch`.
    pub fn method(self, name: &str) -> Self {
        Self { method: Some(name.to_owned()), ..self }
    }

    /// Only what clients send.
    pub fn requests(self) -> Self {
        Self { direction: Some(Direction::Requests), ..self }
    }

    /// Only what clients receive.
    pub fn responses(self) -> Self {
        Self { direction: Some(Direction::Responses), ..self }
    }

    /// Only messages that contain these bytes, in the form in which they are sent; heads, ends and trailers never do.
    pub fn containing(self, bytes: impl Into<Vec<u8>>) -> Self {
        Self { containing: Some(bytes.into()), ..self }
    }

    /// Only streams that are open when the rule is set.
    pub fn open_now(self) -> Self {
        Self { open_now: true, ..self }
    }

    /// `message` is `None` for what has no bytes.
    pub(super) fn matches(&self, method: &str, direction: Direction, message: Option<&[u8]>) -> bool {
        self.method.as_ref().is_none_or(|wanted| wanted == method)
            && self.direction.is_none_or(|wanted| wanted == direction)
            && self.containing.as_ref().is_none_or(|wanted| message.is_some_and(|message| contains(message, wanted)))
    }
}

fn contains(message: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || message.windows(wanted.len()).any(|bytes| bytes == wanted)
}

#[cfg(test)]
mod tests {
    use super::{Direction, Rule};

    #[test]
    fn a_rule_matches_what_it_names() {
        let rule = Rule::hold().method("Watch").responses().containing("key");
        assert!(rule.matches("Watch", Direction::Responses, Some(b"a key!")));
        assert!(!rule.matches("Watch", Direction::Responses, Some(b"a kex!")));
        assert!(!rule.matches("Watch", Direction::Responses, None));
        assert!(!rule.matches("Watch", Direction::Requests, Some(b"key")));
        assert!(!rule.matches("Put", Direction::Responses, Some(b"key")));
    }

    #[test]
    fn a_rule_that_names_nothing_matches_everything() {
        let rule = Rule::drop_all();
        assert!(rule.matches("Put", Direction::Requests, None));
        assert!(rule.matches("Watch", Direction::Responses, Some(b"")));
        assert!(!rule.clone().containing("").matches("Put", Direction::Requests, None));
        assert!(rule.containing("").matches("Put", Direction::Requests, Some(b"")));
    }
}
