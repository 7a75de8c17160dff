"""`python -m amplification` is the `amplify` command."""

from amplification.cli import main

raise SystemExit(main())
