"""``python -m fedsplit`` is ``fedsplit``."""

from fedsplit.cli import main

main()
