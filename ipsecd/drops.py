"""Why a datagram or packet ended: one reason, one counter, one section each.  There is no "other"."""

from __future__ import annotations

from enum import StrEnum


class DropReason(StrEnum):
    """Named ends of a packet's way; the value is the counter's name in status and metrics."""

    # IKE datagrams, before a message is opened
    IKE_SHORT = "ike_short"                        # RFC 7296 3.1: under 28 bytes
    IKE_MALFORMED = "ike_malformed"                # RFC 7296 3: lengths, counts, payload rules
    IKE_VERSION = "ike_version"                    # RFC 7296 2.5
    IKE_V1 = "ike_v1"                              # RFC 7296 2.5: the peer speaks IKEv1
    IKE_UNKNOWN_SPI = "ike_unknown_spi"            # RFC 7296 2.21.4
    IKE_NOT_PROTECTED = "ike_not_protected"        # RFC 7296 2.21.4: clear where SK is required
    IKE_UNEXPECTED_EXCHANGE = "ike_unexpected_exchange"  # RFC 7296 2.2
    IKE_BAD_ICV = "ike_bad_icv"                    # RFC 7296 3.14
    IKE_FRAGMENT = "ike_fragment"                  # RFC 7383 2.6
    IKE_MESSAGE_ID = "ike_message_id"              # RFC 7296 2.3
    IKE_RETRANSMIT_MISMATCH = "ike_retransmit_mismatch"  # RFC 7296 2.1
    IKE_UNEXPECTED_RESPONSE = "ike_unexpected_response"  # RFC 7296 2.2
    IKE_WRONG_ROLE_FLAG = "ike_wrong_role_flag"    # RFC 7296 3.1
    IKE_HALF_OPEN_LIMIT = "ike_half_open_limit"    # RFC 7296 2.6
    IKE_COOKIE_REQUIRED = "ike_cookie_required"    # RFC 7296 2.6: answered with a cookie only
    IKE_NO_PEER = "ike_no_peer"                    # no peer entry for these addresses
    IKE_BUSY = "ike_busy"                          # a parked task waits for Work; the peer retransmits
    IKE_RATE_LIMIT = "ike_rate_limit"              # a limit on what one sender may cause
    IKE_LOCAL_ERROR = "ike_local_error"            # our own fault, that SA was closed
    IKE_QUEUE_OVERFLOW = "ike_queue_overflow"      # the bounded queue toward the control side was full
    UDP_EMPTY = "udp_empty"                        # zero-length datagram
    UDP_KEEPALIVE = "udp_keepalive"                # RFC 3948 2.3: a single 0xFF
    UDP_TRUNCATED = "udp_truncated"                # RFC 3948 2: one to three bytes that are no keepalive

    # Inbound ESP
    ESP_SHORT = "esp_short"                        # RFC 4303 2: shorter than header, IV and ICV
    ESP_UNKNOWN_SPI = "esp_unknown_spi"            # RFC 4303 3.4.2
    ESP_REPLAYED = "esp_replayed"                  # RFC 4303 3.4.3
    ESP_TOO_OLD = "esp_too_old"                    # RFC 4303 3.4.3: left of the window
    ESP_BAD_ICV = "esp_bad_icv"                    # RFC 4303 3.4.4
    ESP_BAD_PADDING = "esp_bad_padding"            # RFC 4303 2.4
    ESP_DUMMY = "esp_dummy"                        # RFC 4303 2.6: next header 59
    ESP_NEXT_HEADER = "esp_next_header"            # RFC 4303 2.6: not of the mode, RFC 8200 4.1: belongs ahead of ESP
    ESP_EXPIRED = "esp_expired"                    # RFC 4301 4.4.2.1: hard lifetime

    # Inbound AH
    AH_SHORT = "ah_short"                          # RFC 4302 2: ends ahead of the sequence number
    AH_MALFORMED = "ah_malformed"                  # RFC 4302 2.2, 2.6, RFC 791, RFC 8200: lengths, options, headers
    AH_FRAGMENT = "ah_fragment"                    # RFC 4302 3.4.1: a fragment
    AH_UNKNOWN_SPI = "ah_unknown_spi"              # RFC 4302 3.4.2
    AH_REPLAYED = "ah_replayed"                    # RFC 4302 3.4.3
    AH_TOO_OLD = "ah_too_old"                      # RFC 4302 3.4.3: left of the window
    AH_BAD_ICV = "ah_bad_icv"                      # RFC 4302 3.4.4
    AH_NEXT_HEADER = "ah_next_header"              # RFC 4302 2.1: not tunnel mode
    AH_EXPIRED = "ah_expired"                      # RFC 4301 4.4.2.1: hard lifetime

    # Inner packets of either
    ECN_FORBIDDEN = "ecn_forbidden"                # RFC 6040 4.2: outer CE, inner Not-ECT
    INNER_MALFORMED = "inner_malformed"            # RFC 791 3.1, RFC 8200 3
    INNER_SELECTOR = "inner_selector"              # RFC 4301 5.2 step 4
    INNER_MARTIAN = "inner_martian"                # RFC 1812 5.3.7: loopback, multicast, unspecified source
    INNER_FRAGMENT = "inner_fragment"              # RFC 4301 7
    INNER_REDIRECT = "inner_redirect"              # RFC 4301 6.1.2: an ICMP redirect out of a tunnel

    # Outbound packets
    TUN_MALFORMED = "tun_malformed"                # not IPv4 or IPv6, or cut short
    TUN_LOOPED = "looped"                          # our own IKE or ESP came back through the TUN
    SPD_DISCARD = "spd_discard"                    # RFC 4301 5.1: a discard entry
    SPD_NO_MATCH = "spd_no_match"                  # RFC 4301 5.1: no protect entry for a packet in the TUN
    SPD_BYPASS_IN_TUN = "spd_bypass_in_tun"        # a bypass packet that routing sent here by mistake
    OUTBOUND_FRAGMENT = "outbound_fragment"        # RFC 4301 7: no ports, entry has port selectors
    OUTSIDE_NEGOTIATED = "outside_negotiated"      # RFC 7296 2.9: narrowed away by the peer
    TRANSPORT_OPTIONS = "transport_options"        # RFC 4303 3.1.1: options, or extension headers ahead of ESP
    NO_SA = "no_sa"                                # nothing negotiated and holding is not possible
    HELD_OVERFLOW = "held_overflow"                # 64 packets or 256 KiB a child, 16 MiB in all
    HELD_ABANDONED = "held_abandoned"              # the child failed, was removed or its packets aged out
    SEQUENCE_EXHAUSTED = "sequence_exhausted"      # RFC 4303 3.3.3
    SA_EXPIRED = "sa_expired"                      # RFC 4301 4.4.2.1: hard lifetime of the outbound SA
    TOO_BIG = "too_big"                            # RFC 4301 8: larger than the path allows
    SEND_FAILED = "send_failed"                    # the kernel refused the datagram
    SEND_QUEUE_FULL = "send_queue_full"            # the socket's buffer is full
    TUN_WRITE_FAILED = "tun_write_failed"          # the kernel refused the packet
