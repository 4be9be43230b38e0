//! What a container sees of the host, and what of it is protected.

use std::path::PathBuf;

use super::{Error, Result, Workspace};
use crate::config::Config;
use crate::monitor::service::api::{ExtraMount, TreeRequest};
use crate::mount::Inner;

/// What is asked for beside the workspace itself.
#[derive(Clone, Debug)]
pub struct Mounts {
    /// What can only be read, as paths from the workspace.
    pub protected: Vec<Inner>,
    /// What is not to be seen.
    pub secret: Vec<Inner>,
    /// The workspace's `.env` files are not to be seen either.
    pub mask_env: bool,
    /// What else of the host it gets.
    pub extra: Vec<ExtraMount>,
    /// The workspace has the same path in the container as on the host.
    pub preserve_workspace_path: bool,
}

impl Mounts {
    /// Those of these settings.
    pub fn of(config: &Config) -> Result<Self> {
        let security = &config.security;
        let inner = |paths: &[String]| -> Result<Vec<Inner>> {
            paths
                .iter()
                .map(|path| Inner::try_from(path.trim_end_matches('/')).map_err(Error::from))
                .collect()
        };
        let mut writable = inner(&security.writable_paths.0)?;
        if config.git.writable_hooks {
            writable.extend(inner(&[".git/hooks".to_owned(), ".husky".to_owned()])?);
        }
        let mut protected = inner(&security.protected_paths.0)?;
        protected.extend(inner(&security.additional_protected_paths.0)?);
        protected.retain(|path| !writable.iter().any(|writable| path.is_within(writable)));
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let host = |text: &str| match (text.strip_prefix("~/"), &home) {
            (Some(below), Some(home)) => home.join(below),
            _ => PathBuf::from(text),
        };
        let extra = config.mounts.default.0.iter().map(|mount| ExtraMount {
            host: host(&mount.host),
            container: mount.container.clone(),
            readonly: mount.readonly,
        });
        Ok(Self {
            protected,
            secret: inner(&security.secret_paths.0)?,
            mask_env: security.mask_env,
            extra: extra.collect(),
            preserve_workspace_path: config.paths.preserve_workspace_path,
        })
    }

    /// The workspace where the container is to see it.
    pub fn place(&self, mut workspace: Workspace) -> Workspace {
        if self.preserve_workspace_path {
            workspace.inside = workspace.text().to_owned();
        }
        workspace
    }

    /// What the daemon is asked for.
    pub fn request(&self, workspace: &Workspace) -> TreeRequest {
        TreeRequest {
            inside: workspace.inside.clone(),
            protected: self.protected.clone(),
            secret: self.secret.clone(),
            mask_env: self.mask_env,
            mounts: self.extra.clone(),
            ..TreeRequest::new(workspace.path.clone())
        }
    }
}
