"""The IKEv2 codec: bytes to frozen values and back, without policy or state (RFC 7296 3).

Start with message.py (`split`, `parse_payloads`, `build_payloads`), then rules.py.  Whatever bytes come in, the outcome
is a value or `WireError`; rules.py adds `PeerError`.  Reserved fields are ignored (RFC 7296 3.1), and kept only where
AUTH hashes them.
"""
