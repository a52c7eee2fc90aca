//! Texts that may hold a user and a password, as they may be shown. PURE.
//!
//! No text takes a user and a password here: they are refused wherever an address, an endpoint or a
//! target is parsed. The error shows what was refused, and must not show the password.

use std::borrow::Cow;

/// What replaces a user and a password.
const MARK: &str = "…";

/// The reason for refusing a text with a user.
pub(crate) const REASON: &str = "a user and password are not allowed here";

/// Whether a user may stand before a host: the text has an `@`, possibly percent-encoded.
pub(crate) fn may_have_user(text: &str) -> bool {
    last_at(text).is_some()
}

/// An address, endpoint or target without its user and password: without everything between the
/// scheme, if there is one, and the last `@`.
pub(crate) fn without_user(text: &str) -> Cow<'_, str> {
    let Some(at) = last_at(text) else { return Cow::Borrowed(text) };
    let begin = after_scheme(&text[..at]).unwrap_or(0);
    Cow::Owned(format!("{}{MARK}{}", &text[..begin], &text[at..]))
}

/// A text in which an `@` may mean something else, such as a key or a sentence: without
/// `user:password` before an `@`, without what is between a scheme and an `@`, and without what is
/// between a quotation mark and an `@`.
pub(crate) fn without_password(text: &str) -> Cow<'_, str> {
    let Some(at) = last_at(text) else { return Cow::Borrowed(text) };
    let before = &text[..at];
    let begin = match (before.find('"'), after_scheme(before), first_colon(before)) {
        (Some(quote), ..) => quote + 1 + after_scheme(&before[quote + 1..]).unwrap_or(0),
        (None, Some(begin), _) => begin,
        // Not after a mark that may be part of the password.
        (None, None, Some(colon)) => before[..colon].rfind(['/', ' ']).map_or(0, |mark| mark + 1),
        (None, None, None) => return Cow::Borrowed(text),
    };
    Cow::Owned(format!("{}{MARK}{}", &text[..begin], &text[at..]))
}

/// An etcd key as it may be shown.
pub(crate) fn shown_key(key: &[u8]) -> String {
    without_password(&String::from_utf8_lossy(key)).into_owned()
}

/// Whether `user:password` may stand before an `@`. Both marks may be percent-encoded.
pub(crate) fn has_password(text: &str) -> bool {
    last_at(text).is_some_and(|at| first_colon(&text[..at]).is_some())
}

/// Where the last `@` starts, also written as `%40`, or as that with its `%` written as `%25`, and
/// so on.
fn last_at(text: &str) -> Option<usize> {
    let encoded = text.rmatch_indices("40").find_map(|(end, _)| {
        let mut begin = end;
        while text[..begin].ends_with("25") {
            begin -= 2;
        }
        text[..begin].ends_with('%').then(|| begin - 1)
    });
    text.rfind('@').max(encoded)
}

/// Where the text after a scheme starts, unless the scheme may be part of a password.
fn after_scheme(text: &str) -> Option<usize> {
    let mark = text.find("://")?;
    let before = &text[..mark];
    let last = before.rsplit(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))).next();
    let name = before.len() - last.unwrap_or_default().len();
    let is_scheme = before[name..].starts_with(|c: char| c.is_ascii_alphabetic());
    let may_be_user = before[..name].contains([':', '@', '%']);
    (is_scheme && !may_be_user).then_some(mark + 3)
}

/// Where the first `:` starts, also written as `%3A`.
fn first_colon(text: &str) -> Option<usize> {
    let encoded = text.find("%3A").into_iter().chain(text.find("%3a")).min();
    text.find(':').into_iter().chain(encoded).min()
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use super::*;

    /// F18: whatever is read as a user and a password does not stand in what is shown.
    #[test]
    fn users_and_passwords_leave_addresses() {
        for (text, shown) in [
            ("http://root:secret@h:2379", "http://…@h:2379"),
            ("etcd://root:secret@h:2379/greeter", "etcd://…@h:2379/greeter"),
            ("etcd://root:secret@h1,root:secret@h2/greeter", "etcd://…@h2/greeter"),
            ("root:secret@h:2379", "…@h:2379"),
            ("secret@h", "…@h"),
            ("http://root:sec@ret@h", "http://…@h"),
            ("http://root:sec/ret@h", "http://…@h"),
            ("http://root%3Asecret@h", "http://…@h"),
            ("http://root:secret%40h", "http://…%40h"),
            ("http://root:secret%2540h", "http://…%2540h"),
            ("http://root:secret%252540h", "http://…%252540h"),
            ("root:se://cret@h", "…@h"),
            ("http://h:2379", "http://h:2379"),
            ("h:40", "h:40"),
            ("", ""),
        ] {
            assert_eq!(without_user(text), shown, "{text}");
        }
    }

    /// F18: the same for keys and sentences, of which the rest stays.
    #[test]
    fn passwords_leave_keys_and_sentences() {
        for (text, shown) in [
            ("greeter/http://root:secret@h:1", "greeter/http://…@h:1"),
            ("greeter/root:secret@h:1", "greeter/…@h:1"),
            ("greeter/root:se/cret@h:1", "greeter/…@h:1"),
            (
                "no text: string \"http://root:secret@h\", expected a map",
                "no text: string \"http://…@h\", expected a map",
            ),
            ("\"Addr\" is \"root:sec ret@h:1\"", "\"…@h:1\""),
            ("no address: root:secret@h:1", "no …@h:1"),
            ("greeter@v1/10.0.0.5:50051", "greeter@v1/10.0.0.5:50051"),
            ("team@home", "team@home"),
            ("greeter/10.0.0.5:50051", "greeter/10.0.0.5:50051"),
        ] {
            assert_eq!(without_password(text), shown, "{text}");
        }
    }

    #[test]
    fn what_stands_before_a_scheme_may_be_of_any_language() {
        for text in ["é://x@h", "s/é://x@h", "\u{fffd}://a:b@c", "\"é://x@h\"", "服://u:SECRET@h", "…a://b%40"] {
            let shown = format!("{} {}", without_user(text), without_password(text));
            assert!(!shown.contains("SECRET"), "{shown}");
        }
    }

    fn is_hidden(text: &str) {
        let (short, long) = (without_user(text), without_password(text));
        assert!(!short.contains("SECRET") && !long.contains("SECRET"), "{text:?}: {short:?}, {long:?}");
    }

    /// The fuzz target: any text is taken, and shown alike when it was shown already; a password with any text of one line around
    /// it leaves.
    pub(crate) fn fuzz(bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let (short, long) = (without_user(&text), without_password(&text));
        assert_eq!(without_user(&short), short, "{text:?}");
        assert_eq!(without_password(&long), long, "{text:?}");
        let around = |part: &str| part.replace(|c: char| !(c.is_ascii_lowercase() || ":/@%?# ".contains(c)), "");
        let (before, after) = text.split_once('\n').unwrap_or((&text, ""));
        for scheme in ["http://", "etcd://", "greeter/", ""] {
            for at in ["@", "%40", "%2540"] {
                is_hidden(&format!("{scheme}u:{}SECRET{}{at}h:2379/greeter", around(before), around(after)));
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_password_of_any_form_is_left(
            scheme in "(http://|https://|etcd://|greeter/|)",
            user in "[a-z]{0,4}",
            before in "[a-z:/@%?# ]{0,6}",
            after in "[a-z:/@%?# ]{0,6}",
            at in "(@|%40|%2540)",
        ) {
            is_hidden(&format!("{scheme}{user}:{before}SECRET{after}{at}h:2379/greeter"));
        }

        #[test]
        fn any_text_is_taken(text in ".{0,40}|[%2504:@/é]{0,20}") {
            let _ = (without_user(&text), without_password(&text));
        }
    }
}
