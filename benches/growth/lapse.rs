//! Minutes that pass in seconds, and none that pass while instructions are counted.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use test_support::Etcd;
use tokio::runtime::Runtime;
use tokio::task::spawn_blocking;
use tokio::time::advance;

/// How far the clock goes in a step.
const STEP: Duration = Duration::from_millis(100);
/// How long a step takes, before and after etcd has answered.
const STEP_TAKES: Duration = Duration::from_millis(2);

/// A runtime whose clock goes when it is told to.
pub(crate) struct Lapse(());

impl Lapse {
    /// Runs on a runtime of its own, on this thread.
    pub(crate) fn run<T>(main: impl AsyncFnOnce(&Lapse) -> T) -> T {
        let (runtime, _end) = still();
        runtime.block_on(main(&Lapse(())))
    }

    /// Lets so much time pass for everything on the runtime. In each step etcd answers this thread: on a busy machine the clock
    /// waits, so that what is asked in one step is answered before a few more have passed.
    pub(crate) async fn pass(&self, time: Duration, etcd: &Etcd) {
        for _ in 0..time.as_millis() / STEP.as_millis() {
            advance(STEP).await;
            wait(STEP_TAKES).await;
            assert!(etcd.health(), "etcd is well");
            wait(STEP_TAKES).await;
        }
    }
}

/// A runtime on this thread whose clock goes when it is told to. Drop what comes with it first: until then the clock
/// does not go by itself.
pub(crate) fn still() -> (Runtime, mpsc::Sender<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let (end, ended) = mpsc::channel::<()>();
    // While such a task runs, tokio's clock stands still by itself.
    runtime.spawn_blocking(move || _ = ended.recv());
    (runtime, end)
}

/// Waits by the clock of the machine.
pub(crate) async fn wait(time: Duration) {
    spawn_blocking(move || thread::sleep(time)).await.expect("a task that ends");
}
