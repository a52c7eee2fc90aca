//! Puts a service config into force.

use std::sync::{Arc, PoisonError};

use crate::balance::config::unused::unused;
use crate::balance::config::{ConfigText, ServiceConfigSource, ServiceConfigStatus, TextError};
use crate::balance::shared::ChannelShared;
use crate::service_config::{Remarks, ServiceConfig};

/// Takes a text that has come. Calls that begin from now on see what it says. One that cannot be read, or is refused, leaves the last
/// good one in force, and without one the settings of the code: a mistake must not stop a client that starts anew, unlike gRFC A21.
pub(crate) fn apply(shared: &ChannelShared, ConfigText { source, text }: ConfigText) {
    let read = text.and_then(|text| match text {
        text if shared.config.status().text == text => Ok(Read::Known),
        None => Ok(Read::None),
        Some(text) => read(shared, text),
    });
    match read {
        Ok(Read::Known) => on_good(shared, |status| status.source = Some(source_of(source, status.text.is_some()))),
        Ok(Read::None) => {
            put_into_force(shared, ServiceConfig::default());
            log_in_force(shared, &source, false, &[]);
            on_good(shared, |status| {
                let source = Some(source.without_revision());
                *status = ServiceConfigStatus { source, ..ServiceConfigStatus::default() };
            });
        }
        Ok(Read::Document { text, document, remarks }) => {
            let unused = unused(&shared.settings, &document, &remarks.repeats);
            put_into_force(shared, *document);
            log_in_force(shared, &source, true, &unused);
            log_warnings(shared, &source, &remarks.warnings);
            on_good(shared, |status| {
                let warnings = remarks.warnings.into_iter().chain(unused).collect();
                *status = ServiceConfigStatus { text: Some(text), source: Some(source), error: None, warnings };
            });
        }
        Err(error) => on_error(shared, &source, &error),
    }
}

/// A text that is valid.
enum Read {
    /// The same as before, so that nothing changes.
    Known,
    /// There is no document.
    None,
    Document {
        text: Arc<str>,
        document: Box<ServiceConfig>,
        remarks: Remarks,
    },
}

fn read(shared: &ChannelShared, text: Arc<str>) -> Result<Read, TextError> {
    let read = ServiceConfig::read(text.as_bytes(), shared.settings.calls.most_attempts());
    let (document, remarks) = read.map_err(|invalid| TextError::Invalid(invalid.to_string()))?;
    Ok(Read::Document { text, document: Box::new(document), remarks })
}

fn put_into_force(shared: &ChannelShared, document: ServiceConfig) {
    let calls = &shared.settings.calls;
    shared.methods.store(Arc::new(calls.compile(Some(&document), &shared.methods.load())));
    if let Some((tokens, ratio)) = calls.budget(Some(&document)) {
        shared.retry_budget.set(tokens, ratio);
    }
    shared.config.document.store(Some(Arc::new(document)));
}

/// The revision is that of a document.
fn source_of(source: ServiceConfigSource, has_document: bool) -> ServiceConfigSource {
    if has_document { source } else { source.without_revision() }
}

/// Changes the status after a text that is good.
fn on_good(shared: &ChannelShared, change: impl FnOnce(&mut ServiceConfigStatus)) {
    let mut status = shared.config.status.lock().unwrap_or_else(PoisonError::into_inner);
    status.error = None;
    change(&mut status);
}

/// What is in force stays.
fn on_error(shared: &ChannelShared, source: &ServiceConfigSource, error: &TextError) {
    let (TextError::Invalid(text) | TextError::Unreadable(text)) = error;
    let mut status = shared.config.status.lock().unwrap_or_else(PoisonError::into_inner);
    let is_known = status.error.as_ref().is_some_and(|(of, known)| of == source && **known == **text);
    let has_document = status.text.is_some();
    status.source.get_or_insert_with(|| source.clone().without_revision());
    status.error = Some((source.clone(), text.as_str().into()));
    drop(status); // before the log, whose subscriber may ask for it
    if is_known {
        return;
    }
    let service = &*shared.connect_context.service;
    match error {
        TextError::Invalid(error) => {
            tracing::warn!(parent: None, service, %source, error, has_document, "service config refused, settings unchanged");
        }
        TextError::Unreadable(error) => {
            tracing::warn!(parent: None, service, %source, error, has_document, "service config unreadable, settings unchanged");
        }
    }
}

fn log_in_force(shared: &ChannelShared, source: &ServiceConfigSource, has_document: bool, unused: &[String]) {
    let (service, unused) = (&*shared.connect_context.service, unused.join("; "));
    if unused.is_empty() {
        tracing::info!(parent: None, service, %source, has_document, "service config in force");
    } else {
        tracing::info!(parent: None, service, %source, has_document, unused, "service config in force");
    }
}

fn log_warnings(shared: &ChannelShared, source: &ServiceConfigSource, warnings: &[String]) {
    if !warnings.is_empty() {
        let (service, warnings) = (&*shared.connect_context.service, warnings.join("; "));
        tracing::warn!(parent: None, service, %source, warnings, "service config has warnings");
    }
}
