"""A dataset's contract: its rules, what checks them, and what becomes of rows that break them.

`rules` reads them off the declaration, `expectations` checks a batch with Great Expectations, `sql`
a whole history with DuckDB, and `validation` and `quarantine` part the good rows from the bad.
"""
