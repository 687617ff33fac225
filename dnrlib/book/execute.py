"""Execution of one chapter with papermill, in a kernel of its own."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, current_thread, main_thread
from typing import Any

import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from jupyter_core.utils import ensure_event_loop, run_sync
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from dnrlib.book.notebooks import BookError, code_cells
from dnrlib.figures import WRITTEN


class _Manager(AsyncKernelManager):
    """Closes its client too: papermill does so only with a kernel that it started itself."""

    written: Path
    """The file in which the chapter puts down what figures it has written."""

    def client(self, **kwargs: Any) -> Any:
        """As its base does."""
        self.its_client = super().client(**kwargs)
        return self.its_client

    def figures(self) -> list[str]:
        """Files in `figures/` that the chapter has written."""
        names = self.written.read_text("utf-8").splitlines() if self.written.exists() else []
        return sorted(set(names))

    def end(self) -> None:
        """End the kernel, if it has not ended, and what is connected to it."""
        if hasattr(self, "its_client"):
            self.its_client.stop_channels()
        run_sync(self.shutdown_kernel)(now=True)
        if current_thread() is not main_thread():  # which has its loop to the end
            ensure_event_loop().close()

    def kill(self) -> None:
        """End the kernel from another thread than that which started it."""
        assert isinstance(self.provisioner, LocalProvisioner)
        assert self.provisioner.process is not None
        self.provisioner.process.kill()


class Kernels:
    """The kernels of chapters that are executed side by side, each in a thread.

    Args:
        threads: that each may compute with, unless OMP_NUM_THREADS says so already.
    """

    def __init__(self, threads: int = 1):
        self.threads = threads
        self._running: set[_Manager] = set()
        self._stopped = False
        self._lock = Lock()

    @contextmanager
    def one(self, folder: Path) -> Iterator[_Manager]:
        """A kernel that works in `folder`, and ends afterwards.

        Raises:
            BookError: all were stopped.
        """
        with tempfile.TemporaryDirectory() as own:
            manager = self._start(folder, Path(own))
            try:
                yield manager
            finally:
                with self._lock:
                    self._running.discard(manager)
                manager.end()

    def _start(self, folder: Path, own: Path) -> _Manager:
        # sockets in files: a kernel on TCP warns on every start that others on the machine may
        # listen; in a folder of their own: names are else given out by what files are there
        place = {"transport": "ipc", "ip": str(own / "kernel")}
        manager = _Manager(kernel_name="python3", **({} if sys.platform == "win32" else place))
        manager.written = written = own / "figures"
        with self._lock:
            if self._stopped:
                raise BookError("stopped")
            run_sync(manager.start_kernel)(
                cwd=str(folder),
                env={"OMP_NUM_THREADS": str(self.threads), **os.environ, WRITTEN: str(written)},
                extra_arguments=["--HistoryManager.hist_file=:memory:"],
            )
            self._running.add(manager)
        return manager

    def stop(self) -> None:
        """End all that run, from whichever thread, and start none any more."""
        with self._lock:
            self._stopped = True
            for manager in self._running:
                manager.kill()


def execute(
    source: Path, parameters: Mapping[str, Any], root: Path, kernels: Kernels, output: Any
) -> tuple[NotebookNode, list[str]]:
    """Execute the notebook `source` with `root` as its folder.

    Args:
        source: the notebook, as it is stored.
        parameters: what papermill is given.
        root: the folder of `_toc.yml`.
        kernels: of which one is used.
        output: has `write` and `flush`; is given what cells print, as it comes.

    Returns:
        The notebook with its outputs, and the files that it has written to `figures/`.

    Raises:
        BookError: a cell failed; the message holds the cell and its traceback. Or the kernel died.
    """
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it says is in its exceptions
    try:
        with kernels.one(root) as manager:
            notebook = papermill.execute_notebook(
                source,
                None,
                dict(parameters),
                kernel_name="python3",
                language="python",
                progress_bar=False,
                stdout_file=output,
                km=manager,
            )
            figures = manager.figures()
    except PapermillExecutionError as error:
        raise BookError(_failure(source, error.exec_count, error.source, error.traceback)) from None
    except DeadKernelError as error:
        raise BookError(
            f"chapter {source.stem}: its kernel died, as when memory runs out; "
            "try fewer chapters at once"
        ) from error
    _refuse_errors(source, notebook)
    return notebook, figures


def _refuse_errors(source: Path, notebook: NotebookNode) -> None:
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "error":
                raise BookError(
                    _failure(source, cell.execution_count, cell.source, output.traceback)
                )


def _failure(source: Path, count: int | None, code: str, traceback: list[str]) -> str:
    trace = "\n".join(traceback)
    return f"chapter {source.stem}: cell [{count}] failed\n\n{code}\n\n{trace}"
