"""What of remote functions runs inside a sandbox, sent there as text: standard library, Python 3.8 and later."""
