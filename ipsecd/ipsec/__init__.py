"""The IPsec data plane without I/O: SPD, SAD, ESP, replay, and the way of a packet (RFC 4301, 4303)."""
