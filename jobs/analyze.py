"""`hpa-ray analyze` for a cluster: `ray job submit --working-dir . -- python jobs/analyze.py [key=value ...]`."""

import sys

from hpa_ray.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["analyze", *sys.argv[1:]], json_line=True))
