"""Where variables and rows lie on devices and hosts."""
