"""IKEv2 (RFC 7296) without I/O: endpoint.py demultiplexes, ike_sa.py routes messages to tasks, tasks/ act."""
