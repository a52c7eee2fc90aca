//! The span of an attempt.

use tonic::Code;

use crate::balance::call::spans::open::OpenSpan;

/// The span of one attempt, if it is enabled. It ends with the attempt; dropping it before is the end of an attempt
/// that was given up.
pub(crate) struct AttemptSpan(pub(super) Option<Box<OpenSpan>>);

impl AttemptSpan {
    /// Ends the attempt with this code. The first end counts.
    #[inline]
    pub(crate) fn end(&mut self, code: Code) {
        if let Some(open) = self.0.take() {
            end(*open, code);
        }
    }
}

#[cold]
fn end(mut open: OpenSpan, code: Code) {
    open.set_code(code);
}
