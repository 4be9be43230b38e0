//! Finding a saved session again: one of this workspace, by its name or the newest.

use super::{Caller, Error, Result, Workspace};
use crate::session::store::{self, Session};

/// All sessions of whoever calls, the newest first.
pub fn sessions() -> Result<Vec<Session>> {
    Caller::find()?.act(|home| home.map(store::all).unwrap_or_default())
}

/// The session of this workspace that is meant: that of a tool, if one is named, and of a name that begins so, or the
/// newest.
pub fn resumable(workspace: &Workspace, tool: Option<&str>, id: Option<&str>) -> Result<Session> {
    choose(sessions()?, workspace, tool, id)
}

fn choose(all: Vec<Session>, workspace: &Workspace, tool: Option<&str>, id: Option<&str>) -> Result<Session> {
    let mut fitting: Vec<_> = all
        .into_iter()
        .filter(|session| session.metadata.workspace == workspace.text())
        .filter(|session| tool.is_none_or(|tool| session.metadata.tool == tool))
        .filter(|session| id.is_none_or(|id| session.metadata.session_id.starts_with(id)))
        .collect();
    match (fitting.len(), id) {
        (0, _) => Err(Error::NothingToResume {
            path: workspace.path.clone(),
            tool: tool.map(str::to_owned),
            id: id.map(str::to_owned),
        }),
        (1, _) | (_, None) => Ok(fitting.remove(0)),
        (_, Some(_)) => Err(Error::WhichSession {
            ids: fitting.into_iter().map(|session| session.metadata.session_id).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Metadata, example};

    fn session(id: &str, workspace: &str, tool: &str) -> Session {
        let metadata = Metadata {
            session_id: id.into(),
            workspace: workspace.into(),
            tool: tool.into(),
            ..example().metadata
        };
        Session { metadata, directory: id.into() }
    }

    #[test]
    fn only_those_of_this_workspace() {
        let workspace =
            Workspace { path: "/home/ann/app".into(), uid: 1000, gid: 1000, inside: "/workspace".into() };
        let all = || {
            vec![
                session("aa1", "/home/ann/other", "claude"),
                session("aa2", "/home/ann/app", "codex"),
                session("aa3", "/home/ann/app", "claude"),
                session("ab4", "/home/ann/app", "claude"),
            ]
        };
        let chosen =
            |tool, id| choose(all(), &workspace, tool, id).map(|session| session.metadata.session_id);
        assert_eq!(chosen(None, None).unwrap(), "aa2");
        assert_eq!(chosen(Some("claude"), None).unwrap(), "aa3");
        assert_eq!(chosen(Some("claude"), Some("ab")).unwrap(), "ab4");
        assert!(matches!(chosen(None, Some("aa1")), Err(Error::NothingToResume { .. })));
        assert!(matches!(chosen(Some("aider"), None), Err(Error::NothingToResume { .. })));
        assert!(matches!(chosen(None, Some("a")), Err(Error::WhichSession { ids }) if ids.len() == 3));
    }
}
