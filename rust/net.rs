//! PURE. The networks that may poll (`allow`), in both families. It must never look up a name: `allow` has addresses.

use std::net::IpAddr;

/// A network in CIDR notation.
#[derive(Debug, Clone, Copy)]
pub struct Net {
    bits: u128,
    mask: u128,
}

impl Net {
    /// `10.0.0.0/8`, `2001:db8::/32`, or a single address. `None` if it is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(width), |p| p.parse().ok()).filter(|&p| p <= width)? + 128 - width;
        let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
        Some(Self { bits: bits(address) & mask, mask })
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn holds(self, address: IpAddr) -> bool {
        bits(address) & self.mask == self.bits
    }
}

/// IPv4 addresses as a dual-stack socket shows them, so that one comparison serves both.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses_in_both_families() {
        let holds = |net: &str, a: &str| Net::parse(net).unwrap().holds(a.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(holds("0.0.0.0/0", "1.2.3.4") && !holds("0.0.0.0/0", "2001:db8::1"));
        assert!(holds("::/0", "1.2.3.4") && holds("2001:db8::/32", "2001:db8:1::1"));
        assert!(holds("127.0.0.1", "127.0.0.1") && !holds("127.0.0.1", "127.0.0.2"));
        for bad in ["", "10.0.0.0/33", "10.0.0", "x/8", "10.0.0.0/-1", "10.0.0.0/"] {
            assert!(Net::parse(bad).is_none(), "{bad}");
        }
    }
}
