//! Calls and what they answer.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::socket::{Connection, WebSocket};
use super::{Error, Patience, Result};
use crate::http::{self, segment};

/// Where Incus listens when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/var/lib/incus/unix.socket";

/// Where it listens on distributions that keep sockets below /run.
const RUN_SOCKET: &str = "/run/incus/unix.socket";

/// How long a question may take that Incus answers from its database.
const QUICK: Duration = Duration::from_secs(10);

/// How long an instance may take to start, stop or vanish.
const CHANGE: Duration = Duration::from_secs(60);

/// How long making an instance may take: a large image may have to be unpacked first.
const CREATE: Duration = Duration::from_secs(600);

/// How Incus says that an instance's init ended between finding it and looking at its network.
const HAS_JUST_ENDED: &str = "Invalid PID";

/// How Incus says that something else happens to an instance, or just did.
const IS_BUSY: [&str; 2] = ["Instance is busy", "matching non-reusable operation"];

fn is_busy(why: &str) -> bool {
    IS_BUSY.iter().any(|words| why.contains(words))
}

/// Does LXC's own process for a container run, which calls itself `[lxc monitor] PATH NAME`? It tells Incus of the end by
/// name and last, when Incus has long said that the container is stopped: if another one has the name by then, Incus puts
/// away what that one is about to start with.
fn has_monitor(name: &str) -> bool {
    let ours = |title: &[u8]| {
        let title = title.split(|byte| *byte == 0).next().unwrap_or_default();
        title.strip_prefix(b"[lxc monitor] ").and_then(|rest| rest.rsplit(|byte| *byte == b' ').next())
            == Some(name.as_bytes())
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .any(|title| ours(&title))
}

/// What Incus is given beyond an operation's own deadline to say that it passed.
const GRACE: Duration = Duration::from_secs(5);

/// Names, each with the keys and values of a device.
pub type Devices = BTreeMap<String, BTreeMap<String, String>>;

/// Incus, on its unix socket.
#[derive(Clone, Debug)]
pub struct Client {
    http: http::Client,
    /// Where its instances are; `None` for the default project.
    project: Option<String>,
}

/// The server itself.
#[derive(Clone, Debug, Deserialize)]
pub struct Server {
    /// Whether we may use it: `trusted` or `untrusted`.
    pub auth: String,
    /// Its version and surroundings.
    pub environment: Environment,
}

/// The server's version and surroundings.
#[derive(Clone, Debug, Deserialize)]
pub struct Environment {
    /// Such as `6.0.4`.
    #[serde(default)]
    pub server_version: String,
}

/// What an instance is doing, as Incus knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Its init runs.
    Running,
    /// Nothing of it runs.
    Stopped,
    /// All its processes are stopped, by Incus's doing.
    Frozen,
    /// Incus cannot tell.
    Error,
    /// Something that passes: starting, stopping and the like.
    #[serde(other)]
    Other,
}

/// An instance.
#[derive(Clone, Debug, Deserialize)]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// Its project; empty where Incus does not say.
    #[serde(default)]
    pub project: String,
    /// `container` or `virtual-machine`.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// What it is doing.
    pub status: Status,
    /// It is deleted when it stops.
    #[serde(default)]
    pub ephemeral: bool,
    /// When it was made, RFC 3339.
    #[serde(default)]
    pub created_at: String,
    /// Its own configuration, `volatile.*` included.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// Its configuration with that of its profiles.
    #[serde(default)]
    pub expanded_config: BTreeMap<String, String>,
    /// Its devices with those of its profiles.
    #[serde(default)]
    pub expanded_devices: Devices,
}

impl Instance {
    /// What tells it from every other instance, also from an earlier one of the same name.
    pub fn uuid(&self) -> Option<&str> {
        self.config.get("volatile.uuid").map(String::as_str)
    }
}

/// What instances have in common.
#[derive(Clone, Debug, Deserialize)]
pub struct Profile {
    /// Its configuration.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

/// An instance's state at the moment.
#[derive(Clone, Debug, Deserialize)]
pub struct InstanceState {
    /// What it is doing.
    pub status: Status,
    /// Its init's process id on the host; 0 or below when it does not run.
    pub pid: i64,
    /// Its network interfaces by name, while it runs.
    #[serde(default)]
    pub network: Option<BTreeMap<String, Interface>>,
}

/// A network interface of an instance.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Interface {
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<Address>,
}

/// An address of an interface.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Address {
    /// The address, as text.
    #[serde(default)]
    pub address: String,
    /// How far it reaches: `global`, `link` or `local`.
    #[serde(default)]
    pub scope: String,
}

/// An instance to be made.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NewInstance {
    /// Its name.
    pub name: String,
    /// The alias of a local image.
    #[serde(skip)]
    pub image: String,
    /// Delete it when it stops.
    pub ephemeral: bool,
    /// Its profiles, later wins.
    pub profiles: Vec<String>,
    /// Its configuration.
    pub config: BTreeMap<String, String>,
    /// Its devices.
    pub devices: Devices,
}

/// Where an instance's image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageSource {
    /// Here, under this alias.
    Alias(String),
    /// Here, with this fingerprint.
    Fingerprint(String),
    /// On a server of images that speaks simplestreams.
    Remote {
        /// Its address.
        server: String,
        /// The alias there.
        alias: String,
    },
}

impl ImageSource {
    fn source(&self) -> Value {
        match self {
            Self::Alias(alias) => json!({ "type": "image", "alias": alias }),
            Self::Fingerprint(fingerprint) => json!({ "type": "image", "fingerprint": fingerprint }),
            Self::Remote { server, alias } => json!({
                "type": "image", "mode": "pull", "protocol": "simplestreams", "server": server, "alias": alias,
            }),
        }
    }
}

/// The envelope of every answer.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    error: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    metadata: Value,
}

/// An operation, or what has become of it.
#[derive(Deserialize)]
pub(super) struct Operation {
    pub(super) status_code: u16,
    #[serde(default)]
    pub(super) err: String,
    #[serde(default)]
    pub(super) metadata: Value,
}

impl Operation {
    pub(super) const SUCCESS: u16 = 200;
    const FAILURE: u16 = 400;
    const CANCELLED: u16 = 401;
}

/// A job Incus has taken.
pub(super) struct Job {
    /// Its path, such as `/1.0/operations/ID`.
    pub(super) path: String,
    pub(super) metadata: Value,
}

impl Default for Client {
    fn default() -> Self {
        Self::from_env()
    }
}

impl Client {
    /// The client of the Incus that the environment names: `$INCUS_SOCKET`, else `$INCUS_DIR/unix.socket`,
    /// else wherever there is one.
    pub fn from_env() -> Self {
        let named = env::var_os("INCUS_SOCKET").filter(|s| !s.is_empty()).map(PathBuf::from).or_else(|| {
            env::var_os("INCUS_DIR").filter(|s| !s.is_empty()).map(|d| Path::new(&d).join("unix.socket"))
        });
        Self::at(named.unwrap_or_else(|| {
            let run = Path::new(RUN_SOCKET);
            if !Path::new(DEFAULT_SOCKET).exists() && run.exists() { run } else { Path::new(DEFAULT_SOCKET) }
                .to_owned()
        }))
    }

    /// The client of the Incus that listens there.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { http: http::Client::new(socket), project: None }
    }

    /// The same Incus, and the instances of another project.
    pub fn in_project(&self, project: Option<&str>) -> Self {
        Self { http: self.http.clone(), project: project.map(str::to_owned) }
    }

    /// The address of something of an instance, in the project.
    pub(super) fn address<'a>(&self, target: &'a str) -> Cow<'a, str> {
        match &self.project {
            Some(project) if target.starts_with("/1.0/instances") => {
                let joined = if target.contains('?') { '&' } else { '?' };
                Cow::Owned(format!("{target}{joined}project={}", segment(project)))
            }
            _ => Cow::Borrowed(target),
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        self.http.path()
    }

    /// Asks the server about itself: the cheapest proof that it is there.
    pub async fn server(&self) -> Result<Server> {
        self.get("/1.0", "the server").await
    }

    /// All instances.
    pub async fn instances(&self) -> Result<Vec<Instance>> {
        self.get("/1.0/instances?recursion=1", "list of instances").await
    }

    /// All instances of all projects.
    pub async fn instances_of_all_projects(&self) -> Result<Vec<Instance>> {
        self.get("/1.0/instances?recursion=1&all-projects=true", "list of instances").await
    }

    /// One instance.
    pub async fn instance(&self, name: &str) -> Result<Instance> {
        self.get(&format!("/1.0/instances/{}", segment(name)), &format!("instance {name}")).await
    }

    /// What an instance is doing now, and its init's pid.
    pub async fn state(&self, name: &str) -> Result<InstanceState> {
        let (target, what) = (format!("/1.0/instances/{}/state", segment(name)), format!("instance {name}"));
        let mut patience = Patience::new();
        loop {
            let state = self.get(&target, &what).await;
            let has_just_ended =
                matches!(&state, Err(Error::Refused { why, .. }) if why.contains(HAS_JUST_ENDED));
            if !(has_just_ended && patience.lasts().await) {
                return state;
            }
        }
    }

    /// The aliases of all local images.
    pub async fn image_aliases(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Alias {
            name: String,
        }
        let all: Vec<Alias> = self.get("/1.0/images/aliases?recursion=1", "list of images").await?;
        Ok(all.into_iter().map(|a| a.name).collect())
    }

    /// Whether a local image has this alias.
    pub async fn has_image(&self, alias: &str) -> Result<bool> {
        self.has(&format!("/1.0/images/aliases/{}", segment(alias)), alias).await
    }

    /// Whether there is a profile of this name.
    pub async fn has_profile(&self, name: &str) -> Result<bool> {
        self.has(&format!("/1.0/profiles/{}", segment(name)), name).await
    }

    /// The profile of this name.
    pub async fn profile(&self, name: &str) -> Result<Profile> {
        self.get(&format!("/1.0/profiles/{}", segment(name)), &format!("profile {name}")).await
    }

    /// The devices of a profile.
    pub async fn profile_devices(&self, name: &str) -> Result<Devices> {
        #[derive(Deserialize)]
        struct Profile {
            #[serde(default)]
            devices: Devices,
        }
        let target = format!("/1.0/profiles/{}", segment(name));
        Ok(self.get::<Profile>(&target, &format!("profile {name}")).await?.devices)
    }

    /// Makes an instance; it does not run yet. Of several that try to make the same name one succeeds, the
    /// others get [`Error::Exists`].
    pub async fn create(&self, new: &NewInstance) -> Result<()> {
        self.create_from(new, &ImageSource::Alias(new.image.clone())).await
    }

    /// The same, from an image that may be elsewhere: Incus then fetches it first.
    pub async fn create_from(&self, new: &NewInstance, image: &ImageSource) -> Result<()> {
        let what = format!("make instance {}", new.name);
        let mut body = json!({ "type": "container", "source": image.source() });
        if let (Value::Object(body), Ok(Value::Object(rest))) = (&mut body, serde_json::to_value(new)) {
            body.extend(rest);
        }
        let made = self.change(Method::POST, "/1.0/instances", Some(&body), &what, CREATE).await;
        let Err(Error::Refused { why, .. }) = &made else { return made };
        // Incus has a different word for it at each stage at which it may find the name taken. What failed
        // for another reason leaves no instance behind; one that is being made may not be there to be seen.
        let taken = is_busy(why) || self.instance(&new.name).await.is_ok();
        if taken { Err(Error::Exists { what: format!("an instance {}", new.name) }) } else { made }
    }

    /// Copies an instance, as it is at the moment and without its snapshots, to a new one, which does not run. What is not
    /// said of the new one's configuration and devices it has from the old one; profiles it has only those that are said.
    /// Incus does not stop the processes of one that runs: that is the caller's to do.
    pub async fn copy(&self, name: &str, new: &NewInstance, within: Duration) -> Result<()> {
        let what = format!("copy instance {name} to {}", new.name);
        let source =
            json!({ "type": "copy", "source": name, "instance_only": true, "allow_inconsistent": true });
        let mut body = json!({ "type": "container", "source": source });
        if let (Value::Object(body), Ok(Value::Object(rest))) = (&mut body, serde_json::to_value(new)) {
            body.extend(rest);
        }
        self.change(Method::POST, "/1.0/instances", Some(&body), &what, within).await
    }

    /// Starts an instance; answered once its init runs.
    pub async fn start(&self, name: &str) -> Result<()> {
        self.set_state(name, None, "start", false, &format!("start {name}")).await
    }

    /// Asks an instance's init to end, as when a machine is switched off; an error if it has not within this time.
    pub async fn shut_down(&self, name: &str, within: Duration) -> Result<()> {
        let target = format!("/1.0/instances/{}/state", segment(name));
        let body = json!({ "action": "stop", "force": false, "timeout": within.as_secs().max(1) });
        self.change(Method::PUT, &target, Some(&body), &format!("shut down {name}"), within + CHANGE).await
    }

    /// Kills all processes of an instance. An ephemeral one is then gone. With a `uuid`, of no other one that has got its
    /// name meanwhile: that it has gone is [`Error::NotFound`], here and below.
    pub async fn stop_force(&self, name: &str, uuid: Option<&str>) -> Result<()> {
        self.set_state(name, uuid, "stop", true, &format!("stop {name}")).await
    }

    /// Stops all processes of an instance where they are.
    pub async fn freeze(&self, name: &str, uuid: Option<&str>) -> Result<()> {
        self.set_state(name, uuid, "freeze", false, &format!("freeze {name}")).await
    }

    /// Lets the processes of a frozen instance go on.
    pub async fn unfreeze(&self, name: &str, uuid: Option<&str>) -> Result<()> {
        self.set_state(name, uuid, "unfreeze", false, &format!("unfreeze {name}")).await
    }

    /// Has an instance stay when it stops, and gives its configuration these keys.
    pub async fn keep(&self, name: &str, config: &BTreeMap<String, String>) -> Result<()> {
        let target = format!("/1.0/instances/{}", segment(name));
        let body = json!({ "ephemeral": false, "config": config });
        // Incus answers this one at once; it is no job to wait for.
        self.begin(Method::PATCH, &target, Some(&body), &format!("change {name}")).await.map(drop)
    }

    /// Deletes an instance that does not run, once LXC has put it away, for which it has the time of a [`Patience`]. One
    /// that is just being started is called stopped, too: when it runs, Incus refuses.
    pub async fn delete(&self, name: &str, uuid: Option<&str>) -> Result<()> {
        let mut patience = Patience::new();
        let full =
            self.project.as_ref().map_or_else(|| name.to_owned(), |project| format!("{project}_{name}"));
        while has_monitor(&full)
            && self.instance(name).await?.status == Status::Stopped
            && patience.lasts().await
        {}
        let target = format!("/1.0/instances/{}", segment(name));
        let which = uuid.map(|uuid| (name, uuid));
        self.change_when_free(which, Method::DELETE, &target, None, &format!("delete {name}")).await
    }

    async fn set_state(
        &self,
        name: &str,
        uuid: Option<&str>,
        action: &str,
        force: bool,
        what: &str,
    ) -> Result<()> {
        let target = format!("/1.0/instances/{}/state", segment(name));
        let body = json!({ "action": action, "force": force, "timeout": CHANGE.as_secs() });
        let which = uuid.map(|uuid| (name, uuid));
        self.change_when_free(which, Method::PUT, &target, Some(&body), what).await
    }

    /// Like [`Self::change`], for an instance that something else may be happening to at the moment. When it is free, it
    /// may be another one by the same name: `which` is looked at before each attempt.
    async fn change_when_free(
        &self,
        which: Option<(&str, &str)>,
        method: Method,
        target: &str,
        body: Option<&Value>,
        what: &str,
    ) -> Result<()> {
        let mut patience = Patience::new();
        loop {
            if let Some((name, uuid)) = which
                && self.instance(name).await?.uuid() != Some(uuid)
            {
                return Err(Error::NotFound {
                    what: format!("instance {name} with the volatile.uuid {uuid}"),
                });
            }
            let changed = self.change(method.clone(), target, body, what, CHANGE).await;
            let is_busy = matches!(&changed, Err(Error::Refused { why, .. }) if is_busy(why));
            if !(is_busy && patience.lasts().await) {
                return changed;
            }
        }
    }

    /// Has something changed, and waits until it is.
    pub(super) async fn change(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
        what: &str,
        within: Duration,
    ) -> Result<()> {
        let job = self.begin(method, target, body, what).await?;
        let done = self.wait(&job.path, what, within).await?;
        match done.status_code {
            Operation::SUCCESS => Ok(()),
            _ => Err(Error::Refused { what: what.to_owned(), why: done.err }),
        }
    }

    /// Hands Incus a job.
    pub(super) async fn begin(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
        what: &str,
    ) -> Result<Job> {
        let call = format!("{method} {target}");
        let reply = self.http.request_json(method, &self.address(target), body, QUICK).await?;
        self.job(&call, target, what, &reply)
    }

    /// Hands Incus a file, which is a job.
    pub(super) async fn begin_upload(
        &self,
        target: &str,
        file: tokio::fs::File,
        length: u64,
        what: &str,
        within: Duration,
    ) -> Result<Job> {
        let reply = self.http.upload(target, file, length, within).await?;
        self.job(&format!("POST {target}"), target, what, &reply)
    }

    fn job(&self, call: &str, target: &str, what: &str, reply: &http::Reply) -> Result<Job> {
        let answer: Answer = self.http.decode(call, &reply.body)?;
        if reply.status.is_success() {
            let metadata = answer.metadata.get("metadata").cloned().unwrap_or_default();
            return Ok(Job { path: answer.operation, metadata });
        }
        Err(match reply.status {
            StatusCode::NOT_FOUND => self.missing(target, answer.error),
            _ => Error::Refused { what: what.to_owned(), why: answer.error },
        })
    }

    /// Waits for a job's end, whatever it is.
    pub(super) async fn wait(&self, path: &str, what: &str, within: Duration) -> Result<Operation> {
        let target = format!("{path}/wait?timeout={}", within.as_secs());
        let reply = self.http.request(Method::GET, &target, None, within + GRACE).await?;
        let answer: Answer = self.http.decode(&format!("GET {target}"), &reply.body)?;
        if !reply.status.is_success() {
            return Err(Error::Refused { what: what.to_owned(), why: answer.error });
        }
        // Of a job that failed Incus says only why, and the rest when asked for the job itself.
        let operation: Operation = match answer.error.as_str() {
            "" => serde_json::from_value(answer.metadata).map_err(|e| self.nonsense(&target, &e))?,
            _ => self.get::<Operation>(path, "operation").await.unwrap_or(Operation {
                status_code: Operation::FAILURE,
                err: answer.error,
                metadata: Value::Null,
            }),
        };
        match operation.status_code {
            Operation::SUCCESS | Operation::FAILURE | Operation::CANCELLED => Ok(operation),
            _ => Err(Error::Unfinished { what: what.to_owned(), within }),
        }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, target: &str, what: &str) -> Result<T> {
        let reply = self.http.request(Method::GET, &self.address(target), None, QUICK).await?;
        let answer: Answer = self.http.decode(&format!("GET {target}"), &reply.body)?;
        match reply.status {
            status if status.is_success() => {
                serde_json::from_value(answer.metadata).map_err(|e| self.nonsense(target, &e))
            }
            StatusCode::NOT_FOUND => Err(Error::NotFound { what: what.to_owned() }),
            _ => Err(Error::Refused { what: format!("show the {what}"), why: answer.error }),
        }
    }

    async fn has(&self, target: &str, what: &str) -> Result<bool> {
        match self.get::<Value>(target, what).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// A 404 is about the instance in the path, or about something that the body names.
    fn missing(&self, target: &str, why: String) -> Error {
        match target.strip_prefix("/1.0/instances/").and_then(|rest| rest.split('/').next()) {
            Some(name) => Error::NotFound { what: format!("instance {name}") },
            None => Error::NotFound { what: why },
        }
    }

    pub(super) fn nonsense(&self, target: &str, why: &dyn ToString) -> Error {
        Error::Unreachable(http::Error::Protocol {
            path: self.socket().to_owned(),
            call: target.to_owned(),
            why: why.to_string(),
        })
    }

    /// A bare connection.
    pub(super) async fn connect(&self, within: Duration) -> Result<tokio::net::UnixStream> {
        Ok(self.http.connect(within).await?)
    }

    /// Opens a websocket.
    pub(super) async fn websocket(&self, target: &str, what: &str) -> Result<WebSocket> {
        let stream = self.http.connect(QUICK).await?;
        // The host in the address is for the protocol only; the stream is what is talked to.
        let opened = tokio_tungstenite::client_async(format!("ws://incus{target}"), Connection(stream));
        match tokio::time::timeout(QUICK, opened).await {
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(e)) => Err(Error::Broken { what: what.to_owned(), why: e.to_string() }),
            Err(_) => Err(Error::Unreachable(http::Error::Deadline {
                path: self.socket().to_owned(),
                call: format!("GET {target}"),
                within: QUICK,
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Instant;

    use axum::{Json, Router, routing};

    use super::*;

    #[tokio::test]
    async fn one_that_ends_while_it_is_looked_at_is_looked_at_again() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("incus.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let has_ended = AtomicBool::new(false);
        let answer = move || {
            let answer = match has_ended.swap(true, Ordering::Relaxed) {
                false => (StatusCode::INTERNAL_SERVER_ERROR, json!({ "error": "Invalid PID '\u{fffd}'" })),
                true => (StatusCode::OK, json!({ "metadata": { "status": "Stopped", "pid": 0 } })),
            };
            std::future::ready((answer.0, Json(answer.1)))
        };
        let answer = std::sync::Arc::new(answer);
        let router = Router::new().route("/1.0/instances/a/state", routing::get(move || answer()));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let state = Client::at(socket).state("a").await.unwrap();
        assert_eq!((state.status, state.pid), (Status::Stopped, 0));
    }

    /// A start that somebody had asked for was still under way, and LXC's process then was that of what ran: it was waited
    /// for as if it was about to end, and there was no time left for another attempt.
    #[tokio::test]
    async fn one_that_runs_after_all_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("incus.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let name = format!("a{}", std::process::id());
        let mut monitor = std::process::Command::new("sleep")
            .arg0(format!("[lxc monitor] /nowhere {name}"))
            .arg("60")
            .spawn()
            .unwrap();
        // It has its title a moment after it has begun.
        let deadline = Instant::now() + QUICK;
        while !has_monitor(&name) {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        let looks = std::sync::Arc::new(AtomicUsize::new(0));
        let looked = std::sync::Arc::clone(&looks);
        let look = move || {
            let status = if looked.fetch_add(1, Ordering::Relaxed) < 2 { "Stopped" } else { "Running" };
            std::future::ready(Json(json!({ "metadata": { "name": "a", "status": status } })))
        };
        let delete = || {
            let runs = json!({ "error": "Instance is running" });
            std::future::ready((StatusCode::BAD_REQUEST, Json(runs)))
        };
        let address = format!("/1.0/instances/{name}");
        let router = Router::new().route(&address, routing::get(look).delete(delete));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let done = Client::at(socket).delete(&name, None).await;
        monitor.kill().unwrap();
        monitor.wait().unwrap();
        assert!(matches!(done, Err(Error::Refused { .. })), "{done:?}");
        assert_eq!(looks.load(Ordering::Relaxed), 3);
    }

    /// What is busy at first may be another one of the same name when it is free.
    #[tokio::test]
    async fn what_has_got_the_name_meanwhile_is_not_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("incus.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let deleted = std::sync::Arc::new(AtomicBool::new(false));
        let (refused, looked) = (std::sync::Arc::clone(&deleted), std::sync::Arc::clone(&deleted));
        let delete = move || {
            assert!(!refused.swap(true, Ordering::Relaxed), "the other one is deleted");
            let busy = json!({ "error": "Instance is busy running a \"stop\" operation" });
            std::future::ready((StatusCode::BAD_REQUEST, Json(busy)))
        };
        let look = move || {
            let uuid = if looked.load(Ordering::Relaxed) { "another" } else { "this" };
            let found = json!({ "name": "a", "status": "Stopped", "config": { "volatile.uuid": uuid } });
            std::future::ready(Json(json!({ "metadata": found })))
        };
        let router = Router::new().route("/1.0/instances/a", routing::get(look).delete(delete));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let done = Client::at(socket).delete("a", Some("this")).await;
        assert!(matches!(done, Err(Error::NotFound { .. })), "{done:?}");
        assert!(deleted.load(Ordering::Relaxed), "it was never tried");
    }
}
