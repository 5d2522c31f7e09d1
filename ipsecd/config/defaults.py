"""Every default and bound of the configuration, in one place, each with its reason.  Times in seconds."""

from __future__ import annotations

# Where things are.  The state directory survives a reboot, because the guard of the last accepted policy is put up
# from it before the network is.
CONTROL_SOCKET = "/run/ipsecd/control.sock"
RUNTIME_DIRECTORY = "/run/ipsecd/"
STATE_DIRECTORY = "/var/lib/ipsecd/"

# IKE SA (RFC 7296 2.8)
IKE_LIFETIME_S = 4 * 3600.0
CHILD_LIFETIME_S = 54 * 60.0        # under the hour that most peers use, so that we rekey and not they
MIN_LIFETIME_S = 1.0                # tests and labs; warned under SHORT_LIFETIME_S
MAX_IKE_LIFETIME_S = 24 * 3600.0    # the bounds of the VPN gateway protection profile (FCS_IPSEC_EXT.1.7, .1.8)
MAX_CHILD_LIFETIME_S = 8 * 3600.0
MAX_REAUTH_S = 90 * 86400.0         # beyond, certificates themselves end
SHORT_LIFETIME_S = 300.0            # below, rekeys cost more than they protect
DPD_S = 10.0                        # asked after so long without authenticated traffic (RFC 7296 2.4)
DPD_TIMEOUT_S = 30.0
INIT_TIMEOUT_S = 15.0               # one IKE_SA_INIT attempt; the supervisor goes on to the next address
REQUEST_TIMEOUT_S = 165.0           # any other exchange: what the common implementations wait
MIN_TIMER_S = 0.1
MAX_TIMER_S = 3600.0
FRAGMENT_BYTES = 1280               # the least MTU of IPv6 (RFC 7383 2.5.1)
MIN_FRAGMENT_BYTES = 576            # what every IPv4 host takes (RFC 791 3.1)
CHILDLESS = "allow"
UNIQUE = "replace"
POST_QUANTUM = "preferred"

# ESP
REPLAY_WINDOW = 1024                # packets; what 10 Gbit/s with several queues reorders
MIN_REPLAY_WINDOW = 64              # RFC 4303 3.4.3
MAX_REPLAY_WINDOW = 8192
MIN_PAD_TO = 64                     # TFC padding in smaller steps hides next to nothing
MAX_PAD_TO = 65_535                 # beyond what a path carries, all packets are as large as it does
MAX_DUMMIES_PER_S = 1000            # one timer and one packet each
VOLUME_MARGIN = 0.10                # hard = soft + 10 %, as for the lifetimes by time
MAX_VOLUME = 2**62

# Secrets
WARN_PSK_BYTES = 32                 # random bytes that match the strength of AES-256 (RFC 7296 2.15)
MIN_PSK_BYTES = 16
MAX_CREDENTIAL_BYTES = 1024 * 1024    # of one file: a revocation list of 25,000 entries
MAX_CERTIFICATE_FILES = 256             # in one directory: public trust stores hold 150
MAX_PSK_BYTES = 4096
MAX_KEY_NAME = 255                      # of a post-quantum key
MIN_PPK_BYTES = 32                      # RFC 8784 6: 256 bits

# Gateway
INTERFACE = "ipsec0"
COOKIE_THRESHOLD = 30               # half-open IKE SAs in all before cookies are asked (RFC 7296 2.6)
SOURCE_LIMIT = 64                   # half-open IKE SAs of one source that proved a cookie
MAX_HALF_OPEN_SETTING = 100_000
MAX_IDENTITY_BYTES = 1024           # of an ID payload's data
MAX_ADDRESSES = 16                  # of one peer
MAX_SELECTORS = 255                 # the TS payload counts them in one octet (RFC 7296 3.13)
MAX_PROPOSALS = 64
