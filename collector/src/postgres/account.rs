//! Which operating-system user Postgres runs as: ourselves, or, since it refuses root, somebody else.

use super::error::StartError;
use nix::unistd::{Gid, Uid, User};

/// The user Postgres' processes belong to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Account {
    pub name: String,
    pub uid: Uid,
    pub gid: Gid,
    /// Whether we have to become that user before we run anything of Postgres'.
    pub switch: bool,
    /// Our own name: peer authentication asks for it.
    pub our_name: String,
}

/// The user to run as: ourselves; as root, `wanted` or else `postgres`.
pub(super) fn choose(wanted: Option<&str>) -> Result<Account, StartError> {
    let uid = Uid::effective();
    // initdb and peer authentication look names up and fail without one.
    let us = lookup(User::from_uid(uid))?.ok_or(StartError::NamelessUser { uid: uid.as_raw() })?;
    if uid.is_root() {
        for_root(us, wanted)
    } else {
        ourselves(us, wanted)
    }
}

fn ourselves(us: User, wanted: Option<&str>) -> Result<Account, StartError> {
    match wanted {
        Some(name) if name != us.name => Err(StartError::BadUser {
            name: name.to_owned(),
            why: "only root can run it as somebody else",
        }),
        _ => Ok(Account {
            our_name: us.name.clone(),
            name: us.name,
            uid: us.uid,
            gid: us.gid,
            switch: false,
        }),
    }
}

fn for_root(us: User, wanted: Option<&str>) -> Result<Account, StartError> {
    let found = lookup(User::from_name(wanted.unwrap_or("postgres")))?;
    let bad = |why| StartError::BadUser {
        name: wanted.unwrap_or_default().to_owned(),
        why,
    };
    match (found, wanted) {
        (Some(user), _) if user.uid.is_root() => {
            Err(bad("it is root, and PostgreSQL refuses root"))
        }
        (Some(user), _) => Ok(Account {
            name: user.name,
            uid: user.uid,
            gid: user.gid,
            switch: true,
            our_name: us.name,
        }),
        (None, Some(_)) => Err(bad("there is no such user")),
        (None, None) => Err(StartError::NoUser),
    }
}

fn lookup(answer: nix::Result<Option<User>>) -> Result<Option<User>, StartError> {
    answer.map_err(|errno| StartError::Io {
        what: "look up a user in",
        path: "/etc/passwd".into(),
        source: errno.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_never_runs_as_root() {
        let refused = choose(Some("root"));
        if Uid::effective().is_root() {
            assert!(
                matches!(refused, Err(StartError::BadUser { .. })),
                "{refused:?}"
            );
            assert!(!choose(None).unwrap().uid.is_root());
        } else {
            assert!(
                matches!(refused, Err(StartError::BadUser { .. })),
                "{refused:?}"
            );
            assert_eq!(choose(None).unwrap().uid, Uid::effective());
        }
    }

    #[test]
    fn an_unknown_user_is_an_error_and_not_a_fallback() {
        let refused = choose(Some("nobody-has-this-name"));
        assert!(
            matches!(refused, Err(StartError::BadUser { .. })),
            "{refused:?}"
        );
    }
}
