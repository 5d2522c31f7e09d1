"""The data plane behind one contract (contract.py): reference.py drives ipsec.dataplane over sockets of runtime/,
native.py the Rust crate in native/, and choose.py says which of them serves.
"""
