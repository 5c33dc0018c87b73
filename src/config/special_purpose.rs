//! IP addresses that are not globally reachable. A webhook must not use them, because they may be services of this machine or its
//! network.
//!
//! Sources: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890, RFC 8190), multicast (RFC 5771, RFC 4291), and
//! the allocated IPv6 space (2000::/3). Where ranges are nested, the more specific one decides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reachability of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Globally reachable.
    Global,
    /// Not globally reachable.
    Local,
    /// Contains an IPv4 address from this bit on, which decides.
    Embedded(u32),
}
use Reach::{Embedded, Global, Local};

type Row<A> = (A, u32, Reach, &'static str);

const fn v4(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

const fn v6(groups: [u16; 8]) -> Ipv6Addr {
    let [a, b, c, d, e, f, g, h] = groups;
    Ipv6Addr::new(a, b, c, d, e, f, g, h)
}

const IPV4: &[Row<Ipv4Addr>] = &[
    (v4(0, 0, 0, 0), 8, Local, "this network (RFC 791)"),
    (v4(10, 0, 0, 0), 8, Local, "private use (RFC 1918)"),
    (v4(100, 64, 0, 0), 10, Local, "shared by customers of one provider (RFC 6598)"),
    (v4(127, 0, 0, 0), 8, Local, "loopback (RFC 1122)"),
    (v4(169, 254, 0, 0), 16, Local, "link-local (RFC 3927)"),
    (v4(172, 16, 0, 0), 12, Local, "private use (RFC 1918)"),
    (v4(192, 0, 0, 0), 24, Local, "protocol assignments (RFC 6890)"),
    (v4(192, 0, 0, 9), 32, Global, "port control protocol anycast (RFC 7723)"),
    (v4(192, 0, 0, 10), 32, Global, "TURN anycast (RFC 8155)"),
    (v4(192, 0, 2, 0), 24, Local, "documentation (RFC 5737)"),
    (v4(192, 88, 99, 0), 24, Local, "6to4 relay anycast, deprecated (RFC 7526)"),
    (v4(192, 168, 0, 0), 16, Local, "private use (RFC 1918)"),
    (v4(198, 18, 0, 0), 15, Local, "benchmarking (RFC 2544)"),
    (v4(198, 51, 100, 0), 24, Local, "documentation (RFC 5737)"),
    (v4(203, 0, 113, 0), 24, Local, "documentation (RFC 5737)"),
    (v4(224, 0, 0, 0), 4, Local, "multicast (RFC 5771)"),
    (v4(240, 0, 0, 0), 4, Local, "reserved and limited broadcast (RFC 1112, RFC 8190)"),
];

const IPV6: &[Row<Ipv6Addr>] = &[
    // Everything not listed below: loopback, unspecified, unique local (fc00::/7), link-local (fe80::/10), site-local (fec0::/10),
    // multicast (ff00::/8), discard-only (100::/64), segment routing (5f00::/16), and unallocated space.
    (v6([0; 8]), 0, Local, "not allocated to the public (RFC 4291)"),
    (v6([0, 0, 0, 0, 0, 0xffff, 0, 0]), 96, Embedded(96), "IPv4-mapped (RFC 4291)"),
    (v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0]), 96, Embedded(96), "IPv4 translation, NAT64 (RFC 6052)"),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0]), 48, Local, "local IPv4 translation (RFC 8215)"),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0]), 64, Local, "discard only (RFC 6666)"),
    (v6([0x100, 0, 0, 1, 0, 0, 0, 0]), 64, Local, "dummy prefix (RFC 9780)"),
    (v6([0x2000, 0, 0, 0, 0, 0, 0, 0]), 3, Global, "global unicast (RFC 4291)"),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0]), 23, Local, "protocol assignments (RFC 2928); Teredo (RFC 4380) among them"),
    (v6([0x2001, 1, 0, 0, 0, 0, 0, 1]), 128, Global, "port control protocol anycast (RFC 7723)"),
    (v6([0x2001, 1, 0, 0, 0, 0, 0, 2]), 128, Global, "TURN anycast (RFC 8155)"),
    (v6([0x2001, 1, 0, 0, 0, 0, 0, 3]), 128, Global, "DNS-SD registration anycast (RFC 9665)"),
    (v6([0x2001, 2, 0, 0, 0, 0, 0, 0]), 48, Local, "benchmarking (RFC 5180)"),
    (v6([0x2001, 3, 0, 0, 0, 0, 0, 0]), 32, Global, "AMT (RFC 7450)"),
    (v6([0x2001, 4, 0x112, 0, 0, 0, 0, 0]), 48, Global, "AS112 (RFC 7535)"),
    (v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0]), 28, Local, "ORCHID, deprecated (RFC 4843)"),
    (v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0]), 28, Global, "ORCHIDv2 (RFC 7343)"),
    (v6([0x2001, 0x30, 0, 0, 0, 0, 0, 0]), 28, Global, "drone remote identification (RFC 9374)"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0]), 32, Local, "documentation (RFC 3849)"),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0]), 16, Embedded(16), "6to4 (RFC 3056)"),
    (v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0]), 48, Global, "AS112 (RFC 7534)"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0]), 20, Local, "documentation (RFC 9637)"),
    (v6([0x5f00, 0, 0, 0, 0, 0, 0, 0]), 16, Local, "segment routing (RFC 9602)"),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0]), 7, Local, "unique local (RFC 4193)"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0]), 10, Local, "link-local (RFC 4291)"),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0]), 10, Local, "site-local, deprecated (RFC 3879)"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0]), 8, Local, "multicast (RFC 4291)"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1]), 128, Local, "loopback (RFC 4291)"),
    (v6([0, 0, 0, 0, 0, 0, 0, 0]), 128, Local, "unspecified (RFC 4291)"),
];

/// Returns the purpose of an address that is not globally reachable; `None` if it is.
pub fn not_global(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => {
            let (_, _, reach, name) =
                decisive(IPV4, |network, prefix| (u32::from(*network) ^ u32::from(address)).leading_zeros() >= prefix)?;
            (*reach == Local).then_some(*name)
        }
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            let (_, _, reach, name) =
                decisive(IPV6, |network, prefix| (u128::from(*network) ^ bits).leading_zeros() >= prefix)?;
            match reach {
                Global => None,
                Local => Some(name),
                // Truncated on purpose to the 32 bits of the IPv4 address.
                Embedded(start) => not_global(Ipv4Addr::from((bits >> (96 - start)) as u32).into()),
            }
        }
    }
}

/// Returns the most specific range that contains the address.
fn decisive<A>(rows: &[Row<A>], contains: impl Fn(&A, u32) -> bool) -> Option<&Row<A>> {
    rows.iter().filter(|(network, prefix, ..)| contains(network, *prefix)).max_by_key(|(_, prefix, ..)| *prefix)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn is_global(address: &str) -> bool {
        not_global(address.parse().unwrap()).is_none()
    }

    /// First and last address of each range, copied from the registries, and whether the addresses just outside are global.
    #[test]
    fn first_and_last_address_of_each_range_and_the_neighbours_outside() {
        for (before, first, last, after, neighbours) in [
            ("255.255.255.255", "0.0.0.0", "0.255.255.255", "1.0.0.0", [false, true]),
            ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0", [true, true]),
            ("100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0", [true, true]),
            ("126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0", [true, true]),
            ("169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0", [true, true]),
            ("172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0", [true, true]),
            ("191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0", [true, true]),
            ("192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0", [true, true]),
            ("192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0", [true, true]),
            ("192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0", [true, true]),
            ("198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0", [true, true]),
            ("198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0", [true, true]),
            ("203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0", [true, true]),
            ("223.255.255.255", "224.0.0.0", "239.255.255.255", "240.0.0.0", [true, false]),
            ("239.255.255.255", "240.0.0.0", "255.255.255.255", "0.0.0.0", [false, false]),
            ("1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::", "::fffe:ffff:ffff", "2000::", [false, true]),
            ("64:ff9b:0:ffff::", "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "64:ff9b:2::", [false, false]),
            ("ff:ffff::", "100::", "100::ffff:ffff:ffff:ffff", "100:0:0:1::", [false, false]),
            ("2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001::", "2001:1::", "2001:1::1", [true, true]),
            ("2001:1::3", "2001:1::4", "2001:2:ffff:ffff:ffff:ffff:ffff:ffff", "2001:3::", [true, true]),
            (
                "2001:3:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:4::",
                "2001:4:111:ffff:ffff:ffff:ffff:ffff",
                "2001:4:112::",
                [true, true],
            ),
            (
                "2001:4:112:ffff:ffff:ffff:ffff:ffff",
                "2001:4:113::",
                "2001:1f:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:20::",
                [true, true],
            ),
            (
                "2001:3f:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:40::",
                "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:200::",
                [true, true],
            ),
            (
                "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:db8::",
                "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:db9::",
                [true, true],
            ),
            (
                "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "3fff::",
                "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
                "3fff:1000::",
                [true, true],
            ),
            (
                "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "4000::",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "::",
                [true, false],
            ),
            ("5eff::", "5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "5f01::", [false, false]),
            ("fbff::", "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fe00::", [false, false]),
            ("fe7f::", "fe80::", "fec0::", "ff02::1", [false, false]),
        ] {
            assert!(!is_global(first) && !is_global(last), "{first} to {last}");
            assert_eq!([is_global(before), is_global(after)], neighbours, "{before} and {after}");
        }
    }

    #[test]
    fn globally_reachable_addresses_inside_special_ranges_are_reachable() {
        for (global, beside) in [
            ("192.0.0.9", "192.0.0.8"),
            ("192.0.0.10", "192.0.0.11"),
            ("2001:1::1", "2001:1::"),
            ("2001:1::3", "2001:1::4"),
            ("2001:3::", "2001:2:ffff::"),
            ("2001:4:112::1", "2001:4:113::1"),
            ("2001:20::", "2001:1f::"),
            ("2001:3f::", "2001:40::"),
        ] {
            assert!(is_global(global) && !is_global(beside), "{global} {beside}");
        }
        assert!(is_global("2620:4f:8000::1") && is_global("2606:4700::1111") && is_global("1.1.1.1"));
    }

    #[test]
    fn embedded_ipv4_address_decides() {
        for (prefix, suffix) in [("::ffff:", ""), ("64:ff9b::", "")] {
            for (v4, wanted) in
                [("10.0.0.1", false), ("127.0.0.1", false), ("169.254.169.254", false), ("8.8.8.8", true)]
            {
                assert_eq!(is_global(&format!("{prefix}{v4}{suffix}")), wanted, "{prefix}{v4}");
            }
        }
        assert!(!is_global("2002:a00:1::") && !is_global("2002:7f00:1::1") && is_global("2002:808:808::1"));
        assert!(!is_global("2002:c058:6301::"), "6to4 of the 6to4 relay");
        assert!(!is_global("::10.0.0.1") && !is_global("::8.8.8.8"), "IPv4-compatible, deprecated");
        assert!(!is_global("2001:0:808:808::1"), "Teredo leads wherever its server says");
    }

    #[test]
    fn table_has_networks_without_host_bits() {
        for (network, prefix, ..) in IPV4 {
            assert_eq!(u32::from(*network).checked_shl(*prefix).unwrap_or(0), 0, "{network}/{prefix}");
        }
        for (network, prefix, ..) in IPV6 {
            assert_eq!(u128::from(*network).checked_shl(*prefix).unwrap_or(0), 0, "{network}/{prefix}");
        }
    }
}
