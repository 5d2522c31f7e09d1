"""ipsecd: a userspace IPsec gateway for Linux.

A packet that policy protects leaves encrypted or not at all.  Layers, lowest first (tests/test_layering.py):

0 vocabulary   errors drops secret text rng events effects causes reports policy selectors suites sa views ike.consts
1 codecs       ike.wire, ipsec.{ip replay udp_encap spd sad lifetime}
2 crypto       aead, ike.crypto, ipsec.{ah esp}
3 decisions    ike.{negotiate narrow fragments window states}
4 operations   ike.tasks, ike.{child_sa ike_sa endpoint}, ipsec.dataplane
5 join         gateway supervisor routing_plan guard_plan config.diff
6 edge         engine runtime config control metrics log
7 program      daemon service cli

Start reading at gateway.py (what happens), ipsec/dataplane.py (a packet's way) and ike/ike_sa.py (a message's way).
"""

__version__ = "0.1.0"
