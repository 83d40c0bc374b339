"""Run a script as accelerate runs it on GPUs, on gloo and CPUs: helpers/sharded.py.

accelerate launch --config_file recipes/accelerate_fsdp2.yaml tests/gpus_on_cpu.py SCRIPT ...
"""

import runpy
import sys
from pathlib import Path

from helpers.sharded import gpus_on_cpu

if __name__ == "__main__":
    gpus_on_cpu()
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
