"""`wrn` as a child that is killed when its parent is: `python -m wrn.reproduction.child WORD…`. No torch."""

import ctypes
import os
import signal
import sys

from wrn.__main__ import main

if __name__ == "__main__":
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.environ.get("WRN_PARENT") != str(os.getppid()):  # it was killed before that
            sys.exit(1)
    sys.argv[0] = "wrn"
    sys.exit(main())
