//! From text to address. The text comes from operators, configuration files and workers: nothing is taken on trust.

use std::borrow::Cow;
use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use super::escape::{Escaped, unescape};
use super::options::{Options, misfit};
use super::{AddressError, Endpoint, ListenAddress, MAX_ABSTRACT_NAME, MAX_ADDRESS, MAX_NAME, Part, Target};

/// How much of a text an error shows.
const MAX_SHOWN: usize = 128;
/// The longest host name of DNS.
const MAX_HOST: usize = 253;
/// Standard input, output and error are never listeners.
const FIRST_INHERITED: i32 = 3;

/// A part that is wrong, before the whole address is put beside it.
pub(super) struct Fault {
    part: Part,
    found: String,
    wanted: Cow<'static, str>,
}

impl Fault {
    pub(super) fn new(part: Part, found: &str, wanted: impl Into<Cow<'static, str>>) -> Self {
        let found = if found.is_empty() { "nothing".to_owned() } else { format!("{:?}", shorten(found)) };
        Self { part, found, wanted: wanted.into() }
    }

    pub(super) fn too_long(part: Part, length: usize, limit: usize) -> Self {
        Self { part, found: format!("{length} bytes"), wanted: format!("at most {limit} bytes").into() }
    }

    fn of(self, address: &str) -> AddressError {
        AddressError { address: shorten(address), part: self.part, found: self.found, wanted: self.wanted }
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        address(text).map_err(|fault| fault.of(text))
    }
}

fn address(text: &str) -> Result<ListenAddress, Fault> {
    within_limit(text.len())?;
    let (written, suffix) = match text.split_once('?') {
        Some((written, suffix)) => (written, Some(suffix)),
        None => (text, None),
    };
    let target = target(written)?;
    let options = suffix.map_or(Ok(Options::default()), |suffix| Options::parse(suffix, &target))?;
    within_limits(target, options)
}

/// The form that is printed may be longer than the one that was written, and must be as good an address.
fn within_limits(target: Target, options: Options) -> Result<ListenAddress, Fault> {
    let address = ListenAddress { target, options };
    within_limit(address.to_string().len())?;
    Ok(address)
}

fn within_limit(length: usize) -> Result<(), Fault> {
    if length > MAX_ADDRESS {
        return Err(Fault::too_long(Part::Length, length, MAX_ADDRESS));
    }
    Ok(())
}

/// Whether a host of this name needs the prefix `tcp:` before it.
pub(super) fn is_prefix(host: &str) -> bool {
    matches!(host, "tcp" | "udp" | "unix" | "fd" | "systemd")
}

fn target(text: &str) -> Result<Target, Fault> {
    match text.split_once(':') {
        Some(("tcp", rest)) => endpoint(rest).map(Target::Tcp),
        Some(("udp", rest)) => endpoint(rest).map(Target::Udp),
        Some(("unix", rest)) => match rest.strip_prefix('@') {
            Some(name) => abstract_name(bytes(name, Part::AbstractName)?),
            None => path(Path::new(&OsString::from_vec(bytes(rest, Part::Path)?))),
        },
        Some(("fd", rest)) => descriptor(rest),
        Some(("systemd", rest)) => systemd(rest),
        _ => endpoint(text).map(Target::Tcp),
    }
}

fn endpoint(text: &str) -> Result<Endpoint, Fault> {
    if let Some(rest) = text.strip_prefix('[') {
        let wanted = "an IPv6 address in brackets, as in [::1]:8000";
        let (inside, after) = rest.split_once(']').ok_or_else(|| Fault::new(Part::Host, text, wanted))?;
        let port = match after.strip_prefix(':') {
            Some(digits) => port(digits)?,
            None if after.is_empty() => 0,
            None => {
                return Err(Fault::new(Part::Port, after, "nothing, or a colon and a port"));
            }
        };
        return ipv6(inside, port).ok_or_else(|| Fault::new(Part::Host, inside, wanted));
    }
    let (host, port) = match text.split_once(':') {
        None if !text.is_empty() && is_digits(text) => {
            return Err(Fault::new(Part::Host, text, "a host before the port, as in 0.0.0.0:8000 or [::]:8000"));
        }
        None => (text, 0),
        Some((_, digits)) if digits.contains(':') => {
            return Err(Fault::new(Part::Host, text, "HOST:PORT, with an IPv6 address in brackets, as in [::1]:8000"));
        }
        Some((host, digits)) => (host, port(digits)?),
    };
    match host.parse::<Ipv4Addr>() {
        Ok(ip) => Ok(Endpoint::ip((ip, port).into())),
        Err(_) => host_name(host).map(|host| Endpoint::Host { host, port }),
    }
}

fn ipv6(text: &str, port: u16) -> Option<Endpoint> {
    let (ip, scope) = match text.split_once('%') {
        Some((ip, scope)) => (ip, is_digits(scope).then(|| scope.parse().ok())??),
        None => (text, 0),
    };
    let ip: Ipv6Addr = ip.parse().ok()?;
    Some(Endpoint::ip(SocketAddrV6::new(ip, port, 0, scope).into()))
}

fn host_name(text: &str) -> Result<String, Fault> {
    if text.is_empty() {
        return Err(Fault::new(Part::Host, text, "a host, as in 0.0.0.0:8000 or [::]:8000 for every address"));
    }
    if text.len() > MAX_HOST {
        return Err(Fault::too_long(Part::Host, text.len(), MAX_HOST));
    }
    let mut labels = text.strip_suffix('.').unwrap_or(text).split('.');
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if !labels.clone().all(is_label) {
        return Err(Fault::new(Part::Host, text, "an IP address or a host name"));
    }
    // The resolver would read `127.1` or `1.2.3` as an address of which the operator mistyped a part.
    if labels.next_back().is_some_and(is_digits) {
        return Err(Fault::new(Part::Host, text, "four numbers of 0 to 255, or a host name"));
    }
    Ok(text.to_ascii_lowercase())
}

fn port(text: &str) -> Result<u16, Fault> {
    number(text).ok_or_else(|| Fault::new(Part::Port, text, "a number of 0 to 65535"))
}

fn descriptor(text: &str) -> Result<Target, Fault> {
    number(text)
        .filter(|number| *number >= FIRST_INHERITED)
        .map(Target::Descriptor)
        .ok_or_else(|| Fault::new(Part::Descriptor, text, "the number of an inherited descriptor, 3 or more"))
}

fn systemd(text: &str) -> Result<Target, Fault> {
    let (name, index) = match text.split_once(':') {
        Some((name, digits)) => {
            let wanted = "NAME:INDEX, the index a number from 0";
            (name, number(digits).ok_or_else(|| Fault::new(Part::Systemd, digits, wanted))?)
        }
        None => (text, 0),
    };
    if name.len() > MAX_NAME {
        return Err(Fault::too_long(Part::Systemd, name.len(), MAX_NAME));
    }
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'&' | b'%')) {
        return Err(Fault::new(Part::Systemd, name, "a FileDescriptorName= without spaces, '?', '&' and '%'"));
    }
    Ok(Target::Systemd { name: name.to_owned(), index })
}

fn abstract_name(name: Vec<u8>) -> Result<Target, Fault> {
    if name.is_empty() {
        return Err(Fault::new(Part::AbstractName, "", "a name after unix:@"));
    }
    if name.len() > MAX_ABSTRACT_NAME {
        return Err(Fault::too_long(Part::AbstractName, name.len(), MAX_ABSTRACT_NAME));
    }
    Ok(Target::Abstract(name))
}

/// One spelling for each path, as far as the text alone tells.
fn path(path: &Path) -> Result<Target, Fault> {
    let fault = |wanted| Fault::new(Part::Path, &path.to_string_lossy(), wanted);
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(fault("no zero byte"));
    }
    let plain: PathBuf = path.components().filter(|component| *component != Component::CurDir).collect();
    if plain.file_name().is_none() {
        return Err(fault("the path of a file"));
    }
    Ok(Target::Path(plain))
}

pub(super) fn unix(written: &Path, options: Options) -> Result<ListenAddress, AddressError> {
    let target = match written.as_os_str().as_bytes() {
        [0, name @ ..] => abstract_name(name.to_vec()),
        _ => path(written),
    };
    target
        .and_then(|target| within_limits(target, options))
        .map_err(|fault| fault.of(&format!("unix:{}", Escaped::path(written))))
}

pub(super) fn into_udp(address: ListenAddress) -> Result<ListenAddress, AddressError> {
    let written = address.to_string();
    let target = match address.target {
        Target::Path(_) | Target::Abstract(_) => {
            return Err(Fault::new(Part::Kind, "unix", "HOST:PORT for UDP").of(&written));
        }
        Target::Tcp(endpoint) => Target::Udp(endpoint),
        target => target,
    };
    if address.options.backlog.is_some() {
        return Err(misfit("backlog", &target).of(&written));
    }
    if address.options.policy.is_some() && matches!(target, Target::Udp(_)) {
        return Err(misfit("policy", &target).of(&written));
    }
    Ok(ListenAddress { target, ..address })
}

fn bytes(text: &str, part: Part) -> Result<Vec<u8>, Fault> {
    let wanted = "two hexadecimal digits after '%', which itself is %25";
    unescape(text).ok_or_else(|| Fault::new(part, text, wanted))
}

pub(super) fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Digits only: Rust's own parsers take a sign too.
pub(super) fn number<N: FromStr>(text: &str) -> Option<N> {
    is_digits(text).then(|| text.parse().ok())?
}

/// An IP address or a host name apart from its port, as in `("::1", 8000)`.
pub(super) fn host_and_port(host: &str, port: u16) -> Result<ListenAddress, AddressError> {
    let endpoint = match host.parse() {
        Ok(ip) => Endpoint::ip(SocketAddr::new(ip, port)),
        Err(_) => {
            let host = host_name(host).map_err(|fault| fault.of(&format!("{host}:{port}")))?;
            Endpoint::Host { host, port }
        }
    };
    Ok(ListenAddress::plain(Target::Tcp(endpoint)))
}
