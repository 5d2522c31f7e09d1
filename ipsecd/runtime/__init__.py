"""The only code that awaits, reads clocks and opens sockets; thin on purpose."""
