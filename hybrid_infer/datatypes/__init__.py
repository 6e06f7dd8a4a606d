"""Plain frozen data that every layer shares. No behaviour beyond derived properties, no I/O."""
