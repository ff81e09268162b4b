use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> ListenAddress {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_kind_of_address_is_read_and_printed_in_one_form() {
    for (written, printed) in [
        ("127.0.0.1:8000", "127.0.0.1:8000"),
        ("127.0.0.1:08000", "127.0.0.1:8000"),
        ("127.0.0.1", "127.0.0.1:0"),
        ("tcp:127.0.0.1:8000", "127.0.0.1:8000"),
        ("[::]:8000", "[::]:8000"),
        ("[0:0::1]", "[::1]:0"),
        ("[fe80::1%3]:80", "[fe80::1%3]:80"),
        ("[::1%0]:80", "[::1]:80"),
        ("localhost:0", "localhost:0"),
        ("LocalHost", "localhost:0"),
        ("a-b_c.example.:1", "a-b_c.example.:1"),
        ("tcp:unix:80", "tcp:unix:80"),
        ("UNIX:80", "tcp:unix:80"),
        ("udp", "tcp:udp:0"),
        ("udp:0.0.0.0:53", "udp:0.0.0.0:53"),
        ("udp:unix:53", "udp:unix:53"),
        ("udp:[::]", "udp:[::]:0"),
        ("unix:/run/app.sock", "unix:/run/app.sock"),
        ("unix://run/.//app.sock/", "unix:/run/app.sock"),
        ("unix:./app.sock", "unix:app.sock"),
        ("unix:../app.sock", "unix:../app.sock"),
        ("unix:./@app", "unix:%40app"),
        ("unix:/run/@app", "unix:/run/@app"),
        ("unix:/run/a&b%3F%25", "unix:/run/a%26b%3F%25"),
        ("unix:/run/%fFé", "unix:/run/%FFé"),
        ("unix:@name", "unix:@name"),
        ("unix:@@", "unix:@@"),
        ("unix:@a%00b", "unix:@a%00b"),
        ("fd:3", "fd:3"),
        ("fd:2147483647", "fd:2147483647"),
        ("systemd:web", "systemd:web"),
        ("systemd:app@1.socket:0", "systemd:app@1.socket"),
        ("systemd:web:12", "systemd:web:12"),
        ("127.0.0.1:80?reuseport&backlog=16&name=web", "127.0.0.1:80?backlog=16&reuseport&name=web"),
        ("localhost:80?reuseport=false", "localhost:80"),
        ("unix:/a?name=x&policy=shared", "unix:/a?policy=none&name=x"),
        ("fd:3?policy=p2c", "fd:3?policy=p2c"),
        ("[::]:80?v6only=true", "[::]:80?v6only"),
        ("udp:[::]:53?v6only&reuseport", "udp:[::]:53?v6only&reuseport"),
        ("unix:/a?mode=660", "unix:/a?mode=0660"),
        ("unix:/a?mode=0", "unix:/a?mode=0000"),
        ("unix:@a?backlog=2147483647", "unix:@a?backlog=2147483647"),
        ("fd:3?name=a.b-c_d", "fd:3?name=a.b-c_d"),
    ] {
        assert_eq!(parse(written).to_string(), printed, "{written}");
        assert_eq!(parse(printed), parse(written), "{written}");
    }
}

#[test]
fn a_bad_address_is_refused_with_its_part() {
    use Part::*;
    for (written, part, found) in [
        ("", Host, "nothing"),
        ("?backlog=1", Host, "nothing"),
        ("8000", Host, "\"8000\""),
        (":8000", Host, "nothing"),
        ("tcp:8000", Host, "\"8000\""),
        ("udp:", Host, "nothing"),
        ("127.0.0.1:", Port, "nothing"),
        ("127.0.0.1:65536", Port, "\"65536\""),
        ("127.0.0.1:+80", Port, "\"+80\""),
        ("127.0.0.1:-1", Port, "\"-1\""),
        ("127.0.0.1:http", Port, "\"http\""),
        ("127.0.0.1: 80", Port, "\" 80\""),
        (" 127.0.0.1:80", Host, "\" 127.0.0.1\""),
        ("127.0.0:80", Host, "\"127.0.0\""),
        ("127.0.0.256:80", Host, "\"127.0.0.256\""),
        ("127.0.0.1.:80", Host, "\"127.0.0.1.\""),
        ("::1:80", Host, "\"::1:80\""),
        ("a..b:80", Host, "\"a..b\""),
        (".:80", Host, "\".\""),
        ("a/b", Host, "\"a/b\""),
        ("http://a:80", Host, "\"http://a:80\""),
        ("[::1", Host, "\"[::1\""),
        ("[]:80", Host, "nothing"),
        ("[127.0.0.1]:80", Host, "\"127.0.0.1\""),
        ("[fe80::1%eth0]:80", Host, "\"fe80::1%eth0\""),
        ("[::1]80", Port, "\"80\""),
        ("[::1]:", Port, "nothing"),
        ("unix:", Path, "nothing"),
        ("unix:/", Path, "\"/\""),
        ("unix:.", Path, "\".\""),
        ("unix:/run/..", Path, "\"/run/..\""),
        ("unix:/a%00b", Path, "\"/a\\0b\""),
        ("unix:/%4", Path, "\"/%4\""),
        ("unix:/%é0", Path, "\"/%é0\""),
        ("unix:@", AbstractName, "nothing"),
        ("fd:", Descriptor, "nothing"),
        ("fd:2", Descriptor, "\"2\""),
        ("fd:-3", Descriptor, "\"-3\""),
        ("fd:2147483648", Descriptor, "\"2147483648\""),
        ("systemd:", Systemd, "nothing"),
        ("systemd:a b", Systemd, "\"a b\""),
        ("systemd:web:", Systemd, "nothing"),
        ("systemd:web:0:1", Systemd, "\"0:1\""),
        ("systemd::1", Systemd, "nothing"),
        ("a:80?", Option, "nothing"),
        ("a:80?backlog=1&", Option, "nothing"),
        ("udp:a:80?policy=rr", Option, "\"policy\""),
        ("a:80?policy", Value("policy"), "nothing"),
        ("a:80?policy=fastest", Value("policy"), "\"fastest\""),
        ("a:80?Backlog=1", Option, "\"Backlog\""),
        ("a:80?backlog=1&backlog=1", Option, "\"backlog=1\""),
        ("a:80?mode=0600", Option, "\"mode\""),
        ("a:80?v6only", Option, "\"v6only\""),
        ("0.0.0.0:80?v6only", Option, "\"v6only\""),
        ("udp:a:80?backlog=1", Option, "\"backlog\""),
        ("unix:/a?reuseport", Option, "\"reuseport\""),
        ("unix:/a?v6only", Option, "\"v6only\""),
        ("unix:@a?mode=0600", Option, "\"mode\""),
        ("fd:3?backlog=1", Option, "\"backlog\""),
        ("systemd:web?reuseport", Option, "\"reuseport\""),
        ("a:80?backlog", Value("backlog"), "nothing"),
        ("a:80?backlog=0", Value("backlog"), "\"0\""),
        ("a:80?backlog=2147483648", Value("backlog"), "\"2147483648\""),
        ("a:80?reuseport=yes", Value("reuseport"), "\"yes\""),
        ("[::]:80?v6only=", Value("v6only"), "nothing"),
        ("unix:/a?mode=0o660", Value("mode"), "\"0o660\""),
        ("unix:/a?mode=680", Value("mode"), "\"680\""),
        ("unix:/a?mode=1777", Value("mode"), "\"1777\""),
        ("unix:/a?mode", Value("mode"), "nothing"),
        ("a:80?name=", Value("name"), "nothing"),
        ("a:80?name=a:80", Value("name"), "\"a:80\""),
    ] {
        let error = written.parse::<ListenAddress>().expect_err(written);
        assert_eq!((error.part, error.found.as_str(), error.address.as_str()), (part, found, written), "{error}");
    }
}

#[test]
fn an_error_says_which_address_which_part_and_what_is_wanted() {
    let error = "127.0.0.1:80000".parse::<ListenAddress>().unwrap_err();
    assert_eq!(error.to_string(), r#"address "127.0.0.1:80000": port: found "80000", wanted a number of 0 to 65535"#);
    let error = "[::]:80?polcy=rr".parse::<ListenAddress>().unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"address "[::]:80?polcy=rr": option: found "polcy", wanted one of backlog, v6only, reuseport, policy, name (TCP on IPv6)"#
    );
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn the_limits_hold_at_their_edges() {
    let refused = |written: String| {
        let error = written.parse::<ListenAddress>().unwrap_err();
        assert!(error.to_string().len() < 1024, "{error}");
        (error.part, error.found)
    };
    let path = |length: usize| format!("unix:{}", "x".repeat(length - 5));
    assert_eq!(parse(&path(MAX_ADDRESS)).to_string().len(), MAX_ADDRESS);
    assert_eq!(refused(path(MAX_ADDRESS + 1)), (Part::Length, "4097 bytes".to_owned()));
    // It fits as it is written, and not as it is printed.
    assert_eq!(refused(format!("unix:{}", "&".repeat(2000))), (Part::Length, "6005 bytes".to_owned()));
    assert_eq!(ListenAddress::unix("&".repeat(2000)).unwrap_err().part, Part::Length);

    parse(&format!("a:1?name={}", "n".repeat(MAX_NAME)));
    assert_eq!(refused(format!("a:1?name={}", "n".repeat(MAX_NAME + 1))).0, Part::Value("name"));
    parse(&format!("systemd:{}", "n".repeat(MAX_NAME)));
    assert_eq!(refused(format!("systemd:{}", "n".repeat(MAX_NAME + 1))).0, Part::Systemd);
    parse(&format!("unix:@{}", "n".repeat(MAX_ABSTRACT_NAME)));
    assert_eq!(refused(format!("unix:@{}", "n".repeat(MAX_ABSTRACT_NAME + 1))).0, Part::AbstractName);
    assert_eq!(refused("h".repeat(254)).0, Part::Host);
}

#[test]
fn options_are_what_the_address_says() {
    let tcp = parse("[::]:80?backlog=7&v6only&reuseport&name=web");
    assert_eq!((tcp.backlog().map(NonZeroU32::get), tcp.v6only(), tcp.reuseport()), (Some(7), true, true));
    assert_eq!((tcp.name(), tcp.mode(), tcp.kind()), (Some("web"), None, Some(Kind::Tcp)));
    let unix = parse("unix:/run/a?mode=0640");
    assert_eq!((unix.mode(), unix.backlog(), unix.kind()), (Some(0o640), None, Some(Kind::Unix)));
    assert_eq!(unix.path(), Some(Path::new("/run/a")));
    assert_eq!(parse("udp:[::1]:53").kind(), Some(Kind::Udp));
    assert_eq!((parse("fd:3").kind(), parse("systemd:a").kind()), (None, None));
}

#[test]
fn a_key_is_the_name_or_the_address_without_options() {
    for (written, key) in [
        ("127.0.0.1:80?backlog=5", "127.0.0.1:80"),
        ("[::]:80?v6only", "[::]:80"),
        ("127.0.0.1:0", "127.0.0.1:0#2"),
        ("udp:localhost:0", "udp:localhost:0#2"),
        ("127.0.0.1:0?name=web", "web"),
        ("unix:/a?mode=0600", "unix:/a"),
        ("systemd:web:1", "systemd:web:1"),
    ] {
        assert_eq!(parse(written).key(2), key);
    }
}

#[test]
fn a_host_name_is_resolved_in_place() {
    let written = parse("udp:localhost:53?reuseport");
    assert_eq!((written.host_port(), written.socket_addr()), (Some(("localhost", 53)), None));
    let resolved = written.with_ip("[::1]:53".parse().unwrap());
    assert_eq!(resolved.to_string(), "udp:[::1]:53?reuseport");
    assert_eq!(resolved.host_port(), None);
    assert_eq!(resolved.with_ip("127.0.0.1:1".parse().unwrap()), resolved);
}

#[test]
fn an_address_without_prefix_can_mean_udp() {
    assert_eq!(parse("127.0.0.1:53?reuseport").into_udp().unwrap(), parse("udp:127.0.0.1:53?reuseport"));
    assert_eq!(parse("fd:3").into_udp().unwrap(), parse("fd:3"));
    assert_eq!(parse("unix:/a").into_udp().unwrap_err().part, Part::Kind);
    assert_eq!(parse("a:1?backlog=1").into_udp().unwrap_err().part, Part::Option);
}

#[test]
fn a_bind_takes_what_tokio_s_takes() {
    fn printed(address: impl ToListenAddress) -> String {
        address.to_listen_address().unwrap_or_else(|error| panic!("{error}")).to_string()
    }
    let v6 = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 80, 9, 0);
    assert_eq!(printed("localhost:80"), "localhost:80");
    assert_eq!(printed(String::from("unix:/a?mode=0600")), "unix:/a?mode=0600");
    let (text, address) = (String::from("udp:[::]:53"), parse("fd:3"));
    assert_eq!((printed(&text), printed(text)), ("udp:[::]:53".into(), "udp:[::]:53".into()));
    assert_eq!(printed(("::1", 80)), "[::1]:80");
    assert_eq!(printed(("unix", 80)), "tcp:unix:80");
    assert_eq!(printed((String::from("127.0.0.1"), 80)), "127.0.0.1:80");
    assert_eq!(printed((Ipv4Addr::LOCALHOST, 80)), "127.0.0.1:80");
    assert_eq!(printed((Ipv6Addr::LOCALHOST, 80)), "[::1]:80");
    assert_eq!(printed((IpAddr::from([127, 0, 0, 1]), 80)), "127.0.0.1:80");
    assert_eq!(printed(SocketAddr::from(v6)), "[::1]:80");
    assert_eq!(printed(v6), "[::1]:80");
    assert_eq!((printed(&address), printed(address)), ("fd:3".into(), "fd:3".into()));
    assert_eq!(("a b", 80).to_listen_address().unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!("a:b".to_listen_address().unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_path_that_starts_with_a_zero_byte_is_abstract() {
    assert_eq!(ListenAddress::unix("\0app").unwrap(), parse("unix:@app"));
    assert_eq!(ListenAddress::unix("\0").unwrap_err().part, Part::AbstractName);
    assert_eq!(ListenAddress::unix("a\0b").unwrap_err().part, Part::Path);
}

/// Texts with the grammar's own pieces in any order, which reach deeper than random characters.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "127.0.0.1",
        "[::1]",
        "[",
        "]",
        "::",
        ":",
        "80",
        "0",
        "a.b",
        "localhost",
        "tcp:",
        "udp:",
        "unix:",
        "fd:",
        "systemd:",
        "@",
        "/",
        ".",
        "..",
        "%",
        "%25",
        "%zz",
        "?",
        "&",
        "=",
        "backlog",
        "v6only",
        "mode",
        "reuseport",
        "policy",
        "least",
        "name",
        "true",
        "0660",
        "é",
        "\0",
        "65536",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_is_refused_or_prints_to_an_equal_address(text in prop_oneof![any::<String>(), pieces()]) {
        if let Ok(address) = text.parse::<ListenAddress>() {
            prop_assert_eq!(address.to_string().parse::<ListenAddress>(), Ok(address));
        }
    }

    #[test]
    fn any_path_is_refused_or_prints_to_an_equal_address(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(address) = ListenAddress::unix(OsStr::from_bytes(&bytes)) {
            prop_assert_eq!(address.to_string().parse::<ListenAddress>(), Ok(address));
        }
    }

    #[test]
    fn any_socket_address_prints_to_an_equal_address(ip: IpAddr, port: u16, flow: u32, scope: u32) {
        let address = match ip {
            IpAddr::V4(_) => SocketAddr::new(ip, port),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, flow, scope).into(),
        };
        for address in [ListenAddress::tcp(address), ListenAddress::udp(address)] {
            prop_assert_eq!(address.to_string().parse::<ListenAddress>(), Ok(address));
        }
    }
}
