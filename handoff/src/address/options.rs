//! The options of an address: which kind can have which, their values, and how they are printed.

use std::fmt;
use std::num::NonZeroU32;

use super::parse::{Fault, is_digits, number};
use super::{MAX_BACKLOG, MAX_NAME, Part, Target};
use crate::policy::{KNOWN, Policy};

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Options {
    pub(super) backlog: Option<NonZeroU32>,
    pub(super) v6only: bool,
    pub(super) mode: Option<u32>,
    pub(super) reuseport: bool,
    pub(super) policy: Option<Policy>,
    pub(super) name: Option<String>,
}

/// The kinds of address, as far as their options differ, and the options of each.
fn allowed(target: &Target) -> (&'static str, &'static [&'static str]) {
    match target {
        Target::Tcp(endpoint) if endpoint.is_v6() => {
            ("TCP on IPv6", &["backlog", "v6only", "reuseport", "policy", "name"])
        }
        Target::Tcp(_) => ("TCP on IPv4 or a host name", &["backlog", "reuseport", "policy", "name"]),
        Target::Udp(endpoint) if endpoint.is_v6() => ("UDP on IPv6", &["v6only", "reuseport", "name"]),
        Target::Udp(_) => ("UDP on IPv4 or a host name", &["reuseport", "name"]),
        Target::Path(_) => ("a unix path", &["backlog", "mode", "policy", "name"]),
        Target::Abstract(_) => ("an abstract unix name", &["backlog", "policy", "name"]),
        // The rest is as its maker has set it up.
        Target::Descriptor(_) | Target::Systemd { .. } => ("an inherited socket", &["policy", "name"]),
    }
}

/// The fault of an option that this address cannot have, or that nobody knows.
pub(super) fn misfit(option: &str, target: &Target) -> Fault {
    let (kind, allowed) = allowed(target);
    Fault::new(Part::Option, option, format!("one of {} ({kind})", allowed.join(", ")))
}

impl Options {
    pub(super) fn parse(text: &str, target: &Target) -> Result<Self, Fault> {
        let mut options = Self::default();
        // No longer than the longest list of allowed options.
        let mut seen = Vec::new();
        for option in text.split('&') {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            if !allowed(target).1.contains(&name) {
                return Err(misfit(name, target));
            }
            if seen.contains(&name) {
                return Err(Fault::new(Part::Option, option, "each option once"));
            }
            seen.push(name);
            match name {
                "backlog" => options.backlog = Some(backlog(value)?),
                "v6only" => options.v6only = switch("v6only", value)?,
                "mode" => options.mode = Some(mode(value)?),
                "reuseport" => options.reuseport = switch("reuseport", value)?,
                "policy" => options.policy = Some(policy(value)?),
                "name" => options.name = Some(listener_name(value)?),
                _ => return Err(misfit(name, target)),
            }
        }
        Ok(options)
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = [
            self.backlog.map(|backlog| format!("backlog={backlog}")),
            self.v6only.then(|| "v6only".to_owned()),
            self.mode.map(|mode| format!("mode={mode:04o}")),
            self.reuseport.then(|| "reuseport".to_owned()),
            self.policy.map(|policy| format!("policy={policy}")),
            self.name.as_ref().map(|name| format!("name={name}")),
        ];
        for (n, option) in written.into_iter().flatten().enumerate() {
            write!(f, "{}{option}", if n == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

fn backlog(value: Option<&str>) -> Result<NonZeroU32, Fault> {
    let text = value.unwrap_or_default();
    number::<u32>(text)
        .filter(|backlog| *backlog <= MAX_BACKLOG)
        .and_then(NonZeroU32::new)
        .ok_or_else(|| Fault::new(Part::Value("backlog"), text, "a number of 1 to 2147483647"))
}

fn switch(option: &'static str, value: Option<&str>) -> Result<bool, Fault> {
    match value {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(other) => Err(Fault::new(Part::Value(option), other, "no value, true or false")),
    }
}

fn mode(value: Option<&str>) -> Result<u32, Fault> {
    let text = value.unwrap_or_default();
    Some(text)
        .filter(|text| is_digits(text) && text.len() <= 4)
        .and_then(|text| u32::from_str_radix(text, 8).ok())
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| Fault::new(Part::Value("mode"), text, "octal permissions of 0 to 0777, as in 0660"))
}

fn policy(value: Option<&str>) -> Result<Policy, Fault> {
    let text = value.unwrap_or_default();
    text.parse().map_err(|_| Fault::new(Part::Value("policy"), text, format!("one of {KNOWN}")))
}

fn listener_name(value: Option<&str>) -> Result<String, Fault> {
    let text = value.unwrap_or_default();
    if text.len() > MAX_NAME {
        return Err(Fault::too_long(Part::Value("name"), text.len(), MAX_NAME));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(plain) {
        return Err(Fault::new(Part::Value("name"), text, "letters, digits, '-', '_' and '.'"));
    }
    Ok(text.to_owned())
}
