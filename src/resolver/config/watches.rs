//! The watches from which the document of one service comes.

use std::future::pending;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch::Receiver;

use crate::error::Error;
use crate::resolver::task::View;
use crate::resolver::{Shared, WatchedService};
use crate::target::Target;

/// That of all documents, and that of the own one while the role may not read all of them.
pub(super) struct Watches {
    resolver: Arc<Shared>,
    runtime: Handle,
    service: Target,
    all: Followed,
    own: Option<Followed>,
}

/// A watch, kept alive.
struct Followed {
    views: Receiver<View>,
    _watch: Arc<WatchedService>,
}

/// What etcd says now.
pub(super) enum Answer {
    /// It holds what the view shows, of the own watch or of that of all.
    Current { view: View, is_own: bool },
    /// The document may be read neither with all others nor alone.
    Denied,
    /// It does not answer, or not yet; with the last failure, if there was one.
    Silent(Option<Error>),
}

impl Followed {
    fn new(watch: Arc<WatchedService>) -> Self {
        Self { views: watch.view(), _watch: watch }
    }

    fn view(&mut self) -> View {
        self.views.borrow_and_update().clone()
    }
}

impl Watches {
    pub(super) fn new(resolver: Arc<Shared>, service: Target, runtime: Handle) -> Self {
        let all = Followed::new(resolver.configs(&runtime));
        Self { resolver, runtime, service, all, own: None }
    }

    /// What etcd says now. The role may change at any time: with the own watch the one of all goes on, and once that is as new, it is
    /// followed alone.
    pub(super) fn answer(&mut self) -> Answer {
        let all = self.all.view();
        if is_denied(&all) && self.own.is_none() {
            self.own = Some(Followed::new(self.resolver.config_of(&self.service, &self.runtime)));
        }
        let own = self.own.as_mut().map(Followed::view);
        let is_usable = |view: &View| view.is_current() && !is_denied(view);
        let is_newer = |own: &View| is_usable(own) && own.snapshot.revision() > all.snapshot.revision();
        if is_usable(&all) && !own.as_ref().is_some_and(is_newer) {
            self.own = None;
            return Answer::Current { view: all, is_own: false };
        }
        match own {
            Some(view) if is_usable(&view) => Answer::Current { view, is_own: true },
            Some(own) if is_denied(&own) && is_denied(&all) => Answer::Denied,
            own => Answer::Silent(own.and_then(|own| own.error).or(all.error)),
        }
    }

    /// Waits until one of them has changed. Dropping the future loses nothing.
    pub(super) async fn changed(&mut self) {
        let own = async {
            match &mut self.own {
                Some(own) => changed(&mut own.views).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = changed(&mut self.all.views) => {}
            () = own => {}
        }
    }
}

/// Whether etcd has refused it last.
fn is_denied(view: &View) -> bool {
    view.error.as_ref().is_some_and(Error::is_permission_denied)
}

/// Waits until there is another view. For ever, if the watch has ended with its runtime: the last one stays.
pub(super) async fn changed(views: &mut Receiver<View>) {
    if views.changed().await.is_err() {
        pending::<()>().await;
    }
}
