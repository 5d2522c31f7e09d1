"""One operation a file; a rekey contains a create and a delete (RFC 7296 1.2-1.4, 2.8)."""
