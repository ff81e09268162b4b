//! From text to address. The text comes from operators, configuration files and workers: nothing is taken on trust.

use std::ffi::OsString;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use super::{
    AddressError, Endpoint, ListenAddress, MAX_ABSTRACT_NAME, MAX_ADDRESS, MAX_BACKLOG, MAX_NAME,
    Options, Part, Target,
};

/// How much of a text an error shows.
const MAX_SHOWN: usize = 128;
/// The longest host name of DNS.
const MAX_HOST: usize = 253;
/// Standard input, output and error are never listeners.
const FIRST_INHERITED: i32 = 3;

const OPTIONS: &str = "one of backlog, v6only, mode, reuseport, name";

/// A part that is wrong, before the whole address is put beside it.
struct Fault {
    part: Part,
    found: String,
    wanted: &'static str,
}

impl Fault {
    fn new(part: Part, found: &str, wanted: &'static str) -> Self {
        let found = if found.is_empty() {
            "nothing".to_owned()
        } else {
            format!("{:?}", shorten(found))
        };
        Self {
            part,
            found,
            wanted,
        }
    }

    fn too_long(part: Part, length: usize, wanted: &'static str) -> Self {
        Self {
            part,
            found: format!("{length} bytes"),
            wanted,
        }
    }

    fn of(self, address: &str) -> AddressError {
        AddressError {
            address: shorten(address),
            part: self.part,
            found: self.found,
            wanted: self.wanted,
        }
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
    let options = suffix.map_or(Ok(Options::default()), |suffix| options(suffix, &target))?;
    let address = ListenAddress { target, options };
    // The canonical form may be longer, and must be as good an address.
    within_limit(address.to_string().len())?;
    Ok(address)
}

fn within_limit(length: usize) -> Result<(), Fault> {
    if length > MAX_ADDRESS {
        return Err(Fault::too_long(Part::Length, length, "at most 4096 bytes"));
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
            Some(name) => abstract_name(unescape(name, Part::AbstractName)?),
            None => path(Path::new(&OsString::from_vec(unescape(rest, Part::Path)?))),
        },
        Some(("fd", rest)) => descriptor(rest),
        Some(("systemd", rest)) => systemd(rest),
        _ => endpoint(text).map(Target::Tcp),
    }
}

fn endpoint(text: &str) -> Result<Endpoint, Fault> {
    if let Some(rest) = text.strip_prefix('[') {
        let wanted = "an IPv6 address in brackets, as in [::1]:8000";
        let (inside, after) = rest
            .split_once(']')
            .ok_or_else(|| Fault::new(Part::Host, text, wanted))?;
        let port = match after.strip_prefix(':') {
            Some(digits) => port(digits)?,
            None if after.is_empty() => 0,
            None => {
                return Err(Fault::new(
                    Part::Port,
                    after,
                    "nothing, or a colon and a port",
                ));
            }
        };
        return ipv6(inside, port).ok_or_else(|| Fault::new(Part::Host, inside, wanted));
    }
    let (host, port) = match text.split_once(':') {
        None if !text.is_empty() && is_digits(text) => {
            return Err(Fault::new(
                Part::Host,
                text,
                "a host before the port, as in 0.0.0.0:8000 or [::]:8000",
            ));
        }
        None => (text, 0),
        Some((_, digits)) if digits.contains(':') => {
            return Err(Fault::new(
                Part::Host,
                text,
                "HOST:PORT, with an IPv6 address in brackets, as in [::1]:8000",
            ));
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
        return Err(Fault::new(
            Part::Host,
            text,
            "a host, as in 0.0.0.0:8000 or [::]:8000 for every address",
        ));
    }
    if text.len() > MAX_HOST {
        return Err(Fault::too_long(Part::Host, text.len(), "at most 253 bytes"));
    }
    let mut labels = text.strip_suffix('.').unwrap_or(text).split('.');
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if !labels.clone().all(is_label) {
        return Err(Fault::new(Part::Host, text, "an IP address or a host name"));
    }
    // The resolver would read `127.1` or `1.2.3` as an address of which the operator mistyped a part.
    if labels.next_back().is_some_and(is_digits) {
        return Err(Fault::new(
            Part::Host,
            text,
            "four numbers of 0 to 255, or a host name",
        ));
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
        .ok_or_else(|| {
            Fault::new(
                Part::Descriptor,
                text,
                "the number of an inherited descriptor, 3 or more",
            )
        })
}

fn systemd(text: &str) -> Result<Target, Fault> {
    let (name, index) = match text.split_once(':') {
        Some((name, digits)) => {
            let wanted = "NAME:INDEX, the index a number from 0";
            (
                name,
                number(digits).ok_or_else(|| Fault::new(Part::Systemd, digits, wanted))?,
            )
        }
        None => (text, 0),
    };
    if name.len() > MAX_NAME {
        return Err(Fault::too_long(
            Part::Systemd,
            name.len(),
            "at most 255 bytes",
        ));
    }
    if name.is_empty()
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'&' | b'%'))
    {
        return Err(Fault::new(
            Part::Systemd,
            name,
            "a FileDescriptorName= without spaces, '?', '&' and '%'",
        ));
    }
    Ok(Target::Systemd {
        name: name.to_owned(),
        index,
    })
}

fn abstract_name(name: Vec<u8>) -> Result<Target, Fault> {
    if name.is_empty() {
        return Err(Fault::new(Part::AbstractName, "", "a name after unix:@"));
    }
    if name.len() > MAX_ABSTRACT_NAME {
        return Err(Fault::too_long(
            Part::AbstractName,
            name.len(),
            "at most 107 bytes",
        ));
    }
    Ok(Target::Abstract(name))
}

/// One spelling for each path, as far as the text alone tells.
fn path(path: &Path) -> Result<Target, Fault> {
    let fault = |wanted| Fault::new(Part::Path, &path.to_string_lossy(), wanted);
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(fault("no zero byte"));
    }
    let plain: PathBuf = path
        .components()
        .filter(|component| *component != Component::CurDir)
        .collect();
    if plain.file_name().is_none() {
        return Err(fault("the path of a file"));
    }
    Ok(Target::Path(plain))
}

pub(super) fn unix(written: &Path) -> Result<ListenAddress, AddressError> {
    let target = match written.as_os_str().as_bytes() {
        [0, name @ ..] => abstract_name(name.to_vec()),
        _ => path(written),
    };
    let checked = target.map(ListenAddress::plain).and_then(|address| {
        within_limit(address.to_string().len())?;
        Ok(address)
    });
    checked.map_err(|fault| fault.of(&format!("unix:{}", Escaped::path(written))))
}

pub(super) fn into_udp(address: ListenAddress) -> Result<ListenAddress, AddressError> {
    let fault =
        |part, found: &str, wanted| Err(Fault::new(part, found, wanted).of(&address.to_string()));
    match address.target {
        Target::Path(_) | Target::Abstract(_) => fault(Part::Kind, "unix", "HOST:PORT for UDP"),
        Target::Tcp(_) if address.options.backlog.is_some() => {
            fault(Part::Option, "backlog", option_list(Fit::Udp))
        }
        Target::Tcp(endpoint) => Ok(ListenAddress {
            target: Target::Udp(endpoint),
            ..address
        }),
        _ => Ok(address),
    }
}

/// Which options an address can have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    Tcp,
    Tcp6,
    Udp,
    Udp6,
    Path,
    Abstract,
    Inherited,
}

fn fit(target: &Target) -> Fit {
    match target {
        Target::Tcp(endpoint) if endpoint.is_v6() => Fit::Tcp6,
        Target::Tcp(_) => Fit::Tcp,
        Target::Udp(endpoint) if endpoint.is_v6() => Fit::Udp6,
        Target::Udp(_) => Fit::Udp,
        Target::Path(_) => Fit::Path,
        Target::Abstract(_) => Fit::Abstract,
        Target::Descriptor(_) | Target::Systemd { .. } => Fit::Inherited,
    }
}

/// The options of each kind, as the errors list them; [`options`] allows exactly these.
const fn option_list(fit: Fit) -> &'static str {
    match fit {
        Fit::Tcp => "for TCP on IPv4 or a host name one of backlog, reuseport, name",
        Fit::Tcp6 => "for TCP on IPv6 one of backlog, v6only, reuseport, name",
        Fit::Udp => "for UDP on IPv4 or a host name one of reuseport, name",
        Fit::Udp6 => "for UDP on IPv6 one of v6only, reuseport, name",
        Fit::Path => "for a unix path one of backlog, mode, name",
        Fit::Abstract => "for an abstract unix name one of backlog, name",
        Fit::Inherited => "for an inherited socket, which its maker has set up, only name",
    }
}

fn options(text: &str, target: &Target) -> Result<Options, Fault> {
    let fit = fit(target);
    let inet = matches!(fit, Fit::Tcp | Fit::Tcp6 | Fit::Udp | Fit::Udp6);
    let mut options = Options::default();
    let mut seen = Vec::new();
    for option in text.split('&') {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        let fits = match name {
            "backlog" => !matches!(fit, Fit::Udp | Fit::Udp6 | Fit::Inherited),
            "v6only" => matches!(fit, Fit::Tcp6 | Fit::Udp6),
            "mode" => fit == Fit::Path,
            "reuseport" => inet,
            "name" => true,
            _ => return Err(Fault::new(Part::Option, name, OPTIONS)),
        };
        if !fits {
            return Err(Fault::new(Part::Option, name, option_list(fit)));
        }
        // Bounded: at most as many as there are options.
        if seen.contains(&name) {
            return Err(Fault::new(Part::Option, option, "each option once"));
        }
        seen.push(name);
        match name {
            "backlog" => options.backlog = Some(backlog(value)?),
            "v6only" => options.v6only = switch("v6only", value)?,
            "mode" => options.mode = Some(mode(value)?),
            "reuseport" => options.reuseport = switch("reuseport", value)?,
            _ => options.name = Some(listener_name(value)?),
        }
    }
    Ok(options)
}

fn backlog(value: Option<&str>) -> Result<std::num::NonZeroU32, Fault> {
    let text = value.unwrap_or_default();
    number::<u32>(text)
        .filter(|backlog| *backlog <= MAX_BACKLOG)
        .and_then(std::num::NonZeroU32::new)
        .ok_or_else(|| Fault::new(Part::Value("backlog"), text, "a number of 1 to 2147483647"))
}

fn switch(option: &'static str, value: Option<&str>) -> Result<bool, Fault> {
    match value {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(other) => Err(Fault::new(
            Part::Value(option),
            other,
            "no value, true or false",
        )),
    }
}

fn mode(value: Option<&str>) -> Result<u32, Fault> {
    let text = value.unwrap_or_default();
    Some(text)
        .filter(|text| is_digits(text) && text.len() <= 4)
        .and_then(|text| u32::from_str_radix(text, 8).ok())
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| {
            Fault::new(
                Part::Value("mode"),
                text,
                "octal permissions of 0 to 0777, as in 0660",
            )
        })
}

fn listener_name(value: Option<&str>) -> Result<String, Fault> {
    let text = value.unwrap_or_default();
    if text.len() > MAX_NAME {
        return Err(Fault::too_long(
            Part::Value("name"),
            text.len(),
            "at most 255 bytes",
        ));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(plain) {
        return Err(Fault::new(
            Part::Value("name"),
            text,
            "letters, digits, '-', '_' and '.'",
        ));
    }
    Ok(text.to_owned())
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Digits only: Rust's own parsers take a sign too.
fn number<N: FromStr>(text: &str) -> Option<N> {
    is_digits(text).then(|| text.parse().ok())?
}

fn unescape(text: &str, part: Part) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digit = |at: usize| {
            after
                .get(at)
                .and_then(|byte| char::from(*byte).to_digit(16))
        };
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(Fault::new(
                part,
                text,
                "two hexadecimal digits after '%', which itself is %25",
            ));
        };
        bytes.push((high * 16 + low) as u8);
        rest = &after[2..];
    }
    Ok(bytes)
}

/// Prints any bytes so that they can stand in an address.
pub(crate) struct Escaped<'a> {
    bytes: &'a [u8],
    /// A path that starts with `@` must not read as an abstract name.
    is_path: bool,
}

impl<'a> Escaped<'a> {
    pub(crate) fn path(path: &'a Path) -> Self {
        Self {
            bytes: path.as_os_str().as_bytes(),
            is_path: true,
        }
    }

    pub(crate) fn bytes(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            is_path: false,
        }
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let mut first = self.is_path;
        for chunk in self.bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                if matches!(character, '%' | '?' | '&')
                    || character.is_control()
                    || (first && character == '@')
                {
                    let mut buffer = [0; 4];
                    character
                        .encode_utf8(&mut buffer)
                        .bytes()
                        .try_for_each(|byte| write!(f, "%{byte:02X}"))?;
                } else {
                    f.write_char(character)?;
                }
                first = false;
            }
            chunk
                .invalid()
                .iter()
                .try_for_each(|byte| write!(f, "%{byte:02X}"))?;
            first = false;
        }
        Ok(())
    }
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
