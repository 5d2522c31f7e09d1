"""YAML to frozen policy: load (lines), model (rules), compile (policy), diff (the plan of a reload)."""
