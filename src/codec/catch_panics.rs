//! A user's codec whose panics are errors. PURE.
//!
//! Codecs run in background tasks, one for each service. Without this, a codec that panics on one
//! record would end the watch of its service.

use std::fmt;

use crate::codec::{Codec, DecodeError, EncodeError, Record};
use crate::instance::Instance;
use crate::panics::catch;
use crate::target::Target;

/// Wraps a codec and turns a panic of it into an error that says so. The resolver and the registrar
/// wrap every codec.
///
/// A panic of `decode` makes one record unreadable. A panic of `encode` refuses one instance.
/// `Debug` is not guarded: its panic belongs to the caller.
pub(crate) struct CatchPanics<C>(pub(crate) C);

impl<C: Codec> Codec for CatchPanics<C> {
    fn decode(&self, key: &[u8], value: &[u8]) -> Result<Vec<Instance>, DecodeError> {
        catch(|| self.0.decode(key, value))
            .unwrap_or_else(|panic| Err(DecodeError::new(format!("the codec panicked: {panic}"))))
    }

    fn encode(&self, target: &Target, instance: &Instance) -> Result<Vec<Record>, EncodeError> {
        catch(|| self.0.encode(target, instance))
            .unwrap_or_else(|panic| Err(EncodeError::new(format!("the codec panicked: {panic}"))))
    }

    /// Empty after a panic, which is no valid name.
    fn name(&self) -> &str {
        catch(|| self.0.name()).unwrap_or_default()
    }
}

impl<C: fmt::Debug> fmt::Debug for CatchPanics<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Panics;

    impl Codec for Panics {
        fn decode(&self, _: &[u8], _: &[u8]) -> Result<Vec<Instance>, DecodeError> {
            panic!("no {}", "luck")
        }

        fn encode(&self, _: &Target, _: &Instance) -> Result<Vec<Record>, EncodeError> {
            std::panic::panic_any(7)
        }

        fn name(&self) -> &str {
            panic!("no name")
        }
    }

    /// F14: the reason says that the codec panicked, and what it said.
    #[test]
    fn panics_are_reasons() {
        let error = CatchPanics(Panics).decode(b"k", b"v").unwrap_err();
        assert_eq!(error.to_string(), "the codec panicked: no luck");
        let (target, instance) = (Target::parse("s").unwrap(), Instance::new("h:1").unwrap());
        let error = CatchPanics(Panics).encode(&target, &instance).unwrap_err();
        assert_eq!(error.to_string(), "the codec panicked: no text");
        assert_eq!(CatchPanics(Panics).name(), "");
    }
}
