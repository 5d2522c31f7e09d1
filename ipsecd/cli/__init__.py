"""The two programs: ipsecd and ipsecctl."""
