"""`python -m hpa_ray.cli`: the same as `hpa-ray`."""

import sys

from hpa_ray.cli.main import main

sys.exit(main())
