//! As whom and within what workers run: names of the settings become numbers here, once, before anything is started.
//!
//! The limit of descriptors is the one thing in which the master differs from them: it raises its own soft limit to the
//! hard one, while workers get the soft limit that the master was started with, unless `nofile` says otherwise. A program
//! that uses `select`, or closes every possible descriptor, breaks under a limit of a billion, which is what some
//! container runtimes have.
//!
//! The sandbox is made anew for each worker, since a path may lead to a new release; with it goes `no_new_privs`, without
//! which only root could enter one.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use everport_handoff::privileges::{Account, Privileges};
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError,
};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Why workers cannot run as the settings say.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivilegeError {
    /// When `user` names nobody.
    #[error("there is no user {name:?}")]
    UnknownUser {
        /// As it was given.
        name: String,
    },
    /// When `group` names no group.
    #[error("there is no group {name:?}")]
    UnknownGroup {
        /// As it was given.
        name: String,
    },
    /// When `user` is a number without an entry, whose group nobody knows.
    #[error("user {uid} is not in the database of users: name its group too")]
    NoGroup {
        /// As it was given.
        uid: u32,
    },
    /// When another user or group is asked for than the master's own, which is not root.
    #[error("only root can run workers as user {uid} and group {gid}: the master is user {own}")]
    NotRoot {
        /// The user that was asked for.
        uid: u32,
        /// The group that was asked for.
        gid: u32,
        /// The user that the master is.
        own: u32,
    },
    /// When the database of users or groups could not be read.
    #[error("cannot look up {name:?}: {source}")]
    LookUp {
        /// As it was given.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
    /// When the hard limit of descriptors is too low and may not be raised.
    #[error("cannot raise the limit of descriptors from {hard} to {wanted}: {source}")]
    Nofile {
        /// What `nofile` says.
        wanted: u64,
        /// The hard limit.
        hard: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// When the kernel has no Landlock, or it is switched off.
    #[error(
        "cannot sandbox the workers: this kernel has no landlock (it came with Linux 5.13 and can be switched off)"
    )]
    NoLandlock,
    /// When a path of the sandbox is not there.
    #[error("cannot sandbox the workers: {0}")]
    SandboxPath(#[source] PathFdError),
    /// When the kernel refused the sandbox.
    #[error("cannot sandbox the workers: {0}")]
    Sandbox(#[source] RulesetError),
}

/// What every worker is allowed.
#[derive(Debug)]
pub(super) struct WorkerPrivileges {
    account: Option<Account>,
    no_new_privs: bool,
    umask: Option<u32>,
    nice: Option<i32>,
    oom_score_adj: Option<i32>,
    nofile: Option<u64>,
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
}

impl WorkerPrivileges {
    /// Resolves the settings. `soft` is the soft limit of descriptors that the master was started with.
    pub(super) fn resolve(config: &Config, soft: Option<u64>) -> Result<Self, PrivilegeError> {
        if let Some(wanted) = config.nofile {
            make_room(wanted)?;
        }
        let resolved = Self {
            account: account(config.user.as_deref(), config.group.as_deref())?,
            no_new_privs: config.no_new_privs,
            umask: config.umask,
            nice: config.nice,
            oom_score_adj: config.oom_score_adj,
            nofile: config.nofile.or(soft),
            read: config.sandbox_read.clone(),
            write: config.sandbox_write.clone(),
        };
        // What is wrong with the sandbox is an error of the start, not of the first worker.
        resolved.ruleset()?;
        Ok(resolved)
    }

    /// Whether workers run as another user than the master, and are trusted less.
    pub(super) fn is_other_user(&self) -> bool {
        self.account.as_ref().is_some_and(|account| account.uid != Uid::effective().as_raw())
    }

    /// What the next worker gets.
    pub(super) fn next(&self) -> Result<Privileges, PrivilegeError> {
        let ruleset = self.ruleset()?;
        Ok(Privileges {
            account: self.account.clone(),
            no_new_privs: self.no_new_privs || ruleset.is_some(),
            umask: self.umask,
            nice: self.nice,
            oom_score_adj: self.oom_score_adj,
            nofile: self.nofile,
            ruleset,
        })
    }

    /// A ruleset that allows to read and run what is below `read`, and everything below `write` and with /dev/null, which
    /// gives nothing away; none without either.
    fn ruleset(&self) -> Result<Option<OwnedFd>, PrivilegeError> {
        if self.read.is_empty() && self.write.is_empty() {
            return Ok(None);
        }
        let handled = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(OLDEST))
            .map_err(|_| PrivilegeError::NoLandlock)?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))
            .map_err(PrivilegeError::Sandbox)?;
        let mut ruleset = handled.create().map_err(PrivilegeError::Sandbox)?;
        let read = self.read.iter().map(|path| (path.as_path(), AccessFs::from_read(NEWEST)));
        let write = self.write.iter().map(PathBuf::as_path).chain([Path::new("/dev/null")]);
        for (path, access) in read.chain(write.map(|path| (path, AccessFs::from_all(NEWEST)))) {
            let path = PathFd::new(path).map_err(PrivilegeError::SandboxPath)?;
            ruleset = ruleset.add_rule(PathBeneath::new(path, access)).map_err(PrivilegeError::Sandbox)?;
        }
        Ok(ruleset.into())
    }
}

/// Without these rights there is no sandbox to speak of.
const OLDEST: ABI = ABI::V1;

/// The rights that are taken away, where the kernel knows them. No later ones: a sandbox must not grow tighter by itself
/// with the next kernel.
const NEWEST: ABI = ABI::V5;

/// Raises this process's soft limit of descriptors to the hard one. Returns what it was, for the workers.
pub(super) fn raise_nofile() -> io::Result<Option<u64>> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(current)
}

/// Raises the hard limit if it is below `wanted`.
fn make_room(wanted: u64) -> Result<(), PrivilegeError> {
    match getrlimit(Resource::Nofile).maximum {
        Some(hard) if hard < wanted => {
            let limit = Rlimit { current: Some(wanted), maximum: Some(wanted) };
            setrlimit(Resource::Nofile, limit).map_err(|errno| PrivilegeError::Nofile {
                wanted,
                hard,
                source: errno.into(),
            })
        }
        _ => Ok(()),
    }
}

/// The account of `user` and `group`, names or numbers; none if that is what this process is anyway.
fn account(user: Option<&str>, group: Option<&str>) -> Result<Option<Account>, PrivilegeError> {
    if user.is_none() && group.is_none() {
        return Ok(None);
    }
    let group = group.map(find_group).transpose()?;
    let own = Uid::effective();
    let (uid, entry) = match user {
        Some(name) => find_user(name)?,
        None => (own, None),
    };
    let gid = match (group, &entry, user) {
        (Some(group), ..) => group,
        (None, Some(entry), _) => entry.gid,
        (None, None, _) => return Err(PrivilegeError::NoGroup { uid: uid.as_raw() }),
    };
    let is_change = uid != own || gid != Gid::effective();
    if !own.is_root() {
        return match is_change {
            true => Err(PrivilegeError::NotRoot { uid: uid.as_raw(), gid: gid.as_raw(), own: own.as_raw() }),
            false => Ok(None),
        };
    }
    let groups = match &entry {
        Some(entry) => all_groups(&entry.name, gid)?,
        None => vec![gid],
    };
    let groups = groups.into_iter().map(Gid::as_raw).collect();
    Ok(Some(Account { uid: uid.as_raw(), gid: gid.as_raw(), groups }))
}

fn find_user(name: &str) -> Result<(Uid, Option<User>), PrivilegeError> {
    let number = name.parse().ok().map(Uid::from_raw);
    let found = match number {
        Some(uid) => User::from_uid(uid),
        None => User::from_name(name),
    };
    match (found.map_err(look_up(name))?, number) {
        (Some(user), _) => Ok((user.uid, Some(user))),
        (None, Some(uid)) => Ok((uid, None)),
        (None, None) => Err(PrivilegeError::UnknownUser { name: name.to_owned() }),
    }
}

fn find_group(name: &str) -> Result<Gid, PrivilegeError> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    let group = Group::from_name(name).map_err(look_up(name))?;
    group.map(|group| group.gid).ok_or_else(|| PrivilegeError::UnknownGroup { name: name.to_owned() })
}

/// The supplementary groups of a user, as login would set them.
fn all_groups(name: &str, gid: Gid) -> Result<Vec<Gid>, PrivilegeError> {
    // A name from the database has no zero byte.
    let text = CString::new(name).map_err(|_| PrivilegeError::UnknownUser { name: name.to_owned() })?;
    getgrouplist(&text, gid).map_err(look_up(name))
}

fn look_up(name: &str) -> impl FnOnce(nix::errno::Errno) -> PrivilegeError + use<> {
    let name = name.to_owned();
    move |errno| PrivilegeError::LookUp { name, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_found_by_name_and_by_number() {
        let (by_name, _) = find_user("nobody").unwrap();
        let (by_number, entry) = find_user(&by_name.to_string()).unwrap();
        assert_eq!((by_name, entry.unwrap().name.as_str()), (by_number, "nobody"));
    }

    #[test]
    fn who_is_unknown_is_named() {
        let error = account(Some("no-such-user"), None).unwrap_err();
        assert_eq!(error.to_string(), r#"there is no user "no-such-user""#);
        let error = account(None, Some("no-such-group")).unwrap_err();
        assert_eq!(error.to_string(), r#"there is no group "no-such-group""#);
        let error = account(Some("4711"), None).unwrap_err();
        assert_eq!(error.to_string(), "user 4711 is not in the database of users: name its group too");
    }

    #[test]
    fn root_gives_a_user_all_groups_and_nobody_else_changes_anything() {
        let nobody = find_user("nobody").unwrap().1.unwrap();
        let found = account(Some("nobody"), None);
        if !Uid::effective().is_root() {
            assert!(matches!(found, Err(PrivilegeError::NotRoot { .. })), "{found:?}");
            let (own, group) = (Uid::effective().to_string(), Gid::effective().to_string());
            assert_eq!(account(Some(&own), Some(&group)).unwrap(), None);
            return;
        }
        let found = found.unwrap().unwrap();
        assert_eq!((found.uid, found.gid), (nobody.uid.as_raw(), nobody.gid.as_raw()));
        assert!(found.groups.contains(&nobody.gid.as_raw()), "{found:?}");
        let found = account(Some("4711"), Some("4712")).unwrap().unwrap();
        assert_eq!(found, Account { uid: 4711, gid: 4712, groups: vec![4712] });
    }
}
