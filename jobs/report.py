"""`hpa-ray report` for a cluster: `ray job submit --working-dir . -- python jobs/report.py [key=value ...]`."""

import sys

from hpa_ray.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]], json_line=True))
