//! A daemon's answering side without a monitor behind it, for tests and fuzzing of what callers send.
//!
//! It promises to touch nothing of the machine: whatever would need the kernel or Incus is answered by an error.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::{
    admission::Caller, calls::router, connections, deed::Means, kept::Keeping, registry::Registry,
    trees::Trees, watches::Service,
};
use crate::{
    incus,
    monitor::{
        audit::Logs, config::Config, guard::Guard, inforce::Base, notify::Notifier, pipeline,
        private::Private,
    },
};

/// The state of a daemon that watches nothing and keeps its logs in this directory.
pub(super) fn service(directory: &Path) -> Arc<Service> {
    let config = Config::default();
    let base =
        Base::of(&config, None).unwrap_or_else(|error| panic!("the built-in rules are wrong: {error}"));
    let logs = Logs::at(&directory.join("log"), &directory.join("state"), config.audit);
    let logs = logs.unwrap_or_else(|error| panic!("{error}"));
    let private = |name| Private::open(&directory.join(name)).unwrap_or_else(|error| panic!("{error}"));
    let keeping = Keeping {
        guard: Guard::absent(),
        registry: Registry::new(private("watches")),
        standing: Arc::new(private("standing")),
    };
    Arc::new(Service {
        pipeline: pipeline::Handle::ended(),
        blind: None,
        incus: incus::Client::at(directory.join("incus.sock")),
        watches: Mutex::default(),
        programs: Vec::new(),
        holes: Vec::new(),
        rings: Vec::new(),
        maps: Vec::new(),
        rules: base.count().into(),
        base: base.into(),
        logs: Arc::new(logs),
        means: Arc::new(Means { respond: config.respond, notifier: Notifier::start(&config.notify) }),
        ledger: Arc::default(),
        places: Arc::default(),
        rule_files: None,
        config: None,
        changed: tokio::sync::Notify::new(),
        keeping,
        runtime: private("guard"),
        trees: Arc::new(Trees::at(directory.join("trees"))),
        monitor: config.monitor,
        beginning: tokio::sync::Mutex::default(),
    })
}

/// What is answered to these bytes, sent by such a caller, who then sends no more.
pub(super) async fn talk(service: &Arc<Service>, caller: Caller, bytes: &[u8]) -> Vec<u8> {
    let router = router(Arc::clone(service));
    let Ok((here, there)) = UnixStream::pair() else { return Vec::new() };
    let serving = tokio::spawn(connections::serve_to_the_end(there, router, caller));
    let (mut from, mut to) = here.into_split();
    let sending = async {
        // Who is not listened to any more has been answered.
        let _ = to.write_all(bytes).await;
        let _ = to.shutdown().await;
    };
    let mut answer = Vec::new();
    let ((), _) = tokio::join!(sending, from.read_to_end(&mut answer));
    if let Err(error) = serving.await
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
    answer
}

/// Any bytes on a connection: as root's, an administrator's or a user's, by the first of them.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    use std::sync::LazyLock;
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap_or_else(|error| panic!("{error}"))
    });
    static SERVICE: LazyLock<Arc<Service>> = LazyLock::new(|| {
        let directory = std::env::temp_dir().join(format!("coi-fuzz-{}", std::process::id()));
        service(&directory)
    });
    let Some((who, bytes)) = bytes.split_first() else { return };
    let group = Some(nix::unistd::Gid::from_raw(994));
    let caller = match who % 3 {
        0 => Caller::new(0, 0, Vec::new(), group),
        1 => Caller::new(1000, 1000, vec![994], group),
        _ => Caller::new(1000, 1000, Vec::new(), group),
    };
    let answer = RUNTIME.block_on(talk(&SERVICE, caller, bytes));
    // Whatever it is, it is answered in the protocol, or not at all.
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
    assert!(SERVICE.live().is_empty());
}
