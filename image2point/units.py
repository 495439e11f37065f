"""Work in units, done by several processes, of which any may die: results in order, the same for any number of them.

A unit is done again where its process was killed, which costs that unit (and with `local` those begun beside it) and
no more. So a unit must only read and return.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from image2point.errors import InputError, one_line

T = TypeVar("T")
R = TypeVar("R")

KINDS = ("local", "ray")
ATTEMPTS = 3
"""How often a unit is begun, if its process dies each time."""
AHEAD = 4
"""Units per process that may be done, or wait, ahead of the one that is taken."""


def in_units(
    make: Callable[[], Callable[[T], R]], units: Sequence[T], workers: int = 0, kind: str = "local"
) -> Iterator[R]:
    """The result of every unit, in order.

    Args:
        make: gives what does a unit; called once in each process. It is sent to the processes, as units and results
            are, by pickle.
        workers: processes; 0 does all in this one.
        kind: `local`, processes of this machine; `ray`, tasks of the Ray cluster that `RAY_ADDRESS` names, or of one
            that is started on this machine.

    Raises:
        InputError: on an unknown kind, a package that is missing, or a unit whose process died `ATTEMPTS` times; and
            whatever a unit raises.

    >>> from functools import partial
    >>> list(in_units(partial(getattr, str, "upper"), ["a", "b"]))
    ['A', 'B']
    """
    if kind not in KINDS:
        raise InputError(f"executor: expected one of {', '.join(KINDS)}, found {kind!r}")
    if not workers:
        do = make()
        return (do(unit) for unit in units)
    return (_local if kind == "local" else _ray)(make, units, workers)


@dataclass(frozen=True)
class Crew:
    """Whom units are given to: how many processes (0: this one does all), and whose, `local` or `ray`."""

    workers: int = 0
    kind: str = "local"

    def results(self, make: Callable[[], Callable[[T], R]], units: Sequence[T]) -> Iterator[R]:
        """As `in_units`."""
        return in_units(make, units, self.workers, self.kind)


ALONE = Crew()


def _died(number: int, units: int) -> InputError:
    return InputError(
        f"the process that did unit {number + 1} of {units} died {ATTEMPTS} times; often that is a lack of memory: "
        "use fewer processes"
    )


def _local(make: Callable[[], Callable[[T], R]], units: Sequence[T], workers: int) -> Iterator[R]:
    taken, deaths = 0, 0
    while taken < len(units):
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _keep, (pickle.dumps(make),)) as pool:
            waiting: deque[Future[bytes]] = deque()
            try:
                while taken < len(units):
                    while len(waiting) < min(AHEAD * workers, len(units) - taken):
                        waiting.append(pool.submit(_do, units[taken + len(waiting)]))
                    result = waiting.popleft().result()
                    taken, deaths = taken + 1, 0
                    yield pickle.loads(result)
            except BrokenProcessPool:  # one has died, and with it the pool: what is not taken is done by another pool
                deaths += 1
                if deaths == ATTEMPTS:
                    raise _died(taken, len(units)) from None
            finally:
                for future in waiting:
                    future.cancel()


_make: bytes
_done_by: Callable[[Any], Any] | None = None
_made_of: Any = None


def _keep(make: bytes) -> None:
    """In a process that does units: how to get what does them. Its errors belong to the first unit."""
    global _make, _done_by
    _make, _done_by = make, None


def _do(unit: Any) -> bytes:
    """The result as bytes: a tensor would come as an open file, of which a process may have a thousand."""
    global _done_by
    if _done_by is None:
        _done_by = pickle.loads(_make)()
    return pickle.dumps(_done_by(unit))


def started_ray(cores: int, address: str | None) -> Any:
    """The package ray, joined to the cluster at `address`, or to one of this machine with so many places.

    Raises InputError where it is not installed, does not start or is not to be reached.
    """
    try:
        ray: Any = import_module("ray")
    except ImportError:
        raise InputError("the package ray is not installed: pip install 'image2point[ray]'") from None
    if not ray.is_initialized():
        # A cluster of one's own has as many places as are wanted at a time, whatever Ray counts as cores.
        own = {} if address else {"num_cpus": cores, "include_dashboard": False}
        try:
            ray.init(address=address, log_to_driver=False, **own)
        except Exception as error:  # of many kinds, plain ones among them
            fault = f"is not to be reached at {address}" if address else "does not start on this machine"
            told = one_line(error) or type(error).__name__
            raise InputError(f"Ray {fault}: {told}; see why with `ray status`, or take the executor local") from error
    return ray


def _ray(make: Callable[[], Callable[[T], R]], units: Sequence[T], workers: int) -> Iterator[R]:
    ray = started_ray(workers, os.environ.get("RAY_ADDRESS"))
    do = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_do_in_task)
    # Ray's pickle sends classes of a script as a whole: the processes of Ray do not run that script, as ours do.
    sent, key = ray.put(ray.cloudpickle.dumps(make)), os.urandom(8)
    waiting: deque[Any] = deque()
    begun = 0
    try:
        for number in range(len(units)):
            while begun < len(units) and len(waiting) < AHEAD * workers:
                waiting.append(do.remote(key, [sent], units[begun]))
                begun += 1
            try:
                yield pickle.loads(ray.get(waiting.popleft()))
            except ray.exceptions.WorkerCrashedError:
                raise _died(number, len(units)) from None
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, InputError) else error from None
    finally:
        for task in waiting:
            ray.cancel(task)


def _do_in_task(key: bytes, sent: list[Any], unit: Any) -> bytes:
    """In a task of Ray, whose processes live on: what they do units with is fetched and made once."""
    global _made_of
    if _made_of != key:
        _keep(import_module("ray").get(sent[0]))
        _made_of = key
    return _do(unit)
