"""From any failure of a command to an exit code and one line; imports nothing that takes time.

The first lines of every command enter it, so that it also covers the imports of the rest.
"""

from __future__ import annotations

import contextlib
import locale
import logging
import os
import sys

from ldm_jax.commands import watch
from ldm_jax.commands.native_errors import LOST
from ldm_jax.errors import Interrupted, UserError

# What saves memory in each command.
SAVES_MEMORY = {
    "train": (
        "--diffusion.remat True and --autoencoder.remat True compute activations again instead of "
        "keeping them, --diffusion.accumulate N and --autoencoder.accumulate N process a batch in "
        "N parts, a smaller batch size or --data.size needs less"
    ),
    "sample": (
        "--window PIXELS and --tile PIXELS let the networks see a large image in parts, a smaller "
        "--batch-size samples fewer at a time, --out FOLDER writes many images one by one"
    ),
    "evaluate": "a smaller --batch-size samples and measures fewer images at a time",
}


class ExitCode:
    """`with ExitCode("train") as status:` runs a command; `status.code` is the exit code.

    0; 2 after bad input, with one line on stderr; 130 or 143 after a signal, with the state saved.
    Too little memory counts as bad input. An unforeseen exception shows its traceback.
    """

    code = 0

    def __init__(self, command: str = ""):
        self.command = command

    def __enter__(self) -> ExitCode:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show is escaped
                stream.reconfigure(errors="backslashreplace")
        logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
        logging.getLogger("ldm_jax").setLevel(logging.INFO)
        # Orbax logs a traceback for each failure, and also raises it: once is enough.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        # It warns of folders that it can do without.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> bool:
        if error is None:
            return True
        if isinstance(error, (UserError, OSError)):  # also a full disk
            self._end(str(error))
        elif is_out_of_memory(error):
            remedy = SAVES_MEMORY.get(self.command)
            self._end(_first_line(error) + (f"; {remedy}" if remedy else ""))
        elif is_lost_process(error):
            failed = watch.failed_others()
            _print(f"error: {watch.told(failed) if failed else LOST}")
            os._exit(2)  # or else JAX would wait for the others, in vain
        elif isinstance(error, Interrupted):  # of several processes all stop after the same step
            self._end(str(error), error.exit_code, "", together=True)
        elif isinstance(error, KeyboardInterrupt):
            self._end("interrupted; everything saved so far is kept", 130, "")
        elif isinstance(error, SystemExit):  # --help
            self.code = int(error.code or 0)
        else:
            if watch.fail(f"{kind.__name__}: {error}"):
                sys.excepthook(kind, error, traceback)
                sys.stderr.flush()
                os._exit(1)
            return False
        return True

    def _end(
        self, message: str, code: int = 2, before: str = "error: ", together: bool = False
    ) -> None:
        """Says why; and ends here where another process of the run would wait for this one."""
        message, self.code = " ".join(message.splitlines()), code
        _print(before + message)
        if not together and watch.fail(message):
            os._exit(code)


def _print(line: str) -> None:
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the host or of a device was too small, as Python, NumPy or XLA says."""
    from_xla = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    return isinstance(error, MemoryError) or (
        from_xla and any(text in str(error) for text in ("RESOURCE_EXHAUSTED", "Out of memory"))
    )


def is_lost_process(error: BaseException) -> bool:
    """Whether a computation of several processes failed as one of them has ended."""
    return any(sign in str(error) for sign in ("Gloo", "NCCL", "coordination service"))


def use_utf8() -> None:
    """Starts Python again in its UTF-8 mode (PEP 540) where the locale has another encoding.

    Otherwise captions, names of files and what is printed would depend on the machine. Call it
    before anything else, in a script alone.
    """
    encoding = locale.getencoding().replace("-", "").lower()
    if os.name == "posix" and not sys.flags.utf8_mode and encoding != "utf8":
        with contextlib.suppress(OSError):
            environment = os.environ | {"PYTHONUTF8": "1"}
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _first_line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or ["not enough memory"])[0][:200].rstrip(". ")
    return text if "memory" in text.lower() else f"out of memory: {text}"
