"""HTTP/JSON on a unix socket: server, client, and the schema of the answers."""
