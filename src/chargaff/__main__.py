"""`python -m chargaff`."""

from chargaff.cli.main import main

raise SystemExit(main())
