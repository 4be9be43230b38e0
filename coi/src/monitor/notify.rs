//! `[[notify]]` of the configuration: telling people of alerts, by a command, a webhook or their desktop.
//!
//! It promises that nobody waits for it: each way has a queue of its own with room for so many, what finds none is
//! counted, and each try has an end. What failed and what was not told is told to whoever wrote the alert down. A command
//! is run without a shell and without the daemon's environment, as the user that is configured; what an alert says goes to
//! its standard input and never into its arguments. Alerts are told as they stand in the audit log, secrets redacted.
//!
//! It knows http and not https: for that, have a command such as `curl --data @- URL`.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Uri,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, Uid, User},
};
use serde::Deserialize;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, process::Command, sync::mpsc, time::timeout};

use super::rules::Severity;
use crate::ui::plain;

/// How many alerts may wait for one way.
const QUEUE: usize = 256;
/// How long a try may take unless the configuration says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that it may say.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(300);
/// Who runs commands unless the configuration says otherwise.
const USER: &str = "nobody";
/// Where commands find programs. Nothing else of the environment is theirs.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
const NOTIFY_SEND: &str = "/usr/bin/notify-send";

/// One way to tell.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Sink {
    /// Told are alerts that are so grave, or graver.
    severity: Severity,
    way: Way,
    timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    /// A program and its arguments, and as whom it runs.
    Command { words: Vec<String>, uid: u32, gid: u32 },
    /// Host and port, and the whole address.
    Webhook { authority: String, uri: Uri },
    /// The desktop of the container's owner.
    Desktop,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    severity: Option<Severity>,
    command: Option<Vec<String>>,
    user: Option<String>,
    webhook: Option<String>,
    #[serde(default)]
    desktop: bool,
    timeout: Option<String>,
}

impl TryFrom<Written> for Sink {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { severity, command, user, webhook, desktop, timeout } = written;
        if user.is_some() && command.is_none() {
            return Err("`user` is for a `command`".into());
        }
        let way = match (command, webhook, desktop) {
            (Some(words), None, false) => {
                if !words.first().is_some_and(|program| program.starts_with('/')) {
                    return Err("`command` begins with the program's whole path: [\"/usr/local/bin/tell\", \"--now\"]".into());
                }
                let name = user.as_deref().unwrap_or(USER);
                let user = User::from_name(name).ok().flatten();
                let user = user.ok_or_else(|| format!("there is no user `{name}` to run the command as"))?;
                Way::Command { words, uid: user.uid.as_raw(), gid: user.gid.as_raw() }
            }
            (None, Some(address), false) => {
                let uri: Uri =
                    address.parse().map_err(|error| format!("`{address}` is no address: {error}"))?;
                let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
                    return Err("`webhook` takes http://HOST:PORT/PATH; for https have a command such as [\"/usr/bin/curl\", \"--data\", \"@-\", \"https://...\"]".into());
                };
                let authority = match authority.port() {
                    Some(_) => authority.to_string(),
                    None => format!("{authority}:80"),
                };
                Way::Webhook { authority, uri }
            }
            (None, None, true) => Way::Desktop,
            _ => return Err("each has one of `command`, `webhook` and `desktop = true`".into()),
        };
        let timeout = match timeout {
            None => TIMEOUT,
            Some(text) => {
                let span: jiff::SignedDuration =
                    text.parse().map_err(|error| format!("{error}; write \"10s\" or \"1m\""))?;
                let timeout = Duration::try_from(span).unwrap_or_default();
                if timeout.is_zero() || timeout > LONGEST_TIMEOUT {
                    return Err(format!("`timeout` is from 1ms to {} s", LONGEST_TIMEOUT.as_secs()));
                }
                timeout
            }
        };
        Ok(Self { severity: severity.unwrap_or(Severity::Warning), way, timeout })
    }
}

/// An alert to be told.
#[derive(Clone)]
pub struct Notice {
    /// How grave it is.
    pub severity: Severity,
    /// One line for people: where and what.
    pub title: String,
    /// The alert as it stands in the audit log.
    pub line: Arc<str>,
    /// Whose container it is.
    pub owner: u32,
    /// Writes down what went wrong with telling it.
    pub complain: Arc<dyn Fn(&str) + Send + Sync>,
}

/// Why an alert could not be told.
#[derive(Debug, thiserror::Error)]
enum NotifyError {
    #[error("{}: {source}", program.display())]
    Start { program: PathBuf, source: std::io::Error },
    #[error("{} ended with {}", program.display(), match code { Some(code) => format!("exit code {code}"), None => format!("signal {}", signal.unwrap_or(0)) })]
    Ended { program: PathBuf, code: Option<i32>, signal: Option<i32> },
    #[error("{address}: {why}")]
    Webhook { address: String, why: String },
    #[error("it took longer than {0:?}")]
    Timeout(Duration),
}

/// Tells of alerts.
#[derive(Clone, Default)]
pub struct Notifier(Arc<[Lane]>);

struct Lane {
    severity: Severity,
    queue: mpsc::Sender<Notice>,
    /// What found no room since that was last told.
    missed: Arc<AtomicU64>,
}

impl Notifier {
    /// Begins to wait for alerts. To be called within a runtime.
    pub fn start(sinks: &[Sink]) -> Self {
        let lane = |sink: &Sink| {
            let (queue, waiting) = mpsc::channel(QUEUE);
            let missed = Arc::new(AtomicU64::new(0));
            tokio::spawn(serve(sink.clone(), waiting, Arc::clone(&missed)));
            Lane { severity: sink.severity, queue, missed }
        };
        Self(sinks.iter().map(lane).collect())
    }

    /// Whether anybody wants to be told of what is so grave.
    pub fn wants(&self, severity: Severity) -> bool {
        self.0.iter().any(|lane| lane.severity <= severity)
    }

    /// Has an alert told to whoever wants to be.
    pub fn tell(&self, notice: &Notice) {
        for lane in self.0.iter().filter(|lane| lane.severity <= notice.severity) {
            if lane.queue.try_send(notice.clone()).is_err() {
                lane.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

async fn serve(sink: Sink, mut waiting: mpsc::Receiver<Notice>, missed: Arc<AtomicU64>) {
    while let Some(notice) = waiting.recv().await {
        let told = match timeout(sink.timeout, sink.tell(&notice)).await {
            Ok(told) => told,
            Err(_) => Err(NotifyError::Timeout(sink.timeout)),
        };
        // The container may have gone by now, and its log with it.
        let complain = |words: &str| {
            tracing::warn!("{words}");
            (notice.complain)(words);
        };
        if let Err(error) = told {
            complain(&format!("an alert could not be told by {}: {error}", sink.name()));
        }
        let missed = missed.swap(0, Ordering::Relaxed);
        if missed > 0 {
            complain(&format!("{missed} alerts came faster than they could be told by {}", sink.name()));
        }
    }
}

impl Sink {
    fn name(&self) -> String {
        match &self.way {
            Way::Command { words, .. } => format!("the command {}", words.first().map_or("", String::as_str)),
            Way::Webhook { uri, .. } => format!("the webhook {uri}"),
            Way::Desktop => "the desktop".to_owned(),
        }
    }

    async fn tell(&self, notice: &Notice) -> Result<(), NotifyError> {
        match &self.way {
            Way::Command { words, uid, gid } => {
                let mut command = Command::new(words.first().map_or("", String::as_str));
                command.args(words.iter().skip(1)).uid(*uid).gid(*gid);
                run(command, notice.line.as_bytes()).await
            }
            Way::Webhook { authority, uri } => post(authority, uri, &notice.line).await,
            Way::Desktop => match desktop(notice) {
                Some(command) => run(command, &[]).await,
                // Nobody sits there.
                None => Ok(()),
            },
        }
    }
}

/// Ends a command's whole process group if it is not waited for to its end.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended by itself just now.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

async fn run(mut command: Command, input: &[u8]) -> Result<(), NotifyError> {
    let program = PathBuf::from(command.as_std().get_program());
    let failed = |source| NotifyError::Start { program: program.clone(), source };
    let own: Vec<_> = command
        .as_std()
        .get_envs()
        .map(|(key, value)| (key.to_owned(), value.map(ToOwned::to_owned)))
        .collect();
    command.env_clear().env("PATH", PATH);
    for (key, value) in own {
        if let Some(value) = value {
            command.env(key, value);
        }
    }
    command.current_dir("/").process_group(0).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    let mut group = Group(pid);
    if let Some(mut stdin) = child.stdin.take() {
        // A command need not read what it is told.
        let _ = stdin.write_all(input).await;
    }
    let status = child.wait().await.map_err(failed)?;
    group.0 = None;
    if status.success() {
        return Ok(());
    }
    Err(NotifyError::Ended { program, code: status.code(), signal: status.signal() })
}

async fn post(authority: &str, uri: &Uri, line: &str) -> Result<(), NotifyError> {
    let failed = |why: String| NotifyError::Webhook { address: uri.to_string(), why };
    let stream = TcpStream::connect(authority).await.map_err(|error| failed(error.to_string()))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(error.to_string()))?;
    let connection = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, authority)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::copy_from_slice(line.as_bytes())))
        .map_err(|error| failed(error.to_string()))?;
    let answer = sender.send_request(request).await;
    connection.abort();
    match answer {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(failed(format!("it answered {}", answer.status()))),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// What shows it on the desktop of the container's owner, if there is one.
fn desktop(notice: &Notice) -> Option<Command> {
    let bus = format!("/run/user/{}/bus", notice.owner);
    if !Path::new(&bus).exists() || !Path::new(NOTIFY_SEND).exists() {
        return None;
    }
    let user = User::from_uid(Uid::from_raw(notice.owner)).ok().flatten()?;
    let urgency = if notice.severity >= Severity::High { "critical" } else { "normal" };
    // Some desktops read marks in it.
    let text = plain(&notice.title).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut command = Command::new(NOTIFY_SEND);
    command.args(["--app-name=COI", &format!("--urgency={urgency}"), "--", "COI", &text]);
    command.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={bus}"));
    command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    Some(command)
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Mutex};

    use tokio::{
        io::AsyncReadExt as _,
        net::TcpListener,
        sync::mpsc::{UnboundedReceiver, unbounded_channel},
    };

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Config {
        notify: Vec<Sink>,
    }

    fn sinks(text: &str) -> Result<Vec<Sink>, String> {
        toml::from_str::<Config>(text).map(|config| config.notify).map_err(|error| error.message().to_owned())
    }

    /// A notice, and what is complained of.
    fn notice(severity: Severity) -> (Notice, UnboundedReceiver<String>) {
        let (to, complaints) = unbounded_channel();
        let to = Mutex::new(to);
        let complain = Arc::new(move |words: &str| {
            let _ = to.lock().unwrap().send(words.to_owned());
        });
        (Notice { severity, title: "t".into(), line: "{\"a\":1}".into(), owner: 0, complain }, complaints)
    }

    /// One that runs a command as who runs the tests.
    fn command(words: &[&str], timeout: Duration) -> Sink {
        let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Sink { severity: Severity::High, way: Way::Command { words, uid, gid }, timeout }
    }

    #[test]
    fn what_is_written() {
        let all = sinks(
            "[[notify]]\nseverity = 'high'\ncommand = ['/bin/true', 'x']\nuser = 'root'\ntimeout = '3s'\n\
             [[notify]]\nwebhook = 'http://127.0.0.1:9/x?y'\n[[notify]]\ndesktop = true\n",
        )
        .unwrap();
        assert_eq!(all[0].timeout, Duration::from_secs(3));
        assert_eq!((all[0].severity, all[1].severity), (Severity::High, Severity::Warning));
        let words = |text: &str| sinks(&format!("[[notify]]\n{text}\n")).unwrap_err();
        let wrong = [
            "desktop = false",
            "desktop = true\nwebhook = 'http://x'",
            "command = ['true']",
            "command = []",
            "command = ['/bin/true']\nuser = 'no-such-user'",
            "desktop = true\nuser = 'root'",
            "webhook = 'https://example.org/'",
            "webhook = 'x'",
            "desktop = true\ntimeout = '0s'",
            "desktop = true\ntimeout = '1h'",
            "desktop = true\nseverity = 'grave'",
            "desktop = true\ncolour = 'red'",
        ];
        insta::assert_snapshot!(wrong.map(words).join("\n"));
    }

    #[tokio::test]
    async fn a_command_is_given_the_alert_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("told");
        let script = format!("cat >{0}; env | sort >>{0}; pwd >>{0}", file.display());
        command(&["/bin/sh", "-c", &script], TIMEOUT).tell(&notice(Severity::High).0).await.unwrap();
        let told = fs::read_to_string(&file).unwrap();
        let told: Vec<_> = told.lines().filter(|line| !line.starts_with("_=")).collect();
        assert_eq!(told, [&format!("{{\"a\":1}}PATH={PATH}"), "PWD=/", "/"]);
    }

    #[tokio::test]
    async fn what_goes_wrong_is_told() {
        for (words, said) in [
            (&["/no/such/program"][..], "/no/such/program: No such file or directory"),
            (&["/bin/sh", "-c", "exit 3"], "/bin/sh ended with exit code 3"),
            (&["/bin/sh", "-c", "kill -9 $$"], "/bin/sh ended with signal 9"),
        ] {
            let error = command(words, TIMEOUT).tell(&notice(Severity::High).0).await.unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[tokio::test]
    async fn what_hangs_is_ended_and_the_next_one_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let script = format!("[ -e {0} ] && exit; sleep 1000 & echo $! >{0}; wait", pid.display());
        let notifier = Notifier::start(&[command(&["/bin/sh", "-c", &script], Duration::from_millis(500))]);
        let (first, mut complaints) = notice(Severity::Critical);
        assert!(notifier.wants(Severity::High) && !notifier.wants(Severity::Warning));
        notifier.tell(&notice(Severity::Warning).0);
        notifier.tell(&first);
        assert_eq!(
            complaints.recv().await.unwrap(),
            "an alert could not be told by the command /bin/sh: it took longer than 500ms"
        );
        let pid = fs::read_to_string(pid).unwrap();
        let lives = || {
            fs::read_to_string(format!("/proc/{}/cmdline", pid.trim()))
                .is_ok_and(|text| text.contains("1000"))
        };
        while lives() {
            tokio::task::yield_now().await;
        }
        // More than there is room for: what was not told is counted.
        let (next, mut complaints) = notice(Severity::High);
        (0..QUEUE as u64 + 50).for_each(|_| notifier.tell(&next));
        let said = complaints.recv().await.unwrap();
        assert!(
            said.ends_with("alerts came faster than they could be told by the command /bin/sh"),
            "{said}"
        );
    }

    #[tokio::test]
    async fn a_webhook_is_posted_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sink = sinks(&format!("[[notify]]\nwebhook = 'http://{address}/hook?x=1'\n")).unwrap().remove(0);
        for (answer, works) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", false),
            ("nonsense", false),
        ] {
            let server = async {
                let (mut peer, _) = listener.accept().await.unwrap();
                let mut asked = Vec::new();
                while !asked.ends_with(b"{\"a\":1}") {
                    assert_ne!(peer.read_buf(&mut asked).await.unwrap(), 0);
                }
                peer.write_all(answer.as_bytes()).await.unwrap();
                String::from_utf8(asked).unwrap()
            };
            let about = notice(Severity::High).0;
            let (asked, told) = tokio::join!(server, sink.tell(&about));
            assert!(asked.starts_with("POST /hook?x=1 HTTP/1.1\r\n"), "{asked}");
            assert!(asked.contains("content-type: application/json"), "{asked}");
            assert_eq!(told.is_ok(), works, "{told:?}");
        }
        drop(listener);
        assert!(sink.tell(&notice(Severity::High).0).await.is_err());
    }
}
