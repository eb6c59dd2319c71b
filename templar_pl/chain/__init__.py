"""The clock, the register of peers and the record of what they agreed on."""
