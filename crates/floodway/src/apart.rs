//! Heavy work beside everything else: on a thread of its own, after whoever else wants the core.

use std::io;

use tokio::sync::oneshot;

/// How far it stands back (nice(2)): workers that move bytes go first.
const NICE: i32 = 10;

/// Does `work` on a thread of its own, and waits for it.
///
/// # Errors
/// If no thread can be started.
pub(crate) async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (tell, told) = oneshot::channel();
    let work = move || {
        // Only raising one's own priority can be forbidden.
        let _ = rustix::process::setpriority_process(None, NICE);
        // Whoever wanted it may be gone.
        let _ = tell.send(work());
    };
    let thread = std::thread::Builder::new().name("apart".into()).spawn(work)?;
    match told.await {
        Ok(done) => Ok(done),
        Err(_) => match thread.join() {
            // A bug of ours.
            Err(fault) => std::panic::resume_unwind(fault),
            Ok(()) => Err(io::Error::other("a thread ended and said nothing")),
        },
    }
}
