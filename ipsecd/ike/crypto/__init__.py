"""Keys, key exchange, SK protection, AUTH and cookies, over the primitives of cryptography."""
