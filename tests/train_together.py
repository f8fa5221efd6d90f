"""One process of several that train together: python tests/train_together.py DATA RUN [STOP_AT].

With STOP_AT the first process gets SIGTERM when that many batches have reached its devices. Exit
code 143 when the run was stopped; the lead process then says so.
"""

import os
import signal
import sys
import time

import tiny_runs

from epinformer_jax.train import crossval, distributed, loop


def config_for(data):
    """One fold without pre-training; a batch holds all genes, so one layout is compiled."""
    return tiny_runs.config_for(
        data, data__fold_names=("fold_1",), encoder__source="none", train__epochs=8
    )


def stopping_at(number: int) -> None:
    """Sends SIGTERM to the first process at its batch `number`."""
    original = loop.prefetched
    seen = iter(range(10**9))

    def prefetched(batches, mesh):
        for batch in original(batches, mesh):
            count = next(seen)
            if count == number and distributed.is_lead():
                os.kill(os.getpid(), signal.SIGTERM)
            if count >= number:
                time.sleep(0.5)  # JAX looks for the signal once a second
            yield batch

    loop.prefetched = prefetched


def main(data: str, run: str, stop_at: str = "") -> None:
    """Trains; what the run directory holds is the result."""
    import pathlib

    distributed.start("auto")
    if stop_at:
        stopping_at(int(stop_at))
    try:
        crossval.run(config_for(pathlib.Path(data)), run)
    except distributed.Preempted as error:
        print(error)
        sys.exit(143)


if __name__ == "__main__":
    main(*sys.argv[1:])
