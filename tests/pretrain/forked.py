"""Starts one training after the other by fork, so that a start costs no import: for test_kills.py.

python forked.py SLOW_S KEY=VALUE ...   reads a line from stdin for each start, prints the process number
"""

import os
import sys
import time

import torch

from jepa.config import COMMANDS, compose_config, config_class, to_dataclass
from jepa.pretrain import checkpoint, trainer

if __name__ == "__main__":
    torch.set_num_threads(1)
    slow, *keys = sys.argv[1:]
    config = to_dataclass("pretrain", compose_config("pretrain", config_class(COMMANDS["pretrain"]), keys))
    real = checkpoint.sha256_file

    def lingering(path):
        """Stretches the time in which a checkpoint is written but does not count yet."""
        time.sleep(float(slow))
        return real(path)

    checkpoint.sha256_file = lingering
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            code = 1
            try:
                trainer.train(config)
                code = 0
            except SystemExit as leaving:
                code = leaving.code
            except RuntimeError as error:
                print(error, file=sys.stderr)
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
