//! Putting into a container what its session needs: the restored conversation, the tool's own files, the context.
//!
//! It is done through Incus, as the container's root, after the container has started and before the tool does. In a
//! container that was used before, links may lead somewhere else inside; out of it none leads.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Context, ContextBy, HostHome, Made, Setting, Tool, context};
use crate::incus::{self, Files, Ownership};
use crate::session::store::Kept;

/// Who reads what is put there, besides its owner: nobody.
const FILE: u32 = 0o600;
const DIRECTORY: u32 = 0o700;

/// What went in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// The credentials, as paths from the host's home on.
    pub credentials: Vec<&'static str>,
}

/// Puts it there.
pub async fn install(
    files: &mut Files,
    owner: (u32, u32),
    tool: &dyn Tool,
    setting: &Setting<'_>,
    made: Vec<Made>,
    restored: &[Kept],
    context: &Context,
) -> incus::Result<Installed> {
    let mut place = Place { files, owner, home: setting.home, there: BTreeSet::new() };
    for kept in restored {
        match &kept.file {
            None => place.directory(&kept.path).await?,
            Some((content, modified)) => place.write(&kept.path, content, Some(*modified)).await?,
        }
    }
    let mut installed = Installed::default();
    for Made { path, content, is_credential, keeps } in made {
        if keeps && place.has(path).await? {
            continue;
        }
        place.write(path.as_ref(), &content, None).await?;
        if is_credential {
            installed.credentials.push(path);
        }
    }
    let text = context.text();
    place.write(context::TEXT.as_ref(), text.as_bytes(), None).await?;
    place.write(context::DATA.as_ref(), &context.data(), None).await?;
    // What the image, or the user in a container that stays, has put there is theirs.
    if let ContextBy::File(path) = tool.facts().context
        && setting.auto_context
        && !place.has(path).await?
    {
        place.write(path.as_ref(), text.as_bytes(), None).await?;
    }
    Ok(installed)
}

/// The files of a tool, read in the home of whoever calls.
pub(in crate::launch) fn made(tool: &dyn Tool, home: Option<&Path>, setting: &Setting<'_>) -> Vec<Made> {
    tool.made(&On(home), setting)
}

/// A home on this machine.
struct On<'a>(Option<&'a Path>);

/// The longest file that is a tool's configuration.
const LONGEST: u64 = 4 << 20;

impl HostHome for On<'_> {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        use std::io::Read;
        use std::os::unix::fs::OpenOptionsExt;
        // A link is the user's own to make; a pipe is not waited for.
        let flags = nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
        let file = std::fs::File::options().read(true).custom_flags(flags).open(self.0?.join(path)).ok()?;
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || metadata.len() > LONGEST {
            return None;
        }
        let mut content = Vec::new();
        file.take(LONGEST).read_to_end(&mut content).ok()?;
        Some(content)
    }
}

/// The home inside.
struct Place<'a> {
    files: &'a mut Files,
    owner: (u32, u32),
    home: &'a str,
    /// Directories that are known to be there.
    there: BTreeSet<Vec<u8>>,
}

impl Place<'_> {
    fn at(&self, path: &Path) -> Vec<u8> {
        [self.home.trim_end_matches('/').as_bytes(), b"/", path.as_os_str().as_bytes()].concat()
    }

    fn owned(&self, mode: u32) -> Ownership {
        Ownership { uid: self.owner.0, gid: self.owner.1, mode }
    }

    async fn has(&mut self, path: &str) -> incus::Result<bool> {
        let at = self.at(path.as_ref());
        Ok(self.files.look(&at).await?.is_some())
    }

    async fn directory(&mut self, path: &Path) -> incus::Result<()> {
        let mut ways: Vec<_> = path.ancestors().filter(|way| !way.as_os_str().is_empty()).collect();
        ways.reverse();
        for way in ways {
            let at = self.at(way);
            if !self.there.contains(&at) {
                self.files.make_directory(&at, self.owned(DIRECTORY)).await?;
                self.there.insert(at);
            }
        }
        Ok(())
    }

    async fn write(&mut self, path: &Path, content: &[u8], modified: Option<u32>) -> incus::Result<()> {
        if let Some(parent) = path.parent() {
            self.directory(parent).await?;
        }
        let at = self.at(path);
        self.files.write(&at, self.owned(FILE), modified, content).await
    }
}
