"""The reference domain: every flight that left New York in 2013."""
